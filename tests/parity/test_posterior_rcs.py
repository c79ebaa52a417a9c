"""The posterior's KL against torch.distributions; RCS's weighting, gradients and forms."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vaevq.quantization.posterior import Posterior
from vaevq.quantization.rcs import representation_coherence
from vaevq.seeding import generator

SHAPE = (2, 3, 4, 5)


def draw(name: str) -> torch.Tensor:
    return torch.randn(SHAPE, generator=generator(name), dtype=torch.float64)


def test_kl_equals_torch_distributions_in_every_reduction() -> None:
    posterior = Posterior(draw("mean"), draw("logvar"))
    nats = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0))
    assert float(posterior.kl("element")) == pytest.approx(float(nats.mean()))
    assert float(posterior.kl("position")) == pytest.approx(float(nats.sum(1).mean()))
    assert float(posterior.kl("image")) == pytest.approx(float(nats.sum((1, 2, 3)).mean()))


def test_sample_is_mean_plus_std_times_noise() -> None:
    posterior, noise = Posterior(draw("mean"), draw("logvar")), draw("noise")
    assert torch.allclose(posterior.sample(noise), posterior.mean + (posterior.logvar / 2).exp() * noise)


def test_a_point_mass_is_its_mean() -> None:
    posterior = Posterior(draw("mean"))
    assert posterior.sample(draw("noise")) is posterior.mean


def test_rcs_is_half_the_squared_mahalanobis_distance() -> None:
    posterior, codewords = Posterior(draw("mean"), draw("logvar")), draw("codewords")
    expected = 0.5 * ((codewords - posterior.mean) / posterior.std).square()
    for reduction, value in (("element", expected.mean()), ("position", expected.sum(1).mean())):
        assert float(representation_coherence(codewords, posterior, reduction=reduction)) == pytest.approx(float(value))


def test_rcs_gradient_on_the_codebook_is_weighted_by_the_inverse_variance() -> None:
    posterior, codewords = Posterior(draw("mean"), draw("logvar")), draw("codewords").requires_grad_()
    (gradient,) = torch.autograd.grad(representation_coherence(codewords, posterior, reduction="image"), codewords)
    assert torch.allclose(gradient * SHAPE[0], (codewords - posterior.mean) / posterior.std.square())


def test_rcs_with_sigma_detached_gives_sigma_no_gradient_and_attached_gives_some() -> None:
    for detach in (True, False):
        mean, logvar = draw("mean").requires_grad_(), draw("logvar").requires_grad_()
        representation_coherence(draw("codewords"), Posterior(mean, logvar), detach_sigma=detach).backward()
        assert mean.grad is not None
        assert (logvar.grad is None) == detach


def test_rcs_encoder_share_scales_the_means_gradient_and_nothing_else() -> None:
    results = []
    for share in (1.0, 0.25, 0.0):
        mean, codewords = draw("mean").requires_grad_(), draw("codewords").requires_grad_()
        value = representation_coherence(codewords, Posterior(mean, draw("logvar")), encoder_share=share)
        value.backward()
        results.append((value, mean.grad, codewords.grad))
    full, quarter, none = results
    assert torch.allclose(full[0], quarter[0])
    assert torch.allclose(full[1] * 0.25, quarter[1])
    assert torch.equal(none[1], torch.zeros_like(none[1]))
    assert torch.allclose(full[2], quarter[2])


def test_rcs_floor_bounds_the_weight() -> None:
    posterior, codewords = Posterior(draw("mean"), torch.full(SHAPE, -30.0, dtype=torch.float64)), draw("codewords")
    expected = 0.5 * ((codewords - posterior.mean) / 0.5).square().mean()
    assert float(representation_coherence(codewords, posterior, min_std=0.5, reduction="element")) == pytest.approx(
        float(expected)
    )


def test_the_full_negative_log_likelihood_equals_torch_distributions_up_to_its_constant() -> None:
    posterior, codewords = Posterior(draw("mean"), draw("logvar")), draw("codewords")
    expected = -Normal(posterior.mean, posterior.std).log_prob(codewords).mean() - 0.5 * torch.log(
        torch.tensor(2 * torch.pi)
    )
    value = representation_coherence(codewords, posterior, log_term=True, detach_sigma=False, reduction="element")
    assert float(value) == pytest.approx(float(expected))
