"""Gaussian quantization (Xu et al. 2025, arXiv 2512.06609): a Gaussian VAE, its KL steered to log₂K bits a position.

Nothing is quantized in training; at inference the codeword is that of K fixed points of N(0, I) that q favours most.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from vaevq.config import GaussianConfig
from vaevq.distributed import all_reduce_sum
from vaevq.nn.grid import as_grid
from vaevq.quantization.baselines.assignment import float_rows, largest_product
from vaevq.quantization.codebook import lookup
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized, Quantizer

FARTHEST = 1000.0
"""How far a position's KL outside the tolerance is weighted up or down, at most."""


class GaussianQuantizer(Quantizer):
    """Quantization of a Gaussian VAE without training it.

    A position takes the codeword of the largest log q(e) − β log N(e; 0, I) (the authors' code; for d = 1 the paper has
    the one nearest to the mean): β = 1 leaves dimensions out where the posterior is the prior, β = 0 is the likelihood.

    Training (the target divergence constraint) weights each position's KL by λ, by λ⁺ ≥ 1 more above the tolerance, and
    by λ⁻ ≤ 1 less below it; `finish_step` moves the three by a factor, towards a mean KL of log₂K and none outside.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.GaussianConfig`, by name.
    """

    codewords: Tensor
    steering: Tensor
    seen: Tensor

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        super().__init__()
        self.config = GaussianConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        self.code_dim = code_dim
        self.codebook_size = codebook_size
        self.register_buffer("codewords", gaussian_points(codebook_size, code_dim))
        self.register_buffer("steering", torch.ones(3))  # λ / kl_weight, λ⁺, λ⁻
        # Of the micro-batches of a step: positions, their bits, those above the tolerance, those below.
        self.register_buffer("seen", torch.zeros(4), persistent=False)

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weight that steering starts from."""
        return {"kl": self.config.kl_weight}

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """The posterior's sample in training, the codeword that it favours in evaluation mode."""
        tokens = self.encode(posterior)
        if not self.training:
            return Quantized(self.lookup(tokens), tokens)
        terms = {"kl": self._steered(posterior)} if self.config.kl_weight else {}
        return Quantized(posterior.sample(noise), tokens, terms=terms)

    @torch.no_grad()
    def finish_step(self) -> None:
        """Steers by what was seen since the last step, over all processes."""
        count, bits, above, below = all_reduce_sum(self.seen).unbind()
        if not count:
            return
        outside = torch.stack([bits > count * math.log2(self.codebook_size), above > 0, below == 0])
        self.steering *= torch.where(outside, self.config.kl_factor, 1 / self.config.kl_factor)
        self.steering[1].clamp_(1, FARTHEST)
        self.steering[2].clamp_(1 / FARTHEST, 1)
        self.seen.zero_()

    def abandon_step(self) -> None:
        """Forgets what was seen since the last step."""
        self.seen.zero_()

    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens that the posteriors favour, int64 B×h×w; of point masses the nearest ones."""
        if posterior.logvar is None:
            return self.nearest(posterior.mean)
        precision = float_rows(posterior.std).pow(-2)
        # −½ Σ (e − μ)² / σ² + ½ β Σ e² is, but for what is the same for all e, a product with (e², e).
        squares, products = 0.5 * (self.config.prior_weight - precision), float_rows(posterior.mean) * precision
        queries = torch.cat([squares, products], dim=1)
        tokens = largest_product(queries, torch.cat([self.codewords.square(), self.codewords], dim=1))
        return as_grid(tokens, posterior.mean)[:, 0]

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codewords of tokens: int64 B×h×w to B×d×h×w."""
        return lookup(tokens, self.codewords)

    def _steered(self, posterior: Posterior) -> Tensor:
        """The mean over positions of the weighted KL, in bits."""
        mean, logvar = posterior.mean, posterior.logvar
        assert logvar is not None, "a point mass has no finite KL to a Gaussian"
        bits = 0.5 / math.log(2) * (mean.square() + torch.expm1(logvar) - logvar).sum(dim=1)
        target, tolerance = math.log2(self.codebook_size), self.config.kl_tolerance
        above, below = bits.detach() > target + tolerance, bits.detach() < target - tolerance
        self.seen += torch.stack([torch.ones_like(bits).sum(), bits.detach().sum(), above.sum(), below.sum()])
        strength, more, less = self.steering.clone().unbind()
        return strength * (bits * torch.where(above, more, torch.where(below, less, 1.0))).mean()


def gaussian_points(count: int, dim: int) -> Tensor:
    """count×dim points that are spread like N(0, I): a scrambled Sobol sequence through the normal quantile."""
    uniform = SobolEngine(dim, scramble=True, seed=42).draw(count, dtype=torch.float64)  # type: ignore[no-untyped-call]
    points: Tensor = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).float()
    return points
