"""FSQ, LFQ and BSQ against vector-quantize-pytorch in tokens, codewords, gradients and entropies, and plain loops."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from vector_quantize_pytorch import FSQ, LFQ

from vaevq.config import FsqConfig, LfqConfig
from vaevq.config.levels import chosen_levels
from vaevq.quantization import BinarySphericalQuantizer, FiniteScalarQuantizer, LookupFreeQuantizer, Posterior
from vaevq.quantization.baselines.binary import bit_entropy, entropy_of_mean
from vaevq.quantization.baselines.scalar import ScalarQuantizer
from vaevq.seeding import generator


def randn(*shape: int, name: str = "x", dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(name), dtype=dtype)


def codewords(layer: ScalarQuantizer) -> Tensor:
    return layer.lookup(torch.arange(layer.codebook_size).view(1, 1, -1))[0, :, 0].T


def same_in_value_and_gradient(layer: ScalarQuantizer, theirs: torch.nn.Module, latents: Tensor) -> None:
    one, other = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    pull = randn(*latents.shape, name="pull").to(latents)
    result, (latent, tokens, *_) = layer.train()(Posterior(one)), theirs.train()(other)
    assert torch.equal(result.tokens, tokens.long())
    assert torch.allclose(result.latent, latent, atol=1e-6)
    assert torch.allclose(layer.lookup(result.tokens), latent, atol=1e-6)
    (result.latent * pull).sum().backward()
    (latent * pull).sum().backward()
    assert float(one.grad.abs().max()) > 0
    assert torch.allclose(one.grad, other.grad, atol=1e-6)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (4, 4, 4), (7, 6), (3,), (16, 15)])
def test_fsq_equals_vector_quantize_pytorch_in_tokens_codewords_and_gradient(levels: tuple[int, ...]) -> None:
    layer = FiniteScalarQuantizer(len(levels), math.prod(levels), levels=levels).double()
    theirs = FSQ(list(levels)).double()
    same_in_value_and_gradient(layer, theirs, 2 * randn(2, len(levels), 5, 7))
    assert torch.allclose(codewords(layer), theirs.implicit_codebook.double())


def test_two_levels_of_fsq_are_the_symmetric_form_of_vector_quantize_pytorch() -> None:
    layer, theirs = FiniteScalarQuantizer(3, 8).double(), FSQ([2, 2, 2], preserve_symmetry=True).double()
    same_in_value_and_gradient(layer, theirs, 2 * randn(2, 3, 5, 7))
    assert set(codewords(layer).flatten().tolist()) == {-1.0, 1.0}


@settings(max_examples=30, deadline=None)
@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_tokens_and_the_codewords_of_a_grid_are_one_to_one(levels: list[int]) -> None:
    layer = FiniteScalarQuantizer(len(levels), math.prod(levels), levels=tuple(levels)).double()
    tokens = torch.arange(layer.codebook_size)
    found = codewords(layer)
    assert len(found.unique(dim=0)) == layer.codebook_size
    assert float(found.abs().max()) <= 1
    # A latent whose bounded value is the codeword: half-way within tanh's reach of every level.
    inside = (found.T[None, :, None] * layer.half_width + layer.offset) / layer.reach
    latents = torch.atanh(inside.clamp(-1 + 1e-9, 1 - 1e-9)) - layer.shift
    assert torch.equal(layer.encode(Posterior(latents)).flatten(), tokens)


def test_every_level_of_fsq_is_reached_and_none_beyond() -> None:
    layer = FiniteScalarQuantizer(1, 3000, levels=(3000,)).double()
    tokens = layer.encode(Posterior(torch.tensor([-50.0, 0.0, 50.0]).double().view(1, 1, 1, 3)))
    assert tokens.flatten().tolist() == [0, 1500, 2999]


def test_levels_are_chosen_as_equal_as_they_can_be() -> None:
    assert FsqConfig(code_dim=4, codebook_size=1024).levels == (8, 8, 4, 4)
    assert FsqConfig(code_dim=6, codebook_size=4096).levels == (4,) * 6
    assert FsqConfig(code_dim=3, codebook_size=240).levels == (8, 6, 5)
    assert FsqConfig().levels == (4, 4, 4, 4, 2, 2, 2, 2)
    assert chosen_levels(7 * 2, 2) is None


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 3000), dim=st.integers(1, 5))
def test_levels_are_chosen_where_an_exhaustive_search_finds_some(size: int, dim: int) -> None:
    divisors = [n for n in range(2, size + 1) if size % n == 0]
    every = [
        tuple(sorted(found, reverse=True))
        for found in itertools.combinations_with_replacement(divisors, dim)
        if math.prod(found) == size and max(found) <= 2 * min(found)
    ]
    chosen = chosen_levels(size, dim)
    assert (chosen is None) == (not every)
    if chosen is not None:
        assert chosen in every
        assert chosen[0] / chosen[-1] == min(levels[0] / levels[-1] for levels in every)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"code_dim": 4, "codebook_size": 4096, "levels": (8, 5, 5, 5)},
            r"levels \[8, 5, 5, 5\] go with code_dim 4 and codebook_size 1000, not 4 and 4096: "
            r"write code_dim: 4 and codebook_size: 1000",
        ),
        (
            {"code_dim": 8, "codebook_size": 77},
            r"codebook_size 77 is no product of code_dim 8 numbers .*; write codebook_size: 256 "
            r"\(levels 2, 2, 2, 2, 2, 2, 2, 2\) or code_dim: 2 \(levels 11, 7\), or levels",
        ),
        ({"code_dim": 64, "codebook_size": 1024}, r"write code_dim: 10 \(levels 2, 2, .*\), or levels"),
        ({"levels": (1, 4)}, "greater than or equal to 2"),
        ({"levels": ()}, "at least 1 item"),
    ],
)
def test_what_cannot_be_a_grid_says_what_to_write(options: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FsqConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"code_dim": 6, "codebook_size": 77}, "no power of 2: write codebook_size: 64 with code_dim: 6, or .* 128"),
        ({"code_dim": 8, "codebook_size": 1024}, "write code_dim: 10 or codebook_size: 256"),
        ({"code_dim": 64, "codebook_size": 1024}, "write code_dim: 10$"),
    ],
)
def test_a_code_dim_that_is_not_the_number_of_bits_says_what_to_write(options: dict[str, int], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LfqConfig(**options)  # type: ignore[arg-type]
    (error,) = caught.value.errors()
    assert re.search(says, error["msg"])


def test_lfq_equals_vector_quantize_pytorch_in_tokens_codewords_and_gradient() -> None:
    layer, theirs = LookupFreeQuantizer(5, 32), LFQ(codebook_size=32)
    same_in_value_and_gradient(layer, theirs, randn(2, 5, 6, 7, dtype=torch.float32))
    assert torch.equal(codewords(layer), theirs.codebook)


def test_bsq_equals_spherical_lfq_of_vector_quantize_pytorch_in_tokens_codewords_and_gradient() -> None:
    layer, theirs = BinarySphericalQuantizer(5, 32), LFQ(codebook_size=32, spherical=True)
    same_in_value_and_gradient(layer, theirs, randn(2, 5, 6, 7, dtype=torch.float32))
    assert torch.allclose(codewords(layer), theirs.maybe_l2norm(theirs.codebook))


def their_terms(layer: LFQ, latents: Tensor, temperature: float) -> Tensor:
    _, terms = layer.train()(latents, inv_temperature=1 / temperature, return_loss_breakdown=True)
    return torch.stack([terms.per_sample_entropy, terms.batch_entropy, terms.commitment])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_lfqs_terms_equal_those_of_vector_quantize_pytorch_in_value_and_gradient(temperature: float) -> None:
    layer = LookupFreeQuantizer(5, 32, entropy_temperature=temperature).train()
    one = (0.3 * randn(2, 5, 6, 7, dtype=torch.float32)).requires_grad_()
    other = one.detach().clone().requires_grad_()
    per_sample, of_mean, commitment = their_terms(LFQ(codebook_size=32, commitment_loss_weight=1.0), other, temperature)
    terms = layer(Posterior(one)).terms
    assert terms["entropy"].item() == pytest.approx((per_sample - of_mean).item(), rel=1e-4)
    assert terms["commitment"].item() == pytest.approx(commitment.item(), rel=1e-5)
    (terms["entropy"] + terms["commitment"]).backward()
    (per_sample - of_mean + commitment).backward()
    assert torch.allclose(one.grad, other.grad, atol=1e-5)


def entropy_of_bits(p: list[float]) -> float:
    return -sum(x * math.log(x) + (1 - x) * math.log(1 - x) for x in p)


def test_bsqs_terms_equal_spherical_lfqs_in_one_group_and_the_papers_formula_in_groups_of_one() -> None:
    latents = randn(2, 5, 6, 7, dtype=torch.float32)
    theirs = LFQ(codebook_size=32, spherical=True, commitment_loss_weight=1.0)
    per_sample, of_mean, commitment = their_terms(theirs, latents, 0.8).tolist()
    units = torch.nn.functional.normalize(latents, dim=1).transpose(0, 1).flatten(1)
    factorized = entropy_of_bits(torch.sigmoid(4 * 5**-0.5 * units / 0.8).mean(dim=1).tolist())
    found = []
    for group in (1, 2, 5):
        layer = BinarySphericalQuantizer(5, 32, entropy_temperature=0.8, entropy_group=group).train()
        terms = layer(Posterior(latents)).terms
        assert terms["commitment"].item() == pytest.approx(commitment, rel=1e-5)
        found.append(per_sample - terms["entropy"].item())
    assert found[0] == pytest.approx(factorized, rel=1e-4)
    assert found[2] == pytest.approx(of_mean, rel=1e-4)
    assert found[0] > found[1] > found[2], "the larger the groups, the tighter the bound"


def test_two_opposite_codewords_look_like_all_to_the_papers_factorization_and_to_a_group_like_two() -> None:
    signs = torch.ones(1, 5, 1, 8) * torch.tensor([1.0, -1.0]).repeat(4)
    entropies = [
        BinarySphericalQuantizer(5, 32, entropy_temperature=1e-3, entropy_group=group).train()(Posterior(signs))
        for group in (1, 5)
    ]
    values = [-result.terms["entropy"].item() / math.log(2) for result in entropies]
    assert values == pytest.approx([5, 1], abs=1e-5)


def loops(logits: Tensor) -> tuple[float, float]:
    """E H(p) and H(E p) over all combinations of bits, number by number."""
    rows = []
    for logit in logits.tolist():
        ones = [1 / (1 + math.exp(-value)) for value in logit]
        rows.append(
            [
                math.prod(p if bit else 1 - p for p, bit in zip(ones, bits, strict=True))
                for bits in itertools.product((0, 1), repeat=len(ones))
            ]
        )

    def entropy(p: list[float]) -> float:
        return -sum(value * math.log(value) for value in p if value > 0)

    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return sum(map(entropy, rows)) / len(rows), entropy(means)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_entropies_of_bits_are_those_of_all_combinations(bits: int) -> None:
    logits = 2 * randn(13, bits)
    per_sample, of_mean = loops(logits)
    assert float(bit_entropy(logits).sum(dim=1).mean()) == pytest.approx(per_sample)
    assert float(entropy_of_mean(logits)) == pytest.approx(of_mean)


def test_entropies_and_their_gradients_are_finite_where_probabilities_underflow() -> None:
    logits = (1000 * randn(30, 6)).float().requires_grad_()
    (bit_entropy(logits).sum() + entropy_of_mean(logits)).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_entropies_of_2_to_the_18_codewords_hold_no_latents_times_codewords() -> None:
    logits = randn(4096, 18).float().requires_grad_()  # N×K would be 4 GiB
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        entropy_of_mean(logits).backward()
    assert max(sizes) <= 4096 * 512
    assert float(entropy_of_mean(100 * logits.detach().sign())) < math.log(4096) + 1e-3
