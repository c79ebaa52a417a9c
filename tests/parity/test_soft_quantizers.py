"""IBQ and SoftVQ against vector-quantize-pytorch's straight-through one-hot and against plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import gumbel_sample

from vaevq.quantization import IndexBackpropagationQuantizer, Posterior, SoftVectorQuantizer
from vaevq.quantization.baselines.assignment import entropy_penalty, largest_product
from vaevq.seeding import generator

WEIGHTS = {"index": 1.0, "codebook": 0.25, "commitment": 1.0}


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=torch.float64)


def loops_entropy(logits: Tensor, temperature: float) -> float:
    """E H(p) − H(E p) number by number."""
    rows = []
    for logit in (logits / temperature).tolist():
        powers = [math.exp(value - max(logit)) for value in logit]
        rows.append([power / sum(powers) for power in powers])
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def entropy(p: list[float]) -> float:
        return -sum(value * math.log(value) for value in p if value > 0)

    return sum(map(entropy, rows)) / len(rows) - entropy(means)


def flat(grid: Tensor) -> Tensor:
    return grid.permute(0, 2, 3, 1).flatten(0, 2)


def ibq(**options: float) -> IndexBackpropagationQuantizer:
    layer = IndexBackpropagationQuantizer(6, 20, **options).double().train()
    layer.codebook.embedding.data.copy_(randn(20, 6, name="codebook"))
    return layer


def test_ibq_equals_the_straight_through_one_hot_of_vector_quantize_pytorch_in_value_and_gradient() -> None:
    options = {f"{name}_weight": weight for name, weight in WEIGHTS.items()}
    layer = ibq(entropy_weight=0.0, **options)
    latents, pull = randn(2, 6, 3, 4, name="latents"), randn(2, 6, 3, 4, name="pull")
    codewords = layer.codebook.embedding.detach().clone().requires_grad_()
    mine, theirs = latents.clone().requires_grad_(), latents.clone().requires_grad_()

    logits = torch.einsum("bdhw,kd->bhwk", theirs, codewords)
    tokens, one_hot = gumbel_sample(logits, straight_through=True, stochastic=False)
    latent = torch.einsum("bhwk,kd->bdhw", one_hot, codewords)
    hard = torch.einsum("bhwk,kd->bdhw", F.one_hot(tokens, 20).double(), codewords)
    expected = {
        "index": (latent - theirs).square().mean(),
        "commitment": (hard.detach() - theirs).square().mean(),
        "codebook": (hard - theirs.detach()).square().mean(),
    }
    result = layer(Posterior(mine))
    assert torch.equal(result.tokens, tokens)
    assert torch.allclose(result.latent, latent)
    assert layer.term_weights == {**WEIGHTS, "entropy": 0.0}
    assert {name: float(term.detach()) for name, term in result.terms.items()} == pytest.approx(
        {name: float(term.detach()) for name, term in expected.items()}
    )

    (sum(WEIGHTS[name] * term for name, term in expected.items()) + (latent * pull).sum()).backward()
    (sum(WEIGHTS[name] * term for name, term in result.terms.items()) + (result.latent * pull).sum()).backward()
    assert torch.allclose(mine.grad, theirs.grad)
    assert torch.allclose(layer.codebook.embedding.grad, codewords.grad)


def test_in_ibq_every_codeword_gets_the_decoders_gradient() -> None:
    layer = ibq()
    result = layer(Posterior(randn(1, 6, 1, 1)))
    (result.latent * randn(1, 6, 1, 1, name="pull")).sum().backward()
    assert (layer.codebook.embedding.grad.abs().sum(dim=1) > 0).all()


def test_ibq_takes_the_codeword_of_the_largest_product_not_the_nearest_one() -> None:
    layer = IndexBackpropagationQuantizer(2, 2)
    layer.codebook.embedding.data.copy_(torch.tensor([[1.0, 0.0], [5.0, 5.0]]))
    posterior = Posterior(torch.tensor([1.0, 0.1]).view(1, 2, 1, 1))
    assert int(layer.train()(posterior).tokens) == int(layer.eval()(posterior).tokens) == 1


def test_ibqs_codewords_start_as_samples_of_the_normal_distribution() -> None:
    torch.manual_seed(0)
    codewords = IndexBackpropagationQuantizer(8, 2000).codebook().detach()
    assert float(codewords.std()) == pytest.approx(1, abs=0.05)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 300), k=st.integers(1, 9000), m=st.integers(1, 9))
def test_the_largest_product_in_tiles_is_the_largest_of_all(n: int, k: int, m: int) -> None:
    queries, keys = randn(n, m, name="q"), randn(k, m, name="k")
    assert torch.equal(largest_product(queries, keys), (queries @ keys.T).argmax(dim=1))


@pytest.mark.parametrize("temperature", [0.01, 0.3, 2.0])
def test_the_entropy_penalty_equals_plain_loops(temperature: float) -> None:
    logits = randn(40, 9)
    assert float(entropy_penalty(logits, temperature)) == pytest.approx(loops_entropy(logits, temperature), rel=1e-9)


def test_the_entropy_penalty_is_minus_ln_k_at_its_best_and_0_where_all_latents_are_alike() -> None:
    assert float(entropy_penalty(100 * torch.eye(8), 1.0)) == pytest.approx(-math.log(8))
    assert float(entropy_penalty(randn(1, 8).expand(5, 8), 0.7)) == pytest.approx(0, abs=1e-12)


def test_the_entropy_penaltys_gradient_is_finite_where_probabilities_underflow() -> None:
    logits = (100 * randn(30, 50)).float().requires_grad_()
    entropy_penalty(logits, 0.01).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_entropies_of_both_are_of_their_logits() -> None:
    latents = randn(2, 6, 3, 4, name="latents")
    layer = ibq(entropy_temperature=0.5)
    logits = flat(latents) @ layer.codebook.embedding.detach().T
    term = layer(Posterior(latents)).terms["entropy"].detach()
    assert float(term) == pytest.approx(loops_entropy(logits, 0.5))

    soft = SoftVectorQuantizer(6, 20, entropy_temperature=0.5).double().train()
    cosines = F.cosine_similarity(flat(latents)[:, None], soft.codebook.embedding.detach(), dim=2)
    term = soft(Posterior(latents)).terms["entropy"].detach()
    assert float(term) == pytest.approx(loops_entropy(cosines, 0.5))


def test_softvq_decodes_the_weighted_mean_of_unit_codewords_as_plain_loops_have_it() -> None:
    layer = SoftVectorQuantizer(3, 7, temperature=0.2).double().train()
    layer.codebook.embedding.data.copy_(randn(7, 3, name="codebook"))
    latents = randn(1, 3, 2, 2, name="latents")
    units = [[v / math.hypot(*codeword) for v in codeword] for codeword in layer.codebook.embedding.tolist()]
    result = layer(Posterior(latents))
    for i, latent in enumerate(flat(latents).tolist()):
        cosines = [sum(a * b for a, b in zip(latent, unit, strict=True)) / math.hypot(*latent) for unit in units]
        weights = [math.exp(cosine / 0.2) for cosine in cosines]
        expected = [sum(w * unit[j] for w, unit in zip(weights, units, strict=True)) / sum(weights) for j in range(3)]
        assert flat(result.latent)[i].tolist() == pytest.approx(expected)
        assert int(result.tokens.flatten()[i]) == cosines.index(max(cosines))


def test_softvqs_softmax_passes_gradient_to_the_encoder_alone_and_its_mean_to_the_codebook() -> None:
    torch.manual_seed(0)
    layer = SoftVectorQuantizer(6, 20).double().train()
    start = layer.codebook.embedding.detach()
    latents, pull = randn(2, 6, 3, 4, name="latents").requires_grad_(), randn(24, 6, name="pull")
    (flat(layer(Posterior(latents)).latent) * pull).sum().backward()

    mine, free, fixed = latents.detach().clone().requires_grad_(), start.clone().requires_grad_(), F.normalize(start)
    weights = (F.normalize(flat(mine)) @ fixed.T / 0.07).softmax(dim=1)
    (weights @ F.normalize(free) * pull).sum().backward()
    assert torch.allclose(latents.grad, mine.grad)
    assert torch.allclose(layer.codebook.embedding.grad, free.grad)


def test_towards_temperature_0_softvqs_mean_is_the_codeword_that_inference_takes() -> None:
    torch.manual_seed(0)
    layer, posterior = SoftVectorQuantizer(4, 16, temperature=1e-4).double(), Posterior(randn(2, 4, 3, 3))
    hard = layer.eval()(posterior)
    assert torch.allclose(layer.train()(posterior).latent, hard.latent, atol=1e-3)
    assert torch.allclose(hard.latent.norm(dim=1), torch.ones(2, 3, 3).double())
    warm = SoftVectorQuantizer(4, 16, temperature=0.5).double().train()
    assert not torch.allclose(warm(posterior).latent, warm.eval()(posterior).latent, atol=0.1)
