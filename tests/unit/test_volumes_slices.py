"""A volume taken apart and put together again is the same to the voxel, in any orientation, along any axis."""

import itertools
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaevq.config import Axis
from vaevq.data.volumes.orientation import Orientation
from vaevq.data.volumes.slices import AXES, EDGES, Slicing
from vaevq.data.volumes.window import BACKGROUND, Window

ORIENTATIONS = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]
TYPES = ("int8", "uint8", "int16", ">i2", "uint16", "int32", "float32", "float64")


@st.composite
def affines(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """Any order and direction of the axes, voxels of any size, by option a little oblique."""
    axes, flips = draw(st.sampled_from(ORIENTATIONS))
    matrix = np.zeros((3, 3))
    for column, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        matrix[axis, column] = flip * draw(st.floats(0.3, 6))
    angle = draw(st.floats(-0.4, 0.4))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix
    affine[:3, 3] = draw(st.floats(-200, 200))
    return affine


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64], Slicing]:
    """Voxels as they are stored, their affine, and a slicing of them in RAS."""
    shape = draw(st.tuples(*(st.integers(1, 11),) * 3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    stored = rng.integers(1, 127, shape).astype(draw(st.sampled_from(TYPES)))
    affine, axis = draw(affines()), draw(st.sampled_from(list(AXES)))
    ras = Orientation.of(affine).to_ras(stored).shape
    size = draw(st.one_of(st.none(), st.integers(1, 14)))
    kept = draw(st.lists(st.integers(0, ras[AXES[axis]] - 1), unique=True).map(sorted))
    return stored, affine, Slicing(ras, axis, size, "pad", tuple(kept))


def middle(side: int, size: int | None) -> slice:
    """What a square keeps of an axis, counted from the edge that lies left or at the top."""
    cut = 0 if size is None else max(0, side - size) // 2
    return slice(cut, cut + side if size is None else cut + min(side, size))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_slicing_and_reassembling_is_exact_to_the_voxel(
    case: tuple[npt.NDArray[Any], npt.NDArray[np.float64], Slicing],
) -> None:
    stored, affine, slicing = case
    orientation = Orientation.of(affine)
    ras = orientation.to_ras(stored)
    squares = [slicing.squared(slicing.plane(ras, place), 0) for place in slicing.kept]
    assert all(square.shape == slicing.square_shape for square in squares)
    back = np.zeros(slicing.shape, dtype=stored.dtype)
    for place, square in zip(slicing.kept, squares, strict=True):
        slicing.put(back, place, slicing.unsquared(square, 0))
    # What should be left, said without slices: every voxel of a kept plane that lies in the middle.
    survives = np.zeros(slicing.shape, dtype=bool)
    region: list[Any] = [middle(side, slicing.size) for side in slicing.shape]
    region[AXES[slicing.axis]] = list(slicing.kept)
    survives[tuple(region)] = True
    across = tuple(axis for axis in range(3) if axis != AXES[slicing.axis])
    expected = np.where(np.flip(survives, across), ras, 0)
    np.testing.assert_array_equal(orientation.from_ras(back), orientation.from_ras(expected))
    if slicing.size is None or slicing.size >= max(slicing.plane_shape):
        whole = Slicing(slicing.shape, slicing.axis, slicing.size, "pad", tuple(range(len(list(slicing.planes(ras))))))
        for place in whole.kept:
            whole.put(back, place, whole.unsquared(whole.squared(whole.plane(ras, place), 0), 0))
        np.testing.assert_array_equal(orientation.from_ras(back), stored)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_way_to_ras_is_nibabels(case: tuple[npt.NDArray[Any], npt.NDArray[np.float64], Slicing]) -> None:
    stored, affine, _ = case
    canonical = nib.as_closest_canonical(nib.Nifti1Image(stored.astype(np.float32), affine))
    orientation = Orientation.of(affine)
    np.testing.assert_array_equal(orientation.to_ras(stored), np.asarray(canonical.dataobj))
    np.testing.assert_allclose(orientation.affine_of_ras(affine, stored.shape), canonical.affine, atol=1e-4)
    series = np.stack([stored, stored + 1], axis=-1)
    np.testing.assert_array_equal(orientation.from_ras(orientation.to_ras(series)), series)


@pytest.mark.parametrize("axis", list(AXES))
def test_planes_lie_as_radiologists_look_at_them(axis: Axis) -> None:
    """A voxel at the far end of an axis of RAS appears at the edge that is named after it."""
    shape = (5, 7, 9)
    slicing = Slicing(shape, axis, None, "pad", (0,))
    left, right, top, bottom = EDGES[axis]
    ends = {"R": (0, 4), "L": (0, 0), "A": (1, 6), "P": (1, 0), "S": (2, 8), "I": (2, 0)}
    height, width = slicing.plane_shape
    for name, row, column in ((left, None, 0), (right, None, width - 1), (top, 0, None), (bottom, height - 1, None)):
        volume = np.zeros(shape)
        along, place = ends[name]
        np.moveaxis(volume, along, 0)[place] = 1
        plane = slicing.plane(volume, 3)
        marked = plane[row] if row is not None else plane[:, column]
        assert marked.all()
        assert plane.sum() == marked.size


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["int8", "uint8", "int16", ">i2", "uint16"]),
    st.floats(0.01, 50),
    st.booleans(),
    st.floats(-2000, 2000),
    st.integers(0, 99),
)
def test_a_window_of_everything_is_undone_to_the_very_voxel(
    dtype: str, slope: float, negative: bool, inter: float, seed: int
) -> None:
    limits = np.iinfo(np.dtype(dtype))
    rng = np.random.default_rng(seed)
    stored = rng.integers(limits.min, int(limits.max) + 1, 500).astype(dtype)
    slope = -slope if negative else slope
    window = Window.of(stored, slope, inter, (0, 100))
    assert window.low < window.high
    values = window.apply(stored, slope, inter)
    assert values.min() == BACKGROUND
    assert values.max() == 1
    np.testing.assert_array_equal(window.undo(values, slope, inter, np.dtype(dtype)), stored)
    # Brighter is brighter, whatever the sign of the slope.
    order = np.argsort(values, kind="stable")
    assert (np.diff((stored[order].astype(np.float64)) * slope) >= 0).all()


def test_a_window_is_of_what_lies_above_its_low_end_and_clips_the_rest() -> None:
    stored = np.concatenate([np.zeros(900), np.arange(1, 101)]).astype(np.int16)
    window = Window.of(stored, 1, 0, (0.5, 50))
    assert window == Window(0.0, 50.5), "half of the 100 voxels above 0, however much air there is"
    assert window.apply(np.array([-5, 0, 50.5, 400]), 1, 0).tolist() == [-1, -1, 1, 1]


def test_percentiles_are_numpys_and_do_not_overflow_across_wide_gaps() -> None:
    wide = np.array([-32768, 32767], dtype=np.int16)
    assert Window.of(wide, 1, 0, (0.5, 99.5)).low == pytest.approx(-32768 + 0.005 * 65535)
    values = np.random.default_rng(0).integers(-500, 500, 997).astype(np.int16)
    for low, high in ((0.5, 99.5), (12.3, 45.6)):
        window = Window.of(values, 1, 0, (low, high))
        assert window.low == np.percentile(values, low)
        assert window.high == np.percentile(values[values > window.low], high)


def test_whole_numbers_are_never_wrapped_around() -> None:
    for dtype in ("int64", "uint64", "uint8"):
        limits = np.iinfo(np.dtype(dtype))
        window = Window(float(limits.min) * 2 - 5, float(limits.max) * 2)
        undone = window.undo(np.array([-1, 1], dtype=np.float32), 1, 0, np.dtype(dtype))
        assert undone.tolist() == [limits.min, limits.max]


def test_a_resized_plane_comes_back_in_its_own_shape() -> None:
    slicing = Slicing((30, 40, 2), "axial", 64, "resize", (0,))
    plane = np.linspace(-1, 1, 30 * 40, dtype=np.float32).reshape(40, 30)
    square = slicing.fitted(plane, BACKGROUND)
    assert square.shape == (64, 64)
    assert np.abs(slicing.unfitted(square, BACKGROUND) - plane).max() < 0.02
