"""DCR against scipy's matrix root, and against the values that its definition gives in closed form."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from vaevq.quantization import dcr
from vaevq.quantization.dcr import distribution_consistency
from vaevq.quantization.moments import Gaussian, RunningMoments
from vaevq.seeding import generator


def codebook(size: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, dim, generator=generator("codebook", seed), dtype=torch.float64)


def scipy_wasserstein(points: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    ours = np.cov(points, rowvar=False)
    root = sqrtm(covariance)
    cross = sqrtm(root @ ours @ root)
    return float(np.sum((points.mean(0) - mean) ** 2) + np.trace(ours + covariance - 2 * np.real(cross)))


@pytest.mark.parametrize(("size", "dim"), [(64, 3), (500, 16), (1024, 64)])
def test_distance_to_the_prior_equals_scipys(size: int, dim: int) -> None:
    points = codebook(size, dim) * torch.linspace(0.2, 2, dim, dtype=torch.float64) + 0.3
    expected = scipy_wasserstein(points.numpy(), np.zeros(dim), np.eye(dim))
    assert float(distribution_consistency(points)) == pytest.approx(expected, rel=1e-9)


def test_distance_to_another_gaussian_equals_scipys() -> None:
    points, other = codebook(300, 8), codebook(200, 8, seed=1) @ codebook(8, 8, seed=2)
    mean, covariance = other.mean(0), other.T.cov()
    expected = scipy_wasserstein(points.numpy(), mean.numpy(), covariance.numpy())
    assert float(distribution_consistency(points, Gaussian(mean, covariance))) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("size", "tolerance"), [(1024, 0.1), (16384, 0.1)])
def test_samples_of_the_prior_are_at_the_expected_distance(size: int, tolerance: float) -> None:
    dim = 64
    expected = dim * (dim + 1) / (4 * size) + dim / size
    assert float(distribution_consistency(codebook(size, dim))) == pytest.approx(expected, rel=tolerance)


def test_a_codebook_collapsed_to_zero_is_exactly_d_away() -> None:
    assert float(distribution_consistency(torch.zeros(100, 16))) == 16


def test_a_shift_adds_its_squared_norm() -> None:
    points, shift = codebook(400, 5), torch.arange(5, dtype=torch.float64)
    centred = points - points.mean(0)
    difference = distribution_consistency(centred + shift) - distribution_consistency(centred)
    assert float(difference) == pytest.approx(float(shift.square().sum()))


def test_scaling_an_exactly_white_codebook_costs_d_times_one_minus_s_squared() -> None:
    points = codebook(400, 6)
    centred = points - points.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T.cov())).T
    for scale in (0.0, 0.5, 1.0, 3.0):
        assert float(distribution_consistency(white * scale)) == pytest.approx(6 * (1 - scale) ** 2, abs=1e-9)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_fewer_codewords_than_dimensions_stay_at_least_that_far(size: int) -> None:
    dim = 16
    assert float(distribution_consistency(codebook(size, dim))) >= dim - size + 1 - 1e-9


def test_gradient_equals_finite_differences() -> None:
    points = codebook(12, 4).requires_grad_()
    assert torch.autograd.gradcheck(distribution_consistency, points)


@pytest.mark.parametrize(
    "points",
    [
        torch.zeros(20, 6),
        torch.eye(6).repeat(4, 1),
        torch.ones(20, 6),
        torch.randn(3, 6),
        torch.randn(20, 1) @ torch.ones(1, 6),
    ],
    ids=["all zero", "repeated eigenvalues", "all equal", "fewer than d", "rank one"],
)
def test_gradient_is_finite_and_bounded_where_eigenvalues_are_zero_or_repeated(points: torch.Tensor) -> None:
    points = points.double().requires_grad_()
    (gradient,) = torch.autograd.grad(distribution_consistency(points), points)
    assert torch.isfinite(gradient).all()
    # ‖∇ W₂²‖ ≤ 2 (‖μ‖ + ‖A‖_F + √d) of the centred, scaled codebook A: the nuclear norm's part is at most √d.
    assert gradient.norm() < 2 * (points.norm() + 6**0.5)


@pytest.mark.parametrize(
    "matrix",
    [
        codebook(2000, 16),
        codebook(500, 8) * torch.logspace(-9, 3, 8, dtype=torch.float64),
        codebook(5, 16),
        codebook(16, 16),
    ],
    ids=["tall", "nearly collapsed", "fewer than d", "square"],
)
def test_what_a_gpu_computes_has_the_value_and_the_gradient_of_the_whole_decomposition(matrix: torch.Tensor) -> None:
    value, direction = dcr._through_qr(matrix)
    expected, its = dcr._directly(matrix)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    assert float((direction - its).abs().max()) < 1e-5
    leaf = matrix.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dcr.nuclear_norm(leaf), leaf)
    assert torch.equal(gradient, its)


@pytest.mark.parametrize("matrix", [torch.zeros(20, 6), torch.ones(20, 6), torch.eye(6).repeat(4, 1)])
def test_where_there_are_many_gradients_a_gpu_takes_one_of_them(matrix: torch.Tensor) -> None:
    matrix = matrix.double()
    value, direction = dcr._through_qr(matrix)
    assert float(value) == pytest.approx(float(dcr._directly(matrix)[0]), abs=1e-12)
    assert float((matrix * direction).sum()) == pytest.approx(float(value), abs=1e-12)
    assert float(torch.linalg.matrix_norm(direction, 2)) <= 1 + 1e-12


def test_a_nearly_collapsed_direction_is_still_pushed_apart() -> None:
    points = codebook(200, 4)
    points[:, 2] *= 1e-12
    points.requires_grad_()
    (gradient,) = torch.autograd.grad(distribution_consistency(points), points)
    direction = -gradient[:, 2] / gradient[:, 2].norm()
    spread = (points[:, 2] - points[:, 2].mean()) / (points[:, 2] - points[:, 2].mean()).norm()
    assert gradient[:, 2].norm() > 0.01
    assert float((direction @ spread).detach()) > 0.9


def test_descending_it_from_a_collapsed_codebook_reaches_the_prior() -> None:
    points = torch.zeros(64, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([points], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss = distribution_consistency(points)
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.01


def test_without_the_square_root_term_it_is_the_released_codes_sum() -> None:
    points = codebook(50, 3)
    expected = points.mean(0).square().sum() + points.var(0).sum()
    assert float(distribution_consistency(points, square_root_term=False)) == pytest.approx(float(expected))


def test_running_moments_of_equal_batches_are_those_of_all_rows() -> None:
    moments = RunningMoments(3)
    batches = [torch.randn(4, 3, 5, 6, generator=generator("moments", i)) for i in range(6)]
    for batch in batches:
        target = moments.update(batch)
    rows = torch.cat([batch.permute(0, 2, 3, 1).reshape(-1, 3) for batch in batches])
    assert torch.allclose(target.mean, rows.mean(0), atol=1e-6)
    assert torch.allclose(target.covariance, rows.T.cov(correction=0), atol=1e-5)
