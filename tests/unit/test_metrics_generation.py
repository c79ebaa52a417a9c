"""The evaluation of generated images: its figures beside their formulas, its protocol, what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from feature_networks import Means
from vaevq.config import GenerationEvalConfig, load_section
from vaevq.data.images import load_image, to_tensor
from vaevq.data.index import ImageIndex, find_images
from vaevq.errors import UserError
from vaevq.metrics import generation
from vaevq.metrics.fid import FeatureMoments, frechet_distance
from vaevq.metrics.generation import evaluate_generated
from vaevq.metrics.inception_score import InceptionScore
from vaevq.metrics.kid import polynomial_mmd2
from vaevq.metrics.precision_recall import precision_recall

ALL = ("frechet", "kid", "precision_recall", "inception_score")


def folder(place: Path, count: int, seed: int, size: tuple[int, int] = (12, 12)) -> ImageIndex:
    rng = np.random.default_rng(seed)
    place.mkdir()
    for i in range(count):
        pixels = rng.integers(0, 256, (*size, 3)) * (i % 5 + 1) // 5
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return find_images(place)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[ImageIndex, ImageIndex]:
    return folder(tmp_path / "generated", 40, 0), folder(tmp_path / "real", 30, 1)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "load_feature_network", lambda config, device: Means())


def features(index: ImageIndex) -> Tensor:
    return Means()(torch.stack([to_tensor(load_image(Path(entry.file), 3)) for entry in index]))


@pytest.mark.usefixtures("network")
def test_figures_are_those_of_the_features_of_both_folders(sets: tuple[ImageIndex, ImageIndex]) -> None:
    done: list[tuple[int, int]] = []
    config = GenerationEvalConfig(batch_size=7, kid_block=100)
    result = evaluate_generated(*sets, config, device="cpu", progress=lambda *reached: done.append(reached))
    made, real = map(features, sets)
    moments = [FeatureMoments(9) for _ in range(2)]
    for one, part in zip(moments, (made, real), strict=True):
        one.update(part)
    both = precision_recall(made, real)
    assert 0 < both.precision <= 1
    assert result.figures == {
        "fd_means": pytest.approx(frechet_distance(*moments), rel=1e-5),
        "kid_means": pytest.approx(polynomial_mmd2(made, real), abs=1e-6),
        "precision_means": both.precision,
        "recall_means": both.recall,
    }
    assert (result.images, result.reference_images) == (40, 30)
    assert done[-1] == (70, 70)
    assert result.protocol["reference_digest"] == sets[1].digest
    assert json.loads(json.dumps(result.to_json())) == result.to_json()
    assert result.notes == ["KID is of a single block, so its standard error is not known; a lower kid_block gives one"]
    assert {row.name for row in result.rows()} == result.figures.keys()
    assert all(row.meaning for row in result.rows())


@pytest.mark.usefixtures("network")
def test_blocks_of_kid_give_a_standard_error_and_few_images_a_note(sets: tuple[ImageIndex, ImageIndex]) -> None:
    few = evaluate_generated(*sets, GenerationEvalConfig(images=8, kid_block=4), device="cpu")
    assert "kid_means_standard_error" in few.figures
    assert few.images == few.reference_images == 8
    assert "8 images are too few for the 9 features of means" in few.notes[0]
    most = evaluate_generated(*sets, GenerationEvalConfig(kid_block=14), device="cpu")
    assert most.notes == ["KID is of 2 blocks of 14 images and leaves out 12 generated and 2 real ones"]


def test_with_the_standard_inception_names_are_the_published_ones(
    sets: tuple[ImageIndex, ImageIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "load_feature_network", lambda config, device: Means(standard=True))
    result = evaluate_generated(*sets, GenerationEvalConfig(metrics=ALL, kid_block=10), device="cpu")
    names = ["gfid", "gkid", "gkid_standard_error", "precision_means", "recall_means", "inception_score"]
    assert list(result.figures) == names
    score = InceptionScore(Means().network.fc.weight)  # type: ignore[arg-type]
    score.update(features(sets[0]))
    assert result.figures["inception_score"] == pytest.approx(score.result(), rel=1e-5)


@pytest.mark.usefixtures("network")
def test_real_images_are_brought_to_the_size_of_the_generated_ones(tmp_path: Path) -> None:
    made, real = folder(tmp_path / "generated", 9, 0), folder(tmp_path / "real", 9, 1, (24, 30))
    with pytest.raises(
        UserError, match=r"generated images of 12×12 pixels, real ones of 24×30: bring the real ones to"
    ):
        evaluate_generated(made, real, GenerationEvalConfig(), device="cpu")
    config = GenerationEvalConfig(resize=12, crop=12)
    result = evaluate_generated(made, real, config, device="cpu")
    assert result.protocol["crop"] == "centre, 12×12 pixels"
    Image.new("RGB", (13, 40)).save(tmp_path / "generated" / "grid.png")
    made = find_images(tmp_path / "generated")
    with pytest.raises(UserError, match=r"is of .* pixels, .* name a folder of generated images alone"):
        evaluate_generated(made, real, config, device="cpu")
    with pytest.raises(UserError, match=r"is of .* pixels, .* bring them to one with crop="):
        evaluate_generated(real, made, GenerationEvalConfig(), device="cpu")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ()}, "metrics: name at least one figure to measure"),
        ({"metrics": ("inception_score",)}, "inception_score is of the standard Inception alone"),
        ({"neighbours": 30}, "with 30 neighbours need more images than that on both sides, not 40 and 30"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    sets: tuple[ImageIndex, ImageIndex], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        evaluate_generated(*sets, GenerationEvalConfig(**options), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metrics=[frechet]", "kid_block=9"], "kid_block has no effect without kid in metrics"),
        (["metrics=[kid]", "neighbours=5"], "neighbours has no effect without precision_recall in metrics"),
        (["resize=16", "crop=32"], "crop 32 is larger than resize 16"),
        (["metric=[kid]"], r"metric: unknown option \(did you mean 'metrics'\?\)"),
    ],
)
def test_options_that_cannot_be_or_do_nothing_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_section(GenerationEvalConfig, overrides, GenerationEvalConfig())
