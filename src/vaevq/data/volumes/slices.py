"""The geometry of slices: which planes of a volume there are, how they are laid out and cut, and the way back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vaevq.config import Axis
from vaevq.data.images import Floats, resize_floats

Array = npt.NDArray[Any]

AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of RAS along which such slices follow one another."""

EDGES: dict[Axis, tuple[str, str, str, str]] = {
    "sagittal": ("A", "P", "S", "I"),
    "coronal": ("R", "L", "S", "I"),
    "axial": ("R", "L", "A", "P"),
}
"""What lies at a plane's left, right, top and bottom edge."""


@dataclass(frozen=True)
class Slicing:
    """How a volume in RAS is taken apart.

    A plane is laid out as radiologists look at it: an axial one with the front at the top and the patient's right on
    the left, a coronal one with the head at the top and the right on the left, a sagittal one with the head at the top
    and the face on the left.

    Attributes:
        shape: of the volume, x×y×z in RAS.
        axis: the planes' name.
        size: planes are brought to size×size; None leaves them.
        fit: `pad` puts the middle of a plane into the middle of the square, `resize` stretches it.
        kept: places of the planes that are there, ascending along the axis.
    """

    shape: tuple[int, int, int]
    axis: Axis
    size: int | None
    fit: Literal["pad", "resize"]
    kept: tuple[int, ...]

    @property
    def planes_in_all(self) -> int:
        """How many planes there are along the axis."""
        return self.shape[AXES[self.axis]]

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Height and width of a plane before it is brought to its size."""
        across = [side for axis, side in enumerate(self.shape) if axis != AXES[self.axis]]
        return across[1], across[0]

    @property
    def cuts(self) -> bool:
        """Whether planes are larger than their square, and padded: then their borders are left out."""
        return self.fit == "pad" and any(p > s for p, s in zip(self.plane_shape, self.square_shape, strict=True))

    @property
    def square_shape(self) -> tuple[int, int]:
        """Height and width of a plane as it comes."""
        return self.plane_shape if self.size is None else (self.size, self.size)

    def plane(self, volume: Array, place: int) -> Array:
        """The plane at `place` of a volume x×y×z, height×width, a view."""
        index: list[Any] = [slice(None, None, -1)] * 3
        index[AXES[self.axis]] = place
        plane: Array = volume[tuple(index)].T
        return plane

    def planes(self, volume: Array) -> Iterator[Array]:
        """All planes along the axis, those that are not kept as well."""
        return (self.plane(volume, place) for place in range(self.planes_in_all))

    def fitted(self, plane: Floats, background: float) -> Floats:
        """A plane of floating point as it comes: padded with `background` and cut, or resized."""
        if self.size is None:
            return plane
        if self.fit == "resize":
            return resize_floats(plane, self.size, self.size)
        return self.squared(plane, background)

    def squared(self, plane: Array, background: Any) -> Array:
        """A plane of any type in the middle of a square, what reaches over it cut off."""
        square = np.full((*self.square_shape, *plane.shape[2:]), background, dtype=plane.dtype)
        inside, of_plane = self.footprint
        square[inside] = plane[of_plane]
        return square

    def unfitted(self, square: Floats, background: float) -> Floats:
        """The inverse of `fitted`: exact where the plane was padded, `background` where it was cut."""
        if self.size is None:
            return square
        if self.fit == "resize":
            return resize_floats(square, *self.plane_shape)
        return self.unsquared(square, background)

    def unsquared(self, square: Array, background: Any) -> Array:
        """The inverse of `squared`."""
        plane = np.full((*self.plane_shape, *square.shape[2:]), background, dtype=square.dtype)
        inside, of_plane = self.footprint
        plane[of_plane] = square[inside]
        return plane

    def put(self, volume: Array, place: int, plane: Array) -> None:
        """Writes a plane height×width into a volume x×y×z."""
        self.plane(volume, place)[...] = plane

    @property
    def footprint(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where the plane lies in the padded square, and which part of the plane that is."""
        inside, of_plane = zip(
            *(_overlap(square, plane) for square, plane in zip(self.square_shape, self.plane_shape, strict=True)),
            strict=True,
        )
        return (inside[0], inside[1]), (of_plane[0], of_plane[1])


def _overlap(square: int, plane: int) -> tuple[slice, slice]:
    """Where the middle of `plane` pixels lies within `square` pixels, and which of them it is."""
    side = min(square, plane)
    before, cut = (square - side) // 2, (plane - side) // 2
    return slice(before, before + side), slice(cut, cut + side)
