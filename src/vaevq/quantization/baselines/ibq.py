"""IBQ (Shi et al. 2024, arXiv 2412.02692): z_q = (onehot − sg(p) + p) C, p = softmax(C z), so all codewords learn.

The loss is its double quantization loss, ‖z − z_q‖² + ‖z − sg(e)‖² + β ‖sg(z) − e‖², and an entropy penalty.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vaevq.config import IbqConfig
from vaevq.nn.grid import as_grid
from vaevq.quantization.baselines.assignment import entropy_penalty, float_rows, largest_product
from vaevq.quantization.baselines.vq import PointQuantizer
from vaevq.quantization.codebook import Codebook, lookup
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized


class IndexBackpropagationQuantizer(PointQuantizer):
    """Index backpropagation quantization: the codeword of the largest product with the latent, not the nearest one.

    Training holds several N×K tensors for N = B·h·w latents: at 16,384 of each, 1 GiB apiece in float32. Evaluation
    works in tiles. β stands on the codebook's side and codewords start from N(0, I), as in the authors' code.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.IbqConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = IbqConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(
            Codebook(codebook_size, code_dim),
            codebook_weight=config.codebook_weight,
            commitment_weight=config.commitment_weight,
        )
        # At VQ-VAE's start within ±1/K all products are alike, and the softmax passes hardly any gradient.
        nn.init.normal_(self.codebook.embedding)
        self._weights |= {"index": config.index_weight, "entropy": config.entropy_weight}
        self._temperature = config.entropy_temperature

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the mean; `noise` has no meaning here."""
        latent, codewords = posterior.mean, self.codebook()
        if not self.training:
            tokens = self.encode(posterior)
            return Quantized(lookup(tokens, codewords), tokens)
        with torch.autocast(latent.device.type, enabled=False):
            logits = float_rows(latent) @ codewords.T
            soft = as_grid(logits.softmax(dim=1) @ codewords.detach(), latent)
        tokens = as_grid(logits.detach().argmax(dim=1), latent)[:, 0]
        codeword = lookup(tokens, codewords)
        # The one-hot's value reaches the codebook, its gradient the softmax: two products instead of an N×K one-hot.
        quantized = codeword + (soft - soft.detach())
        terms = dict[str, Tensor]()
        if self._weights["index"]:
            terms["index"] = mse_loss(quantized, latent)
        if self._weights["codebook"]:
            terms["codebook"] = mse_loss(codeword, latent.detach())
        if self._weights["commitment"]:
            terms["commitment"] = mse_loss(latent, codeword.detach())
        if self._weights["entropy"]:
            terms["entropy"] = entropy_penalty(logits, self._temperature)
        return Quantized(quantized, tokens, terms=terms)

    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens of the posterior's mean, int64 B×h×w."""
        tokens = largest_product(float_rows(posterior.mean), self.codebook())
        return as_grid(tokens, posterior.mean)[:, 0]

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weights of the double quantization loss and of the entropy penalty."""
        return self._weights
