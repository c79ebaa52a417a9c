"""A DICOM series is the volume that its slices make, wherever they lie and in whatever order they are stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from runs import vaevq
from vaevq.data.index import find_images
from vaevq.data.split import subjects_of
from vaevq.data.volumes import cache as cache_module
from vaevq.data.volumes.cache import open_volume
from vaevq.data.volumes.source import write_nifti
from vaevq.errors import UserError
from volumes import ball, write_series

pydicom = pytest.importorskip("pydicom")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))


def test_a_series_is_its_volume_in_its_place(tmp_path: Path) -> None:
    voxels = ball((14, 12, 9))
    opened = open_volume(str(write_series(tmp_path / "series", voxels)))
    np.testing.assert_array_equal(opened.read(), voxels)
    assert (opened.slope, opened.inter, opened.dtype) == (2, -1024, np.dtype("<i2"))
    # DICOM's x and y run to the left and to the back, NIfTI's to the right and to the front.
    expected = np.diag([-0.5, -0.75, 2, 1.0])
    expected[:3, 3] = [10, 20, 30]
    np.testing.assert_allclose(opened.affine, expected)
    path = tmp_path / "same.nii"
    write_nifti(path, opened.prefix, voxels, packed=False)
    np.testing.assert_allclose(nib.load(path).affine, expected)
    np.testing.assert_array_equal(nib.load(path).get_fdata(), voxels * 2.0 - 1024)
    one, other = find_images(tmp_path / "series"), find_images(path)
    assert len(one) == len(other)
    np.testing.assert_array_equal(one[3].load(1), other[3].load(1))


def test_folders_of_series_are_subjects_and_come_back_as_nifti(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_series(tmp_path / "data" / name, ball((14, 12, 9)))
    assert subjects_of(find_images(tmp_path / "data")) == ["one", "two"]
    from test_volumes_codec import model

    grey, tokens = model(tmp_path / "grey", 1), tmp_path / "t.safetensors"
    done = vaevq("encode", tmp_path / "data" / "one", "--model", grey, "-o", tokens, "--volumes", "size=16")
    assert done.code == 0, done.err
    done = vaevq("decode", tokens, "--model", grey, "-o", tmp_path / "back")
    assert done.code == 0, done.err
    back = nib.load(tmp_path / "back" / "one.nii.gz")
    assert back.shape == (14, 12, 9)
    np.testing.assert_allclose(back.affine, open_volume(str(tmp_path / "data" / "one")).affine)
    rows = vaevq("inspect", tmp_path / "data" / "one", "--json").out
    assert '"axes run to": "LPS"' in rows


def setting(name: str, value: Any) -> Callable[[Any, int], None]:
    return lambda part, number: setattr(part, name, value)


def test_an_empty_slope_is_1(tmp_path: Path) -> None:
    opened = open_volume(str(write_series(tmp_path / "series", ball((14, 12, 9)), setting("RescaleSlope", None))))
    assert (opened.slope, opened.inter) == (1, -1024)


def of_another_series(part: Any, number: int) -> None:
    part.SeriesInstanceUID = f"1.2.{3 + number % 2}"


def displaced(part: Any, number: int) -> None:
    if number == 4:
        part.ImagePositionPatient = [-10.0, -20.0, 30.0 + 2 * number + 1]


def without_position(part: Any, number: int) -> None:
    del part.ImagePositionPatient


def scaled_apart(part: Any, number: int) -> None:
    part.RescaleSlope = 1 + number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_series, "have 2 different SeriesInstanceUID; one folder holds one series"),
        (displaced, "slices do not lie evenly: one is missing, or there twice"),
        (without_position, "without ImagePositionPatient, so no slice of a volume"),
        (scaled_apart, "scaled differently"),
        (setting("BitsAllocated", 1), "series: 1 bits a voxel; 8, 16, 32 and 64 can be read"),
        (setting("PixelSpacing", [0, 0.5]), "series: PixelSpacing must be above 0"),
        (setting("ImageOrientationPatient", [1, 0, 0]), "has no 6 numbers of ImageOrientationPatient"),
        (setting("ImagePositionPatient", None), "series: .* has no 3 numbers of ImagePositionPatient"),
    ],
)
def test_a_series_with_a_fault_is_named_in_one_line(
    change: Callable[[Any, int], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find_images(write_series(tmp_path / "series", ball((14, 12, 9)), change))
    assert "\n" not in str(caught.value)


def test_what_is_no_dicom_and_a_missing_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.dcm").write_text("no slice")
    with pytest.raises(UserError, match=r"x\.dcm: "):
        find_images(tmp_path / "a")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "x.dcm").write_text("no slice")
    with pytest.raises(UserError, match=r"pip install 'vaevq\[dicom\]'"):
        find_images(folder)


def test_the_folder_of_a_series_is_listed_when_it_is_found_and_not_for_its_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listed = write_series(tmp_path / "series", ball((14, 12, 9))), list[Path]()
    index, listing = find_images(folder), Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: (listed.append(path), listing(path))[1])
    for entry in index:
        entry.load(1)
    assert listed == []
    slices = [entry.load(1) for entry in find_images(folder)]
    assert listed.count(folder) == 1
    assert len(slices) == len(index) > 1


def test_a_series_that_changed_after_it_was_found_is_not_taken_for_the_one_it_was(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", ball((14, 12, 9)))
    index = find_images(folder)
    kept = list((tmp_path / "cache" / "volumes").glob("*.npy"))
    assert len(kept) == 1
    kept[0].unlink()
    write_series(tmp_path / "other", ball((14, 12, 9), seed=5))
    for file in folder.iterdir():
        (tmp_path / "other" / file.name).rename(file)
    cache_module._mapped.cache_clear()
    with pytest.raises(UserError, match="series: has changed since it was looked through; run the command again"):
        index[2].load(1)
    assert not kept[0].exists(), "nothing is kept under the name of the first"
