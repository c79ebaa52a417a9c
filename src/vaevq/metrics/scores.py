"""Figures that every image has of its own: their mean and deviation, and which images are best and worst."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaevq import distributed
from vaevq.metrics.fid import FeatureMoments

LISTED = 8
"""How many of the best and of the worst images are kept."""


@dataclass(frozen=True)
class ScoredImage:
    """The place of an image in the evaluated sequence and its own figures."""

    position: int
    figures: dict[str, float]


class ImageScores:
    """Mean and deviation over images of figures per image, in constant memory.

    Args:
        names: of the figures; the first one ranks the images, the lower the better if it is LPIPS.
        device: where sums are kept.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device | str = "cpu") -> None:
        self.names = names
        self._sign = -1.0 if names and names[0].startswith("lpips") else 1.0
        self._moments = FeatureMoments(len(names), device)
        # Rows of position + 1 and figures, best first; a row of zeros is empty.
        self._best: list[list[float]] = []
        self._worst: list[list[float]] = []

    def update(self, positions: Tensor, values: Tensor) -> None:
        """Takes in the figures, B×len(names), of the images at `positions` (int64 B)."""
        self._moments.update(values)
        rows = [[p + 1, *row] for p, row in zip(positions.tolist(), values.double().tolist(), strict=True)]
        self._rank(self._best + rows, self._worst + rows)

    def all_reduce(self) -> None:
        """Merges all processes; afterwards each holds the whole."""
        self._moments.all_reduce()
        self._rank(self._gathered(self._best), self._gathered(self._worst))

    def figures(self) -> dict[str, float]:
        """For each name its mean over images and, as `name_deviation`, the standard deviation (divisor N − 1)."""
        means = self._moments.mean.tolist()
        deviations = self._moments.variance().sqrt().tolist()
        figures: dict[str, float] = {}
        for name, mean, deviation in zip(self.names, means, deviations, strict=True):
            figures |= {name: mean, f"{name}_deviation": deviation}
        return figures

    def best(self) -> list[ScoredImage]:
        """Up to `LISTED` images, the best first."""
        return [self._scored(row) for row in self._best]

    def worst(self) -> list[ScoredImage]:
        """Up to `LISTED` images, the worst first."""
        return [self._scored(row) for row in self._worst]

    def _rank(self, best: list[list[float]], worst: list[list[float]]) -> None:
        if self.names:
            # The position settles ties, so that the lists do not depend on the order of processes.
            self._best = sorted(best, key=lambda row: (-self._sign * row[1], row[0]))[:LISTED]
            self._worst = sorted(worst, key=lambda row: (self._sign * row[1], row[0]))[:LISTED]

    def _gathered(self, rows: list[list[float]]) -> list[list[float]]:
        """The rows of all processes: each fills its own part of a table, and the tables are added up."""
        table = self._moments.mean.new_zeros(distributed.world_size(), LISTED, 1 + len(self.names))
        if rows:
            table[distributed.rank(), : len(rows)] = table.new_tensor(rows)
        everyone: list[list[float]] = distributed.all_reduce_sum(table).flatten(0, 1).tolist()
        return [row for row in everyone if row[0] > 0]

    def _scored(self, row: list[float]) -> ScoredImage:
        return ScoredImage(int(row[0]) - 1, dict(zip(self.names, row[1:], strict=True)))
