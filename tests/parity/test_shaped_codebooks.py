"""Wasserstein-VQ against scipy's matrix root, VQBridge against torch's transformer; beyond that both are plain VQ."""

import copy

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch.nn.functional import gelu

from vaevq.quantization import Posterior, VectorQuantizer, VQBridge, WassersteinQuantizer
from vaevq.quantization.baselines.vqbridge import BridgedCodebook
from vaevq.seeding import generator

TERMS = ("codebook", "commitment")


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=torch.float64)


def scipy_distance(latents: np.ndarray, codewords: np.ndarray) -> float:
    """W₂ of two samples' Gaussians over the largest standard deviation of the latents; these are a whole population."""
    mean, covariance = latents.mean(0), np.cov(latents, rowvar=False, bias=True)
    root, theirs = sqrtm(covariance), np.cov(codewords, rowvar=False)
    cross = np.real(sqrtm(root @ theirs @ root))
    squared = np.sum((codewords.mean(0) - mean) ** 2) + np.trace(covariance + theirs - 2 * cross)
    return float(np.sqrt(squared) / latents.std(axis=0).max())


def wasserstein(**options: float) -> WassersteinQuantizer:
    layer = WassersteinQuantizer(5, 40, **options).double().train()
    layer.codebook.embedding.data.copy_(0.3 * randn(40, 5, name="codebook") + 0.2)
    return layer


def skewed_latents() -> Tensor:
    return torch.einsum("ij,bjhw->bihw", randn(5, 5, name="mix"), randn(3, 5, 6, 6, name="latents")) - 0.7


def test_the_distance_of_the_first_batch_equals_scipys() -> None:
    layer, latents = wasserstein(), skewed_latents()
    term = layer(Posterior(latents)).terms["wasserstein"]
    rows = latents.permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    assert float(term.detach()) == pytest.approx(scipy_distance(rows, layer.codebook.embedding.detach().numpy()))


def test_later_batches_are_averaged_with_those_before() -> None:
    layer, first, second = wasserstein(), skewed_latents(), randn(3, 5, 6, 6, name="second")
    layer(Posterior(first))
    term = layer(Posterior(second)).terms["wasserstein"]
    rows = torch.cat([first, second]).permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    assert float(term.detach()) == pytest.approx(scipy_distance(rows, layer.codebook.embedding.detach().numpy()))


def test_moments_without_a_memory_are_of_the_last_batch() -> None:
    layer, last = wasserstein(moments_decay=0.0), randn(3, 5, 6, 6, name="last")
    for latents in (skewed_latents(), skewed_latents(), last):
        term = layer(Posterior(latents)).terms["wasserstein"]
    rows = last.permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    assert float(term.detach()) == pytest.approx(scipy_distance(rows, layer.codebook.embedding.detach().numpy()))


def test_the_distance_moves_the_codebook_alone_and_descending_it_gives_the_latents_moments() -> None:
    layer, latents = wasserstein(), skewed_latents().requires_grad_()
    term = layer(Posterior(latents)).terms["wasserstein"]
    (gradient,) = torch.autograd.grad(term, latents, allow_unused=True)
    assert gradient is None

    optimizer = torch.optim.Adam([layer.codebook.embedding], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        term = layer(Posterior(latents.detach())).terms["wasserstein"]
        term.backward()
        optimizer.step()
    rows = latents.detach().permute(0, 2, 3, 1).reshape(-1, 5)
    assert torch.allclose(layer.codebook.embedding.mean(0), rows.mean(0), atol=0.1)
    assert torch.allclose(layer.codebook.embedding.T.cov(), rows.T.cov(), atol=0.3)
    assert float(term.detach()) < 0.05


def test_the_distance_has_a_finite_gradient_where_all_latents_are_alike_and_all_codewords_too() -> None:
    layer = wasserstein()
    layer.codebook.embedding.data.fill_(0.5)
    layer(Posterior(torch.full((1, 5, 2, 2), 0.5).double())).terms["wasserstein"].backward()
    assert torch.isfinite(layer.codebook.embedding.grad).all()


def bridge() -> VQBridge:
    layer = VQBridge(5, 40, bridge_group=16, bridge_width=24, bridge_depth=2).double().train()
    assert isinstance(layer.codebook, BridgedCodebook)
    for i, parameter in enumerate(layer.codebook.parameters()):  # the last layer starts at 0
        parameter.data.copy_(0.3 * randn(*parameter.shape, name=f"weight{i}"))
    return layer


@pytest.mark.parametrize("layer", [wasserstein(commitment_weight=0.25), bridge()], ids=["wasserstein", "vqbridge"])
def test_beside_its_codebook_it_is_plain_vq(layer: WassersteinQuantizer | VQBridge) -> None:
    plain = VectorQuantizer(5, 40).double().train()
    plain.codebook.embedding.data.copy_(layer.codebook())
    mine, theirs = randn(2, 5, 3, 4, name="z").requires_grad_(), randn(2, 5, 3, 4, name="z").requires_grad_()
    result, expected = layer(Posterior(mine)), plain(Posterior(theirs))
    assert torch.equal(result.tokens, expected.tokens)
    assert len(result.tokens.unique()) > 5
    assert torch.allclose(result.latent, expected.latent)
    (result.latent.sum() + sum(layer.term_weights[name] * result.terms[name] for name in TERMS)).backward()
    (expected.latent.sum() + sum(plain.term_weights[name] * expected.terms[name] for name in TERMS)).backward()
    assert torch.allclose(mine.grad, theirs.grad)


def test_the_bridge_equals_torchs_transformer_on_groups_of_codewords() -> None:
    codebook = bridge().codebook
    assert isinstance(codebook, BridgedCodebook)
    x = codebook.compress(torch.cat([codebook.embedding, torch.zeros(8, 5).double()]).reshape(3, 80))
    for block in codebook.blocks:
        theirs = nn.TransformerEncoderLayer(
            24,
            nhead=4,
            dim_feedforward=48,
            dropout=0.0,
            activation=lambda values: gelu(values, approximate="tanh"),
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        ).double()
        for mine, other in (
            (block.query_key_value.weight, theirs.self_attn.in_proj_weight),
            (block.query_key_value.bias, theirs.self_attn.in_proj_bias),
            (block.out.weight, theirs.self_attn.out_proj.weight),
            (block.out.bias, theirs.self_attn.out_proj.bias),
            (block.mlp[0].weight, theirs.linear1.weight),
            (block.mlp[0].bias, theirs.linear1.bias),
            (block.mlp[2].weight, theirs.linear2.weight),
            (block.mlp[2].bias, theirs.linear2.bias),
        ):
            other.data.copy_(mine)
        x = theirs(x[None])[0]
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(codebook(), codebook.recover(x).reshape(48, 5)[:40])


@pytest.mark.parametrize(("size", "group"), [(1, 16), (16, 16), (17, 16), (40, 1)])
def test_the_bridge_takes_any_number_of_codewords_and_starts_at_0(size: int, group: int) -> None:
    codewords = VQBridge(3, size + 1, bridge_group=group, bridge_width=8).codebook()
    assert torch.equal(codewords, torch.zeros(size + 1, 3))


def test_one_codewords_gradient_moves_all_of_them() -> None:
    layer = bridge()
    before = layer.codebook().detach().clone()
    layer.codebook()[7].square().sum().backward()
    with torch.no_grad():
        for parameter in layer.codebook.parameters():
            parameter -= 0.01 * parameter.grad
    assert ((layer.codebook() - before).abs().sum(dim=1) > 1e-4).all()


def test_from_0_the_bridge_comes_to_use_its_codebook() -> None:
    torch.manual_seed(0)
    layer, latents = VQBridge(2, 64, bridge_width=32).train(), randn(8, 2, 8, 8).float()
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    first = copy.deepcopy(layer)(Posterior(latents)).terms["codebook"]
    for _ in range(150):
        optimizer.zero_grad()
        result = layer(Posterior(latents))
        result.terms["codebook"].backward()
        optimizer.step()
    assert float(result.terms["codebook"].detach()) < 0.2 * float(first.detach())
    assert len(result.tokens.unique()) > 32
