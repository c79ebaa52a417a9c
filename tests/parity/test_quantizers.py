"""Nearest codeword against the full distance matrix, plain VQ against vector-quantize-pytorch, VLQ's gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_quantize_pytorch import SimVQ, VectorQuantize

from vaevq.quantization import (
    BinarySphericalQuantizer,
    EmaQuantizer,
    FiniteScalarQuantizer,
    GaussianQuantizer,
    IndexBackpropagationQuantizer,
    LookupFreeQuantizer,
    MultichannelQuantizer,
    Posterior,
    Quantizer,
    ResidualQuantizer,
    SoftVectorQuantizer,
    VariationalLatentQuantizer,
    VectorQuantizer,
    VQBridge,
    VqganLc,
    WassersteinQuantizer,
    search,
)
from vaevq.quantization import SimVQ as OurSimVQ
from vaevq.quantization.search import CODEWORD_TILE, GROUP, nearest
from vaevq.seeding import generator


def randn(*shape: int, name: str = "x", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(name), dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 1200), k=st.integers(1, 5000), d=st.integers(1, 9), seed=st.integers(0, 99))
def test_nearest_equals_the_full_distance_matrix(n: int, k: int, d: int, seed: int) -> None:
    latents, codewords = randn(n, d, name=f"z{seed}").double(), randn(k, d, name=f"e{seed}").double()
    distances = torch.cdist(latents, codewords, compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(nearest(latents, codewords), distances.argmin(dim=1))


def test_nearest_takes_the_lowest_index_of_equal_codewords_across_tiles() -> None:
    codewords = randn(1, 4).repeat(5000, 1)
    assert torch.equal(nearest(randn(600, 4, name="z"), codewords), torch.zeros(600, dtype=torch.int64))


@pytest.mark.parametrize("size", [GROUP, 3 * GROUP, CODEWORD_TILE + 2 * GROUP, 3 * GROUP + 1])
def test_nearest_takes_the_lowest_index_within_and_across_groups_of_scores(size: int) -> None:
    random = torch.Generator().manual_seed(size)
    latents, codewords = (torch.randint(-2, 3, (n, 3), generator=random).float() for n in (300, size))
    distances = (latents[:, None] - codewords).square().sum(dim=2)  # whole numbers: ties are exact, and most are ties
    first = (distances == distances.amin(dim=1, keepdim=True)).int().argmax(dim=1)
    assert torch.equal(nearest(latents, codewords), first)


def test_off_the_cpu_more_latents_are_searched_at_once_within_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def counted(span: search._Span, latents: torch.Tensor, columns: slice) -> torch.Tensor:
        scores = original(span, latents, columns)
        shapes.append(tuple(scores.shape))
        return scores

    original = search._Span.scores
    monkeypatch.setattr(search._Span, "scores", counted)
    latents, codewords = torch.empty(9000, 4, device="meta"), torch.empty(3000, 4, device="meta")
    found = search._Found.nothing(latents, torch.float32)
    search._search_tiles(latents, search._Span(codewords, codewords[:, 0], 0), found)
    assert shapes == [(rows, columns) for rows in (4096, 4096, 808) for columns in (2048, 952)]
    assert max(4 * rows * columns for rows, columns in shapes) <= 32 << 20


def test_nearest_works_in_float32_under_autocast() -> None:
    latents, codewords = randn(100, 8, name="z"), randn(64, 8, name="e")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(latents.bfloat16().float(), codewords), nearest(latents.bfloat16(), codewords))


def test_plain_vq_equals_vector_quantize_pytorch_value_by_value() -> None:
    ours = VectorQuantizer(8, 32, codebook_weight=1.0, commitment_weight=0.25).train()
    theirs = VectorQuantize(
        dim=8,
        codebook_size=32,
        accept_image_fmap=True,
        learnable_codebook=True,
        ema_update=False,
        commitment_weight=0.25,
        commitment_use_cross_entropy_loss=False,
        in_place_codebook_optimizer=None,
    ).train()
    weights = randn(32, 8, name="codebook")
    ours.codebook.embedding.data.copy_(weights)
    theirs._codebook.embed.data.copy_(weights[None])
    latents = randn(2, 8, 5, 4, name="latents")

    result = ours(Posterior(latents))
    latent, tokens, _ = theirs(latents)
    assert torch.equal(result.tokens, tokens)
    assert torch.allclose(result.latent, latent, atol=1e-6)
    codeword = F.embedding(tokens, weights).permute(0, 3, 1, 2)
    assert float(result.terms["commitment"].detach()) == pytest.approx(float(F.mse_loss(latents, codeword)))


def test_projected_codebook_equals_simvq_with_the_same_weights() -> None:
    ours = VariationalLatentQuantizer(8, 32, codebook="projected").eval()
    theirs = SimVQ(dim=8, codebook_size=32, channel_first=True).eval()
    theirs.frozen_codebook.copy_(ours.codebook.embedding.data)
    assert ours.codebook.projection is not None
    theirs.code_transform.weight.data.copy_(ours.codebook.projection.weight.data)
    latents = randn(2, 8, 5, 4, name="latents")
    result = ours(Posterior(latents, torch.zeros_like(latents)))
    latent, tokens, _ = theirs(latents)
    assert torch.equal(result.tokens, tokens)
    assert torch.allclose(result.latent, latent, atol=1e-6)


def fitted(quantizer: Quantizer) -> Quantizer:
    quantizer.fit(randn(40, 4, name="vectors"), seed=0)
    return quantizer


torch.manual_seed(0)  # where codewords start
QUANTIZERS: dict[str, Quantizer] = {
    "vaevq": VariationalLatentQuantizer(4, 16),
    "vaevq projected": VariationalLatentQuantizer(4, 16, codebook="projected"),
    "vaevq released gradient": VariationalLatentQuantizer(
        4, 16, codebook="embedding", gradient="reparameterized", codebook_gradient=True
    ),
    "vq": VectorQuantizer(4, 16),
    "vq_ema": EmaQuantizer(4, 16),
    "simvq": OurSimVQ(4, 16),
    "ibq": IndexBackpropagationQuantizer(4, 16),
    "softvq": SoftVectorQuantizer(4, 16),
    "wasserstein": WassersteinQuantizer(4, 16),
    "vqbridge": VQBridge(4, 16, bridge_width=8),
    "gaussian": GaussianQuantizer(4, 16),
    "fsq": FiniteScalarQuantizer(4, 36),
    "lfq": LookupFreeQuantizer(4, 16),
    "bsq": BinarySphericalQuantizer(4, 16),
    "residual": ResidualQuantizer(4, 16),
    "residual shared": ResidualQuantizer(4, 16, codes_per_position=3, shared_codebook=True),
    "residual descended": ResidualQuantizer(4, 16, codebook="embedding"),
    "movq": MultichannelQuantizer(4, 16, codes_per_position=2),
    "vqgan_lc": fitted(VqganLc(4, 16)),
}


def posterior(kind: str) -> Posterior:
    """With the gradients' leaves as `mean` and `logvar`; a point mass for a point quantizer."""
    mean, logvar = (randn(2, 4, 3, 5, name=name).requires_grad_() for name in ("mean", "logvar"))
    return Posterior(mean, logvar if kind.startswith(("vaevq", "gaussian")) else None)


def codes(quantizer: Quantizer) -> tuple[int, ...]:
    return (quantizer.codes_per_position,) if quantizer.codes_per_position > 1 else ()


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_lookup_of_encode_is_what_evaluation_mode_decodes(kind: str) -> None:
    quantizer, of = copy.deepcopy(QUANTIZERS[kind]).eval(), posterior(kind)
    for parameter in quantizer.parameters():  # VQBridge's codewords start as one
        parameter.data.add_(0.1 * randn(*parameter.shape, name="weights"))
    tokens = quantizer.encode(of)
    quantized = quantizer(of)
    assert tokens.shape == (2, 3, 5, *codes(quantizer))
    assert len(tokens.unique()) > 3
    assert torch.equal(tokens, quantized.tokens)
    assert torch.equal(quantizer.lookup(tokens), quantized.latent)
    assert quantized.terms == {}


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_every_term_has_a_weight_and_finite_gradients(kind: str) -> None:
    quantizer, of = copy.deepcopy(QUANTIZERS[kind]).train(), posterior(kind)
    quantized = quantizer(of)
    assert {name for name, weight in quantizer.term_weights.items() if weight} == quantized.terms.keys()
    leaves = [*quantizer.parameters(), of.mean, *([] if of.logvar is None else [of.logvar])]
    for term in quantized.terms.values():
        gradients = torch.autograd.grad(
            term, [leaf for leaf in leaves if leaf.requires_grad], retain_graph=True, allow_unused=True
        )
        reached = [gradient for gradient in gradients if gradient is not None]
        assert reached
        assert all(torch.isfinite(gradient).all() for gradient in reached)


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZERS if " " not in kind])
def test_a_term_of_weight_0_is_not_computed(kind: str) -> None:
    layer = type(QUANTIZERS[kind])
    for name in QUANTIZERS[kind].term_weights:
        if (name == "codebook" and kind in ("vq_ema", "residual")) or name == "dcr":  # no such option; off already
            continue
        made = layer(4, 16, **{f"{name}_weight": 0.0}).train()
        assert name not in (made if made.is_fitted else fitted(made))(posterior(kind)).terms


def vlq_gradients(**options: object) -> dict[str, torch.Tensor | None]:
    """Gradients of the decoder's side alone: of a linear function of the quantized latent."""
    layer = (
        VariationalLatentQuantizer(4, 16, rcs_weight=0, kl_weight=0, codebook="embedding", **options).train().double()
    )
    torch.nn.init.normal_(layer.codebook.embedding, generator=generator("e"))
    mean = randn(2, 4, 3, 3, name="mean", dtype=torch.float64).requires_grad_()
    logvar = (randn(2, 4, 3, 3, name="logvar", dtype=torch.float64) - 2).requires_grad_()
    quantized = layer(Posterior(mean, logvar), randn(2, 4, 3, 3, name="noise"))
    assert torch.allclose(quantized.latent, layer.lookup(quantized.tokens))
    (quantized.latent * randn(2, 4, 3, 3, name="weight")).sum().backward()
    return {"mean": mean.grad, "logvar": logvar.grad, "codebook": layer.codebook.embedding.grad}


def test_straight_through_gives_the_mean_the_decoders_gradient() -> None:
    gradients = vlq_gradients(quantize="mean")
    assert torch.allclose(gradients["mean"], randn(2, 4, 3, 3, name="weight").double())
    assert gradients["logvar"] is None
    assert gradients["codebook"] is None


def test_straight_through_of_the_sample_gives_sigma_the_noise_as_gradient() -> None:
    gradients = vlq_gradients(quantize="sample")
    logvar = randn(2, 4, 3, 3, name="logvar", dtype=torch.float64) - 2
    noise, weight = randn(2, 4, 3, 3, name="noise"), randn(2, 4, 3, 3, name="weight")
    assert torch.allclose(gradients["logvar"], weight * noise * 0.5 * torch.exp(logvar / 2))


def test_the_released_gradient_reaches_mean_sigma_and_codebook() -> None:
    gradients = vlq_gradients(quantize="mean", gradient="reparameterized", codebook_gradient=True)
    assert torch.allclose(gradients["mean"], randn(2, 4, 3, 3, name="weight").double())
    assert gradients["logvar"].abs().sum() > 0
    assert gradients["codebook"].abs().sum() > 0


def test_training_quantizes_the_sample_and_evaluation_the_mean() -> None:
    layer = VariationalLatentQuantizer(4, 64, codebook="embedding")
    mean, logvar, noise = randn(1, 4, 6, 6, name="m"), torch.full((1, 4, 6, 6), 1.0), randn(1, 4, 6, 6, name="n")
    posterior = Posterior(mean, logvar)
    codewords = layer.codebook().detach()
    sampled = layer.train()(posterior, noise).tokens
    rows = (mean + torch.exp(logvar / 2) * noise).permute(0, 2, 3, 1).reshape(-1, 4)
    assert torch.equal(sampled.flatten(), nearest(rows, codewords))
    assert torch.equal(
        layer.eval()(posterior).tokens.flatten(), nearest(mean.permute(0, 2, 3, 1).reshape(-1, 4), codewords)
    )


def test_an_averaged_codebook_goes_to_the_minimum_of_rcs() -> None:
    layer = VariationalLatentQuantizer(4, 8, average_decay=0.5, revive_below=0.0, rcs_encoder_share=0.0).train()
    posterior = Posterior(randn(4, 4, 8, 8, name="mean"), torch.full((4, 4, 8, 8), -9.0))
    noise = torch.zeros(4, 4, 8, 8)
    layer.codebook.embedding.copy_(randn(8, 4, name="start"))
    layer.codebook.sums.copy_(layer.codebook.embedding)
    losses = []
    for _ in range(60):
        losses.append(layer(posterior, noise).terms["rcs"].item())
        layer.finish_step()
    assert losses[-1] < 0.7 * losses[0]
    tokens = layer(posterior, noise).tokens.flatten()
    rows = posterior.mean.permute(0, 2, 3, 1).reshape(-1, 4)
    for k in tokens.unique():
        assert torch.allclose(layer.codebook()[k], rows[tokens == k].mean(dim=0), atol=1e-2)


def test_no_gradient_moves_an_averaged_codebook_so_terms_that_need_one_are_refused() -> None:
    for options in ({"dcr_weight": 0.1}, {"codebook_gradient": True}):
        with pytest.raises(ValueError, match=r"needs codebook: embedding or projected"):
            VariationalLatentQuantizer(4, 8, **options)


@pytest.mark.parametrize("term", ["rcs", "dcr", "kl"])
def test_a_weight_of_zero_removes_exactly_its_term(term: str) -> None:
    weights = {"codebook": "projected", "rcs_weight": 1.0, "dcr_weight": 0.1, "kl_weight": 1e-3}
    assert set(VariationalLatentQuantizer(4, 16, **weights)(posterior_of_ones()).terms) == {"rcs", "dcr", "kl"}
    without = VariationalLatentQuantizer(4, 16, **{**weights, f"{term}_weight": 0.0})
    assert set(without(posterior_of_ones()).terms) == {"rcs", "dcr", "kl"} - {term}


def posterior_of_ones() -> Posterior:
    return Posterior(torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))


def test_the_continuous_path_goes_first_while_the_codebook_follows() -> None:
    layer = VariationalLatentQuantizer(4, 8, quantize_from=6, average_decay=0.5, revive_below=0.0).train()
    mean = randn(4, 4, 3, 3, name="mean").requires_grad_()
    posterior, noise = Posterior(mean, torch.full((4, 4, 3, 3), -2.0)), randn(4, 4, 3, 3, name="noise")
    for images_seen in (0, 4):
        assert int(layer.images_seen) == images_seen
        before, quantized = layer.codebook().clone(), layer(posterior, noise)
        assert torch.equal(quantized.latent, posterior.sample(noise))
        assert quantized.continuous is None
        assert (
            not quantized.terms["rcs"].requires_grad or not torch.autograd.grad(quantized.terms["rcs"], mean)[0].any()
        )
        layer.finish_step()
        assert not torch.equal(layer.codebook(), before)
    quantized = layer(posterior, noise)
    assert torch.allclose(quantized.latent, layer.lookup(quantized.tokens))
    assert torch.equal(quantized.continuous, posterior.sample(noise))
    assert torch.autograd.grad(quantized.terms["rcs"], mean)[0].any()
    layer.finish_step()
    assert int(layer.images_seen) == 8  # it stands from here on


@pytest.mark.parametrize("codebook", ["embedding", "projected"])
def test_while_the_continuous_path_goes_first_rcs_moves_a_descended_codebook_alone(codebook: str) -> None:
    layer = VariationalLatentQuantizer(4, 8, quantize_from=100, codebook=codebook).train()
    mean = randn(4, 4, 3, 3, name="mean").requires_grad_()
    term = layer(Posterior(mean, torch.zeros(4, 4, 3, 3))).terms["rcs"]
    to_mean, to_codebook = torch.autograd.grad(term, [mean, layer.codebook.embedding])
    assert not to_mean.any()
    assert to_codebook.any()
