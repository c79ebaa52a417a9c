"""Quantizers without a codebook: each dimension is rounded by itself, and a token numbers the combination."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized, Quantizer


class ScalarQuantizer(Quantizer):
    """What FSQ, LFQ and BSQ share: the codewords are a grid, K = Π levels, of which nothing is stored.

    Digit j of dimension i stands for the value (j − centre_i) / half_width_i. There is nothing in the state.

    Args:
        levels: of each of the d dimensions, at least 2.
        half_width: by how much a digit is divided, d.
        first_is_lowest: whether the first dimension's digit is the lowest of the token, or the highest.
    """

    levels: Tensor
    place: Tensor
    centre: Tensor
    half_width: Tensor

    def __init__(self, levels: Sequence[int], half_width: Sequence[float], *, first_is_lowest: bool) -> None:
        super().__init__()
        self.code_dim = len(levels)
        self.codebook_size = math.prod(levels)
        before = [math.prod(levels[:i] if first_is_lowest else levels[i + 1 :]) for i in range(len(levels))]
        # Values are symmetric about 0 but where an even number above 2 has one level more below it.
        centre = [0.5 if count == 2 else float(count // 2) for count in levels]
        for name, values in (("levels", levels), ("place", before), ("centre", centre), ("half_width", half_width)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @abstractmethod
    def relaxed(self, mean: Tensor) -> Tensor:
        """What is rounded to a codeword and carries its gradient: B×d×h×w, any real numbers, to the same."""

    def terms(self, relaxed: Tensor, codeword: Tensor) -> Mapping[str, Tensor]:
        """The loss terms in training: none, unless a quantizer has some."""
        return {}

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the mean, straight through in training; `noise` has no meaning here."""
        relaxed = self.relaxed(posterior.mean)
        tokens = self._tokens(relaxed)
        codeword = self.lookup(tokens)
        if not self.training:
            return Quantized(codeword, tokens)
        latent = relaxed + (codeword - relaxed).detach()
        return Quantized(latent, tokens, terms=self.terms(relaxed, codeword))

    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens of the posterior's mean, int64 B×h×w."""
        return self._tokens(self.relaxed(posterior.mean))

    def lookup(self, tokens: Tensor) -> Tensor:
        """The values of tokens' digits: int64 B×h×w to B×d×h×w."""
        digits = tokens[:, None] // self.place % self.levels
        return (digits.to(self.centre.dtype) - self.centre) / self.half_width

    def nearest(self, latent: Tensor) -> Tensor:
        """The nearest tokens to latents as `lookup` gives them, int64 B×h×w, without a table of all codewords."""
        return self._tokens(latent)

    def _tokens(self, relaxed: Tensor) -> Tensor:
        """The nearest digit of each dimension, as one number."""
        digits = (relaxed.detach() * self.half_width + self.centre).round().long()
        return (digits.clamp_min(0).minimum(self.levels - 1) * self.place).sum(dim=1)
