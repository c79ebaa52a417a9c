"""Codebook statistics where they are known, and the ceiling against a uniform tokenizer."""

import math

import pytest
import torch

from vaevq.errors import UserError
from vaevq.metrics.codebook import TokenHistogram


def counted(counts: list[int]) -> TokenHistogram:
    histogram = TokenHistogram(len(counts))
    histogram.update(torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)))
    return histogram


def test_a_uniform_histogram_has_perplexity_k() -> None:
    statistics = counted([5] * 16).statistics()
    assert statistics.perplexity == pytest.approx(16)
    assert statistics.perplexity_share == pytest.approx(1)
    assert statistics.entropy_bits == pytest.approx(4)
    assert (statistics.usage, statistics.dead_codewords) == (1, 0)
    assert (statistics.tokens, statistics.tokens_per_codeword) == (80, 5)


def test_a_collapsed_codebook_has_perplexity_one() -> None:
    statistics = counted([0, 0, 7, 0]).statistics()
    assert (statistics.perplexity, statistics.entropy_bits) == (1, 0)
    assert (statistics.usage, statistics.dead_codewords) == (0.25, 3)


def test_entropy_of_a_skewed_histogram() -> None:
    statistics = counted([4, 2, 1, 1]).statistics()
    assert statistics.entropy_bits == pytest.approx(1.75)
    assert statistics.perplexity == pytest.approx(2**1.75)


def test_a_uniform_tokenizer_reaches_the_ceiling_and_no_more() -> None:
    size, tokens = 4096, 12_800
    histogram = TokenHistogram(size)
    histogram.update(torch.randint(0, size, (200, 8, 8), generator=torch.Generator().manual_seed(0)))
    statistics = histogram.statistics()
    assert statistics.usage_ceiling == pytest.approx(0.956, abs=5e-4), "the project's own example"
    assert statistics.usage_ceiling == pytest.approx(1 - math.exp(-tokens / size), rel=1e-12)
    assert statistics.usage_of_ceiling == pytest.approx(1, abs=0.01)


def test_tokens_of_any_shape_and_type_are_counted_alike() -> None:
    tokens = torch.randint(0, 9, (3, 4, 5, 2), generator=torch.Generator().manual_seed(1))
    several, plain = TokenHistogram(9), TokenHistogram(9)
    for image in tokens:
        several.update(image[None].to(torch.uint8))
    several.update(tokens[:0])
    plain.update(tokens)
    assert several.counts.tolist() == plain.counts.tolist()
    assert int(plain.counts.sum()) == 120


def test_codes_of_codebooks_of_their_own_are_counted_apart() -> None:
    tokens = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 3]])
    apart, together = TokenHistogram(4, codebooks=2), TokenHistogram(4)
    apart.update(tokens[None])
    together.update(tokens)
    assert apart.counts.tolist() == [4, 0, 0, 0, 0, 2, 1, 1]
    statistics = apart.statistics()
    assert (statistics.tokens, statistics.tokens_per_codeword, statistics.codebook_size) == (8, 1, 4)
    assert (statistics.usage, statistics.dead_codewords) == (0.5, 4), "taken together all four would be in use"
    assert together.statistics().usage == 1
    assert statistics.entropy_bits == pytest.approx((0 + 1.5) / 2)
    assert statistics.perplexity == pytest.approx(2**0.75)
    assert TokenHistogram.of_counts(apart.counts.tolist(), 2).statistics() == statistics
    with pytest.raises(UserError, match="a histogram of 8 codewords is not one of 3 codebooks"):
        TokenHistogram.of_counts(apart.counts.tolist(), 3)


def test_bits_per_pixel_at_a_fixed_rate_and_at_the_entropy() -> None:
    statistics = counted([4, 2, 1, 1]).statistics()
    assert statistics.fixed_bits_per_pixel(64) == pytest.approx(2 * 8 / 64)
    assert statistics.entropy_bits_per_pixel(64) == pytest.approx(1.75 * 8 / 64)


@pytest.mark.parametrize("token", [-1, 9])
def test_a_token_outside_the_codebook_is_refused(token: int) -> None:
    with pytest.raises(UserError, match=f"token {token} is outside the codebook of 9 codewords"):
        TokenHistogram(9).update(torch.tensor([3, token]))


def test_no_tokens_have_no_statistics() -> None:
    with pytest.raises(UserError, match="no tokens were counted"):
        TokenHistogram(9).statistics()
