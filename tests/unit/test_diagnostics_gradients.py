"""Gradients of single terms where they can be written down, and that measuring them leaves everything as it was."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mirror import in_batches, mirror, repeated, some_latents
from vaevq.config import LossConfig
from vaevq.data.loader import ImageBatch
from vaevq.diagnostics.gradients import TermGradient, centre_cut, term_gradients
from vaevq.losses.objective import TokenizerObjective
from vaevq.nn.discriminator import PatchDiscriminator
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.search import nearest
from vaevq.seeding import indexed_noise
from vaevq.tokenizer import Tokenizer

LATENTS = some_latents(2, 3, 8, 8)
(BATCH,) = in_batches(repeated(LATENTS))
CODEWORDS = some_latents(16, 3, seed=1)
SIGMA = 0.1


def measured(
    tokenizer: Tokenizer, loss: LossConfig, discriminator: PatchDiscriminator | None = None
) -> dict[str, TermGradient]:
    objective = TokenizerObjective(loss, tokenizer.quantizer.term_weights, None)
    return {row.term: row for row in term_gradients(tokenizer, BATCH, objective, discriminator)}


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def of_pixels(latent: Tensor) -> Tensor:
    """d mean (x̂ − x)² / d latent, where x̂ repeats the latent on four pixels: the four differences are equal."""
    return 2 * 4 * (latent - LATENTS) / BATCH.images.numel()


def sampled() -> Tensor:
    return LATENTS + SIGMA * indexed_noise((3, 8, 8), BATCH.positions, 0)


def codewords_of(latents: Tensor) -> Tensor:
    rows = latents.permute(0, 2, 3, 1)
    return CODEWORDS[nearest(rows.reshape(-1, 3), CODEWORDS)].view(rows.shape).permute(0, 3, 1, 2)


def test_every_term_has_the_gradient_that_its_formula_gives() -> None:
    options = {
        "rcs_weight": 0.5,
        "rcs_encoder_share": 0.25,
        "rcs_reduction": "position",
        "rcs_min_std": 0.0,
        "kl_weight": 0.01,
        "dcr_weight": 0.3,
    }
    loss = LossConfig(pixel_weight=2.0, quantized_path=1.0, continuous_path=0.1)
    found = measured(mirror(CODEWORDS, SIGMA, **options), loss)
    positions = LATENTS.numel() / 3
    quantized = codewords_of(sampled())
    expected = {
        "pixel, quantized": 2.0 * of_pixels(quantized),
        "pixel, continuous": 2.0 * 0.1 * of_pixels(sampled()),
        "rcs": 0.5 * 0.25 * (LATENTS - quantized) / SIGMA**2 / positions,
        "kl": 0.01 * LATENTS / positions,
        "dcr": torch.zeros_like(LATENTS),
    }
    expected["total"] = torch.stack(list(expected.values())).sum(0)
    assert found.keys() == expected.keys()
    for term, gradient in expected.items():
        assert found[term].rms == pytest.approx(rms(gradient), rel=1e-4), term
        assert found[term].share == pytest.approx(rms(gradient) / rms(expected["total"]), rel=1e-4), term
        if term != "dcr":
            along = torch.cosine_similarity(gradient.flatten(), expected["total"].flatten(), dim=0)
            assert found[term].along == pytest.approx(float(along), abs=1e-4), term
    assert found["dcr"].along is None


def test_plain_vq_has_commitment_and_a_codebook_term_that_does_not_reach_the_encoder() -> None:
    tokenizer = mirror(CODEWORDS, sigma=None, commitment_weight=0.25)
    found = measured(tokenizer, LossConfig(continuous_path=0.0))
    quantized = codewords_of(LATENTS)
    assert found.keys() == {"pixel, quantized", "codebook", "commitment", "total"}
    assert found["codebook"].rms == 0
    assert found["commitment"].rms == pytest.approx(rms(0.25 * 2 * (LATENTS - quantized) / LATENTS.numel()), rel=1e-4)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_adversarial_term_carries_the_weight_that_training_gives_it(adaptive: bool) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, 8, 1)
    tokenizer = mirror(CODEWORDS, SIGMA, rcs_weight=0.0, kl_weight=0.0)
    loss = LossConfig(adversarial_weight=0.5, adversarial_adaptive=adaptive, adversarial_form="hinge")
    found = measured(tokenizer, loss, discriminator)
    assert found.keys() == {
        *(f"{term}, {path}" for term in ("pixel", "adversarial") for path in ("quantized", "continuous")),
        "total",
    }

    latents = {"quantized": codewords_of(sampled()).requires_grad_(), "continuous": sampled().requires_grad_()}
    weights = {"quantized": loss.quantized_path, "continuous": loss.continuous_path}
    gain = torch.ones((), requires_grad=True)
    images = {path: gain * repeated(latent) for path, latent in latents.items()}
    judged = sum(weights[path] * -discriminator(image).mean() for path, image in images.items())
    pixel = sum(weights[path] * (image - BATCH.images).square().mean() for path, image in images.items())
    assert isinstance(judged, Tensor)
    assert isinstance(pixel, Tensor)
    weight = 0.5
    if adaptive:
        slopes = [torch.autograd.grad(term, gain, retain_graph=True)[0].abs() for term in (pixel, judged)]
        weight *= float(slopes[0] / (slopes[1] + 1e-4))
    for path, latent in latents.items():
        (gradient,) = torch.autograd.grad(judged, latent, retain_graph=True)
        assert found[f"adversarial, {path}"].rms == pytest.approx(rms(weight * gradient), rel=1e-3)
    assert all(parameter.grad is None for parameter in discriminator.parameters())


class _Draws(nn.Module):
    """A head that draws random numbers, as a term of an experiment may."""

    def forward(self, features: Tensor) -> Posterior:
        return Posterior(features + 0 * torch.randn_like(features), torch.full_like(features, -4.0))


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "vq_ema", "revive_below": 0.1},
        {"codebook": "projected", "dcr_weight": 0.1, "dcr_target": "aggregate_posterior"},
    ],
    ids=["averages of codewords", "running moments"],
)
@pytest.mark.parametrize("training", [True, False])
def test_measuring_disturbs_nothing(options: dict[str, object], training: bool) -> None:
    tokenizer = mirror(CODEWORDS, **options).train(training)
    if "kind" not in options:
        tokenizer.head = _Draws()
    ema = "kind" in options
    before, random = copy.deepcopy(tokenizer.state_dict()), torch.random.get_rng_state()
    first = measured(tokenizer, LossConfig(continuous_path=0.0 if ema else 0.1))
    assert first == measured(tokenizer, LossConfig(continuous_path=0.0 if ema else 0.1)), "deterministic"
    after = tokenizer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tokenizer.training is training
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in tokenizer.parameters())
    assert not tokenizer.encoder._forward_hooks

    step = copy.deepcopy(tokenizer).train()
    step(BATCH.images)
    step.quantizer.finish_step()
    assert any(not torch.equal(before[name], value) for name, value in step.state_dict().items()), "a step would"


def test_the_cut_is_of_the_centre() -> None:
    images = torch.arange(3 * 10 * 6).view(1, 1, 30, 6).float().repeat(4, 1, 1, 1)
    cut = centre_cut(ImageBatch(images, torch.arange(4), None, ("a", "b", "c", "d"), ()), images=2, side=8)
    assert torch.equal(cut.images, images[:2, :, 11:19])
    assert (cut.positions.tolist(), cut.names) == ([0, 1], ("a", "b"))
