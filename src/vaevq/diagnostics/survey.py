"""One walk over held-out images: the moments of their latents and the counts of their tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaevq.data.loader import ImageBatch
from vaevq.diagnostics.distortion import DistortionFigures, distortion_figures
from vaevq.diagnostics.latents import LatentFigures, LatentMoments, all_codewords, latent_figures
from vaevq.errors import UserError
from vaevq.metrics.codebook import TokenHistogram
from vaevq.tokenizer import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """A batch's means, B×d×h×w, and their tokens, int64 B×h×w or B×h×w×q."""

    means: Tensor
    tokens: Tensor


class Survey:
    """What is gathered of a tokenizer, in evaluation mode, while images go by.

    Attributes:
        codewords: K×d; None where a position has several codes.
        histogram: of the tokens.
        images: how many have gone by.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, quantizer = tokenizer, tokenizer.quantizer
        device = next(tokenizer.parameters()).device
        self.codewords = all_codewords(quantizer)
        self.histogram = TokenHistogram(quantizer.codebook_size, device, codebooks=quantizer.codebooks)
        self.images = 0
        self._moments = LatentMoments(quantizer.code_dim, device)

    @torch.no_grad()
    def update(self, batch: ImageBatch) -> Encoded:
        """Takes in a batch, on the tokenizer's device and in its format. UserError where the latents are not finite."""
        posterior = self._tokenizer.posterior(batch.images)
        parts = [part for part in (posterior.mean, posterior.logvar) if part is not None]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise UserError(f"{batch.names[0]}: the latents are not finite: this model has diverged")
        quantized = self._tokenizer.quantizer(posterior)
        self._moments.update(posterior, quantized.latent)
        self.histogram.update(quantized.tokens)
        self.images += len(batch.images)
        return Encoded(posterior.mean, quantized.tokens)

    def latents(self) -> LatentFigures:
        """Where the latents lie. UserError where the images have given a single one."""
        if self._moments.means.count < 2:
            raise UserError("diagnostics need at least 2 latents: measure on more or larger images")
        return latent_figures(self._moments, self.codewords)

    def distortion(self) -> DistortionFigures:
        """What quantization loses of them; after `latents`."""
        codes = self._tokenizer.quantizer.codes_per_position
        return distortion_figures(self._moments, self.histogram.statistics(), codes)
