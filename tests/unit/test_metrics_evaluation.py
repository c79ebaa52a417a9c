"""The whole evaluation, on small generated images, against the same figures computed plainly and all at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vaevq.config import AutoencoderConfig, EvalConfig, PlainConfig, TokenizerConfig, VariationalConfig
from vaevq.data.images import to_uint8
from vaevq.data.index import ImageIndex, find_images
from vaevq.data.loader import evaluation_batches
from vaevq.errors import UserError
from vaevq.metrics import evaluation
from vaevq.metrics.evaluation import Evaluation, evaluate
from vaevq.metrics.fid import FeatureMoments, frechet_distance
from vaevq.metrics.image import PSNR_CAP, psnr, ssim
from vaevq.metrics.kid import polynomial_mmd2
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer, TokenizerOutput

COUNT = 23
CONFIG = EvalConfig(metrics=("psnr", "ssim"), resize=16, crop=16, batch_size=5)
SETS = CONFIG.model_copy(update={"metrics": ("psnr", "frechet", "kid"), "kid_block": 5})


class TinyFeatures(nn.Module):
    """In the place of a feature network: six features, and a record of how many images it has seen."""

    name, dim, checksum, preprocessing = "tiny", 6, "0" * 64, "none"
    is_standard_inception = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        halves = images.double().flatten(2).unflatten(2, (2, -1))
        return halves.mean(-1).flatten(1).sin()


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> TinyFeatures:
    network = TinyFeatures()
    monkeypatch.setattr(evaluation, "load_feature_network", lambda config, device: network)
    return network


def write_images(folder: Path, count: int, seed: int = 0, side: tuple[int, int] = (16, 20)) -> ImageIndex:
    """Smooth gradients with a little noise, one darker than the other."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        ramp = np.linspace(rng.uniform(0, 100), rng.uniform(100, 250), side[0] * side[1]).reshape(*side, 1)
        pixels = ramp * rng.uniform(0.5, 1, 3) + rng.normal(0, 4, (*side, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    return find_images(folder)


@pytest.fixture
def images(tmp_path: Path) -> ImageIndex:
    return write_images(tmp_path / "images", COUNT)


@pytest.fixture
def tokenizer() -> Tokenizer:
    """In float64, so that the batch size does not move a value over the edge between two grey levels."""
    torch.manual_seed(0)
    shape = AutoencoderConfig(base_width=8, multipliers=(1, 1, 1), blocks=1)
    return Tokenizer(
        TokenizerConfig(autoencoder=shape, quantizer=VariationalConfig(code_dim=3, codebook_size=32))
    ).double()


class Copier(Tokenizer):
    """A tokenizer whose reconstruction is the image, plus `offset`."""

    offset = 0.0

    def forward(self, images: Tensor, noise: Tensor | None = None, *, continuous: bool = False) -> TokenizerOutput:
        output = super().forward(images, noise)
        return TokenizerOutput(images + self.offset, None, output.posterior, output.quantized)


@pytest.fixture
def copier() -> Copier:
    shape = AutoencoderConfig(base_width=8, multipliers=(1, 1, 1), blocks=1)
    return Copier(TokenizerConfig(autoencoder=shape, quantizer=PlainConfig(code_dim=3, codebook_size=32)))


@torch.no_grad()
def plainly(tokenizer: Tokenizer, index: ImageIndex) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Originals, reconstructions (uint8), tokens and names of all images in one batch."""
    config = CONFIG.model_copy(update={"batch_size": 1000})
    (batch,) = evaluation_batches(index, config, 3)
    tokens = tokenizer.eval().encode(batch.images.double())
    decoded = tokenizer.decode(tokens, size=(16, 16))
    return to_uint8(batch.images), to_uint8(decoded), tokens, list(batch.names)


def near(figures: dict[str, float]) -> Any:
    return pytest.approx(figures, rel=1e-9, abs=1e-12)


def test_image_and_codebook_figures_equal_plain_ones(tokenizer: Tokenizer, images: ImageIndex) -> None:
    result = evaluate(tokenizer, images, CONFIG, device="cpu")
    originals, reconstructions, tokens, names = plainly(tokenizer, images)
    decibels, similarity = psnr(originals, reconstructions), ssim(originals, reconstructions)
    counts = np.bincount(tokens.flatten(), minlength=32)
    shares = counts[counts > 0] / counts.sum()
    perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
    assert result.histogram == counts.tolist()
    assert result.images == COUNT
    expected = {
        "psnr": float(decibels.mean()),
        "psnr_deviation": float(decibels.std()),
        "ssim": float(similarity.mean()),
        "ssim_deviation": float(similarity.std()),
        "usage": (counts > 0).mean(),
        "perplexity": perplexity,
        "perplexity_share": perplexity / 32,
        "tokens_per_codeword": COUNT * 16 / 32,
        "bits_per_pixel": 5 / 16,
        "bits_per_pixel_entropy": float(np.log2(perplexity)) / 16,
    }
    assert {name: result.figures[name] for name in expected} == near(expected)
    order = decibels.argsort().tolist()
    assert [image["name"] for image in result.worst] == [names[i] for i in order[:8]]
    assert [image["name"] for image in result.best] == [names[i] for i in order[:-9:-1]]
    del result.best[0]["name"]
    assert result.best[0] == near({"psnr": float(decibels.max()), "ssim": float(similarity[order[-1]])})


def test_set_figures_equal_plain_ones(tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures) -> None:
    result = evaluate(tokenizer, images, SETS, device="cpu")
    assert features.seen == 2 * COUNT
    originals, reconstructions, _, _ = plainly(tokenizer, images)
    x, y = (features(part.float() / 127.5 - 1) for part in (reconstructions, originals))
    sides = FeatureMoments(6), FeatureMoments(6)
    for side, part in zip(sides, (x, y), strict=True):
        side.update(part)
    order = torch.randperm(COUNT, generator=generator("evaluation order"))
    blocks = torch.tensor([polynomial_mmd2(x[order[i : i + 5]], y[order[i : i + 5]]) for i in (0, 5, 10, 15)])
    expected = {
        "fd_tiny": frechet_distance(*sides),
        "kid_tiny": float(blocks.mean()),
        "kid_tiny_standard_error": float(blocks.std()) / 2,
    }
    assert {name: result.figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert "KID is of 4 whole blocks of 5 images and leaves out the other 3" in result.notes


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_figures_do_not_depend_on_the_batch_size(
    tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures, batch_size: int
) -> None:
    first = evaluate(tokenizer, images, SETS, device="cpu")
    second = evaluate(tokenizer, images, SETS.model_copy(update={"batch_size": batch_size}), device="cpu")
    assert second.figures == near(first.figures)
    assert second.histogram == first.histogram
    assert [image["name"] for image in second.worst] == [image["name"] for image in first.worst]
    assert second.protocol == first.protocol


def test_a_reference_takes_the_place_of_the_originals(
    tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures, tmp_path: Path
) -> None:
    other = write_images(tmp_path / "other", 31, seed=9)
    result = evaluate(tokenizer, images, SETS, device="cpu", reference=other)
    assert features.seen == COUNT + 31, "the originals' features are not computed"
    _, reconstructions, _, _ = plainly(tokenizer, images)
    reference, _, _, _ = plainly(tokenizer, other)
    sides = FeatureMoments(6), FeatureMoments(6)
    x, y = (features(part.float() / 127.5 - 1) for part in (reconstructions, reference))
    for side, part in zip(sides, (x, y), strict=True):
        side.update(part)
    assert result.figures["fd_tiny"] == pytest.approx(frechet_distance(*sides), rel=1e-5)
    first, second = (torch.randperm(n, generator=generator("evaluation order")) for n in (COUNT, 31))
    blocks = [polynomial_mmd2(x[first[i : i + 5]], y[second[i : i + 5]]) for i in (0, 5, 10, 15)]
    assert result.figures["kid_tiny"] == pytest.approx(sum(blocks) / 4, rel=1e-5)
    assert result.protocol["reference_digest"] == other.digest
    assert result.protocol["reference_images"] == 31


def test_the_originals_as_reference_give_the_figures_without_one(
    tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures
) -> None:
    without = evaluate(tokenizer, images, SETS, device="cpu")
    given = evaluate(tokenizer, images, SETS, device="cpu", reference=images)
    assert given.figures == near(without.figures)


def test_only_the_standard_inception_network_gives_rfid(
    tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures
) -> None:
    named = evaluate(tokenizer, images, SETS, device="cpu")
    assert {"fd_tiny", "kid_tiny", "kid_tiny_standard_error"} < named.figures.keys()
    assert not {"rfid", "rkid"} & named.figures.keys()
    features.is_standard_inception = True
    standard = evaluate(tokenizer, images, SETS, device="cpu")
    assert {"rfid", "rkid", "rkid_standard_error"} < standard.figures.keys()
    assert standard.figures["rfid"] == named.figures["fd_tiny"]


def test_encodings_are_deterministic_and_modes_are_restored(tokenizer: Tokenizer, images: ImageIndex) -> None:
    tokenizer.train()
    tokenizer.decoder.eval()
    modes = {name: part.training for name, part in tokenizer.named_modules()}
    before = torch.random.get_rng_state()
    first, second = (evaluate(tokenizer, images, CONFIG, device="cpu") for _ in range(2))
    assert first == second
    assert {name: part.training for name, part in tokenizer.named_modules()} == modes
    assert torch.equal(torch.random.get_rng_state(), before), "training goes on as if nothing had been measured"
    tokenizer(torch.zeros(1, 3, 16, 16, dtype=torch.float64)).reconstruction.sum().backward()
    assert all(not parameter.is_inference() for parameter in tokenizer.parameters())


def test_the_mode_is_restored_after_an_error(images: ImageIndex, tokenizer: Tokenizer) -> None:
    tokenizer.train()
    with pytest.raises(UserError, match="smaller than the 40×40 crop"):
        evaluate(tokenizer, images, CONFIG.model_copy(update={"resize": None, "crop": 40}), device="cpu")
    assert tokenizer.training


def test_unreadable_images_are_skipped_named_and_counted(tokenizer: Tokenizer, images: ImageIndex) -> None:
    clean = evaluate(tokenizer, images.subset(i for i in range(COUNT) if i not in (3, 11)), CONFIG, device="cpu")
    for number in (3, 11):
        Path(images[number].file).write_bytes(b"no image")
    result = evaluate(tokenizer, images, CONFIG, device="cpu")
    assert result.unreadable == ["03.png", "11.png"]
    assert (result.images, result.protocol["images"], result.protocol["unreadable"]) == (21, 21, 2)
    assert result.figures == near(clean.figures)
    assert "2 of 23 images could not be read, '03.png' first" in result.notes


def test_whole_images_of_any_size_count_their_own_pixels(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_images(tmp_path / "a", 3, side=(17, 22))
    write_images(tmp_path / "b", 2, side=(12, 13))
    config = CONFIG.model_copy(update={"resize": None, "crop": None})
    result = evaluate(tokenizer, find_images(tmp_path), config, device="cpu")
    tokens, pixels = 3 * 5 * 6 + 2 * 3 * 4, 3 * 17 * 22 + 2 * 12 * 13
    assert sum(result.histogram) == tokens
    assert result.figures["bits_per_pixel"] == pytest.approx(5 * tokens / pixels)
    assert result.protocol["resize"] == result.protocol["crop"] == "none"


def test_a_share_of_the_images_is_compared_with_all_of_the_reference(
    tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures
) -> None:
    evaluate(tokenizer, images, SETS.model_copy(update={"images": 7}), device="cpu", reference=images)
    assert features.seen == 7 + COUNT


def test_a_share_of_the_images_is_spread_evenly(tokenizer: Tokenizer, images: ImageIndex) -> None:
    few = evaluate(tokenizer, images, CONFIG.model_copy(update={"images": 5}), device="cpu")
    chosen = images.subset([0, 4, 9, 13, 18])
    assert few.figures == near(evaluate(tokenizer, chosen, CONFIG, device="cpu").figures)
    assert few.protocol["data_digest"] == chosen.digest != images.digest
    more = evaluate(tokenizer, images, CONFIG.model_copy(update={"images": 1000}), device="cpu")
    assert more.protocol["data_digest"] == images.digest


def test_reconstructions_are_rounded_before_they_are_measured(copier: Copier, images: ImageIndex) -> None:
    copier.offset = 0.49 / 127.5
    assert evaluate(copier, images, CONFIG, device="cpu").figures["psnr"] == PSNR_CAP
    copier.offset = 0.51 / 127.5
    result = evaluate(copier, images, CONFIG, device="cpu")
    assert result.figures["psnr"] == pytest.approx(20 * np.log10(255), abs=0.1)


def test_notes_tell_what_a_figure_is_worth(copier: Copier, images: ImageIndex, features: TinyFeatures) -> None:
    config = SETS.model_copy(update={"images": 6, "kid_block": 50})
    notes = evaluate(copier, images, config, device="cpu").notes
    beginnings = [
        "T/K is 3.00: claims about usage and perplexity need at least 30",
        "6 images are equal but for rounding; they count as 58.92 dB",
        "6 images are too few for the 6 features of tiny",
        "KID is of a single block",
    ]
    assert [note for note, start in zip(notes, beginnings, strict=True) if not note.startswith(start)] == []


def test_no_note_where_there_are_enough_tokens_a_codeword(images: ImageIndex) -> None:
    shape = AutoencoderConfig(base_width=8, multipliers=(1,), blocks=1)
    small = Tokenizer(TokenizerConfig(autoencoder=shape, quantizer=PlainConfig(codebook_size=4)))
    result = evaluate(small, images, CONFIG, device="cpu")
    assert result.figures["tokens_per_codeword"] > 30
    assert result.notes == []


def test_the_protocol_says_what_has_to_be_equal(
    tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures
) -> None:
    protocol = evaluate(tokenizer, images, SETS, device="cpu", split_name="validation").protocol
    assert protocol["split"] == "validation"
    assert protocol["model_digest"] == tokenizer.digest
    assert protocol["data_digest"] == images.digest
    assert protocol["encoding"] == "mean quantized (deterministic)"
    assert protocol["resize"] == "shorter side to 16 pixels"
    assert protocol["crop"] == "centre, 16×16 pixels"
    assert (protocol["feature_network"], protocol["feature_checksum"]) == ("tiny", "0" * 64)
    assert protocol["reference"] == "the originals of the reconstructions"
    assert {"vaevq", "torch", "psnr", "kid", "rounding", "interpolation"} < protocol.keys()
    assert "ssim" not in protocol
    assert all(isinstance(value, str | int | float) for value in protocol.values())


def test_json_there_and_back(tokenizer: Tokenizer, images: ImageIndex) -> None:
    result = evaluate(tokenizer, images, CONFIG, device="cpu")
    tree = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert Evaluation.from_json(tree) == result
    assert Evaluation.from_json(tree | {"of a later version": 1}) == result


@pytest.mark.parametrize(
    "tree", [[], {}, {"figures": 1}, {"figures": {}, "protocol": {}, "histogram": [], "images": "9"}]
)
def test_other_json_is_no_evaluation(tree: Any) -> None:
    with pytest.raises(UserError, match=r"^run/eval\.json: not the result of vaevq eval"):
        Evaluation.from_json(tree, "run/eval.json")


def test_rows_are_text_with_a_meaning(tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures) -> None:
    result = evaluate(tokenizer, images, SETS, device="cpu")
    rows = result.rows()
    assert [row.name for row in rows] == list(result.figures)
    assert all(isinstance(text, str) and text for row in rows for text in row)
    values = {row.name: row.value for row in rows}
    assert values["psnr"] == f"{result.figures['psnr']:.2f} dB"
    assert values["usage"] == f"{result.figures['usage']:.2%}"


def test_progress_reaches_the_end(tokenizer: Tokenizer, images: ImageIndex) -> None:
    told: list[tuple[int, int]] = []
    evaluate(tokenizer, images, CONFIG, device="cpu", progress=lambda done, total: told.append((done, total)))
    assert told == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


def test_a_diverged_model_is_refused(copier: Copier, images: ImageIndex) -> None:
    copier.offset = float("nan")
    with pytest.raises(UserError, match=r"00\.png: the reconstruction is not finite"):
        evaluate(copier, images, CONFIG, device="cpu")


def test_no_images_and_absent_weights_are_the_users_mistakes(tokenizer: Tokenizer, images: ImageIndex) -> None:
    with pytest.raises(UserError, match="no image to evaluate on"):
        evaluate(tokenizer, images.subset([]), CONFIG, device="cpu")
    config = SETS.model_copy(update={"feature_network": "inception"})
    with pytest.raises(UserError, match=r"inception needs eval\.feature_weights"):
        evaluate(tokenizer, images, config, device="cpu")
    for change in ({"metrics": ("lpips",), "lpips_weights": "absent.ckpt"}, {"feature_weights": "absent.ckpt"}):
        with pytest.raises(UserError, match=r"absent\.ckpt"):
            evaluate(tokenizer, images, SETS.model_copy(update=change), device="cpu")


def test_the_reference_is_read_beside_the_images_not_before(
    tokenizer: Tokenizer, images: ImageIndex, features: TinyFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def watched(index: ImageIndex, *arguments: Any, **options: Any) -> Iterator[Any]:
        side = "image" if len(index) == COUNT else "reference"
        for batch in evaluation_batches(index, *arguments, **options):
            order.append(side)
            yield batch

    monkeypatch.setattr(evaluation, "evaluation_batches", watched)
    evaluate(tokenizer, images, SETS, device="cpu", reference=images.subset([*range(COUNT), 0, 1]))
    ahead = [order[:n].count("image") - order[:n].count("reference") for n in range(1, len(order))]
    assert len(order) == 10
    assert set(ahead) <= {-1, 0, 1}
