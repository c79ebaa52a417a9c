"""Residual and multichannel quantization against vector-quantize-pytorch, against one code, and against slow twins."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ, VectorQuantize

from vaevq.quantization import EmaQuantizer, MultichannelQuantizer, Posterior, Quantizer, ResidualQuantizer
from vaevq.quantization import VectorQuantizer as PlainQuantizer
from vaevq.quantization.averaged import SMOOTHING
from vaevq.quantization.codes import apart, together
from vaevq.seeding import generator


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(name))


def rows(grid: Tensor) -> Tensor:
    """B×d×h×w to B×hw×d, as the package has it."""
    return grid.flatten(2).transpose(1, 2)


def started(layer: ResidualQuantizer) -> ResidualQuantizer:
    """With codewords of falling size, as residuals are."""
    with torch.no_grad():
        for i, stage in enumerate(layer.stages):
            stage.embedding.copy_(randn(*stage.embedding.shape, name=f"codebook {i}") * 0.5**i)
            if hasattr(stage, "sums"):
                stage.sums.copy_(stage.embedding)
    return layer


def residual_pair(codebook: str, *, shared: bool = False) -> tuple[ResidualQuantizer, ResidualVQ]:
    given = {"codes_per_position": 3, "codebook": codebook, "shared_codebook": shared, "average_decay": 0.9}
    ours = started(ResidualQuantizer(8, 32, **given, revive_below=0.0)).train()
    options = (
        {"decay": 0.9, "eps": SMOOTHING, "threshold_ema_dead_code": 0, "commitment_weight": 0.25}
        if codebook == "averaged"
        else {"learnable_codebook": True, "ema_update": False, "commitment_weight": 1.25}
    )
    theirs = ResidualVQ(dim=8, num_quantizers=3, codebook_size=32, shared_codebook=shared, **options).train()
    for i, layer in enumerate(theirs.layers):
        start = ours.stages[0 if shared else i].embedding.detach()
        layer._codebook.embed.data.copy_(start[None])
        if codebook == "averaged":
            layer._codebook.embed_avg.copy_(start[None])
            layer._codebook.cluster_size.fill_(1.0)
    return ours, theirs


def test_residual_quantization_and_its_averages_equal_vector_quantize_pytorch_step_by_step() -> None:
    ours, theirs = residual_pair("averaged")
    for i in range(3):
        latents = randn(2, 8, 5, 4, name=f"latents{i}")
        result = ours(Posterior(latents))
        ours.finish_step()
        latent, tokens, losses = theirs(rows(latents))
        assert torch.equal(result.tokens.flatten(1, 2), tokens)
        assert torch.allclose(rows(result.latent), latent, atol=1e-5)
        assert 0.25 * float(result.terms["commitment"].detach()) == pytest.approx(
            float(losses.detach().sum()), rel=1e-5
        )
        for stage, layer in zip(ours.stages, theirs.layers, strict=True):
            assert torch.allclose(stage.counts, layer._codebook.cluster_size[0], atol=1e-5)
            assert torch.allclose(stage.sums, layer._codebook.embed_avg[0], atol=1e-5)
            assert torch.allclose(stage(), layer._codebook.embed[0], atol=1e-4)


def test_descended_codebooks_equal_vector_quantize_pytorch_in_tokens_latent_loss_and_gradient() -> None:
    ours, theirs = residual_pair("embedding")
    latents = randn(2, 8, 5, 4, name="latents").requires_grad_()
    result = ours(Posterior(latents))
    latent, tokens, losses = theirs(rows(latents))
    assert torch.equal(result.tokens.flatten(1, 2), tokens)
    assert torch.allclose(rows(result.latent), latent, atol=1e-5)
    # Their codebook learns by the commitment alone, at its weight: 1.25 is the two sides' 1 and 0.25.
    assert ours.term_weights == {"codebook": 1.0, "commitment": 0.25}
    loss = torch.stack([ours.term_weights[name] * term for name, term in result.terms.items()]).sum()
    assert loss.item() == pytest.approx(float(losses.detach().sum()), rel=1e-5)
    mine = torch.autograd.grad(loss, [latents, *ours.parameters()])
    theirs_too = torch.autograd.grad(losses.sum(), [latents, *(layer._codebook.embed for layer in theirs.layers)])
    assert torch.allclose(mine[0], theirs_too[0] * 0.25 / 1.25, atol=1e-6)
    for one, other in zip(mine[1:], theirs_too[1:], strict=True):
        assert one.any()
        assert torch.allclose(one, other[0] / 1.25, atol=1e-6)


def test_one_codebook_for_all_codes_gives_the_same_tokens_as_vector_quantize_pytorch() -> None:
    ours, theirs = residual_pair("averaged", shared=True)
    assert len(ours.stages) == ours.codebooks == 1
    latents = randn(2, 8, 5, 4, name="latents")
    latent, tokens, _ = theirs.eval()(rows(latents))
    result = ours.eval()(Posterior(latents))
    assert torch.equal(result.tokens.flatten(1, 2), tokens)
    assert torch.allclose(rows(result.latent), latent, atol=1e-5)


def test_one_codebook_averages_the_residuals_of_all_depths_as_one_batch() -> None:
    ours, _ = residual_pair("averaged", shared=True)
    latents, (stage,) = randn(2, 8, 5, 4, name="latents"), ours.stages
    codewords, won, totals = stage().clone(), torch.zeros(32), torch.zeros(32, 8)
    for row in latents.permute(0, 2, 3, 1).reshape(-1, 8):
        for _ in range(3):
            k = int((codewords - row).norm(dim=1).argmin())
            won[k], totals[k] = won[k] + 1, totals[k] + row
            row = row - codewords[k]
    ours(Posterior(latents))
    ours.finish_step()
    assert torch.allclose(stage.counts, 0.9 + 0.1 * won, atol=1e-5)
    assert torch.allclose(stage.sums, 0.9 * codewords + 0.1 * totals, atol=1e-4)


def test_straight_through_gives_the_encoder_the_decoders_gradient_once() -> None:
    for layer in (started(ResidualQuantizer(8, 16)), MultichannelQuantizer(8, 16)):
        latents, weight = randn(2, 8, 3, 3, name="latents").requires_grad_(), randn(2, 8, 3, 3, name="weight")
        (layer.train()(Posterior(latents)).latent * weight).sum().backward()
        assert torch.allclose(latents.grad, weight)


def test_each_code_comes_nearer_to_the_latent() -> None:
    layer = ResidualQuantizer(4, 16, codes_per_position=4, average_decay=0.5).train()
    latents = randn(4, 4, 8, 8, name="latents")
    for _ in range(40):
        layer(Posterior(latents))
        layer.finish_step()
    grids = layer.encode(Posterior(latents)).unbind(dim=-1)
    decoded, errors = torch.zeros_like(latents), [float(latents.square().mean())]
    for stage, grid in zip(layer.stages, grids, strict=True):
        decoded = decoded + stage()[grid].permute(0, 3, 1, 2)
        errors.append(float((latents - decoded).square().mean()))
    assert all(after < 0.75 * before for before, after in itertools.pairwise(errors)), errors


def test_each_averaged_codebook_waits_for_the_one_before_it_and_starts_from_what_that_leaves() -> None:
    layer = ResidualQuantizer(4, 16, codes_per_position=3).train()
    for step in range(1, 5):
        latents = randn(2, 4, 4, 4, name=f"step{step}") + 10.0
        layer(Posterior(latents))
        layer.finish_step()
        assert [int(stage.updates) for stage in layer.stages] == [max(0, step - i) for i in range(3)]
    assert float(layer.stages[0]().norm(dim=1).mean()) > 15
    assert float(layer.stages[2]().norm(dim=1).mean()) < 5, "residuals, not latents"
    at_once = ResidualQuantizer(4, 16, codes_per_position=3, revive_below=0.0).train()
    at_once(Posterior(randn(2, 4, 4, 4)))
    at_once.finish_step()
    assert [int(stage.updates) for stage in at_once.stages] == [1, 1, 1], "nothing to wait for"


@pytest.mark.parametrize("shared", [False, True])
def test_micro_batches_of_a_step_are_one_batch(shared: bool) -> None:
    options = {"codes_per_position": 3, "shared_codebook": shared, "revive_below": 0.5}
    whole, parts = ResidualQuantizer(4, 16, **options).train(), ResidualQuantizer(4, 16, **options).train()
    parts.load_state_dict(whole.state_dict())
    for i in range(5):
        latents = randn(4, 4, 4, 4, name=f"micro{i}")
        for layer, shares in ((whole, [latents]), (parts, latents.split(2))):
            for share in shares:
                layer(Posterior(share))
            layer.finish_step()
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], atol=1e-5), name


def several_pairs() -> Iterator[tuple[Quantizer, Quantizer]]:
    """A quantizer of several codes that has one, and the quantizer of one code that it then is."""
    averages = {"average_decay": 0.9, "revive_below": 0.3}
    yield ResidualQuantizer(4, 16, codes_per_position=1, **averages), EmaQuantizer(4, 16, **averages)
    yield ResidualQuantizer(4, 16, codes_per_position=1, codebook="embedding"), PlainQuantizer(4, 16)
    yield MultichannelQuantizer(4, 16, codes_per_position=1), PlainQuantizer(4, 16)


@pytest.mark.parametrize(("several", "one"), list(several_pairs()), ids=["residual", "residual, descended", "movq"])
def test_of_one_code_they_are_the_quantizers_of_one_code(several: Quantizer, one: Quantizer) -> None:
    state = {f"stages.0.{name.removeprefix('codebook.')}": value for name, value in one.state_dict().items()}
    several.load_state_dict(state if isinstance(several, ResidualQuantizer) else one.state_dict())
    for i in range(3):
        latents = randn(2, 4, 4, 4, name=f"one{i}") / 16
        mine, other = several.train()(Posterior(latents)), one.train()(Posterior(latents))
        assert mine.tokens.shape == (2, 4, 4)
        assert torch.equal(mine.tokens, other.tokens)
        assert torch.equal(mine.latent, other.latent)
        assert {name: term.item() for name, term in mine.terms.items()} == {
            name: term.item() for name, term in other.terms.items()
        }
        several.finish_step()
        one.finish_step()
    for mine_, other_ in zip(several.state_dict().values(), one.state_dict().values(), strict=True):
        assert torch.equal(mine_, other_)


def test_multichannel_quantization_equals_vector_quantize_pytorch_with_heads_of_one_codebook() -> None:
    ours = MultichannelQuantizer(12, 16, codes_per_position=3).train()
    theirs = VectorQuantize(
        dim=12,
        codebook_dim=4,
        heads=3,
        codebook_size=16,
        learnable_codebook=True,
        ema_update=False,
        commitment_weight=1.25,
    ).train()
    assert type(theirs.project_in) is torch.nn.Identity
    start = randn(16, 4, name="codebook")
    ours.codebook.embedding.data.copy_(start)
    theirs._codebook.embed.data.copy_(start[None])
    latents = randn(2, 12, 5, 4, name="latents")
    result = ours(Posterior(latents))
    latent, tokens, loss = theirs(rows(latents))
    assert result.tokens.shape == (2, 5, 4, 3)
    assert torch.equal(result.tokens.flatten(1, 2), tokens)
    assert torch.allclose(rows(result.latent), latent, atol=1e-6)
    weighted = sum(ours.term_weights[name] * float(term) for name, term in result.terms.items())
    assert weighted == pytest.approx(float(loss), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(b=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4), q=st.integers(1, 5))
def test_grids_and_tokens_are_each_others_inverse(b: int, h: int, w: int, q: int) -> None:
    grids = torch.arange(b * q * h * w).view(b * q, h, w)
    tokens = together(grids, q)
    assert tokens.shape == ((b, h, w, q) if q > 1 else (b, h, w))
    assert torch.equal(apart(tokens, q), grids)
    assert int(tokens.flatten()[0]) == 0
    if q > 1:
        assert torch.equal(tokens[..., 1], grids[1::q])


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="code_dim 10 is no multiple of codes_per_position 4"):
        MultichannelQuantizer(10, 16)
