"""The Fréchet distance where it is known in closed form, and its streamed moments."""

import pytest
import torch
from torch import Tensor

from vaevq.errors import UserError
from vaevq.metrics.fid import FeatureMoments, frechet_distance


def samples(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moments(x: Tensor) -> FeatureMoments:
    result = FeatureMoments(x.shape[1])
    result.update(x)
    return result


def given(mean: Tensor, covariance: Tensor, count: int = 1000) -> FeatureMoments:
    result = FeatureMoments(len(mean))
    result.count, result.mean, result.scatter = count, mean.double(), covariance.double() * (count - 1)
    return result


def test_moments_do_not_depend_on_the_batches() -> None:
    x = samples(200, 6) * 3 + 100
    whole, ragged = moments(x), FeatureMoments(6)
    for part in (x[:1], x[1:1], x[1:4], x[4:150], x[150:]):
        ragged.update(part)
    assert ragged.count == whole.count == 200
    torch.testing.assert_close(ragged.mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(ragged.scatter, whole.scatter, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(whole.variance(), x.var(0))


def test_commuting_covariances_have_a_closed_form() -> None:
    a, b = torch.tensor([4.0, 9.0, 0.0, 1.0]), torch.tensor([1.0, 9.0, 25.0, 0.0])
    first, second = given(torch.zeros(4), a.diag()), given(torch.full((4,), 2.0), b.diag())
    expected = 4 * 2.0**2 + float((a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("count", "dim"), [(500, 20), (2, 40), (15, 64)])
def test_a_set_is_at_distance_zero_from_itself_and_at_the_shift_from_a_shifted_copy(count: int, dim: int) -> None:
    x = samples(count, dim) * 10
    assert frechet_distance(moments(x), moments(x)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(moments(x), moments(x + 0.5)) == pytest.approx(0.25 * dim, rel=1e-9)
    assert frechet_distance(moments(x), moments(2 * x)) == pytest.approx(
        float(x.var(0).sum() + x.mean(0).square().sum()), rel=1e-9
    )


def test_distance_is_symmetric_and_does_not_see_a_rotation() -> None:
    x, y = samples(30, 40, seed=1), samples(35, 40, seed=2) * 2
    rotation = torch.linalg.qr(samples(40, 40, seed=3)).Q
    distance = frechet_distance(moments(x), moments(y))
    assert frechet_distance(moments(y), moments(x)) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(moments(x @ rotation), moments(y @ rotation)) == pytest.approx(distance, rel=1e-10)


def test_constant_features_are_no_trouble() -> None:
    x = torch.zeros(5, 3, dtype=torch.float64)
    assert frechet_distance(moments(x), moments(x + 2)) == pytest.approx(12)


def test_full_rank_needs_more_images_than_features() -> None:
    assert not moments(samples(20, 20)).full_rank
    assert moments(samples(21, 20)).full_rank
    assert torch.linalg.matrix_rank(moments(samples(20, 20)).covariance()) == 19
    assert torch.linalg.matrix_rank(moments(samples(21, 20)).covariance()) == 20


def test_one_image_is_not_enough() -> None:
    with pytest.raises(UserError, match="at least 2 images a set, not 1"):
        frechet_distance(moments(samples(1, 4)), moments(samples(9, 4)))
