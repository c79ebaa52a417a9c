"""Volumes found and read: layouts, subjects, windows, the cache; and bad input, each named in one line."""

import gzip
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from vaevq.config import DataConfig, VolumesConfig
from vaevq.data.entries import ImageIndex
from vaevq.data.held_out import run_images
from vaevq.data.index import VolumeOptions, find_all, find_images
from vaevq.data.split import subjects_of
from vaevq.data.volumes.cache import open_volume, stored_voxels
from vaevq.data.volumes.entries import SliceEntry, sliced_volumes
from vaevq.data.volumes.source import write_nifti
from vaevq.errors import UserError
from volumes import CONTRASTS, EXAMPLE_4D, ball, write_brats, write_volume


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "volumes"


def found(location: Path, cached: bool = True, **options: object) -> ImageIndex:
    return find_images(location, VolumeOptions(VolumesConfig.model_validate(options), cached))


def test_brats_is_recognised_its_contrasts_apart_or_as_channels_and_never_its_labels(tmp_path: Path) -> None:
    folder = write_brats(tmp_path / "brats", patients=2, visits=2)
    apart = found(folder, size=None)
    names = [sliced.name for sliced in sliced_volumes(apart)]
    assert names == [f"BraTS-GLI-0000{p}-10{v}/{c}" for p in (5, 6) for v in (0, 1) for c in CONTRASTS]
    assert not any("seg" in entry.file for entry in apart)
    assert {entry.group for entry in apart} == {"BraTS-GLI-00005", "BraTS-GLI-00006"}
    together = found(folder, size=None, stack="channels", contrasts=["t2w", "t1n"])
    assert len(sliced_volumes(together)) == 4
    slice_ = together[3].load(2)
    assert slice_.shape == (24, 20, 2)
    assert slice_.dtype == np.float32
    # Each channel in its own window, in the order that was asked for.
    named = {entry.name: entry for entry in apart}
    for channel, contrast in enumerate(("t2w", "t1n")):
        of_one = named[together[3].name.replace("-axial", f"/{contrast}-axial")]
        np.testing.assert_array_equal(of_one.load(1)[..., 0], slice_[..., channel])


def test_a_patient_stands_on_one_side_and_a_fifth_of_the_patients_is_held_out(tmp_path: Path) -> None:
    folder = write_brats(tmp_path / "brats", patients=5, visits=2, shape=(8, 8, 6))
    sides = [run_images(DataConfig(train=str(folder)), seed) for seed in range(4)]
    for images in sides:
        train, held_out = subjects_of(images.train), subjects_of(images.held_out)
        assert (len(train), len(held_out)) == (4, 1)
        assert not set(train) & set(held_out)
        assert len(images.train) + len(images.held_out) == len(found(folder))
    assert len({subjects_of(images.held_out)[0] for images in sides}) > 1, "the seed chooses"
    again = run_images(DataConfig(train=str(folder)), 0)
    assert [entry.name for entry in again.held_out] == [entry.name for entry in sides[0].held_out]
    assert "split by subject with seed 0" in again.description


def test_a_subject_on_both_sides_is_refused(tmp_path: Path) -> None:
    train, held_out = (write_brats(tmp_path / side, patients=2, shape=(8, 8, 6)) for side in ("train", "test"))
    with pytest.raises(UserError, match=r"2 subjects also stand on the training side of .*BraTS-GLI-00005"):
        run_images(DataConfig(train=str(train), held_out=str(held_out)), 0)
    for visit in held_out.iterdir():
        for file in visit.iterdir():
            file.rename(visit / file.name.replace("GLI-0000", "GLI-0001"))
    assert run_images(DataConfig(train=str(train), held_out=str(held_out)), 0).held_out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"split_by": "file"}, "data.split_by: file would put slices of one subject on both sides"),
        ({"volumes": {"axis": "sagittal"}}, "data.flip: a sagittal slice is mirrored front to back"),
    ],
)
def test_options_of_images_that_are_wrong_of_slices_are_refused(
    option: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = write_brats(tmp_path / "brats", patients=2, shape=(8, 8, 6))
    with pytest.raises(UserError, match=message):
        run_images(DataConfig.model_validate({"train": str(folder), **option}), 0)


def test_a_file_a_subject_with_a_fourth_axis_as_volumes_or_as_channels(tmp_path: Path) -> None:
    series = np.stack([ball((10, 12, 8), seed) for seed in range(3)], axis=-1)
    write_volume(tmp_path / "data" / "a" / "one.nii.gz", series)
    write_volume(tmp_path / "data" / "two.nii", ball((10, 12, 8), 9))
    write_volume(tmp_path / "data" / "two_seg.nii", ball((10, 12, 8), 9))
    index = found(tmp_path / "data")
    assert [sliced.name for sliced in sliced_volumes(index)] == ["one@0", "one@1", "one@2", "two"]
    assert subjects_of(index) == ["one", "two"]
    (only,) = sliced_volumes(found(tmp_path / "data" / "a", fourth="channels", size=None))
    for frame in range(3):
        np.testing.assert_array_equal(
            only.plane(4)[..., frame],
            only.windows[frame].apply(series[::-1, ::-1, 4, frame].T, 1, 0),
        )
    assert len(found(EXAMPLE_4D, size=None)) == 48


def test_empty_slices_are_left_out_by_their_share_of_foreground(tmp_path: Path) -> None:
    voxels = np.zeros((10, 10, 5), dtype=np.int16)
    voxels[:2, :5, 1], voxels[:5, :10, 2], voxels[0, 0, 3] = 7, 9, 400
    voxels[3, 3, 2] = 800
    path = write_volume(tmp_path / "x.nii", voxels)
    places = {
        share: [entry.place for entry in found(path, empty_below=share) if isinstance(entry, SliceEntry)]
        for share in (0, 0.01, 0.02, 0.2)
    }
    assert places == {0: [1, 2, 3], 0.01: [1, 2, 3], 0.02: [1, 2], 0.2: [2]}
    with pytest.raises(UserError, match=r"no slice has 0\.9 of foreground"):
        found(path, empty_below=0.9)
    bright = found(path, foreground=0.5, percentiles=[0, 100])
    assert [entry.place for entry in bright if isinstance(entry, SliceEntry)] == [2], "400 is not above half of 800"


def test_slope_and_intercept_any_type_and_any_orientation_are_honoured(tmp_path: Path) -> None:
    voxels = ball((9, 11, 7))
    header = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]), 1)
    header["scl_slope"], header["scl_inter"] = 0.25, -1000
    header["magic"], header["vox_offset"] = b"n+1", 352
    path = tmp_path / "scaled.nii.gz"
    write_nifti(path, bytes(header.binaryblock) + bytes(4), voxels, packed=True)
    plain = write_volume(tmp_path / "plain.nii", voxels)
    turned = write_volume(
        tmp_path / "turned.nii",
        voxels[::-1].transpose(2, 0, 1).astype(">f4"),
        np.array([[0, -1, 0, 8], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]),
    )
    (one,), (other,), (third,) = (sliced_volumes(found(file, size=None)) for file in (path, plain, turned))
    assert one.windows[0].low == -1000
    assert one.windows[0].high == pytest.approx(other.windows[0].high * 0.25 - 1000)
    np.testing.assert_allclose(one.plane(3), other.plane(3), atol=1e-6)
    np.testing.assert_allclose(third.plane(3), other.plane(3), atol=1e-6)
    np.testing.assert_array_equal(nib.load(path).get_fdata(), voxels * 0.25 - 1000)


def test_what_is_packed_is_unpacked_once_and_a_changed_file_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_volume(tmp_path / "x.nii.gz", ball((10, 10, 8)))
    first = found(path, size=None)[2].load(1)
    kept = {file: file.stat().st_mtime_ns for file in cache.glob("*.npy")}
    assert len(kept) == 1
    from vaevq.data.volumes import cache as module

    module._mapped.cache_clear()
    monkeypatch.setattr(module, "open_nifti", None)  # of this file nothing has to be read any more
    mapped = stored_voxels(str(path), cached=True)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(found(path, size=None)[2].load(1), first)
    assert {file: file.stat().st_mtime_ns for file in cache.glob("*.npy")} == kept
    monkeypatch.undo()
    monkeypatch.setenv("VAEVQ_CACHE", str(cache.parent))
    write_volume(path, ball((10, 10, 8), seed=5))
    os.utime(path, ns=(1, 10**9))
    assert (found(path, size=None)[2].load(1) != first).any()
    assert len(list(cache.glob("*.npy"))) == 2


def test_an_unpacked_file_is_mapped_where_it_lies_and_without_a_cache_nothing_is_kept(
    tmp_path: Path, cache: Path
) -> None:
    plain = write_volume(tmp_path / "plain.nii", ball((10, 10, 8)))
    packed = write_volume(tmp_path / "packed.nii.gz", ball((10, 10, 8)))
    assert isinstance(stored_voxels(str(plain), cached=True), np.memmap)
    one, other = found(plain)[1].load(1), found(packed, cached=False)[1].load(1)
    np.testing.assert_array_equal(one, other)
    assert list(cache.glob("*.npy")) == []


def damaged(path: Path) -> Path:
    whole = write_volume(path, ball((24, 24, 20))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def without_side(path: Path) -> Path:
    write_volume(path, ball((6, 6, 6)))
    content = bytearray(path.read_bytes())
    content[44:46] = (0).to_bytes(2, "little")  # dim[2]
    path.write_bytes(bytes(content))
    return path


def below_zero(path: Path) -> Path:
    write_volume(path, ball((6, 6, 6)))
    content = bytearray(path.read_bytes())
    content[44:46] = (-6).to_bytes(2, "little", signed=True)
    path.write_bytes(bytes(content))
    return path


def with_nan(path: Path) -> Path:
    voxels = ball((6, 6, 6)).astype(np.float32)
    voxels[3, 3, 3], voxels[2, 2, 2] = np.nan, np.inf
    return write_volume(path, voxels)


def coloured(path: Path) -> Path:
    voxels = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return write_volume(path, voxels)


def flat(path: Path) -> Path:
    affine = np.eye(4)
    affine[0, 0] = 0
    header = nib.Nifti1Image(ball((6, 6, 6)), None)
    header.header.set_sform(affine, 1)
    header.to_filename(path)
    return path


def text(path: Path) -> Path:
    path.write_text("no volume at all")
    return path


def asking(path: Path, *fields: tuple[int, bytes], more: bytes = b"") -> Path:
    """A sound file with other bytes at some places of its header, and more of it than it has."""
    whole = write_volume(path.with_suffix(".nii"), ball((6, 6, 6))).read_bytes()
    content = bytearray(whole + more)
    for place, value in fields:
        content[place : place + len(value)] = value
    path.with_suffix(".nii").unlink()
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


DIM, OFFSET, EXTENSION = 42, 108, 348
BOMB = ((OFFSET, struct.pack("<f", 2.0**31)), (EXTENSION, b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6)))
MANY = (DIM, struct.pack("<3h", 2000, 2000, 500))


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (damaged, "cut.nii.gz", r"cut\.nii\.gz: .*(ended before|Expected)"),
        (without_side, "side.nii", r"side\.nii: 6×0×6 voxels, a side of 0"),
        (below_zero, "minus.nii", r"minus\.nii: 6×-6×6 voxels, a side of -6"),
        (lambda p: write_volume(p, np.zeros((6, 6, 6), np.int16)), "zero.nii", r"zero\.nii: each of its voxels is 0"),
        (with_nan, "nan.nii.gz", r"nan\.nii\.gz: 2 of its 216 voxels are not finite"),
        (coloured, "colour.nii", r"colour\.nii: voxels of type .* are no intensities"),
        (flat, "flat.nii", r"flat\.nii: its affine does not span three directions"),
        (lambda p: write_volume(p, np.ones((6, 6), np.int16)), "plane.nii", r"plane\.nii: 6×6 voxels; a volume has"),
        (text, "text.nii.gz", r"text\.nii\.gz: "),
        (text, "text.nii", r"text\.nii: "),
        (lambda p: p.touch() or p, "empty.nii.gz", r"empty\.nii\.gz: the file is empty"),
        (lambda p: asking(p, *BOMB, more=bytes(1 << 25)), "bomb.nii.gz", "bomb.nii.gz: more than 16 MiB of header ext"),
        (lambda p: asking(p, *BOMB, more=bytes(1 << 25)), "bomb.nii", "bomb.nii: more than 16 MiB of header ext"),
        (lambda p: asking(p, MANY), "many.nii.gz", "many.nii.gz: 2000×2000×500 voxels cannot be in a file of"),
        (lambda p: asking(p, MANY), "many.nii", "many.nii: 2000×2000×500 voxels cannot be in a file of 784 bytes"),
        (lambda p: asking(p, (DIM, b"\xff\x7f" * 3)), "all.nii", "voxels are more than there can be"),
        (lambda p: asking(p, (OFFSET, bytes(4))), "at0.nii", "at0.nii: its voxels begin at byte 0, inside a header of"),
    ],
)
def test_a_volume_that_is_none_is_named_in_one_line(
    make: Callable[[Path], Path], name: str, message: str, tmp_path: Path
) -> None:
    path = make(tmp_path / name)
    tracemalloc.start()
    with pytest.raises(UserError, match=message) as caught:
        found(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert most < 4 << 20, f"{most:,} bytes were taken"


def missing_contrast(folder: Path) -> None:
    (folder / "BraTS-GLI-00006-100" / "BraTS-GLI-00006-100-t2f.nii.gz").unlink()


def other_grid(folder: Path) -> None:
    write_volume(folder / "BraTS-GLI-00006-100" / "BraTS-GLI-00006-100-t2f.nii.gz", ball((8, 8, 7)))


def other_place(folder: Path) -> None:
    affine = np.eye(4)
    affine[0, 3] = 5
    write_volume(folder / "BraTS-GLI-00006-100" / "BraTS-GLI-00006-100-t2f.nii.gz", ball((8, 8, 6)), affine)


def twice(folder: Path) -> None:
    source = folder / "BraTS-GLI-00006-100"
    for file in source.iterdir():
        (folder / "more").mkdir(exist_ok=True)
        (folder / "more" / file.name).write_bytes(file.read_bytes())


def stranger(folder: Path) -> None:
    write_volume(folder / "atlas.nii.gz", ball((8, 8, 6)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_contrast, r"BraTS-GLI-00006-100 has no contrast t2f \(it has t1c, t1n, t2w\)"),
        (other_grid, r"t2f\.nii\.gz: 8×8×7 voxels, and 8×8×6 in BraTS-GLI-00006-100-t1c"),
        (other_place, r"t2f\.nii\.gz: lies elsewhere in space"),
        (twice, "BraTS-GLI-00006-100 is there twice"),
        (stranger, r"atlas\.nii\.gz is not called like the BraTS files"),
    ],
)
def test_a_brats_folder_with_a_fault_is_refused_in_one_line(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = write_brats(tmp_path / "brats", patients=2, shape=(8, 8, 6))
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        found(folder)
    assert "\n" not in str(caught.value)


def test_mistakes_in_what_is_asked_of_a_location_are_said(tmp_path: Path, photos: Path) -> None:
    write_volume(tmp_path / "a" / "x.nii", ball((8, 8, 6)))
    write_volume(tmp_path / "b" / "x.nii.gz", ball((8, 8, 6)))
    brats = write_brats(tmp_path / "brats", patients=1, shape=(8, 8, 6))
    for call, message in [
        (lambda: find_all([str(tmp_path / "a/x.nii"), str(tmp_path / "b/x.nii.gz")]), "two subjects are called x"),
        (lambda: found(tmp_path / "a", contrasts=["t1c"]), "contrasts has no effect"),
        (lambda: found(tmp_path / "a", stack="channels"), "channels needs contrasts in files of their own"),
        (lambda: found(brats, contrasts=["seg"]), "seg holds labels"),
        (lambda: found(photos, axis="coronal"), "data.volumes has no effect: .* holds images"),
        (lambda: find_all([str(brats), str(photos)]), "several folders of volumes"),
        (lambda: found(brats)[0].load(3), r"slices have 1 channel, and the model takes 3: set model\.auto"),
    ]:
        with pytest.raises(UserError, match=message):
            call()
    (photos.parent / "mixed").mkdir()
    write_volume(photos.parent / "mixed" / "x.nii", ball((8, 8, 6)))
    (photos.parent / "mixed" / "y.png").write_bytes((photos / "cat-0.png").read_bytes())
    with pytest.raises(UserError, match=r"1 images \(y\.png first\) and 1 volumes"):
        found(photos.parent / "mixed")


def test_a_list_of_volumes_is_a_location(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nii", ball((8, 8, 6)))
    write_volume(tmp_path / "y.nii", ball((8, 8, 6), 3))
    (tmp_path / "list.txt").write_text("y.nii\nx.nii\n")
    assert subjects_of(find_images(tmp_path / "list.txt")) == ["x", "y"]
    (tmp_path / "list.txt").write_text("y.nii\nz.png\n")
    with pytest.raises(UserError, match="names volumes alone"):
        find_images(tmp_path / "list.txt")


def test_the_header_of_a_real_series_is_read() -> None:
    opened = open_volume(str(EXAMPLE_4D))
    assert (opened.shape, opened.dtype, opened.frames) == ((128, 96, 24, 2), np.dtype("<i2"), 2)
    assert opened.ras_shape == (128, 96, 24)
    assert opened.voxel_sizes == pytest.approx((2, 2, 2.2), abs=0.01)
    assert b"extcomment1" in opened.prefix


@pytest.mark.parametrize(
    "names",
    [
        ("BraTS2021_00000/BraTS2021_00000_t1ce", "BraTS2021_00000/BraTS2021_00000_flair", "BraTS2021_00001_t1ce"),
        ("BraTS20_Training_001_t1", "BraTS20_Training_001_t2", "BraTS20_Training_002_t1"),
        ("sub-01/anat/sub-01_ses-1_T1w", "sub-01/anat/sub-01_ses-2_T1w", "sub-02/anat/sub-02_T1w"),
    ],
)
def test_names_of_earlier_brats_and_of_bids_say_whose_they_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_volume(tmp_path / f"{name}.nii.gz", ball((6, 7, 8)))
    write_volume(tmp_path / f"{names[0].rpartition('_')[0]}_seg.nii.gz", ball((6, 7, 8)))
    volumes = {entry.of.volume.name: entry.subject for entry in found(tmp_path) if isinstance(entry, SliceEntry)}
    assert set(volumes) == {Path(name).name for name in names}
    assert volumes[Path(names[0]).name] == volumes[Path(names[1]).name] != volumes[Path(names[2]).name]
    assert len(set(volumes.values())) == 2


def test_what_nibabel_mends_of_a_header_is_not_printed(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "v.nii", ball((9, 8, 7)))
    content = bytearray(path.read_bytes())
    content[0] ^= 4  # the size that the header says it has
    path.write_bytes(content)
    code = f"from vaevq.data.volumes.cache import open_volume; print(open_volume({str(path)!r}).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(9, 8, 7)", "")
