"""Quantization error, its Gaussian reference, and hubs, where they are known in advance."""

import itertools
import math

import numpy as np
import pytest
import torch

from mirror import mirror, some_latents
from vaevq.diagnostics.deviations import Deviations
from vaevq.diagnostics.distortion import distortion_figures, reverse_water_filling
from vaevq.diagnostics.hubs import LatentSample, hub_figures
from vaevq.diagnostics.latents import LatentMoments, all_codewords, latent_figures
from vaevq.metrics.codebook import TokenHistogram
from vaevq.quantization.posterior import Posterior


@pytest.mark.parametrize(
    ("size", "dim", "share"),
    [(16384, 64, 0.74), (16384, 8, 0.09), (16384, 4, 0.008), (1024, 64, 0.81), (1024, 8, 0.18), (1024, 4, 0.03)],
)
def test_an_isotropic_gaussian_keeps_k_to_the_minus_two_over_d(size: int, dim: int, share: float) -> None:
    distortion = reverse_water_filling(torch.full((dim,), 2.5), math.log2(size)) / (2.5 * dim)
    assert distortion == pytest.approx(size ** (-2 / dim), rel=1e-9)
    assert distortion == pytest.approx(share, rel=0.05)


def test_no_bits_leave_the_variance_and_more_bits_always_leave_less() -> None:
    spectrum = torch.tensor([4.0, 1.0, 0.01, 0.0, -1e-9])
    assert reverse_water_filling(spectrum, 0.0) == pytest.approx(5.01)
    left = [reverse_water_filling(spectrum, bits / 4) for bits in range(80)]
    assert all(less < more for more, less in itertools.pairwise(left))
    assert left[-1] < 1e-2
    assert reverse_water_filling(torch.zeros(3), 5.0) == 0


def test_the_strongest_dimension_gets_the_bits_alone_until_its_rest_is_as_small_as_the_next() -> None:
    spectrum = torch.tensor([0.25, 4.0])
    assert reverse_water_filling(spectrum, 1.0) == pytest.approx(4 / 4 + 0.25)
    assert reverse_water_filling(spectrum, 2.0) == pytest.approx(4 / 16 + 0.25)
    assert reverse_water_filling(spectrum, 3.0) == pytest.approx(2 * 0.25 / 2)


def test_quantization_error_stands_beside_what_the_bits_and_the_used_bits_allow() -> None:
    mean = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 1, 1, 4)
    moments, histogram = LatentMoments(1), TokenHistogram(16)
    moments.update(Posterior(mean), 0.5 * mean)
    histogram.update(torch.tensor([0, 1, 0, 1]))
    figures = distortion_figures(moments, histogram.statistics())
    variance = 4 / 3  # unbiased
    assert figures.quantization_error == pytest.approx(0.25)
    assert figures.quantization_error_share == pytest.approx(0.25 / variance)
    assert figures.reference_share == pytest.approx(2**-8)
    assert figures.reference_share_entropy == pytest.approx(2**-2)
    assert figures.token_bits == pytest.approx(1)


def test_latents_that_do_not_vary_have_no_share() -> None:
    moments, histogram = LatentMoments(2), TokenHistogram(4)
    moments.update(Posterior(torch.ones(1, 2, 2, 2)), torch.zeros(1, 2, 2, 2))
    histogram.update(torch.zeros(4, dtype=torch.int64))
    figures = distortion_figures(moments, histogram.statistics())
    assert (figures.quantization_error, figures.quantization_error_share) == (2.0, None)


def test_a_point_quantizer_gives_what_it_has() -> None:
    moments = LatentMoments(3)
    moments.update(Posterior(some_latents(2, 3, 4, 4)), some_latents(2, 3, 4, 4, seed=1))
    figures = latent_figures(moments, some_latents(8, 3))
    missing = {name for name, value in vars(figures).items() if value is None}
    assert missing == {
        "posterior_variance",
        "posterior_variance_sum",
        "sigma_mean",
        "sigma_q05",
        "sigma_median",
        "sigma_q95",
        "posterior_kl",
        "posterior_kl_sum",
        "sample_eigenvalues",
        "sample_dimension",
        "w2_samples_prior",
    }


def test_codewords_are_taken_after_the_projection() -> None:
    embedding = some_latents(6, 3)
    tokenizer = mirror(embedding, codebook="projected")
    with torch.no_grad():
        tokenizer.quantizer.codebook.projection.weight.copy_(2 * torch.eye(3))
    assert torch.allclose(all_codewords(tokenizer.quantizer), 2 * embedding)


def test_the_sample_of_latents_does_not_depend_on_the_batches() -> None:
    grids, positions = some_latents(6, 2, 5, 7), torch.arange(6)
    whole, parts, all_of_them = LatentSample(2, most=50), LatentSample(2, most=50), LatentSample(2)
    whole.update(positions, grids)
    all_of_them.update(positions, grids)
    for at in (positions[4:], positions[:1], positions[1:4]):
        parts.update(at, grids[at])
    assert len(whole.latents) == 50
    assert torch.equal(whole.latents, parts.latents)
    assert len(all_of_them.latents) == 6 * 35
    places = grids.permute(0, 2, 3, 1).reshape(-1, 2).tolist()
    chosen = [places.index(row) for row in whole.latents.tolist()]
    assert len(set(chosen)) == 50, "no position twice"
    assert len({place // 35 for place in chosen}) == 6, "of every image"


def test_an_eclipsed_codeword_an_orphan_and_their_distance_are_told_apart() -> None:
    """Twenty used codewords on a line, five latents on each; dead ones between two, beyond the end and, twenty, far."""
    line = torch.linspace(0, 19, 20)
    used = torch.stack([line, torch.zeros(20)], dim=1)
    eclipsed, beyond = torch.tensor([[9.5, 0.2]]), torch.tensor([[-1.0, 0.0]])
    off = torch.stack([line, torch.full((20,), 1000.0)], dim=1)
    codewords = torch.cat([used, eclipsed, beyond, off])
    latents = used.repeat(5, 1)
    counts = torch.tensor([5] * 20 + [0] * 22)
    figures = hub_figures(latents, codewords, counts)
    assert figures.tokens_per_codeword == pytest.approx(100 / 42)
    assert figures.dead_share == pytest.approx(22 / 42)
    assert figures.orphan_share == pytest.approx(20 / 42)
    assert figures.dead_but_close_share == pytest.approx(1 / 22), "the one beyond is near to few"
    centre = torch.tensor([9.5, 0.0])
    distance = [float((part - centre).norm(dim=1).mean()) for part in (torch.cat([eclipsed, beyond, off]), used)]
    assert figures.dead_norm_ratio == pytest.approx(distance[0] / distance[1])


def test_a_hub_shows_in_skewness_and_in_the_largest_count() -> None:
    """On a ring each codeword has the same neighbours; shrinking one to the centre makes it everybody's neighbour."""
    angles = 2 * torch.pi * torch.arange(200) / 200
    ring = torch.stack([angles.cos(), angles.sin()], dim=1)
    latents, counts = 0.1 * ring, torch.ones(200, dtype=torch.int64)
    even = hub_figures(ring, ring, counts)
    hub = hub_figures(latents, torch.cat([ring[1:], torch.zeros(1, 2)]), counts)
    assert even.hub_largest == pytest.approx(1, abs=0.15)
    assert abs(even.hub_skewness) < 1
    assert hub.hub_largest == pytest.approx(200 / 10)
    assert hub.hub_skewness > 5
    assert (even.dead_share, even.dead_but_close_share, even.dead_norm_ratio) == (0, None, None)


def test_deviations_are_numpys_quantiles_to_half_a_percent() -> None:
    parts = [some_latents(3, 2, 5, 5, seed=i).double() * (i + 1) for i in range(3)]
    counted = Deviations()
    assert counted.figures() is None
    for part in parts:
        counted.update(part)
    found, sigma = counted.figures(), (torch.cat(parts).flatten() / 2).exp().numpy()
    assert found is not None
    expected = np.quantile(sigma, (0.05, 0.5, 0.95), method="lower")
    assert (found.q05, found.median, found.q95) == pytest.approx(expected.tolist(), rel=0.005)
    assert found.mean == pytest.approx(sigma.mean(), rel=1e-12)


def test_deviations_outside_the_range_count_at_its_ends() -> None:
    counted = Deviations()
    counted.update(torch.tensor([-90.0, 90.0], dtype=torch.float64))
    found = counted.figures()
    assert found is not None
    assert found.q05 == pytest.approx(np.exp(-15), rel=0.01)
    assert found.q95 == pytest.approx(np.exp(-15), rel=0.01)  # the lower of the two
