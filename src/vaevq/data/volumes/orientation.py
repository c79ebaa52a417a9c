"""Any orientation to RAS and back, by flips and exchanged axes alone: no voxel is interpolated."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from nibabel.orientations import inv_ornt_aff, io_orientation

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Orientation:
    """How the three axes of an array lie in space.

    Attributes:
        axes: for each axis of the array the axis of RAS that it is nearest to.
        flips: −1 where it runs against it, else 1.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, int, int]

    @classmethod
    def of(cls, affine: Matrix) -> Self:
        """That of an affine from indices to millimetres in RAS+.

        Raises:
            ValueError: the affine does not span three directions.
        """
        # A singular matrix has no orientation, and nibabel would give one of its axes as absent.
        finite = bool(np.isfinite(affine).all())
        found = io_orientation(affine) if finite and abs(np.linalg.det(affine[:3, :3])) > 0 else np.full((3, 2), np.nan)
        if not np.isfinite(found).all():
            raise ValueError("its affine does not span three directions in space")
        axes, flips = ([int(value) for value in column] for column in found.T)
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    def to_ras(self, array: Array) -> Array:
        """A view whose first three axes run to the right, to the front and up; a fourth stays the last."""
        order = [self.axes.index(axis) for axis in range(3)]
        return array.transpose(*order, *range(3, array.ndim))[self._steps()]

    def from_ras(self, array: Array) -> Array:
        """The inverse of `to_ras`, a view as well."""
        return array[self._steps()].transpose(*self.axes, *range(3, array.ndim))

    def affine_of_ras(self, affine: Matrix, shape: tuple[int, ...]) -> Matrix:
        """The affine that belongs to `to_ras` of an array with this affine and shape."""
        ornt = np.array([self.axes, self.flips], dtype=np.float64).T
        moved: Matrix = affine @ inv_ornt_aff(ornt, shape[:3])
        return moved

    def _steps(self) -> tuple[slice, ...]:
        """Slices that turn around those axes of RAS against which the array runs."""
        return tuple(slice(None, None, self.flips[self.axes.index(axis)]) for axis in range(3))
