"""The Fréchet distance against scipy's matrix square root, moments against numpy in two passes."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from vaevq.metrics.fid import FeatureMoments, frechet_distance


def features(count: int, dim: int, seed: int, rank: int | None = None, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank or dim, dim, dtype=torch.float64, generator=generator)
    return torch.randn(count, rank or dim, dtype=torch.float64, generator=generator) @ basis + offset


def moments(x: Tensor, batch: int = 17) -> FeatureMoments:
    result = FeatureMoments(x.shape[1])
    for part in x.split(batch):
        result.update(part)
    return result


def scipy_distance(x: Tensor, y: Tensor) -> float:
    def statistics(z: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return z.numpy().mean(0), np.atleast_2d(np.cov(z.numpy(), rowvar=False))

    (mean_x, covariance_x), (mean_y, covariance_y) = statistics(x), statistics(y)
    root = sqrtm(covariance_x @ covariance_y)
    return float(((mean_x - mean_y) ** 2).sum() + np.trace(covariance_x + covariance_y - 2 * root.real))


@pytest.mark.parametrize(("dim", "count"), [(1, 5), (3, 10), (16, 100), (96, 400)])
def test_frechet_distance_equals_the_sqrtm_form(dim: int, count: int) -> None:
    x, y = features(count, dim, seed=1), features(count + 3, dim, seed=2, offset=0.7)
    expected = scipy_distance(x, y)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_equals_scipy_to_its_accuracy_with_fewer_images_than_features() -> None:
    x, y = features(20, 48, seed=3), features(30, 48, seed=4)
    assert not moments(x).full_rank
    # sqrtm takes roots of eigenvalues that are zero but for rounding, so it is the less exact of the two.
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(scipy_distance(x, y), rel=1e-4)


def test_moments_equal_numpy_in_two_passes_where_the_mean_is_huge() -> None:
    x = features(500, 12, seed=5, offset=1e6)
    result = moments(x, batch=7)
    np.testing.assert_allclose(result.mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(result.covariance(), np.cov(x.numpy(), rowvar=False), atol=1e-6)
    naive = x.T @ x / 499 - torch.outer(x.sum(0), x.sum(0)) / (499 * 500)
    assert np.abs(naive.numpy() - np.cov(x.numpy(), rowvar=False)).max() > 1e-5, "the one-pass sum loses digits here"
