"""The few collective operations the project needs; without a process group each is the identity."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

from vaevq.errors import UserError

_alone = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """What one process of several does by itself: in this block there is no process group for it, so none is waited
    for."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def is_active() -> bool:
    """Whether a process group is up, and this process not `alone`."""
    return dist.is_available() and dist.is_initialized() and not _alone.get()


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """The number of processes, 1 without a process group."""
    return dist.get_world_size() if is_active() else 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over processes of a detached copy of `tensor`; every process gets the same."""
    total = tensor.detach().clone()
    if is_active():
        dist.all_reduce(total)
    return total


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean over processes of a detached copy of `tensor`; every process gets the same."""
    return all_reduce_sum(tensor) / world_size()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on at least one process."""
    if not is_active():
        return flag
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)) > 0)


def raise_together(mistake: UserError | None, device: torch.device) -> None:
    """Raises on every process what went wrong on one of them, so that none waits for another for ever.

    All processes call this at the same point of their work.
    """
    if not any_process(mistake is not None, device):
        return
    mistakes = [mistake]
    if is_active():
        mistakes = [None] * world_size()
        dist.all_gather_object(mistakes, mistake)
    raise next(found for found in mistakes if found is not None)


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """What a user did wrong that one process finds in this block is raised on every process at its end.

    No process leaves the block before all have reached its end. There is nothing collective inside it.
    """
    mistake = None
    try:
        yield
    except UserError as error:
        mistake = error
    raise_together(mistake, device)
