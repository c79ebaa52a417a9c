"""Whether all processes hold the same weights: a digest of each tensor, compared over them.

Under DDP nothing else would tell: a process whose codebook has gone its own way still learns, and what is saved is the
first one's.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vaevq.distributed import is_active, world_size
from vaevq.errors import UserError

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)  # an odd number as int64: neighbouring values come far apart


def check_agreement(state: Mapping[str, Any], device: torch.device, when: str) -> None:
    """Passes if every tensor of a state is the same on all processes, to the last bit. All of them call it.

    Args:
        state: nested mappings; what is no tensor is passed over.
        device: where the digests are compared.
        when: in words, for the message.

    Raises:
        UserError: one differs, or a process has other tensors; on all processes, and the message names which.
    """
    if not is_active():
        return
    tensors = dict(_tensors(state))
    digests = torch.stack([digest(tensor).to(device) for tensor in tensors.values()])
    # Names and shapes first: only vectors of one length can be gathered.
    text = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    shapes = _gathered(digest(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))[None].to(device))
    if any(int(theirs) != int(shapes[0]) for theirs in shapes):
        raise UserError(f"networks of the processes have different shapes {when}: start the same command on all")
    first, *others = _gathered(digests)
    for process, theirs in enumerate(others, start=1):
        if not torch.equal(first, theirs):
            different = [name for name, same in zip(tensors, (first == theirs).tolist(), strict=True) if not same]
            more = f" and {len(different) - 1} more of {len(tensors)}" if len(different) > 1 else ""
            raise UserError(
                f"'{different[0]}'{more} differs between process 0 and process {process} {when}; the last checkpoint "
                "is kept: the same command goes on from there; if it comes again, see docs/scale.md"
            )


def digest(tensor: Tensor) -> Tensor:
    """An int64 that changes with any bit of a tensor and with the order of its rows, computed where the tensor is."""
    if not tensor.numel():
        return torch.zeros((), dtype=torch.int64, device=tensor.device)
    rows = tensor.detach().contiguous().reshape(len(tensor) if tensor.ndim else 1, -1)
    if rows.dtype == torch.bool:
        rows = rows.to(torch.uint8)
    bits = rows.view(_INTEGERS[rows.element_size()]).to(torch.int64)
    of_rows = (bits * _SPREAD ^ (bits >> 7)).sum(dim=1)
    return (of_rows * torch.arange(1, 2 * len(rows), 2, device=rows.device)).sum()


def _gathered(mine: Tensor) -> list[Tensor]:
    every = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(every, mine)
    return every


def _tensors(state: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in state.items():
        if isinstance(value, Tensor):
            found.append((f"{prefix}{name}", value))
        elif isinstance(value, Mapping):
            found += _tensors(value, f"{prefix}{name}.")
    return found
