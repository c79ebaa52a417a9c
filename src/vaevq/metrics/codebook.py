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
    """Figures of a histogram of T tokens over K codewords.

    Attributes:
        codebook_size: K.
        tokens: T.
        tokens_per_codeword: T/K; usage claims need at least `MINIMUM_TOKENS_PER_CODEWORD`.
        usage: share of the codewords that occur.
        usage_ceiling: 1 − e^(−T/K), the usage expected of a perfectly uniform tokenizer on T tokens.
        usage_of_ceiling: usage / usage_ceiling; chance can lift it slightly above 1.
        perplexity: 2^entropy, from 1 to K.
        perplexity_share: perplexity / K; unlike usage it does not hide a long tail.
        entropy_bits: entropy of the histogram in bits a token; biased low where T/K is small.
        dead_codewords: how many never occur.
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

    def fixed_bits_per_pixel(self, pixels: int) -> float:
        """Bits a pixel when each token is written with log₂K bits. `pixels`: H·W summed over the original images."""
        return math.log2(self.codebook_size) * self.tokens / pixels

    def entropy_bits_per_pixel(self, pixels: int) -> float:
        """Bits a pixel under an ideal entropy coder that knows this histogram and treats tokens as independent."""
        return self.entropy_bits * self.tokens / pixels


class TokenHistogram:
    """Counts how often each of the K codewords occurs, over batches and processes.

    Attributes:
        counts: int64 K.
    """

    def __init__(self, codebook_size: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.int64, device=device)

    @classmethod
    def of_counts(cls, counts: Sequence[int]) -> Self:
        """The histogram that was written as `counts`, one a codeword."""
        histogram = cls(len(counts))
        histogram.counts += torch.tensor(counts)
        return histogram

    def update(self, tokens: Tensor) -> None:
        """Counts integer tokens of any shape; codes of one position (B×h×w×q) all index the one codebook.

        Raises:
            UserError: a token lies outside 0 … K−1.
        """
        flat = tokens.detach().reshape(-1).to(self.counts.device, torch.int64)
        if flat.numel() == 0:
            return
        low, high = (int(v) for v in flat.aminmax())
        if low < 0 or high >= len(self.counts):
            outside = low if low < 0 else high
            raise UserError(f"token {outside} is outside the codebook of {len(self.counts)} codewords")
        self.counts += torch.bincount(flat, minlength=len(self.counts))

    def all_reduce(self) -> None:
        """Adds up the counts of all processes; afterwards each holds the whole."""
        self.counts = distributed.all_reduce_sum(self.counts)

    def statistics(self) -> CodebookStatistics:
        """The figures of what has been counted.

        Raises:
            UserError: nothing has been counted.
        """
        size, total = len(self.counts), int(self.counts.sum())
        if total == 0:
            raise UserError("no tokens were counted: codebook statistics need at least one image")
        seen = self.counts[self.counts > 0].cpu()
        shares = seen.double() / total
        # −0.0 where one codeword has everything.
        entropy = abs(float(-(shares * shares.log2()).sum()))
        per_codeword = total / size
        ceiling = -math.expm1(-per_codeword)
        usage = len(seen) / size
        return CodebookStatistics(
            codebook_size=size,
            tokens=total,
            tokens_per_codeword=per_codeword,
            usage=usage,
            usage_ceiling=ceiling,
            usage_of_ceiling=usage / ceiling,
            perplexity=2**entropy,
            perplexity_share=2**entropy / size,
            entropy_bits=entropy,
            dead_codewords=size - len(seen),
        )
