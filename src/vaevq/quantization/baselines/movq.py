"""Multichannel quantization of MoVQ (Zheng et al. 2022, arXiv 2209.09002): q chunks of the channels share a codebook.

The other half of MoVQ, a decoder that the latent modulates, is `model.autoencoder.modulated`, for any quantizer.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from vaevq.config import MoVQConfig
from vaevq.quantization.baselines.vq import PointQuantizer
from vaevq.quantization.codebook import Codebook, lookup, nearest_tokens
from vaevq.quantization.codes import apart, together
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized


class MultichannelQuantizer(PointQuantizer):
    """Plain vector quantization of each of q chunks of d/q channels, over one codebook of d/q dimensions.

    Args:
        code_dim: d, a multiple of q.
        codebook_size: K.
        options: the further fields of `vaevq.config.MoVQConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = MoVQConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(
            Codebook(codebook_size, code_dim // config.codes_per_position),
            codebook_weight=config.codebook_weight,
            commitment_weight=config.commitment_weight,
        )
        self.code_dim = code_dim
        self.codes_per_position = config.codes_per_position

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the mean; `noise` has no meaning here."""
        quantized = super().forward(Posterior(self._chunks(posterior.mean)))
        tokens = together(quantized.tokens, self.codes_per_position)
        return replace(quantized, latent=self._whole(quantized.latent), tokens=tokens)

    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens of the posterior's mean, int64 B×h×w×q; the i-th code is of the i-th chunk."""
        return together(nearest_tokens(self._chunks(posterior.mean), self.codebook()), self.codes_per_position)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codewords of tokens, one behind another: int64 B×h×w×q to B×d×h×w."""
        return self._whole(lookup(apart(tokens, self.codes_per_position), self.codebook()))

    def _chunks(self, latent: Tensor) -> Tensor:
        """B×d×h×w to (B·q)×(d/q)×h×w, an image's chunks one after another."""
        return latent.reshape(-1, self.code_dim // self.codes_per_position, *latent.shape[2:])

    def _whole(self, chunks: Tensor) -> Tensor:
        """The inverse of `_chunks`."""
        return chunks.reshape(-1, self.code_dim, *chunks.shape[2:])
