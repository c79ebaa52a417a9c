"""Gaussian quantization against torch.distributions, position by position, and its steering against its rule."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vaevq.quantization import GaussianQuantizer, Posterior
from vaevq.quantization.baselines.gaussian import FARTHEST, gaussian_points
from vaevq.seeding import generator


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=torch.float64)


def posterior(*shape: int, sigma: float = 0.3) -> Posterior:
    return Posterior(randn(*shape, name="mean"), randn(*shape, name="logvar") + 2 * math.log(sigma))


def positions(of: Posterior) -> list[Normal]:
    assert of.logvar is not None
    rows = (part.permute(0, 2, 3, 1).flatten(0, 2) for part in (of.mean, of.std))
    return [Normal(mean, std) for mean, std in zip(*rows, strict=True)]


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_a_position_takes_what_its_posterior_favours_over_the_prior(weight: float) -> None:
    layer, of = GaussianQuantizer(3, 50, prior_weight=weight).double().eval(), posterior(2, 3, 4, 5)
    prior = Normal(0.0, 1.0)
    for q, token in zip(positions(of), layer.encode(of).flatten().tolist(), strict=True):
        scores = [float((q.log_prob(e) - weight * prior.log_prob(e)).sum()) for e in layer.codewords]
        assert token == scores.index(max(scores))


def test_in_one_dimension_the_likelihood_takes_the_point_nearest_to_the_mean() -> None:
    layer, of = GaussianQuantizer(1, 64, prior_weight=0.0).double().eval(), posterior(2, 1, 5, 5)
    distances = (of.mean.flatten()[:, None] - layer.codewords.flatten()).abs()
    assert torch.equal(layer.encode(of).flatten(), distances.argmin(dim=1))


def test_a_dimension_where_the_posterior_is_the_prior_has_no_say() -> None:
    layer, of = GaussianQuantizer(2, 200).double().eval(), posterior(1, 2, 6, 6)
    assert of.logvar is not None
    of.mean[:, 1], of.logvar[:, 1] = 0.0, 0.0
    before = layer.encode(of)
    layer.codewords[:, 1] = layer.codewords[:, 1].flip(0)
    assert torch.equal(layer.encode(of), before)
    indifferent = GaussianQuantizer(2, 200, prior_weight=0.0).double().eval()
    tokens = indifferent.encode(of)
    indifferent.codewords[:, 1] = indifferent.codewords[:, 1].flip(0)
    assert not torch.equal(indifferent.encode(of), tokens)


def test_sigma_takes_part_in_the_choice() -> None:
    layer = GaussianQuantizer(2, 2, prior_weight=0.0).eval()
    layer.codewords.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.5]]))
    mean = torch.zeros(1, 2, 1, 1)
    tight_first = torch.tensor([-4.0, 0.0]).view(1, 2, 1, 1)
    assert int(layer.encode(Posterior(mean, torch.zeros_like(mean)))) == 0, "the nearer one"
    assert int(layer.encode(Posterior(mean, tight_first))) == 1, "off where the posterior is wide"


def test_training_decodes_the_sample() -> None:
    layer, of, noise = GaussianQuantizer(3, 20).double().train(), posterior(2, 3, 4, 4), randn(2, 3, 4, 4, name="noise")
    result = layer(of, noise)
    assert torch.allclose(result.latent, of.mean + of.std * noise)
    assert torch.equal(result.tokens, layer.eval()(of).tokens)
    assert result.continuous is None


def test_the_points_are_spread_like_the_prior_and_always_the_same() -> None:
    points = gaussian_points(4096, 8)
    assert torch.equal(points, gaussian_points(4096, 8))
    assert torch.equal(points, GaussianQuantizer(8, 4096).codewords)
    assert torch.allclose(points.mean(0), torch.zeros(8), atol=0.01)
    assert torch.allclose(points.T.cov(), torch.eye(8), atol=0.03)
    assert torch.isfinite(gaussian_points(1, 1)).all()


def restated(layer: GaussianQuantizer, of: Posterior, steering: list[float]) -> tuple[float, list[float]]:
    """The term and the steering after it, position by position."""
    target, prior, factor = math.log2(layer.codebook_size), Normal(0.0, 1.0), layer.config.kl_factor
    strength, above, below = steering
    bits = [float(kl_divergence(q, prior).sum()) / math.log(2) for q in positions(of)]
    weighted = 0.0
    for value in bits:
        outside = above if value > target + 0.5 else below if value < target - 0.5 else 1.0
        weighted += outside * value / len(bits)
    moved = [
        strength * factor if sum(bits) / len(bits) > target else strength / factor,
        min(max(above * factor if max(bits) > target + 0.5 else above / factor, 1.0), FARTHEST),
        min(max(below / factor if min(bits) < target - 0.5 else below * factor, 1 / FARTHEST), 1.0),
    ]
    return strength * weighted, moved


def test_the_kl_is_weighted_and_steered_as_its_rule_says() -> None:
    layer = GaussianQuantizer(3, 1024, kl_factor=2.0).double().train()
    steering = [1.0, 1.0, 1.0]
    seen = [steering]
    for sigma in (0.1, 0.1, 0.9, 0.9, 0.9, 0.02, 0.02):
        of = posterior(1, 3, 3, 3, sigma=sigma)
        expected, steering = restated(layer, of, steering)
        assert float(layer(of).terms["kl"]) == pytest.approx(expected)
        layer.finish_step()
        assert layer.steering.tolist() == pytest.approx(steering)
        seen.append(steering)
    # Each of the three has gone both ways.
    for values in zip(*seen, strict=True):
        assert any(b > a for a, b in pairwise(values))
        assert any(b < a for a, b in pairwise(values))


def test_within_the_tolerance_the_kl_is_neither_weighted_up_nor_down() -> None:
    layer = GaussianQuantizer(1, 64, kl_tolerance=0.5).double().train()
    layer.steering.copy_(torch.tensor([3.0, 2.0, 0.5]))
    bits = torch.tensor([5.3, 5.7, 6.3, 6.7]).double()
    mean = (2 * math.log(2) * bits).sqrt().view(1, 1, 2, 2)  # σ is 1, so that the KL is that of the mean
    term = layer(Posterior(mean, torch.zeros_like(mean))).terms["kl"]
    assert float(term) == pytest.approx(3 * (0.5 * 5.3 + 5.7 + 6.3 + 2 * 6.7) / 4)


def test_steering_stays_within_its_bounds_and_rests_without_a_step() -> None:
    layer = GaussianQuantizer(3, 64, kl_factor=1e3).train()
    mean = torch.zeros(1, 3, 1, 2)
    apart = Posterior(mean, torch.tensor([-20.0, 0.0]).expand(1, 3, 1, 2).clone())  # one above, one below
    for _ in range(3):
        layer(apart)
        layer.finish_step()
    assert layer.steering[1:].tolist() == pytest.approx([FARTHEST, 1 / FARTHEST])
    before = layer.steering.clone()
    layer.finish_step()
    layer.eval()(apart)
    layer.finish_step()
    assert torch.equal(layer.steering, before)


def test_micro_batches_of_a_step_are_steered_by_as_one() -> None:
    whole, parts = GaussianQuantizer(3, 64).double().train(), GaussianQuantizer(3, 64).double().train()
    of = posterior(4, 3, 3, 3, sigma=0.9)
    assert of.logvar is not None
    of.logvar[0] = -25.0  # far above the target, and so is the mean of all
    whole(of)
    whole.finish_step()
    for part in range(4):
        parts(Posterior(of.mean[part : part + 1], of.logvar[part : part + 1]))
    parts.finish_step()
    assert torch.equal(whole.steering, parts.steering)
    assert float(whole.steering[0]) > 1


def test_descending_what_is_steered_brings_the_kl_to_the_bits_of_the_codebook() -> None:
    layer = GaussianQuantizer(2, 64, kl_factor=1.05).double().train()
    mean = (2 * randn(1, 2, 8, 8, name="mean")).requires_grad_()
    logvar = torch.full_like(mean, -12.0).requires_grad_()
    optimizer = torch.optim.Adam([mean, logvar], lr=0.02)
    wanted = mean.detach().clone()
    for _ in range(1500):
        optimizer.zero_grad()
        of = Posterior(mean, logvar)
        result = layer(of, torch.randn(mean.shape, generator=generator("noise"), dtype=torch.float64))
        (100 * (result.latent - wanted).square().mean() + result.terms["kl"]).backward()
        optimizer.step()
        layer.finish_step()
    assert float(of.kl().detach()) / math.log(2) == pytest.approx(6, abs=0.5)
