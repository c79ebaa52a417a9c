"""Wasserstein-VQ (Fang et al. 2025, arXiv 2506.15078): plain VQ + γ W₂(N(μ_z, Σ_z), N(μ_e, Σ_e)) to the latents.

Its gradient moves the codebook alone, as the authors write; latents and codewords are over the latents' largest σ.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vaevq.config import WassersteinConfig
from vaevq.quantization.baselines.vq import PointQuantizer
from vaevq.quantization.codebook import Codebook
from vaevq.quantization.dcr import distribution_consistency
from vaevq.quantization.moments import Gaussian, RunningMoments
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized

FLOOR = 1e-10
"""Added under the root, which has no gradient at 0."""


class WassersteinQuantizer(PointQuantizer):
    """Vector quantization with a codebook that is drawn to the distribution of the latents.

    The distance is W₂ itself, not its square, as in the authors' code. The latents' moments are averaged over
    micro-batches and processes, where that code keeps a process's last 32,768 latents, a few of its steps.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.WassersteinConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = WassersteinConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(
            Codebook(codebook_size, code_dim),
            codebook_weight=config.codebook_weight,
            commitment_weight=config.commitment_weight,
        )
        self._weights["wasserstein"] = config.wasserstein_weight
        self.moments = RunningMoments(code_dim, config.moments_decay) if config.wasserstein_weight else None

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weights of plain VQ's two sides, and γ of the distance."""
        return self._weights

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the mean; `noise` has no meaning here."""
        quantized = super().forward(posterior)
        if not self.training or self.moments is None:
            return quantized
        latents = self.moments.update(posterior.mean)
        terms = {**quantized.terms, "wasserstein": scaled_distance(self.codebook(), latents)}
        return replace(quantized, terms=terms)


def scaled_distance(codewords: Tensor, latents: Gaussian) -> Tensor:
    """W₂ in units of the latents' largest standard deviation, a scalar; differentiable in the codewords, K×d."""
    unit = latents.covariance.diagonal().max().clamp_min(FLOOR).sqrt()
    target = Gaussian(latents.mean / unit, latents.covariance / unit.square())
    return (distribution_consistency(codewords / unit, target).clamp_min(0) + FLOOR).sqrt()
