"""The total loss: a term is there when its weight is not 0, gone with its cost when it is; the turns are clean."""

import pytest
import torch
from torch import Tensor, nn

from vaevq.config import AutoencoderConfig, LossConfig, PlainConfig, TokenizerConfig, VariationalConfig
from vaevq.losses.adversarial import LeCam, adaptive_weight, discriminator_hinge, tokenizer_adversarial
from vaevq.losses.objective import DiscriminatorObjective, Loss, TokenizerObjective
from vaevq.nn.discriminator import PatchDiscriminator
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer, TokenizerOutput

NETWORKS = AutoencoderConfig(base_width=8, multipliers=(1, 2), blocks=1)


class CountingLpips(nn.Module):
    """Stands in for LPIPS where only what is asked of it matters."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def features(self, images: Tensor) -> list[Tensor]:
        self.calls += 1
        return [images]

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        return (x[0] - y[0]).abs().mean(dim=(1, 2, 3))


def tokenizer(quantizer: VariationalConfig | PlainConfig | None = None) -> Tokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(
        autoencoder=NETWORKS, quantizer=quantizer or VariationalConfig(code_dim=4, codebook_size=16)
    )
    return Tokenizer(config).train()


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=generator("images")) * 2 - 1


def discriminator() -> PatchDiscriminator:
    torch.manual_seed(1)
    return PatchDiscriminator(3, width=8, layers=2)


def forward(model: Tokenizer, continuous: bool = True) -> TokenizerOutput:
    output: TokenizerOutput = model(images(), torch.zeros(2, 4, 16, 16), continuous=continuous)
    return output


def test_total_is_the_weighted_sum_of_its_terms() -> None:
    model = tokenizer(
        VariationalConfig(code_dim=4, codebook_size=16, codebook="projected", dcr_weight=0.1, kl_weight=1e-3)
    )
    config = LossConfig(pixel_weight=2.0, perceptual_weight=0.5, adversarial_weight=0.25, continuous_path=0.1)
    objective = TokenizerObjective(config, model.quantizer.term_weights, CountingLpips())
    loss = objective(images(), forward(model), discriminator())
    weights = {"pixel": 2.0, "perceptual": 0.5, "adversarial": 0.25, "rcs": 0.001, "dcr": 0.1, "kl": 1e-3}
    assert loss.terms.keys() == weights.keys()
    assert float(loss.total.detach()) == pytest.approx(
        sum(weights[k] * float(v) for k, v in loss.terms.items()), rel=1e-5
    )


def test_pixel_term_weighs_both_paths() -> None:
    model = tokenizer()
    output = forward(model)
    objective = TokenizerObjective(LossConfig(continuous_path=0.3), model.quantizer.term_weights, None)
    quantized = (output.reconstruction - images()).square().mean()
    assert output.continuous_reconstruction is not None
    continuous = (output.continuous_reconstruction - images()).square().mean()
    expected = float((quantized + 0.3 * continuous).detach())
    assert float(objective(images(), output).terms["pixel"]) == pytest.approx(expected, rel=1e-5)


def test_l1_and_l2_and_their_reductions() -> None:
    model = tokenizer()
    output = forward(model, continuous=False)
    difference = (output.reconstruction - images()).detach()
    for pixel, reduction, expected in (
        ("l1", "element", difference.abs().mean()),
        ("l2", "image", difference.square().sum((1, 2, 3)).mean()),
        ("l2", "position", difference.square().sum(1).mean()),
    ):
        config = LossConfig.model_validate({"pixel": pixel, "pixel_reduction": reduction})
        loss = TokenizerObjective(config, model.quantizer.term_weights, None)(images(), output)
        assert float(loss.terms["pixel"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("term", ["pixel", "perceptual", "adversarial"])
def test_a_weight_of_zero_removes_exactly_its_term_and_its_gradient(term: str) -> None:
    weights = {"pixel_weight": 1.0, "perceptual_weight": 0.5, "adversarial_weight": 0.1}
    config = LossConfig.model_validate({**weights, f"{term}_weight": 0.0})
    model = tokenizer()
    lpips = CountingLpips() if config.perceptual_weight else None
    opponent = discriminator() if config.adversarial_weight else None
    terms = TokenizerObjective(config, model.quantizer.term_weights, lpips)(images(), forward(model), opponent).terms
    assert set(terms) == {"pixel", "perceptual", "adversarial", "rcs", "kl"} - {term}


def test_without_the_continuous_path_the_decoder_sees_half_the_latents() -> None:
    model, seen = tokenizer(), []
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    forward(model, continuous=True)
    forward(model, continuous=False)
    assert seen == [4, 2]  # one call each: both paths go through the decoder together


def test_perceptual_features_of_the_input_are_computed_once_for_both_paths() -> None:
    model, lpips = tokenizer(), CountingLpips()
    config = LossConfig(perceptual_weight=1.0)
    TokenizerObjective(config, model.quantizer.term_weights, lpips)(images(), forward(model))
    assert lpips.calls == 3


def test_every_term_of_the_default_is_active() -> None:
    """A nonzero default weight means a nonzero gradient: no term of the default form is there for show."""
    model = tokenizer()
    for name, weight in model.quantizer.term_weights.items():
        if weight == 0:
            continue
        term = forward(model).quantized.terms[name]
        gradients = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
        assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0, name


def test_every_term_of_the_default_reaches_what_it_is_for() -> None:
    """By the parts of the tokenizer; the averaged codebook has no parameters and is moved by the step."""
    model = tokenizer()
    assert model.head.logvar is not None
    parts = {"encoder": model.encoder, "mean": model.head.mean, "logvar": model.head.logvar, "decoder": model.decoder}
    both = {"encoder", "mean", "logvar", "decoder"}
    expected = {"pixel": both, "rcs": {"encoder", "mean"}, "kl": {"encoder", "mean", "logvar"}}
    # The constant that log σ² starts from gives the encoder nothing: one step of its head comes first.
    torch.nn.init.normal_(model.head.logvar.weight, std=0.1)
    objective = TokenizerObjective(LossConfig(), model.quantizer.term_weights, None)
    output = model(images(), torch.randn(2, 4, 16, 16, generator=generator("noise")), continuous=True)
    weighted = objective(images(), output).weighted
    assert weighted.keys() == expected.keys()
    for name, term in weighted.items():
        reached = {
            part
            for part, module in parts.items()
            if any(
                g is not None and bool(g.any())
                for g in torch.autograd.grad(term, list(module.parameters()), retain_graph=True, allow_unused=True)
            )
        }
        assert reached == expected[name], name
    before = model.quantizer.codebook().clone()
    model.quantizer.finish_step()
    assert not torch.equal(model.quantizer.codebook(), before)


def test_both_paths_of_the_default_reach_the_encoder() -> None:
    model = tokenizer()
    output = model(images(), torch.randn(2, 4, 16, 16, generator=generator("noise")), continuous=True)
    for path in (output.reconstruction, output.continuous_reconstruction):
        (gradient,) = torch.autograd.grad(
            (path - images()).square().mean(), [model.encoder.conv_in.weight], retain_graph=True
        )
        assert bool(gradient.any())


@pytest.mark.parametrize("term", ["pixel", "perceptual", "adversarial", "rcs", "dcr", "kl"])
def test_a_weight_of_zero_takes_exactly_its_part_from_the_total(term: str) -> None:
    """In value and in every gradient."""
    image_terms = {"pixel_weight": 1.0, "perceptual_weight": 0.5, "adversarial_weight": 0.1}
    latent_terms = {"rcs_weight": 0.2, "dcr_weight": 0.1, "kl_weight": 1e-3}
    opponent = discriminator().double()

    def losses(zero: str) -> tuple[Tokenizer, Loss]:
        latent = {**latent_terms, **({f"{zero}_weight": 0.0} if f"{zero}_weight" in latent_terms else {})}
        image = {**image_terms, **({f"{zero}_weight": 0.0} if f"{zero}_weight" in image_terms else {})}
        config = LossConfig.model_validate(image)
        quantizer = VariationalConfig.model_validate(
            {"code_dim": 4, "codebook_size": 16, "codebook": "projected", **latent}
        )
        model = tokenizer(quantizer).double()
        objective = TokenizerObjective(
            config, model.quantizer.term_weights, CountingLpips() if config.perceptual_weight else None
        )
        output = model(images().double(), torch.zeros(2, 4, 16, 16), continuous=True)
        return model, objective(images().double(), output, opponent if config.adversarial_weight else None)

    model, whole = losses("none")
    other, without = losses(term)
    assert float(without.total.detach()) == pytest.approx(
        float((whole.total - whole.weighted[term]).detach()), rel=1e-12
    )
    rest = torch.autograd.grad(whole.total - whole.weighted[term], list(model.parameters()), allow_unused=True)
    left = torch.autograd.grad(without.total, list(other.parameters()), allow_unused=True)
    for one, same in zip(rest, left, strict=True):
        zero = torch.zeros((), dtype=torch.float64)
        assert torch.allclose(zero if one is None else one, zero if same is None else same, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("weight", "terms"), [(0.0, {"discriminator"}), (0.1, {"discriminator", "lecam"})])
def test_a_weight_of_zero_removes_lecam(weight: float, terms: set[str]) -> None:
    objective = DiscriminatorObjective(LossConfig(adversarial_weight=1.0, lecam_weight=weight))
    assert set(objective(images(), forward(tokenizer()), discriminator()).terms) == terms


@pytest.mark.parametrize("term", ["codebook", "commitment"])
def test_a_weight_of_zero_removes_a_term_of_plain_vq(term: str) -> None:
    model = tokenizer(PlainConfig.model_validate({"code_dim": 4, "codebook_size": 16, f"{term}_weight": 0.0}))
    assert set(model(images()).quantized.terms) == {"codebook", "commitment"} - {term}


def test_discriminator_gets_no_gradient_from_the_tokenizers_turn() -> None:
    model, opponent = tokenizer(), discriminator()
    config = LossConfig(adversarial_weight=1.0)
    TokenizerObjective(config, model.quantizer.term_weights, None)(images(), forward(model), opponent).total.backward()
    assert all(p.grad is None for p in opponent.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoder.parameters())


def test_tokenizer_gets_no_gradient_from_the_discriminators_turn() -> None:
    model, opponent = tokenizer(), discriminator()
    DiscriminatorObjective(LossConfig(adversarial_weight=1.0))(images(), forward(model), opponent).total.backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in opponent.parameters())


def test_discriminator_hinge_is_taken_of_each_fake_before_averaging() -> None:
    real, fakes = torch.tensor([2.0]), [torch.tensor([-3.0]), torch.tensor([1.0])]
    # The hinge of the averaged logits, max(0, 1 − 1) = 0, would hide the second fake; apart they are 0 and 2.
    assert float(discriminator_hinge(real, fakes)) == pytest.approx(0.5 * (0 + 0.5 * (0 + 2)))


def test_adversarial_forms() -> None:
    logits = torch.tensor([0.3, -1.2])
    expected = torch.log1p(torch.exp(-logits)).mean()
    assert float(tokenizer_adversarial(logits, "non_saturating")) == pytest.approx(float(expected))
    assert float(tokenizer_adversarial(logits, "hinge")) == pytest.approx(0.45)


def test_adaptive_weight_balances_the_gradients_at_the_last_layer() -> None:
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    base, adversarial = (layer * torch.tensor([3.0, 4.0])).sum(), 0.5 * layer[0]
    assert float(adaptive_weight(base, adversarial, layer)) == pytest.approx(5 / 0.5, rel=1e-3)


def test_lecam_follows_its_equation() -> None:
    lecam = LeCam(decay=0.5)
    real, fakes = torch.tensor([2.0, 4.0]), [torch.tensor([-1.0]), torch.tensor([-3.0])]
    value = lecam(real, fakes)  # running means: 0 → 1.5 and 0 → −1
    expected = torch.tensor([3.0, 5.0]).square().mean() + torch.tensor([2.5, 4.5]).square().mean()
    assert float(value) == pytest.approx(float(expected))


def test_plain_vq_has_its_own_terms_and_no_continuous_path() -> None:
    model = tokenizer(PlainConfig(code_dim=4, codebook_size=16))
    output = model(images(), continuous=True)
    assert output.continuous_reconstruction is None
    objective = TokenizerObjective(LossConfig(continuous_path=0.0), model.quantizer.term_weights, None)
    assert set(objective(images(), output).terms) == {"pixel", "codebook", "commitment"}
