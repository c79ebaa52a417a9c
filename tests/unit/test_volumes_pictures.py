"""Pictures of volumes, and the synthetic data set: the right side, the right proportions, the right files."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from benchmarks.synthetic_brats import TISSUES, read_template, write_subject
from runs import vaevq
from vaevq.config import VolumesConfig
from vaevq.data.index import VolumeOptions, find_images
from vaevq.data.split import subjects_of
from vaevq.data.volumes.entries import SliceEntry
from vaevq.report import volume_picture, write_pictures
from vaevq.report.pictures import read_pictures
from vaevq.report.slices import Look
from volumes import ball, write_volume


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))


def anisotropic(path: Path) -> Path:
    """20×30×10 voxels of 1×2×4 mm, stored from right to left, with one bright half: the patient's right."""
    voxels = ball((20, 30, 10))
    voxels[:10] //= 4  # in storage order from right to left, the left half of the patient comes last
    affine = np.diag([-1.0, 2, 4, 1])
    return write_volume(path, voxels[::-1], affine)


def test_a_picture_is_in_millimetres_with_the_right_on_the_left(tmp_path: Path) -> None:
    path = anisotropic(tmp_path / "x.nii")
    drawn = np.asarray(volume_picture(path, VolumesConfig()).convert("L")).astype(float)
    # Axial 20×60 mm, coronal 20×40 mm, sagittal 60×40 mm at the finer of their two sides, 6 pixels between them.
    assert drawn.shape == (60 + 20, 20 + 6 + 20 + 6 + 30)
    axial = drawn[5:55, :20]
    assert axial[15:35, 3:9].mean() > 2 * axial[15:35, 12:18].mean()


def test_inspect_says_what_a_volume_is_and_draws_it(tmp_path: Path) -> None:
    path = anisotropic(tmp_path / "x.nii")
    done = vaevq("inspect", path, "--json", "--picture", tmp_path / "x.png")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert rows["voxels"] == "20×30×10"
    assert rows["millimetres"] == pytest.approx([1, 2, 4])
    assert rows["axes run to"] == "LAS"
    assert Image.open(tmp_path / "x.png").size == (82, 80)
    again = vaevq("inspect", path, "--picture", tmp_path / "x.png")
    assert (again.code, "already there" in again.err) == (2, True)
    nothing = vaevq("inspect", tmp_path, "--picture", tmp_path / "y.png")
    assert "--picture is of a volume" in nothing.err


def test_the_report_shows_slices_in_their_proportions_and_says_the_window(tmp_path: Path) -> None:
    index = find_images(anisotropic(tmp_path / "x.nii"), VolumeOptions(VolumesConfig(size=None)))
    entry = index[4]
    assert isinstance(entry, SliceEntry)
    look = Look.of(entry, 31.5)
    window = entry.sliced.windows[0]
    assert look.edges == ("R", "L", "A", "P")
    assert f"window {window.low:g} to {window.high:g}" in look.caption
    pixels = np.rint((entry.load(1) + 1) * 127.5).astype(np.uint8)
    grid = np.zeros((8, 5), dtype=np.int64)
    write_pictures(tmp_path / "images", [pixels], [pixels], [grid], [entry.name], 16, [look])
    (picture,) = read_pictures(tmp_path / "images")
    assert (picture.caption, picture.psnr) == (look.caption, 31.5), "over the window, not of the 8 bits that are shown"
    for part in ("original", "reconstruction", "tokens", "error"):
        assert Image.open(tmp_path / "images" / f"{picture.stem}_{part}.png").size == (20, 60)
    three = Look(look.spacing, look.edges, "").shown(np.repeat(pixels, 3, axis=2))
    assert three.size == (60, 60), "three contrasts side by side, not red, green and blue"


def test_resized_slices_are_shown_in_the_proportions_of_the_patient(tmp_path: Path) -> None:
    options = VolumesConfig(size=32, fit="resize")
    entry = find_images(anisotropic(tmp_path / "x.nii"), VolumeOptions(options))[4]
    assert isinstance(entry, SliceEntry)
    look = Look.of(entry, None)
    assert look.spacing == pytest.approx((30 * 2 / 32, 20 * 1 / 32))


def fake_template(folder: Path) -> Path:
    """Balls in the place of the template's maps."""
    shape = (80, 90, 70)
    solid = ball(shape).astype(np.float32)
    halves = {"t1": solid, "gm": (solid > 500) * 1.0, "wm": ((solid > 0) & (solid <= 500)) * 1.0}
    for name, values in halves.items():
        write_volume(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz", values.astype(np.float32))
    return folder


def test_the_synthetic_data_set_has_the_layout_of_brats_and_depends_on_subject_and_seed_alone(tmp_path: Path) -> None:
    template = read_template(fake_template(tmp_path / "template"))
    assert len(template.tissues) == len(TISSUES)
    for folder, numbers in (("one", (3, 4)), ("two", (4,))):
        for number in numbers:
            write_subject(tmp_path / folder, number, template, 0, 8.0)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["BraTS-GLI-00003-100", "BraTS-GLI-00004-100", "BraTS-GLI-00004-101"]
    for path in (tmp_path / "two").rglob("*.nii.gz"):
        other = tmp_path / "one" / path.relative_to(tmp_path / "two")
        np.testing.assert_array_equal(nib.load(path).dataobj, nib.load(other).dataobj)
    seg: Any = nib.load(tmp_path / "one" / names[0] / f"{names[0]}-seg.nii.gz")
    assert nib.aff2axcodes(seg.affine) == ("L", "P", "S")
    assert set(np.unique(seg.dataobj)) <= {0, 1, 2, 3}
    index = find_images(tmp_path / "one", VolumeOptions(VolumesConfig(size=32, stack="channels")))
    assert subjects_of(index) == ["BraTS-GLI-00003", "BraTS-GLI-00004"]
    write_subject(tmp_path / "three", 4, template, 1, 8.0)
    first = tmp_path / "three" / names[1] / f"{names[1]}-t2f.nii.gz"
    assert (np.asarray(nib.load(first).dataobj) != nib.load(tmp_path / "one" / names[1] / first.name).get_fdata()).any()
