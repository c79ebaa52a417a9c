"""Precision, recall and the Inception score against the formulas written out plainly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaevq.errors import UserError
from vaevq.metrics.inception_score import InceptionScore
from vaevq.metrics.precision_recall import manifold_radii, precision_recall


def twin(generated: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float]:
    """Both by the definitions, one image at a time, with numpy."""

    def inside(points: np.ndarray, centres: np.ndarray) -> float:
        radii = []
        for i, centre in enumerate(centres):
            others = np.sort([np.linalg.norm(centre - other) for j, other in enumerate(centres) if j != i])
            radii.append(others[k - 1])
        hits = [
            any(np.linalg.norm(point - centre) <= radius for centre, radius in zip(centres, radii, strict=True))
            for point in points
        ]
        return sum(hits) / len(points)

    return inside(generated, real), inside(real, generated)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(6, 25), st.integers(6, 25)),
    dim=st.integers(1, 6),
    k=st.integers(1, 5),
    tile=st.integers(1, 30),
    shift=st.floats(0, 3),
    seed=st.integers(0, 1000),
)
def test_precision_and_recall_are_those_of_the_definition_whatever_the_tile(
    sizes: tuple[int, int], dim: int, k: int, tile: int, shift: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    generated, real = rng.normal(size=(sizes[0], dim)) + shift, rng.normal(size=(sizes[1], dim)) * 1.5
    found = precision_recall(torch.from_numpy(generated), torch.from_numpy(real), k, tile)
    assert (found.precision, found.recall) == twin(generated, real, k)


def test_equal_sets_have_both_and_sets_far_apart_none() -> None:
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    both = precision_recall(features, features.clone())
    assert (both.precision, both.recall) == (1, 1)
    apart = precision_recall(features, features + 100)
    assert (apart.precision, apart.recall) == (0, 0)
    few = precision_recall(features[:10], features)
    assert few.precision == 1
    assert few.recall < 1, "a part of the images does not cover all of them"


def test_an_image_is_not_its_own_neighbour_but_its_copy_is() -> None:
    features = torch.tensor([[0.0], [0.0], [3.0], [7.0]])
    assert manifold_radii(features, 1, tile=3).tolist() == [0, 0, 9, 16]
    assert manifold_radii(features, 2, tile=1).tolist() == [9, 9, 9, 49]


def test_few_images_are_one_line() -> None:
    with pytest.raises(UserError, match="with 3 neighbours need more images than that on both sides, not 3 and 9"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))


def test_the_inception_score_is_the_exponential_of_the_mean_divergence() -> None:
    torch.manual_seed(0)
    weights, features = torch.randn(7, 5), torch.randn(60, 5)
    score = InceptionScore(weights)
    for part in features.split(13):
        score.update(part)
    probabilities = (features.double() @ weights.T.double()).softmax(1).numpy()
    mean = probabilities.mean(0)
    divergences = [sum(p * math.log(p / q) for p, q in zip(row, mean, strict=True)) for row in probabilities]
    assert score.result() == pytest.approx(math.exp(np.mean(divergences)), rel=1e-6)


def test_the_inception_score_lies_between_one_and_the_number_of_classes() -> None:
    same, apart = InceptionScore(torch.eye(4) * 50), InceptionScore(torch.eye(4) * 50)
    same.update(torch.tensor([[1.0, 0, 0, 0]]).expand(10, -1))
    apart.update(torch.eye(4).repeat(3, 1))
    assert same.result() == pytest.approx(1)
    assert apart.result() == pytest.approx(4, rel=1e-6)
