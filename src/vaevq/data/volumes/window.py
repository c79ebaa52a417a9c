"""Intensities to [-1, 1] and back: a window between two values of the volume, found robustly and kept."""

import math
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from vaevq.data.images import Floats

BACKGROUND = -1.0
"""The bottom of the window: what padding is, and what is put where nothing was kept."""


@dataclass(frozen=True)
class Window:
    """Intensities from `low` to `high` as [-1, 1]; what lies outside is clipped."""

    low: float
    high: float

    @classmethod
    def of(cls, stored: npt.NDArray[Any], slope: float, inter: float, percentiles: tuple[float, float]) -> Self:
        """The window of a volume's voxels: a percentile of all of them, and one of those above it.

        The second is of what lies above the first, since most of a volume is air, and a percentile of everything
        would depend on how much of it there is.

        Args:
            stored: voxels as they are stored; intensities are slope · stored + inter.
            slope, inter: of the file.
            percentiles: low and high.

        Raises:
            ValueError: a voxel that is not finite, or voxels that are all equal.
        """
        if stored.dtype.kind == "f" and (unfit := int(stored.size - np.isfinite(stored).sum())):
            raise ValueError(f"{unfit:,} of its {stored.size:,} voxels are not finite; write it anew without them")
        flat = stored.reshape(-1)
        least, greatest = (flat.min(), flat.max()) if slope > 0 else (flat.max(), flat.min())
        if least == greatest:
            raise ValueError(f"each of its voxels is {float(least) * slope + inter:g}: there is nothing to see")
        share = percentiles if slope > 0 else (100 - percentiles[0], 100 - percentiles[1])
        low = _percentile(flat, share[0])
        above = flat[flat > low] if slope > 0 else flat[flat < low]
        if len(above) == 0:
            raise ValueError(f"none of its voxels lies above their percentile {percentiles[0]:g}; lower that")
        high = _percentile(above, share[1])
        return cls(float(low) * slope + inter, float(high) * slope + inter)

    def apply(self, stored: npt.NDArray[Any], slope: float, inter: float) -> Floats:
        """Stored voxels, any shape, as float32 in [-1, 1]."""
        share = (stored.astype(np.float64) * slope + (inter - self.low)) / (self.high - self.low)
        applied: Floats = (2 * np.clip(share, 0, 1) - 1).astype(np.float32)
        return applied

    def undo(self, values: Floats, slope: float, inter: float, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Values about [-1, 1], any shape, as voxels to store: of `dtype`, rounded where that holds whole numbers."""
        share = (np.clip(values.astype(np.float64), -1, 1) + 1) / 2
        stored = (self.low + share * (self.high - self.low) - inter) / slope
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            stored = np.clip(np.rint(stored), float(limits.min), float(limits.max))
            with np.errstate(invalid="ignore"):  # the largest number of 64 bits is no float: it would wrap around
                return np.where(stored >= float(limits.max), limits.max, stored.astype(dtype)).astype(dtype)
        return stored.astype(dtype)


def _percentile(values: npt.NDArray[Any], share: float) -> np.floating[Any]:
    """A percentile of numbers, as numpy's, interpolated in their own type where they are floats, otherwise in float64.

    Between whole numbers that lie far apart the difference would overflow.
    """
    if values.dtype.kind == "f":
        return cast("np.floating[Any]", np.percentile(values, share))
    place = (len(values) - 1) * (share / 100)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    ends = np.partition(values, (below, above))
    low, high, beyond = np.float64(ends[below]), np.float64(ends[above]), place - below
    return low + (high - low) * beyond if beyond < 0.5 else high - (high - low) * (1 - beyond)
