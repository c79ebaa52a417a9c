"""The diagnostics' arithmetic against numpy, scipy, torch.distributions, bisection and everything at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import skew

from vaevq.diagnostics.distortion import reverse_water_filling
from vaevq.diagnostics.hubs import k_occurrence, skewness
from vaevq.diagnostics.latents import (
    LatentMoments,
    effective_dimension,
    eigenvalues,
    gaussian,
    latent_figures,
    wasserstein,
)
from vaevq.quantization.dcr import distribution_consistency
from vaevq.quantization.moments import Gaussian
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.search import CODEWORD_TILE, LATENT_TILE, nearest
from vaevq.seeding import generator


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator("diagnostics", seed), dtype=torch.float64)


def moved(dim: int, seed: int) -> Gaussian:
    points = normal(5 * dim, dim, seed=seed) @ normal(dim, dim, seed=seed + 1) + seed
    return Gaussian(points.mean(0), points.T.cov())


def posteriors(batches: int, dim: int = 3) -> list[Posterior]:
    """Correlated means off the origin, with variances of their own at each place."""
    mix = normal(dim, dim, seed=9)
    grids = [normal(2, 4, 5, dim, seed=i) @ mix + 1.0 for i in range(batches)]
    logvars = [normal(2, 4, 5, dim, seed=100 + i) - 2 for i in range(batches)]
    return [
        Posterior(mean.permute(0, 3, 1, 2), logvar.permute(0, 3, 1, 2))
        for mean, logvar in zip(grids, logvars, strict=True)
    ]


def rows(grids: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate([grid.permute(0, 2, 3, 1).reshape(-1, grid.shape[1]).numpy() for grid in grids])


def bisected(spectrum: list[float], bits: float) -> float:
    """Reverse water-filling as the textbook defines it: the level at which the rates sum to `bits`."""
    values = np.array([v for v in spectrum if v > 0])
    low, high = -400.0, float(np.log2(values.max()))
    for _ in range(200):
        middle = (low + high) / 2
        rate = 0.5 * np.maximum(np.log2(values) - middle, 0).sum()
        low, high = (middle, high) if rate > bits else (low, middle)
    return float(np.minimum(values, 2.0**low).sum())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=12),
    st.floats(0.0, 60.0),
    st.integers(0, 3),
)
def test_reverse_water_filling_equals_bisection(spectrum: list[float], bits: float, zeros: int) -> None:
    expected = bisected(spectrum, bits)
    found = reverse_water_filling(torch.tensor(spectrum + [0.0] * zeros, dtype=torch.float64), bits)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("dim", [1, 4, 16])
def test_the_distance_of_two_gaussians_equals_scipys(dim: int) -> None:
    a, b = moved(dim, 1), moved(dim, 5)
    root = sqrtm(a.covariance.numpy().reshape(dim, dim))
    cross = sqrtm(root @ b.covariance.numpy().reshape(dim, dim) @ root)
    traces = float(a.covariance.reshape(dim, dim).trace() + b.covariance.reshape(dim, dim).trace())
    expected = float((a.mean - b.mean).square().sum()) + traces - 2 * float(np.trace(np.real(cross)))
    square = [Gaussian(one.mean, one.covariance.reshape(dim, dim)) for one in (a, b)]
    assert wasserstein(*square) == pytest.approx(expected, rel=1e-9)
    assert wasserstein(square[0], square[0]) == pytest.approx(0, abs=1e-9 * traces)


def test_the_codebooks_distance_to_the_prior_is_the_loss_that_training_lowers() -> None:
    codewords = normal(50, 3, seed=2) * 0.4 + 0.1
    moments = LatentMoments(3)
    for posterior in posteriors(2):
        moments.update(posterior, 0.5 * posterior.mean)
    figures = latent_figures(moments, codewords)
    assert figures.w2_codebook_prior == pytest.approx(float(distribution_consistency(codewords)), rel=1e-9)
    target = gaussian(moments.means)
    assert figures.w2_codebook_means == pytest.approx(float(distribution_consistency(codewords, target)), rel=1e-9)


def test_streamed_moments_are_those_of_all_positions_at_once() -> None:
    batches = posteriors(4)
    codewords = normal(7, 3, seed=3)
    moments = LatentMoments(3)
    decoded = []
    for posterior in batches:
        tokens = nearest(torch.from_numpy(rows([posterior.mean])), codewords)
        decoded.append(codewords[tokens].view(2, 4, 5, 3).permute(0, 3, 1, 2))
        moments.update(posterior, decoded[-1])
    means, variances = (
        rows([p.mean for p in batches]),
        np.exp(rows([p.logvar for p in batches if p.logvar is not None])),
    )
    figures = latent_figures(moments, codewords)

    def spectrum(covariance: np.ndarray) -> np.ndarray:
        return np.linalg.eigvalsh(covariance)[::-1]

    covariance = np.cov(means, rowvar=False)
    assert figures.mean_eigenvalues == pytest.approx(spectrum(covariance))
    assert figures.sample_eigenvalues == pytest.approx(spectrum(covariance + np.diag(variances.mean(0))))
    assert figures.decoded_eigenvalues == pytest.approx(spectrum(np.cov(rows(decoded), rowvar=False)))
    assert figures.codebook_eigenvalues == pytest.approx(spectrum(np.cov(codewords.numpy(), rowvar=False)))
    assert figures.posterior_variance == pytest.approx(variances.mean(0))
    assert figures.posterior_variance_sum == pytest.approx(variances.mean(0).sum())
    assert moments.squared_error / len(means) == pytest.approx(((means - rows(decoded)) ** 2).sum(1).mean())
    trace, squares = np.trace(covariance), (covariance**2).sum()  # Tr Σ and ‖Σ‖² = Σλ², without eigenvalues
    assert figures.mean_dimension == pytest.approx(trace**2 / squares)


def test_the_samples_covariance_needs_no_sample() -> None:
    batches = posteriors(30)
    moments = LatentMoments(3)
    for posterior in batches:
        moments.update(posterior, posterior.mean)
    noise = [normal(2, 3, 4, 5, seed=500 + i) for i in range(30 * 40)]
    drawn = [p.sample(noise[40 * i + j]) for i, p in enumerate(batches) for j in range(40)]
    measured = np.cov(rows(drawn), rowvar=False)
    said = gaussian(moments.means, moments.variance).covariance.numpy()
    assert np.abs(said - measured).max() < 0.005 * np.trace(measured)
    assert np.abs(np.cov(rows([p.mean for p in batches]), rowvar=False) - measured).max() > 0.015 * np.trace(measured)


def test_kl_of_each_dimension_equals_torchs() -> None:
    batches = posteriors(3)
    moments = LatentMoments(3)
    for posterior in batches:
        moments.update(posterior, posterior.mean)
    means = torch.from_numpy(rows([p.mean for p in batches]))
    stds = torch.from_numpy(rows([p.std for p in batches]))
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(means, stds), standard).mean(0)
    figures = latent_figures(moments, normal(4, 3))
    assert figures.posterior_kl == pytest.approx(expected.tolist())
    assert figures.posterior_kl_sum == pytest.approx(float(expected.sum()))


def test_effective_dimension_counts_equal_eigenvalues() -> None:
    assert effective_dimension(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert effective_dimension(eigenvalues(torch.diag(torch.tensor([0.0, 5.0])))) == pytest.approx(1)
    assert effective_dimension(torch.zeros(3)) == 0


@pytest.mark.parametrize("k", [1, 10])
def test_k_occurrence_over_several_tiles_equals_sorting_all_distances(k: int) -> None:
    latents, codewords = normal(LATENT_TILE + 37, 5).float(), normal(2 * CODEWORD_TILE + 11, 5, seed=1).float()
    distances = ((latents.numpy()[:, None].astype(np.float64) - codewords.numpy()[None]) ** 2).sum(-1)
    expected = np.bincount(np.argsort(distances, axis=1)[:, :k].ravel(), minlength=len(codewords))
    found = k_occurrence(latents, codewords, k)
    assert int((found - torch.from_numpy(expected)).abs().sum()) <= 2  # rounding may swap the k-th and the next
    assert int(found.sum()) == k * len(latents)


def test_skewness_equals_scipys() -> None:
    counts = normal(500).exp()
    assert skewness(counts) == pytest.approx(float(skew(counts.numpy())))
    assert skewness(torch.full((5,), 3)) == 0
