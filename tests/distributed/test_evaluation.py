"""Two processes measure what one measures: all figures, the histogram, the lists and the notes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from runs import on_two_processes
from vaevq.config import AutoencoderConfig, EvalConfig, TokenizerConfig, VariationalConfig
from vaevq.data.index import find_images
from vaevq.distributed import rank
from vaevq.errors import UserError
from vaevq.metrics import evaluation
from vaevq.metrics.evaluation import Evaluation, evaluate
from vaevq.metrics.fid import FeatureMoments
from vaevq.tokenizer import Tokenizer

CONFIG = EvalConfig(metrics=("psnr", "ssim", "frechet", "kid"), resize=16, crop=16, batch_size=3, kid_block=4)
UNCHANGED = {"metrics": ("psnr",), "resize": None}


class TinyFeatures(nn.Module):
    """In the place of a feature network."""

    name, dim, checksum, preprocessing = "tiny", 6, "0" * 64, "none"
    is_standard_inception = False

    def forward(self, images: Tensor) -> Tensor:
        return images.double().flatten(2).unflatten(2, (2, -1)).mean(-1).flatten(1).sin()


def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    shape = AutoencoderConfig(base_width=8, multipliers=(1, 1, 1), blocks=1)
    return Tokenizer(
        TokenizerConfig(autoencoder=shape, quantizer=VariationalConfig(code_dim=3, codebook_size=32))
    ).double()


def measure(images: Path, reference: Path | None, config: EvalConfig = CONFIG) -> Evaluation:
    """An evaluation of the images in a folder, on as many processes as there are."""
    original = evaluation.load_feature_network
    evaluation.load_feature_network = lambda config, device: TinyFeatures()  # type: ignore[assignment,return-value]
    try:
        beside = find_images(reference) if reference is not None else None
        return evaluate(tokenizer(), find_images(images), config, device="cpu", reference=beside)
    finally:
        evaluation.load_feature_network = original


def work(folder: Path) -> None:
    """What each of several processes does."""
    for name, reference in (("without", None), ("with", folder / "reference")):
        result = measure(folder / "images", reference)
        (folder / f"{name}-{rank()}.json").write_text(json.dumps(result.to_json()))
    # Of blocks of four images the second process has the second.
    uncut = CONFIG.model_copy(update={**UNCHANGED, "metrics": ("frechet",)})
    for name, images, reference in (
        ("evaluated", folder / "small", None),
        ("reference", folder / "reference", folder / "small"),
    ):
        try:
            measure(images, reference, uncut)
        except UserError as error:
            (folder / f"mistake-{name}-{rank()}.txt").write_text(str(error))
    options = CONFIG.model_copy(update={**UNCHANGED, "crop": None})
    result = evaluate(tokenizer(), find_images(folder / "half"), options, device="cpu")
    (folder / f"half-{rank()}.json").write_text(json.dumps(result.to_json()))
    try:
        evaluate(tokenizer(), find_images(folder / "none"), options, device="cpu")
    except UserError as error:
        (folder / f"none-{rank()}.txt").write_text(str(error))
    moments = FeatureMoments(3)
    if rank() == 0:  # one process without a single vector is no trouble
        moments.update(torch.arange(12.0).view(4, 3).sin())
    moments.all_reduce()
    torch.save((moments.count, moments.mean, moments.scatter), folder / f"moments-{rank()}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 images and 25 of a reference, and what two processes made of them. With blocks of 4, the first process has
    more images than the second; one image cannot be read."""
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    for side, count in (("images", 18), ("reference", 25)):
        (folder / side).mkdir()
        for number in range(count):
            ramp = np.linspace(rng.uniform(0, 100), rng.uniform(100, 250), 320).reshape(16, 20, 1)
            pixels = ramp * rng.uniform(0.5, 1, 3) + rng.normal(0, 4, (16, 20, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / side / f"{number:02}.png")
    (folder / "images" / "07.png").write_bytes(b"no image")
    (folder / "small").mkdir()
    for number in range(8):
        Image.new("RGB", (16, 12 if number == 5 else 16)).save(folder / "small" / f"{number}.png")
    for side, sound in (("half", 4), ("none", 0)):
        (folder / side).mkdir()
        for number in range(8):
            path = folder / side / f"{number}.png"
            Image.new("RGB", (16, 16)).save(path) if number < sound else path.write_bytes(b"no image")
    on_two_processes(work, folder)
    return folder


@pytest.mark.parametrize("name", ["without", "with"])
def test_two_processes_measure_what_one_measures(folder: Path, name: str) -> None:
    alone = measure(folder / "images", folder / "reference" if name == "with" else None)
    first, second = (Evaluation.from_json(json.loads((folder / f"{name}-{i}.json").read_text())) for i in range(2))
    assert first == second, "every process gets the whole"
    assert first.images == alone.images == 17
    assert first.figures == pytest.approx(alone.figures, rel=1e-10, abs=1e-12)
    for kid in ("kid_tiny", "kid_tiny_standard_error"):
        assert first.figures[kid] == alone.figures[kid], "whole blocks: equal to the last digit"
    for part in ("protocol", "histogram", "notes", "unreadable", "best", "worst"):
        assert getattr(first, part) == getattr(alone, part), part


@pytest.mark.parametrize("side", ["evaluated", "reference"])
def test_a_mistake_that_one_process_finds_is_told_by_both(folder: Path, side: str) -> None:
    told = [(folder / f"mistake-{side}-{i}.txt").read_text() for i in range(2)]
    assert told == ["5.png: 16×12 pixels, smaller than the 16×16 crop; set resize to 16 or more"] * 2


def test_a_process_that_can_read_none_of_its_images_fails_no_evaluation(folder: Path) -> None:
    first, second = (json.loads((folder / f"half-{i}.json").read_text()) for i in range(2))
    assert first == second
    assert (first["images"], first["unreadable"]) == (4, ["4.png", "5.png", "6.png", "7.png"])


def test_where_no_process_can_read_any_all_say_so(folder: Path) -> None:
    told = [(folder / f"none-{i}.txt").read_text() for i in range(2)]
    assert told == [f"{folder / 'none'}: none of 8 images can be read, '0.png' first"] * 2


def test_a_process_without_images_changes_no_moments(folder: Path) -> None:
    alone = FeatureMoments(3)
    alone.update(torch.arange(12.0).view(4, 3).sin())
    for number in range(2):
        count, mean, scatter = torch.load(folder / f"moments-{number}.pt")
        assert count == 4
        torch.testing.assert_close(mean, alone.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(scatter, alone.scatter, rtol=1e-14, atol=1e-15)
