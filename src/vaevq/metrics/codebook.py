"""How much of the codebook a set of tokens uses, always beside what that many tokens can use at most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vaevq import distributed
from vaevq.errors import UserError

MINIMUM_TOKENS_PER_CODEWORD = 30
"""T/K below which no claim about usage is made."""


@dataclass(frozen=True)
class CodebookStatistics:
    """Figures of a histogram of T tokens over K codewords, or over those of several codebooks of K each.

    Attributes:
        codebook_size: K.
        tokens: T, all codes of a position counted.
        tokens_per_codeword: T/K, of several codebooks T over all their codewords; usage claims need at least
            `MINIMUM_TOKENS_PER_CODEWORD`.
        usage: share of the codewords that occur, over all codebooks.
        usage_ceiling: 1 − e^(−T/K), the usage expected of a perfectly uniform tokenizer on T tokens.
        usage_of_ceiling: usage / usage_ceiling; chance can lift it slightly above 1.
        perplexity: 2^entropy, from 1 to K.
        perplexity_share: perplexity / K; unlike usage it does not hide a long tail.
        entropy_bits: entropy of the histogram in bits a token; biased low where T/K is small. Of several codebooks the
            mean of theirs: each token is of a known one.
        dead_codewords: how many never occur.
        codebooks: how many there are.
    """

    codebook_size: int
    tokens: int
    tokens_per_codeword: float
    usage: float
    usage_ceiling: float
    usage_of_ceiling: float
    perplexity: float
    perplexity_share: float
    entropy_bits: float
    dead_codewords: int
    codebooks: int = 1

    def fixed_bits_per_pixel(self, pixels: int) -> float:
        """Bits a pixel when each token is written with log₂K bits. `pixels`: H·W summed over the original images."""
        return math.log2(self.codebook_size) * self.tokens / pixels

    def entropy_bits_per_pixel(self, pixels: int) -> float:
        """Bits a pixel under an ideal entropy coder that knows this histogram and treats tokens as independent."""
        return self.entropy_bits * self.tokens / pixels


class TokenHistogram:
    """Counts how often each codeword occurs, over batches and processes.

    Args:
        codebook_size: K.
        codebooks: 1, which all tokens index, or q, where the i-th code of a position indexes the i-th.

    Attributes:
        counts: int64 K, of several codebooks one after another.
    """

    def __init__(self, codebook_size: int, device: torch.device | str = "cpu", *, codebooks: int = 1) -> None:
        self.codebook_size = codebook_size
        self.codebooks = codebooks
        self.counts = torch.zeros(codebooks * codebook_size, dtype=torch.int64, device=device)

    @classmethod
    def of_counts(cls, counts: Sequence[int], codebooks: int = 1) -> Self:
        """The histogram that was written as `counts`, one a codeword. UserError where they are not of so many."""
        if codebooks < 1 or len(counts) % codebooks:
            raise UserError(f"a histogram of {len(counts)} codewords is not one of {codebooks} codebooks")
        histogram = cls(len(counts) // codebooks, codebooks=codebooks)
        histogram.counts += torch.tensor(counts)
        return histogram

    def update(self, tokens: Tensor) -> None:
        """Counts integer tokens: of any shape, or with a last axis of q where there are q codebooks.

        Raises:
            UserError: a token lies outside 0 … K−1.
        """
        tokens = tokens.detach().to(self.counts.device, torch.int64)
        if tokens.numel() == 0:
            return
        low, high = torch.stack(tokens.aminmax()).tolist()
        if low < 0 or high >= self.codebook_size:
            outside = low if low < 0 else high
            raise UserError(f"token {outside} is outside the codebook of {self.codebook_size} codewords")
        if self.codebooks > 1:
            assert tokens.shape[-1] == self.codebooks, "a code of each codebook"
            tokens = tokens + self.codebook_size * torch.arange(self.codebooks, device=tokens.device)
        self.counts += torch.bincount(tokens.reshape(-1), minlength=len(self.counts))

    def all_reduce(self) -> None:
        """Adds up the counts of all processes; afterwards each holds the whole."""
        self.counts = distributed.all_reduce_sum(self.counts)

    def statistics(self) -> CodebookStatistics:
        """The figures of what has been counted.

        Raises:
            UserError: nothing has been counted.
        """
        codewords, total = len(self.counts), int(self.counts.sum())
        if total == 0:
            raise UserError("no tokens were counted: codebook statistics need at least one image")
        used = int((self.counts > 0).sum())
        # Each codebook has as many tokens as another.
        entropy = sum(map(_entropy, self.counts.cpu().chunk(self.codebooks))) / self.codebooks
        per_codeword = total / codewords
        ceiling = -math.expm1(-per_codeword)
        usage = used / codewords
        return CodebookStatistics(
            codebook_size=self.codebook_size,
            tokens=total,
            tokens_per_codeword=per_codeword,
            usage=usage,
            usage_ceiling=ceiling,
            usage_of_ceiling=usage / ceiling,
            perplexity=2**entropy,
            perplexity_share=2**entropy / self.codebook_size,
            entropy_bits=entropy,
            dead_codewords=codewords - used,
            codebooks=self.codebooks,
        )


def _entropy(counts: Tensor) -> float:
    """In bits, of a histogram that is not empty."""
    shares = counts[counts > 0].double() / int(counts.sum())
    # −0.0 where one codeword has everything.
    return abs(float(-(shares * shares.log2()).sum()))
