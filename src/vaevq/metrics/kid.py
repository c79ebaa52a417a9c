"""Kernel Inception Distance (Bińkowski et al. 2018) in constant memory: unbiased MMD² block by block."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vaevq import distributed
from vaevq.data.entries import ImageIndex
from vaevq.errors import UserError
from vaevq.metrics.fid import accumulator_device
from vaevq.seeding import generator

Side = Literal["evaluated", "reference"]


@dataclass(frozen=True)
class KernelDistance:
    """The mean of the blocks' estimates; its standard error, None with a single block; how many blocks it took."""

    value: float
    standard_error: float | None
    blocks: int

    def figures(self, name: str) -> dict[str, float]:
        """The value under this name, and its standard error where there is one."""
        error = {} if self.standard_error is None else {f"{name}_standard_error": self.standard_error}
        return {name: self.value, **error}


def in_random_order(index: ImageIndex) -> ImageIndex:
    """The same images in one fixed random order: successive images are often of one class, and a block that held one
    class against another would measure their difference."""
    order: list[int] = torch.randperm(len(index), generator=generator("evaluation order")).tolist()
    return index.subset(order)


def polynomial_mmd2(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate of MMD² with the kernel (xᵀy/dim + 1)³, in float64. It can be negative.

    Args:
        x: features M×dim, M ≥ 2.
        y: features N×dim, N ≥ 2.
    """
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_off_diagonal(gram: Tensor) -> Tensor:
        return (gram.sum() - gram.trace()) / (len(gram) * (len(gram) - 1))

    within = mean_off_diagonal(kernel(x, x)) + mean_off_diagonal(kernel(y, y))
    return float(within - 2 * kernel(x, y).mean())


class BlockwiseKernelDistance:
    """KID as the mean over blocks of images.

    An image belongs to block position // block, and block b of one side is held against block b of the other. A
    trailing block that is not full is dropped where both sides have a full one; otherwise the one block is all
    there is. Each process brings whole blocks, in ascending order on either side, so that the result knows nothing of
    the number of processes. No more than the blocks still open are held in memory.

    Args:
        block: images a block and side.
        evaluated: images of the evaluated side.
        reference: images of the other.
        device: where the features are.

    Attributes:
        blocks: how many there are.
        left_out: evaluated images that are in none.
    """

    def __init__(self, block: int, evaluated: int, reference: int, device: torch.device | str = "cpu") -> None:
        self.blocks = max(1, min(evaluated, reference) // block)
        self.left_out = max(0, evaluated - self.blocks * block)
        self._block = block
        self._open: dict[Side, dict[int, list[Tensor]]] = {"evaluated": {}, "reference": {}}
        self._latest: dict[Side, int] = {"evaluated": -1, "reference": -1}
        place = accumulator_device(torch.device(device))
        # One number a block, each written by the process that has it, so that summing over processes is exact.
        self._values = torch.zeros(self.blocks, dtype=torch.float64, device=place)
        self._measured = torch.zeros(self.blocks, dtype=torch.int64, device=place)

    def latest(self, side: Side) -> int:
        """The number of the last block that `side` has brought an image of; −1 before the first."""
        return self._latest[side]

    def update(self, side: Side, positions: Tensor, features: Tensor) -> None:
        """Takes in features B×dim of the images at `positions` (int64 B, ascending)."""
        blocks = positions.cpu() // self._block
        for number in sorted(set(blocks.tolist())):
            assert number >= self._latest[side], "blocks come in ascending order"
            self._latest[side] = number
            if number < self.blocks:
                part = features.detach()[(blocks == number).to(features.device)]
                self._open[side].setdefault(number, []).append(part)
        self._measure(before=min(self._latest.values()))

    def result(self) -> KernelDistance:
        """Measures what is still open and merges all processes.

        Raises:
            UserError: no block has two readable images on both sides.
        """
        self._measure(before=self.blocks)
        values = distributed.all_reduce_sum(self._values)
        measured = distributed.all_reduce_sum(self._measured).bool()
        values = values[measured]
        if len(values) == 0:
            raise UserError(
                "KID needs at least 2 readable images a block: leave kid out of eval.metrics or evaluate more images"
            )
        error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
        return KernelDistance(float(values.mean()), error, len(values))

    def _measure(self, before: int) -> None:
        evaluated, reference = self._open["evaluated"], self._open["reference"]
        for number in sorted({*evaluated, *reference}):
            if number >= before:
                break
            x = evaluated.pop(number, [])
            y = reference.pop(number, [])
            # Unreadable images leave a block smaller; the estimate is unbiased at any size above one.
            if min(sum(map(len, x)), sum(map(len, y))) >= 2:
                place = self._values.device
                self._values[number] = polynomial_mmd2(torch.cat(x).to(place), torch.cat(y).to(place))
                self._measured[number] = 1
