"""Where training runs: the device, the number format and the processes, found once and the same for every loop."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vaevq.distributed import raise_together, together
from vaevq.errors import UserError

LONGEST_WAIT = timedelta(hours=1)
"""Processes wait for the first one while it alone fits a codebook, diagnoses and saves: longer than NCCL's ten minutes.
One that has died ends the others at once, through torchrun; this is for one that hangs."""


@dataclass(frozen=True)
class Engine:
    """A device, a number format, and this process among its peers.

    Attributes:
        device: where the networks are.
        dtype: of parameters and images: float32, or float64 for exact comparisons.
        autocast_dtype: bfloat16, or None without autocast.
        rank, world_size: this process and their number.
    """

    device: torch.device
    dtype: torch.dtype
    autocast_dtype: torch.dtype | None
    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The forward pass runs in this."""
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            yield

    @contextlib.contextmanager
    def training_step(self) -> Iterator[None]:
        """A step runs in this: on CUDA the first one tries each way of convolving, and the fastest is kept.

        Not what comes between steps, whose images may be of many sizes.
        """
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before

    def raise_together(self, mistake: UserError | None) -> None:
        """See `vaevq.distributed.raise_together`."""
        raise_together(mistake, self.device)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """See `vaevq.distributed.together`."""
        return together(self.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """For several processes: gradients are averaged over them. Train it only through `forward` of the result."""
        if self.world_size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of another name for broadcast_buffers in later versions
            # Buffers are all-reduced where they are updated, so they need no broadcast.
            return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA, else Apple's MPS, else CPU) or a device by name. UserError where it is not there.

    What runs in float32 on CUDA is not rounded to TF32 from here on: every verb of the command passes here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if name == "cuda":  # each process of a machine has its own
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:
        # torch lists every kind of device it could be built for.
        reason = str(error).splitlines()[0] if "Expected one of" not in str(error) else "no device is called that"
        raise UserError(f"device '{name}' is not available here: {reason}; auto takes what there is") from None
    if device.type == "cuda":
        # By default convolutions are, and in NVIDIA's containers matrix products: tokens and figures would be others.
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
    return device


_GROUPS: list[object] = []
"""Groups that were taken down and are not freed: while one is, gloo's threads can wait for ever for a process that has
left. A process of torchrun leaves without freeing anything (`vaevq.cli.command`)."""


@contextlib.contextmanager
def engine(device: str, precision: Literal["auto", "float32", "bfloat16", "float64"]) -> Iterator[Engine]:
    """Sets up the device and, under torchrun, the process group, which is taken down at the end.

    Raises:
        UserError: the device is not there, has not that precision, or is one GPU for several processes.
    """
    place = choose_device(device)
    if place.type == "mps" and precision == "float64":
        raise UserError("precision float64 is not to be had on Apple's GPU: take float32, or device=cpu")
    distributed = "RANK" in os.environ and not dist.is_initialized()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > 1 and place.type == "cuda" and device not in ("auto", "cuda"):
        raise UserError(f"device '{device}' would be shared by {here} processes; auto or cuda gives each its own")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if distributed:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        can_bfloat16 = place.type == "cuda" and torch.cuda.is_bf16_supported()
        use_bfloat16 = precision == "bfloat16" or (precision == "auto" and can_bfloat16)
        yield Engine(
            device=place,
            dtype=torch.float64 if precision == "float64" else torch.float32,
            autocast_dtype=torch.bfloat16 if use_bfloat16 else None,
            rank=dist.get_rank() if dist.is_initialized() else 0,
            world_size=dist.get_world_size() if dist.is_initialized() else 1,
        )
        if distributed:  # none takes the group down while another still works in it
            dist.barrier()
    finally:
        if distributed:
            _GROUPS.append(dist.group.WORLD)
            dist.destroy_process_group()
