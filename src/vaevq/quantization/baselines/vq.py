"""Plain VQ (van den Oord et al. 2017, eq. 3; VQGAN): ‖sg(z) − e‖² + β ‖z − sg(e)‖², straight-through. The baseline."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import mse_loss

from vaevq.config import PlainConfig, PointGradient
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.codebook import Codebook, lookup, nearest_tokens
from vaevq.quantization.gradient import passed_on
from vaevq.quantization.posterior import Posterior
from vaevq.quantization.quantizer import Quantized, Quantizer
from vaevq.quantization.resizing import Resizing


class PointQuantizer(Quantizer):
    """What the quantizers without a posterior share: the mean is quantized, in training too.

    The decoder's gradient passes by `gradient`. The two loss terms are means over all elements; a term of weight 0 is
    not computed.
    """

    def __init__(
        self,
        codebook: Codebook | AveragedCodebook,
        *,
        codebook_weight: float,
        commitment_weight: float,
        gradient: PointGradient = "straight_through",
    ) -> None:
        super().__init__()
        self.code_dim = codebook.code_dim
        self.codebook_size = codebook.codebook_size
        self.codebook = codebook
        self._gradient: PointGradient = gradient
        self._weights = {"codebook": codebook_weight, "commitment": commitment_weight}

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weight of the codebook's side, and β of the encoder's."""
        return self._weights

    def forward(self, posterior: Posterior, noise: Tensor | None = None) -> Quantized:
        """Quantizes the mean; `noise` has no meaning here."""
        latent, codewords = posterior.mean, self.codebook()
        tokens = nearest_tokens(latent, codewords)
        codeword = lookup(tokens, codewords)
        if not self.training:
            return Quantized(codeword, tokens)
        self.codebook.observe(latent, tokens)
        terms = dict[str, Tensor]()
        if self._weights["codebook"]:
            terms["codebook"] = mse_loss(codeword, latent.detach())
        if self._weights["commitment"]:
            terms["commitment"] = mse_loss(latent, codeword.detach())
        return Quantized(passed_on(latent, codeword, self._gradient), tokens, terms=terms)

    def finish_step(self) -> None:
        """Moves an averaged codebook."""
        self.codebook.finish_step()

    def resize(self, resizing: Resizing) -> None:
        """Resizes the codebook."""
        self.codebook.resize(resizing)
        self.codebook_size = resizing.codebook_size

    def encode(self, posterior: Posterior) -> Tensor:
        """The tokens of the posterior's mean, int64 B×h×w."""
        return nearest_tokens(posterior.mean, self.codebook())

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codewords of tokens: int64 B×h×w to B×d×h×w."""
        return lookup(tokens, self.codebook())


class VectorQuantizer(PointQuantizer):
    """Plain vector quantization.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.PlainConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = PlainConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(
            Codebook(codebook_size, code_dim),
            codebook_weight=config.codebook_weight,
            commitment_weight=config.commitment_weight,
            gradient=config.gradient,
        )
