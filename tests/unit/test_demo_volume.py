"""What the page makes of a volume, without the page: the same as the command, and hostile files refused in one line."""

import gzip
import json
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from runs import small_run, vaevq
from vaevq.config import EvalConfig, TokenizerConfig, VolumesConfig
from vaevq.data.index import VolumeOptions, find_images
from vaevq.demo.models import load_models, volumes_of
from vaevq.demo.shelf import Shelf
from vaevq.demo.volume import MAX_SIDE, ShownVolume, shown_volume
from vaevq.errors import UserError
from vaevq.metrics.evaluation import evaluate
from vaevq.report.pictures import error_map
from vaevq.tokenizer import Tokenizer
from volumes import EXAMPLE_4D, ball, write_volume

SLICES = VolumesConfig(size=32)


def untrained(channels: int = 1) -> Tokenizer:
    torch.manual_seed(channels)
    autoencoder = {"patch_size": 4, "base_width": 8, "multipliers": [1], "blocks": 1, "image_channels": channels}
    tree = {"autoencoder": autoencoder, "quantizer": {"code_dim": 4, "codebook_size": 16}}
    return Tokenizer(TokenizerConfig.model_validate(tree)).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return untrained()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path_factory.getbasetemp() / "demo-cache"))


@pytest.fixture
def shown(tokenizer: Tokenizer, tmp_path: Path) -> ShownVolume:
    """Voxels of 1 by 1 by 3 mm, stored from back to front."""
    affine = np.diag([1.0, -1.0, 3.0, 1.0])
    path = write_volume(tmp_path / "head.nii.gz", ball((20, 24, 16)).astype(np.float32), affine)
    return shown_volume(tokenizer, path, SLICES)


def test_the_file_is_the_one_of_the_command(shown: ShownVolume, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    tokens, back = tmp_path / "t.safetensors", tmp_path / "back.nii.gz"
    coded = vaevq(
        "encode", tmp_path / "head.nii.gz", "--model", tmp_path / "model", "-o", tokens, "--volumes", "size=32"
    )
    assert coded.code == 0, coded.err
    assert vaevq("decode", tokens, "--model", tmp_path / "model", "-o", back).code == 0
    assert shown.file.read_bytes() == back.read_bytes()
    assert shown.file.name == "reconstructed-head.nii.gz"


def test_psnr_is_that_of_volumes_in_the_evaluation(shown: ShownVolume, tokenizer: Tokenizer, tmp_path: Path) -> None:
    index = find_images(str(tmp_path / "head.nii.gz"), VolumeOptions(SLICES, cached=False))
    figures = evaluate(tokenizer, index, EvalConfig(metrics=("psnr",), resize=None, crop=None), device="cpu").figures
    assert shown.psnr == pytest.approx(figures["psnr_3d"], abs=1e-4)
    assert shown.slices == len(index)
    assert shown.statistics.tokens == len(index) * 8 * 8  # 32×32 pixels, f = 4
    assert shown.statistics.entropy_bits == pytest.approx(figures["entropy_bits"])


def test_pictures_lie_as_radiologists_look_at_them_to_scale(shown: ShownVolume, tmp_path: Path) -> None:
    voxels = nib.as_closest_canonical(nib.load(tmp_path / "head.nii.gz")).get_fdata()
    assert [shown.planes(axis) for axis in ("sagittal", "coronal", "axial")] == [20, 24, 16]
    original, reconstruction, error = shown.pictures("axial", 7, 0)
    assert original.size == reconstruction.size == error.size == (20, 24)
    drawn = np.asarray(original)
    grey = (drawn[..., 0] == drawn[..., 2]) & (drawn[..., 0] < 255)  # neither a letter nor above the window
    expected = voxels[::-1, ::-1, 7].T  # right on the left, the front at the top
    assert grey.mean() > 0.8
    assert np.corrcoef(drawn[..., 0][grey], expected[grey])[0, 1] > 0.999
    pair = [volume[::-1, ::-1, 7, 0].T[..., None] for volume in (shown.original, shown.reconstruction)]
    assert np.array_equal(np.asarray(error), np.asarray(error_map(pair[0], pair[1])))
    assert shown.pictures("coronal", 3, 0)[0].size == (20, 48)
    assert shown.pictures("sagittal", 3, 0)[2].size == (24, 48)
    for axis, place, frame in (("axial", 16, 0), ("axial", -1, 0), ("axial", 3, 1)):
        with pytest.raises(UserError, match="there is none"):
            shown.pictures(axis, place, frame)


def test_a_fourth_axis_is_volumes_or_channels(tokenizer: Tokenizer, tmp_path: Path) -> None:
    small = np.asarray(nib.load(EXAMPLE_4D).dataobj)[::4, ::4, ::3]
    path = write_volume(tmp_path / "two.nii", small)
    found = shown_volume(tokenizer, path, SLICES)
    assert found.original.shape == (32, 24, 8, 2)
    assert not np.array_equal(*(np.asarray(found.pictures("axial", 3, frame)[0]) for frame in (0, 1)))
    stacked = shown_volume(untrained(2), path, SLICES.model_copy(update={"fourth": "channels"}))
    assert stacked.slices * 2 == found.slices
    with pytest.raises(UserError, match=r"its slices have 2 channels, and the model takes 1"):
        shown_volume(tokenizer, path, SLICES.model_copy(update={"fourth": "channels"}))


def test_the_file_is_deleted_with_the_volume_and_after_an_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "head.nii", ball((12, 12, 12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        found = shown_volume(tokenizer, path, SLICES)
        assert found.file.is_relative_to(tmp_path / "temporary")
        path.write_bytes(b"")
        with pytest.raises(UserError, match="empty"):
            shown_volume(tokenizer, path, SLICES)
        assert list((tmp_path / "temporary").iterdir()) == [found.file.parent]
        del found
        assert list((tmp_path / "temporary").iterdir()) == []


def test_a_shelf_lets_go_of_what_was_longest_unused() -> None:
    shelf: Shelf[str] = Shelf(2, "a volume")
    numbers = [shelf.put(thing) for thing in "ab"]
    assert shelf.get(numbers[0]) == "a"
    shelf.put("c")
    assert shelf.get(numbers[0]) == "a"
    for gone in (numbers[1], None, 99):
        with pytest.raises(UserError, match="drop a volume first"):
            shelf.get(gone)


def header(path: Path, shape: tuple[int, ...], **fields: float) -> bytes:
    """The header of a file of int16 with other fields."""
    made = nib.Nifti1Header()
    made.set_data_shape(shape)
    made.set_data_dtype(np.int16)
    made.set_sform(np.eye(4), 1)
    for name, value in fields.items():
        made[name] = value
    made["magic"] = b"n+1"
    if "vox_offset" not in fields:
        made["vox_offset"] = 352
    return bytes(made.binaryblock) + b"\0\0\0\0"


def extension_bomb(path: Path) -> bytes:
    """Two GiB of header extension in two megabytes."""
    start = header(path, (4, 4, 4), vox_offset=2.0**31)[:348] + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6)
    return gzip.compress(start + bytes(2**24), 1)


def written(voxels: np.ndarray, suffix: str = ".nii", affine: np.ndarray | None = None) -> Callable[[Path], bytes]:
    return lambda path: write_volume(path.with_name(f"made{suffix}"), voxels, affine).read_bytes()


RANGE = np.arange(64.0).reshape(4, 4, 4)

# Name, content, and what the message must say.
REFUSED: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "empty": ("x.nii", lambda _: b"", "x.nii: the file is empty"),
    "no volume": ("x.nii.gz", lambda _: b"not a volume" * 99, "x.nii.gz: Not a gzipped file"),
    "no header": ("x.nii", lambda _: b"not a volume" * 99, "x.nii: "),
    "short": ("x.nii", lambda _: b"n+1", "x.nii: "),
    "another name": ("x.png", lambda _: b"n+1", "x.png: not a NIfTI file"),
    "damaged gzip": ("x.nii.gz", lambda p: written(ball((9, 9, 9)), ".nii.gz")(p)[:-200] + bytes(200), "x.nii.gz: "),
    "cut": ("x.nii", lambda p: written(ball((9, 9, 9)))(p)[:900], "x.nii: "),
    "many voxels": (
        "x.nii.gz",
        lambda p: gzip.compress(header(p, (500, 500, 500)) + random.Random(0).randbytes(300_000)),
        "x.nii.gz: 500×500×500 voxels, more",
    ),
    "long": ("x.nii.gz", lambda p: gzip.compress(header(p, (1, 1, 30_000))), f"more than {MAX_SIDE} on a side"),
    "many slices": ("x.nii.gz", lambda p: gzip.compress(header(p, (2, 2, 300, 2))), f"or {MAX_SIDE} slices in all"),
    "nothing in it": ("x.nii", lambda p: header(p, (4, 0, 4)), "a side of 0"),
    "extensions": ("x.nii.gz", extension_bomb, "x.nii.gz: more than 16 MiB of header extensions"),
    "offset that is none": (
        "x.nii",
        lambda p: header(p, (4, 4, 4), vox_offset=float("nan")),
        "x.nii: more than 16 MiB",
    ),
    "colours": ("x.nii", written(np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "are no intensities"),
    "not finite": ("x.nii", written(np.where(RANGE > 9, np.nan, RANGE)), "voxels are not finite"),
    "equal": ("x.nii", written(np.ones((4, 4, 4), np.int16)), "there is nothing to see"),
    "too large": ("x.nii", written(np.where(RANGE > 31, 1.7e308, -1.7e308)), "x: no slice has"),
    "flat in space": (
        "x.nii",
        lambda p: header(p, (4, 4, 4), srow_x=0) + bytes(range(128)),
        "three directions in space",
    ),
    "labels": ("x-seg.nii", written(RANGE), "segmentations alone"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_hostile_file_is_one_line_that_names_it_alone(case: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    name, content, says = REFUSED[case]
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(UserError) as refusal:
        shown_volume(tokenizer, path, SLICES)
    message = str(refusal.value)
    assert says in message
    assert "\n" not in message
    assert str(tmp_path) not in message


def test_voxels_far_apart_make_no_endless_picture(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "far.nii", ball((12, 12, 12)), np.diag([1e-3, 1.0, 1e6, 1.0]))
    found = shown_volume(tokenizer, path, SLICES)
    assert all(max(picture.size) <= 12 * 8 for axis in ("axial", "coronal") for picture in found.pictures(axis, 5, 0))


def test_which_tokenizers_take_volumes(photos: Path, tmp_path: Path) -> None:
    for channels, expected in ((3, None), (1, VolumesConfig()), (2, VolumesConfig(fourth="channels"))):
        untrained(channels).save_pretrained(tmp_path / f"{channels}")
        assert load_models(str(tmp_path / f"{channels}"), None, torch.device("cpu")).volumes == expected
    volumes = {"axis": "coronal", "size": 32, "contrasts": ["t1c"]}
    run = small_run(photos, data={"volumes": volumes}, model={"autoencoder": {"image_channels": 1}})
    (tmp_path / "config.json").write_text(run.model_dump_json())
    for split, expected in (({"train_subjects": ["a"]}, VolumesConfig(axis="coronal", size=32)), ({"train": []}, None)):
        (tmp_path / "split.json").write_text(json.dumps(split))
        assert volumes_of(tmp_path, untrained(1)) == expected
    (tmp_path / "split.json").write_text("[")
    with pytest.raises(UserError, match=r"split\.json: not valid JSON"):
        volumes_of(tmp_path, untrained(1))
