"""Gradients of image terms that are taken at once: the same bits, and nothing kept that they were computed with."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from vaevq.config import AutoencoderConfig, LossConfig, TokenizerConfig, VariationalConfig
from vaevq.losses.early import with_early_gradient
from vaevq.losses.objective import Loss, TokenizerObjective
from vaevq.nn.discriminator import PatchDiscriminator
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer


def image() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=generator("image")).requires_grad_()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 1, 3)).requires_grad_(False)


def test_value_and_gradient_are_the_graphs_own_bit_by_bit() -> None:
    seed, net = torch.tensor(0.3), network()
    early, plain = image(), image()
    value = with_early_gradient(lambda x: net(x).square().mean(), early, seed)
    (0.3 * value).backward()
    expected = net(plain).square().mean()
    (0.3 * expected).backward()
    assert torch.equal(value, expected)
    assert early.grad is not None
    assert plain.grad is not None
    assert torch.equal(early.grad, plain.grad)
    assert float(early.grad.abs().max()) > 0


@pytest.mark.parametrize("weight", [0.1, 0.3, 1 / 3, 0.7])
def test_in_16_bits_the_gradient_is_the_graphs_own(weight: float) -> None:
    net, early, plain = network().bfloat16(), image(), image()

    def term(x: Tensor) -> Tensor:
        return net(x.bfloat16()).square().mean()

    (weight * with_early_gradient(term, early, torch.tensor(weight))).backward()
    (weight * term(plain)).backward()
    assert early.grad is not None
    assert plain.grad is not None
    assert torch.equal(early.grad, plain.grad)


def test_another_gradient_than_the_one_foretold_scales() -> None:
    early, plain = image(), image()
    (-2 * with_early_gradient(lambda x: x.square().sum(), early, torch.tensor(0.7))).backward()
    (-2 * plain.square().sum()).backward()
    torch.testing.assert_close(early.grad, plain.grad)


@dataclass
class _Kept:
    tensor: Tensor


def test_nothing_is_kept_of_what_a_term_was_computed_with() -> None:
    packed: list[weakref.ref[_Kept]] = []

    def pack(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        packed.append(weakref.ref(kept))
        return kept

    def kept_by(value: Tensor) -> int:
        assert value.requires_grad
        most = max(kept.tensor.numel() for reference in packed if (kept := reference()) is not None)
        packed.clear()
        return most

    def term(x: Tensor) -> Tensor:
        return x.repeat(5, 1, 1, 1).exp().sum()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        assert kept_by(term(image())) == 5 * image().numel()
        assert kept_by(with_early_gradient(term, image(), torch.ones(()))) == image().numel()


def test_without_gradient_none_is_taken() -> None:
    calls: list[bool] = []

    def term(x: Tensor) -> Tensor:
        calls.append(x.requires_grad)
        return x.sum()

    with torch.no_grad():
        assert not with_early_gradient(term, image(), torch.ones(())).requires_grad
    assert not with_early_gradient(term, image().detach(), torch.ones(())).requires_grad
    assert calls == [True, False]


class _Features(nn.Module):
    """Stands in for LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def features(self, images: Tensor) -> list[Tensor]:
        return [self.network(images)]

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        return (x[0] - y[0]).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_tokenizers_gradients_are_those_of_one_graph_bit_by_bit(adaptive: bool, micro_batches: int) -> None:
    config = LossConfig(
        pixel="l1",
        perceptual_weight=0.7,
        adversarial_weight=0.1,
        adversarial_adaptive=adaptive,
        quantized_path=0.9,
        continuous_path=0.3,
    )

    def gradients() -> tuple[Loss, Mapping[str, Tensor | None]]:
        torch.manual_seed(0)
        networks = AutoencoderConfig(base_width=8, multipliers=(1, 2), blocks=1)
        quantizer = VariationalConfig(code_dim=4, codebook_size=16)
        model = Tokenizer(TokenizerConfig(autoencoder=networks, quantizer=quantizer)).train()
        opponent = PatchDiscriminator(3, width=8, layers=2)
        images = torch.rand(2, 3, 32, 32, generator=generator("images")) * 2 - 1
        output = model(images, torch.zeros(2, 4, 16, 16), continuous=True)
        objective = TokenizerObjective(config, model.quantizer.term_weights, _Features())  # type: ignore[arg-type]
        loss = objective(images, output, opponent, model.decoder.last_layer, micro_batches)
        (loss.total / micro_batches).backward()
        return loss, {name: p.grad for name, p in model.named_parameters()}

    early, found = gradients()
    with mock.patch("vaevq.losses.objective.with_early_gradient", lambda term, x, seed: term(x)):
        plain, expected = gradients()
    assert torch.equal(early.total, plain.total)
    assert {name: float(value) for name, value in early.terms.items()} == {
        name: float(value) for name, value in plain.terms.items()
    }
    for name, gradient in expected.items():
        if gradient is not None:
            assert torch.equal(found[name] if found[name] is not None else torch.empty(0), gradient), name
