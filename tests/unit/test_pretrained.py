"""The tokenizer in the box: found by name without a network, good on photos that it has not seen, what verbs take."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runs import files_below, vaevq
from vaevq import Tokenizer
from vaevq.cli.codec import _token_file_of
from vaevq.data.images import load_image, to_tensor, to_uint8
from vaevq.errors import UserError
from vaevq.metrics.codebook import TokenHistogram
from vaevq.metrics.image import psnr
from vaevq.pretrained import DEFAULT, names, packaged

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "photos_f8.json"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaevq.saved.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))


@pytest.fixture
def folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user stands, with one photo."""
    monkeypatch.chdir(tmp_path)
    Image.open(photos / "cat-0.png").save("photo.jpg", quality=95)
    return tmp_path


def test_it_is_small_and_of_the_shape_that_it_is_named_after() -> None:
    assert names() == (DEFAULT,) == ("photos-f8",)
    place = packaged(DEFAULT)
    assert place is not None
    assert sum(path.stat().st_size for path in place.parent.rglob("*") if path.is_file()) < 20e6
    tokenizer = Tokenizer.from_pretrained(DEFAULT)
    assert (tokenizer.downsample_factor, tokenizer.quantizer.codebook_size) == (8, 16384)


def test_its_recipe_is_the_one_in_the_package() -> None:
    from vaevq.config import RunConfig, load_run_config, read_json

    place = packaged(DEFAULT)
    assert place is not None
    assert read_json(RunConfig, place.parent / "config.json") == load_run_config(DEFAULT)


def test_what_was_measured_was_measured_of_these_weights() -> None:
    assert json.loads(EXPERIMENT.read_text())["model_digest"] == Tokenizer.from_pretrained(DEFAULT).digest
    place = packaged(DEFAULT)
    assert place is not None
    figures = json.loads((place.parent / "eval.json").read_text())
    assert figures["protocol"]["model_digest"] == Tokenizer.from_pretrained(DEFAULT).digest
    assert f"| `psnr` | {figures['figures']['psnr']:.4g} |" in (place / "README.md").read_text().splitlines()


@torch.inference_mode()
def test_it_brings_back_photos_that_it_has_not_seen() -> None:
    from skimage import data

    tokenizer, histogram, errors = Tokenizer.from_pretrained(DEFAULT), TokenHistogram(16384), []
    for photo in (data.astronaut(), data.coffee(), data.chelsea()):
        photo = np.ascontiguousarray(photo)
        tokens = tokenizer.encode(to_tensor(photo)[None])
        decoded = to_uint8(tokenizer.decode(tokens, size=photo.shape[:2]))
        errors.append(float(psnr(torch.from_numpy(photo).permute(2, 0, 1)[None], decoded)))
        histogram.update(tokens)
    assert min(errors) > 22, errors
    # 11,000 tokens cannot show all of 16,384 codewords; a collapsed codebook shows hundreds.
    assert histogram.statistics().perplexity > 1000


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (37, 61), (200, 9)])
def test_it_takes_any_size(size: tuple[int, int]) -> None:
    tokenizer = Tokenizer.from_pretrained(DEFAULT)
    tokens = tokenizer.encode(torch.rand(2, 3, *size) * 2 - 1)
    assert tokens.shape == (2, -(-size[0] // 8), -(-size[1] // 8))
    assert tokenizer.decode(tokens, size=size).shape == (2, 3, *size)


def test_a_photo_is_encoded_and_decoded_without_an_option(folder: Path) -> None:
    outcome = vaevq("encode", "photo.jpg")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("1 image, 240 tokens, ")
    assert outcome.out.endswith(" bytes: photo.safetensors\n")
    outcome = vaevq("decode", "photo.safetensors")
    assert (outcome.code, outcome.out) == (0, "1 image: decoded/\n")
    original, decoded = load_image(folder / "photo.jpg", 3), load_image(folder / "decoded/photo.png", 3)
    assert original.shape == decoded.shape
    assert np.abs(original.astype(int) - decoded).mean() < 25
    assert files_below(folder) == {"photo.jpg", "photo.safetensors", "decoded/photo.png"}
    again = vaevq("encode", "photo.jpg")
    assert (again.code, again.err) == (2, "vaevq: error: photo.safetensors already there; --force overwrites\n")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my photo.v2.JPG", "my photo.v2"),
        ("2024.01.02.gif", "2024.01.02"),
        (".hidden.png", "hidden"),
        ("v.nii.gz", "v"),
        (".", "holiday.2024"),
        ("../holiday.2024/", "holiday.2024"),
    ],
)
def test_a_token_file_is_called_after_what_it_is_of(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holiday.2024").mkdir()
    monkeypatch.chdir(tmp_path / "holiday.2024")
    assert _token_file_of((name,)) == Path(f"{file}.safetensors")


def test_a_slash_behind_the_name_does_no_harm() -> None:
    assert packaged("photos-f8/") == packaged("photos-f8") is not None


def test_several_photos_go_to_one_file(folder: Path) -> None:
    Image.open("photo.jpg").save("other.png")
    outcome = vaevq("encode", "photo.jpg", "other.png")
    assert outcome.code == 0
    assert outcome.out.startswith("2 images, 480 tokens, ")
    assert (folder / "tokens.safetensors").is_file()


def test_shards_need_a_folder_by_name(folder: Path) -> None:
    outcome = vaevq("encode", "photo.jpg", "--shard-size", 10)
    assert (outcome.code, outcome.err) == (2, "vaevq: error: --shard-size needs --output: the folder of the shards\n")


def test_it_is_measured_on_named_images(folder: Path) -> None:
    outcome = vaevq("eval", "metrics=[psnr]", "resize=null", "crop=null", "--data", "photo.jpg", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["figures"]["psnr"] > 20
    outcome = vaevq("eval")
    assert outcome.err == "vaevq: error: photos-f8: no run folder, so --data must name those to measure on\n"


def test_it_is_inspected_by_name(folder: Path) -> None:
    outcome = vaevq("inspect", "photos-f8", "--json")
    assert json.loads(outcome.out)["digest"] == Tokenizer.from_pretrained(DEFAULT).digest


def test_a_folder_of_the_name_comes_first(finished: Path, folder: Path) -> None:
    (folder / DEFAULT).symlink_to(finished)
    assert Tokenizer.from_pretrained(DEFAULT).digest == Tokenizer.from_pretrained(finished).digest


def test_another_name_is_answered_with_what_the_box_has() -> None:
    with pytest.raises(UserError, match=r"^photos-f4: no such folder, and no hub name .*; in the box: photos-f8$"):
        Tokenizer.from_pretrained("photos-f4")


def test_the_weights_are_in_the_repository() -> None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("no checkout")
    done = subprocess.run(
        ["git", "ls-files", "src/vaevq/pretrained"], cwd=root, capture_output=True, text=True, check=True
    )
    assert "src/vaevq/pretrained/photos-f8/model/model.safetensors" in done.stdout.split()
