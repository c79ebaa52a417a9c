"""SoftVQ (Chen et al. 2024, arXiv 2412.10958): training decodes softmax(cos(z, C) / τ) C, with a KL of two entropies.

Latents and codewords have norm 1, where the paper's distance and the authors' code's cosine agree on the nearest.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vaevq.config import SoftVQConfig
from vaevq.nn.grid import as_grid
from vaevq.quantization.baselines.assignment import entropy_penalty, float_rows
from vaevq.quantization.baselines.vq import PointQuantizer
from vaevq.quantization.codebook import Codebook
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized
from vaevq.quantization.search import LATENT_TILE


class UnitCodebook(Codebook):
    """Codewords of norm 1."""

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__(codebook_size, code_dim)
        # Else the first steps of an optimizer turn an embedding within ±1/K anywhere.
        self.embedding.data = normalize(self.embedding.data, dim=1)

    def forward(self) -> Tensor:
        """e_k, K×d."""
        return normalize(self.embedding, dim=1)


class SoftVectorQuantizer(PointQuantizer):
    """Soft vector quantization, made a tokenizer: at inference the nearest codeword stands for their mean.

    SoftVQ itself decodes the mean at inference too and has no tokens (`soft_latent`, which `eval.soft` measures); how
    far that is from the codeword is a matter of the temperature and of the entropies. Training holds several N×K
    tensors for N = B·h·w latents: at 16,384 of each, 1 GiB apiece in float32. As in the authors' code the softmax
    passes no gradient to the codebook, which learns as what is averaged.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.SoftVQConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        self.config = SoftVQConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(UnitCodebook(codebook_size, code_dim), codebook_weight=0.0, commitment_weight=0.0)

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weight of the entropies, E H(p) − H(E p): the KL of the categorical posterior to its aggregate."""
        return {"entropy": self.config.entropy_weight}

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """The mean of the codewords in training, the nearest one in evaluation mode; `noise` has no meaning here."""
        if not self.training:
            return super().forward(posterior)
        codewords = self.codebook()
        with torch.autocast(codewords.device.type, enabled=False):
            cosines = normalize(float_rows(posterior.mean), dim=1) @ codewords.detach().T
            latent = as_grid((cosines / self.config.temperature).softmax(dim=1) @ codewords, posterior.mean)
            terms = dict[str, Tensor]()
            if self.config.entropy_weight:
                terms["entropy"] = entropy_penalty(cosines, self.config.entropy_temperature)
        tokens = as_grid(cosines.detach().argmax(dim=1), posterior.mean)[:, 0]
        return Quantized(latent, tokens, terms=terms)

    def soft_latent(self, posterior: Posterior) -> Tensor:
        """The softmax-weighted mean of the codewords, B×d×h×w; works in tiles, so that no N×K tensor is held."""
        codewords = self.codebook()
        with torch.autocast(codewords.device.type, enabled=False):
            units = normalize(float_rows(posterior.mean), dim=1)
            parts = [
                (part @ codewords.to(part).T / self.config.temperature).softmax(dim=1) @ codewords.to(part)
                for part in torch.split(units, LATENT_TILE)
            ]
        return as_grid(torch.cat(parts), posterior.mean).to(codewords.dtype)
