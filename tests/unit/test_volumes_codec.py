"""Volumes to tokens and back: grid, affine, header and voxel type as they were; damaged records are refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from runs import vaevq
from vaevq.codec import volumes as codec
from vaevq.codec.volumes import compare_volumes, decode_volumes
from vaevq.config import RunConfig, TokenizerConfig, VolumesConfig
from vaevq.data.index import VolumeOptions, find_images
from vaevq.data.tokens import TokenFile, read_token_file, write_token_file
from vaevq.data.volumes.entries import sliced_volumes
from vaevq.data.volumes.record import KeptFile, VolumeRecord
from vaevq.data.volumes.slices import AXES
from vaevq.errors import UserError
from vaevq.tokenizer import Tokenizer
from volumes import EXAMPLE_4D, ball, write_brats, write_volume


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path_factory.getbasetemp() / "codec-cache"))


def model(folder: Path, channels: int, data: dict[str, Any] | None = None) -> Path:
    """A saved model that was never trained; with `data` in a run folder that says what it was trained on."""
    torch.manual_seed(channels)
    autoencoder = {"patch_size": 4, "base_width": 8, "multipliers": [1], "blocks": 1, "image_channels": channels}
    config = TokenizerConfig.model_validate(
        {"autoencoder": autoencoder, "quantizer": {"code_dim": 4, "codebook_size": 16}}
    )
    Tokenizer(config).save_pretrained(folder if data is None else folder / "model")
    if data is not None:
        run = RunConfig.model_validate({"model": config, "data": data})
        (folder / "config.json").write_text(run.model_dump_json())
        (folder / "split.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("models") / "grey", 1)


@st.composite
def volumes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, VolumesConfig]:
    """Voxels, an affine, and options under which nothing but what is cut is lost."""
    shape = draw(st.tuples(*(st.integers(2, 14),) * 3, st.integers(1, 3)))
    dtype = draw(st.sampled_from(["int16", ">i2", "uint8", "uint16"]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    voxels = rng.integers(0, 250, shape).astype(dtype)
    voxels[0, 0, 0], voxels[1, 1, 1] = 0, 250
    axes, flips = draw(st.permutations(range(3))), draw(st.tuples(*(st.sampled_from([-1.0, 1.0]),) * 3))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[axes] * flips
    options = {
        "axis": draw(st.sampled_from(list(AXES))),
        "size": draw(st.sampled_from([None, 8, 16])),
        "fourth": draw(st.sampled_from(["volumes", "channels"])),
        "percentiles": (0, 100),
        "empty_below": 0,
    }
    return voxels, affine, VolumesConfig.model_validate(options)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(volumes())
def test_without_quantization_a_file_comes_back_to_the_voxel(
    tmp_path: Path, case: tuple[np.ndarray, np.ndarray, VolumesConfig]
) -> None:
    voxels, affine, config = case
    path = write_volume(tmp_path / "x.nii", voxels, affine)
    index = find_images(path, VolumeOptions(config, cached=False))
    record = VolumeRecord.of(sliced_volumes(index))
    record = VolumeRecord.from_json(record.to_json(), b"".join(record.prefixes))
    begun = {0: np.zeros(record.opened[0].shape, record.opened[0].dtype, order="F")}
    for volume, sliced in zip(record.volumes, sliced_volumes(index), strict=True):
        squares = iter([entry.load(len(volume.channels)) for entry in sliced.slices()])
        codec._fill(record, volume, squares, begun)
    original = nib.load(path).dataobj.get_unscaled().reshape(begun[0].shape)
    assert begun[0].dtype == original.dtype
    if config.size is None or config.size >= max(voxels.shape[:3]):
        np.testing.assert_array_equal(begun[0], original)
    else:
        changed = begun[0] != original
        # What differs was cut off, and is the bottom of its window then.
        assert (begun[0][changed] == min(int(volume.channels[0].low) for volume in record.volumes)).all()
        across = [side for axis, side in enumerate(sliced.slicing.shape) if axis != AXES[config.axis]]
        kept = np.prod([min(side, config.size) for side in across]) / np.prod(across)
        assert changed.mean() <= 1 - kept


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_real_series_goes_through_the_command_on_its_own_grid(grey: Path, tmp_path: Path, suffix: str) -> None:
    tokens, back = tmp_path / "t.safetensors", tmp_path / f"back{suffix}"
    done = vaevq("encode", EXAMPLE_4D, "--model", grey, "-o", tokens, "--volumes", "size=128")
    assert done.code == 0, done.err
    assert "48 of 48 axial planes" in done.out
    done = vaevq("decode", tokens, "--model", grey, "-o", back, "--against", EXAMPLE_4D)
    assert done.code == 0, done.err
    assert done.out.count("identical") == 4
    assert "mean absolute error" in done.out
    one, other = nib.load(EXAMPLE_4D), nib.load(back)
    assert one.shape == other.shape
    assert one.get_data_dtype() == other.get_data_dtype()
    np.testing.assert_array_equal(one.affine, other.affine)
    assert [bytes(e.get_content()) for e in one.header.extensions] == [
        bytes(e.get_content()) for e in other.header.extensions
    ]
    assert one.header.binaryblock == other.header.binaryblock
    difference = compare_volumes(EXAMPLE_4D, back)
    x, y = one.get_fdata(), other.get_fdata()
    assert difference.mean_absolute == pytest.approx(np.abs(x - y).mean())
    assert difference.root_mean_square == pytest.approx(np.sqrt(((x - y) ** 2).mean()))
    assert difference.voxels == x.size
    assert compare_volumes(EXAMPLE_4D, EXAMPLE_4D).psnr is None
    again = vaevq("decode", tokens, "--model", grey, "-o", back)
    assert again.code == 2
    assert "already there; --force overwrites" in again.err
    assert vaevq("decode", tokens, "--model", grey, "-o", back, "--force").code == 0


def test_contrasts_as_channels_come_back_as_files_of_their_own(tmp_path: Path) -> None:
    brats = write_brats(tmp_path / "brats", patients=2)
    run = model(tmp_path / "run", 4, {"volumes": {"stack": "channels", "size": 24}})
    tokens = tmp_path / "t.safetensors"
    done = vaevq("encode", brats, "--model", run, "-o", tokens)
    assert done.code == 0, done.err
    file = read_token_file(tokens)
    assert file.volumes is not None
    assert [volume.name for volume in file.volumes.volumes] == ["BraTS-GLI-00005-100", "BraTS-GLI-00006-100"]
    assert len(file.volumes.files) == 8
    done = vaevq("decode", tokens, "--model", run, "-o", tmp_path / "back")
    assert done.code == 0, done.err
    written = sorted(path.name for path in (tmp_path / "back").iterdir())
    originals = {path.name: path for path in brats.rglob("*.nii.gz") if not path.name.endswith("-seg.nii.gz")}
    assert written == sorted(originals)
    for name in written:
        difference = compare_volumes(originals[name], tmp_path / "back" / name)
        assert (difference.same_grid, difference.same_affine, difference.same_type) == (True, True, True)
        assert difference.same_header
        back = nib.load(tmp_path / "back" / name).get_fdata()
        planes = sorted({int(n.rpartition("-")[2]) for n in file.names if name.startswith(n.partition("-axial")[0])})
        empty = [place for place in range(16) if place not in planes]
        assert empty
        assert not back[:, :, empty].any(), "what was dropped is background"
    refused = vaevq("decode", tokens, "--model", run, "-o", tmp_path / "one.nii.gz")
    assert refused.code == 2
    assert "there are 8 volumes to write; name a folder" in refused.err
    # What the run has chosen among BraTS's contrasts is not asked of another file; its channels are.
    other = vaevq("encode", EXAMPLE_4D, "--model", run, "-o", tmp_path / "u.safetensors")
    assert f"slices have 1 channel, and {run} takes 4" in other.err
    other = vaevq("encode", EXAMPLE_4D, "--model", run, "-o", tmp_path / "u.safetensors", "--volumes", "stack=channels")
    assert "data.volumes.stack: channels needs contrasts in files of their own" in other.err


def test_a_scaled_float_and_an_unsigned_volume_keep_type_and_range(grey: Path, tmp_path: Path) -> None:
    for dtype in (np.float32, np.float64, np.uint16):
        path = write_volume(tmp_path / f"{np.dtype(dtype).name}.nii.gz", ball((20, 24, 16)).astype(dtype) * 3)
        tokens, back = tmp_path / f"{path.stem}.safetensors", tmp_path / f"back-{path.name}"
        words = [f"--volumes={word}" for word in ("axis=coronal", "size=24", "fit=resize")]
        assert vaevq("encode", path, "--model", grey, "-o", tokens, *words).code == 0
        assert vaevq("decode", tokens, "--model", grey, "-o", back).code == 0
        difference = compare_volumes(path, back)
        assert (difference.same_grid, difference.same_affine, difference.same_type) == (True, True, True)
        assert nib.load(back).get_fdata().max() <= nib.load(path).get_fdata().max()
        assert nib.load(back).get_fdata().min() >= 0


def test_what_does_not_go_with_volumes_is_refused(grey: Path, tmp_path: Path, photos: Path) -> None:
    path = write_volume(tmp_path / "x.nii", ball((20, 24, 16)))
    out = ["--model", grey, "-o", tmp_path / "t.safetensors"]
    for words, message in [
        ([path, "--crop", "16"], "brought to their size by --volumes size="),
        ([path, "--flips"], "brought to their size by --volumes size="),
        ([path, "--volumes", "axs=axial"], "axs: unknown option (did you mean 'axis'?)"),
        ([photos, "--volumes", "axis=coronal"], "data.volumes has no effect"),
        ([path, "--volumes", "empty_below=1"], "no slice has 1 of foreground"),
    ]:
        refused = vaevq("encode", *words, *out)
        assert refused.code == 2
        assert message in refused.err
    images = vaevq("encode", photos, "--model", model(tmp_path / "rgb", 3, {"volumes": {"size": 24}}), *out[2:])
    assert images.code == 0, "a run's options of volumes are nothing to photos"
    refused = vaevq("decode", out[3], "--model", tmp_path / "rgb", "-o", tmp_path / "back", "--against", path)
    assert refused.code == 2
    assert "--against is of a single volume" in refused.err


@pytest.fixture
def written(grey: Path, tmp_path: Path) -> Path:
    path = write_volume(tmp_path / "x.nii.gz", ball((20, 24, 16)))
    tokens = tmp_path / "x.safetensors"
    assert vaevq("encode", path, "--model", grey, "-o", tokens, "--volumes", "size=24").code == 0
    return tokens


def test_a_token_file_of_volumes_says_so_and_is_read_as_it_was_written(written: Path, tmp_path: Path) -> None:
    with safe_open(written, framework="np") as opened:
        metadata = opened.metadata()
        assert metadata["format_version"] == "2"
        record = json.loads(metadata["volumes"])
        assert opened.get_tensor("headers").nbytes == record["files"][0]["header_bytes"] == 352
    file = read_token_file(written)
    write_token_file(tmp_path / "again.safetensors", file)
    again = read_token_file(tmp_path / "again.safetensors")
    assert again.volumes == file.volumes
    assert again.sizes == file.sizes
    assert all(np.array_equal(one, other) for one, other in zip(again.tokens, file.tokens, strict=True))
    images = replace(file, volumes=None)
    write_token_file(tmp_path / "images.safetensors", images)
    with safe_open(tmp_path / "images.safetensors", framework="np") as opened:
        assert opened.metadata()["format_version"] == "1"
        assert "headers" not in opened.keys()  # noqa: SIM118


def changed(file: TokenFile, change: Callable[[dict[str, Any]], None]) -> VolumeRecord:
    assert file.volumes is not None
    tree = json.loads(file.volumes.to_json())
    change(tree)
    return VolumeRecord.from_json(json.dumps(tree), b"".join(file.volumes.prefixes))


def set_in(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: Any) -> None:
        for part in path[:-1]:
            tree = tree[part]
        tree[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("files", 0, "name", to="../x.nii"), "files.0.name"),
        (set_in("files", 0, "name", to="x.py"), "files.0.name"),
        (set_in("files", 0, "header_bytes", to=400), "headers are not its 352 header bytes"),
        (set_in("files", to=[]), "volumes are damaged: files"),
        (set_in("volumes", 0, "axis", to="oblique"), "volumes.0.axis"),
        (set_in("volumes", 0, "more", to=1), "volumes.0.more"),
        (set_in("volumes", 0, "channels", 0, "file", to=1), "a file or a place that is not there"),
        (set_in("volumes", 0, "channels", 0, "frame", to=1), "a file or a place that is not there"),
        (set_in("volumes", 0, "channels", 0, "low", to=1e9), "a window from"),
        (set_in("volumes", 0, "channels", 0, "low", to=None), r"volumes\.0\.channels\.0\.low"),
        (set_in("volumes", 0, "kept", to=[3, 2]), "not those of 16 planes"),
        (set_in("volumes", 0, "kept", to=[3, 16]), "not those of 16 planes"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_in_one_line(
    written: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        changed(read_token_file(written), change)
    assert "\n" not in str(caught.value)


def test_a_record_is_of_the_images_that_it_stands_beside(written: Path) -> None:
    file = read_token_file(written)
    fewer = changed(file, set_in("volumes", 0, "kept", to=[3, 4]))
    with pytest.raises(UserError, match="images are not the 2 slices of its volumes"):
        replace(file, volumes=fewer)
    larger = changed(file, set_in("volumes", 0, "size", to=32))
    with pytest.raises(UserError, match="slices of its volumes"):
        replace(file, volumes=larger)


def test_a_header_that_asks_for_the_world_is_refused(written: Path) -> None:
    file = read_token_file(written)
    assert file.volumes is not None
    header = bytearray(file.volumes.prefixes[0])
    header[42:48] = (32767).to_bytes(2, "little") * 3
    with pytest.raises(UserError, match="voxels are more than there can be"):
        VolumeRecord(file.volumes.files, (bytes(header),), file.volumes.volumes)
    with pytest.raises(UserError, match="of one name"):
        VolumeRecord(file.volumes.files * 2, file.volumes.prefixes * 2, file.volumes.volumes)
    assert KeptFile(name="A.NII.GZ", header_bytes=352).name == "A.NII.GZ"


def test_a_volume_with_a_slice_that_cannot_be_read_is_not_half_encoded(
    grey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_volume(tmp_path / "x.nii", ball((20, 24, 16)))
    index = find_images(path, VolumeOptions(VolumesConfig(size=24)))
    tokenizer = Tokenizer.from_pretrained(grey)
    from vaevq.codec import encode_images
    from vaevq.config import EvalConfig

    whole = EvalConfig(resize=None, crop=None)
    file = encode_images(tokenizer, index, whole, torch.device("cpu")).file
    assert len(decode_volumes(tokenizer, file, tmp_path / "back", torch.device("cpu"))) == 1
    shutil.move(path, tmp_path / "gone")
    with pytest.raises(UserError, match="can"):
        encode_images(tokenizer, index, whole, torch.device("cpu"))


def test_slices_of_volumes_become_shards_for_generators(grey: Path, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "x.nii", ball((20, 24, 16)))
    words = ["--shard-size", "5", "--flips", "--volumes", "size=24"]
    done = vaevq("encode", path, "--model", grey, "-o", tmp_path / "shards", *words)
    assert done.code == 0, done.err
    shard = read_token_file(tmp_path / "shards" / "shard-00000.safetensors")
    assert shard.volumes is None
    assert len(shard.names) == 10


def test_a_place_or_a_comparison_that_cannot_be_is_refused_before_decoding(grey: Path, tmp_path: Path) -> None:
    path, tokens = write_volume(tmp_path / "v.nii", ball((9, 9, 9))), tmp_path / "t.safetensors"
    done = vaevq("encode", path, "--model", grey, "-o", tokens)
    assert "does not say how its volumes were taken" in done.err
    done = vaevq("decode", tokens, "--model", grey, "-o", tmp_path / "x.png")
    assert "a volume goes into a .nii or .nii.gz file" in done.err
    done = vaevq("decode", tokens, "--model", grey, "-o", tmp_path / "b.nii", "--against", tmp_path / "missing.nii")
    assert "missing.nii" in done.err
    assert not (tmp_path / "x.png").exists()
    assert not (tmp_path / "b.nii").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("encode", "{}", "-o", "{}.safetensors"),
        ("encode", "{}", "-o", "{}.shards", "--shard-size", "4"),
        ("eval", "--data", "{}", "resize=null", "crop=null"),
    ],
)
def test_a_volume_for_a_model_of_photos_is_refused_with_what_to_do(words: tuple[str, ...], tmp_path: Path) -> None:
    path = write_volume(tmp_path / "x.nii", ball((20, 24, 16)))
    refused = vaevq(*(word.format(path) for word in words))
    assert refused.code == 2
    assert refused.err.splitlines()[-1] == (
        "vaevq: error: x: its slices have 1 channel, and photos-f8 takes 3: name with --model a tokenizer that was "
        "trained on volumes with model.autoencoder.image_channels=1; --volumes stack=channels or fourth=channels makes "
        "slices of several channels"
    )
    assert "defaults of data.volumes" not in refused.err, "how they are taken is no question here"
    assert list(tmp_path.iterdir()) == [path]
