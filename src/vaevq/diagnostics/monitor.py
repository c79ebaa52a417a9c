"""What of the diagnostics is logged while a tokenizer trains: scalars, of a few held-out images."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from vaevq import distributed
from vaevq.config import EvalConfig
from vaevq.data.index import ImageIndex
from vaevq.data.loader import ImageBatch, evaluation_batches
from vaevq.diagnostics.claims import changed_tokens, codeword_drift, together
from vaevq.diagnostics.gradients import term_gradients
from vaevq.diagnostics.survey import Survey
from vaevq.losses.objective import TokenizerObjective
from vaevq.tokenizer import Tokenizer

OF_LATENTS = (
    *("posterior_variance_sum", "sigma_mean", "sigma_q05", "sigma_median", "sigma_q95", "posterior_kl_sum"),
    *("mean_dimension", "codebook_dimension"),
    *("w2_codebook_means", "w2_codebook_prior"),
)
OF_DISTORTION = ("quantization_error_share", "reference_share")
"""Of the sections of the whole diagnosis, these figures are logged, under their names there."""


@dataclass(frozen=True)
class _Moment:
    """What stability compares: the tokens of each image by its position, and the codewords where they are K×d."""

    tokens: dict[int, Tensor]
    codewords: Tensor | None


class Monitor:
    """Measures the same images time after time, in one process, and leaves what it measures as it is.

    Args:
        held_out: images that are not trained on; `config.images` of them are encoded.
        config: how they are prepared.
        gradient_batch: training images, see `gradients.gradient_batch`; None leaves the gradients out.
    """

    def __init__(self, held_out: ImageIndex, config: EvalConfig, gradient_batch: ImageBatch | None) -> None:
        self._held_out, self._config, self._gradient_batch = held_out, config, gradient_batch
        self._before: _Moment | None = None

    def measure(
        self, tokenizer: Tokenizer, objective: TokenizerObjective, discriminator: nn.Module | None = None
    ) -> dict[str, float]:
        """The figures by name, with the RMS of each term's gradient as `gradient/TERM`; NaN where there is none.

        What a quantizer does not have is left out, as is, the first time, what has changed since the time before.

        Args:
            tokenizer: in evaluation mode.
            objective: the run's.
            discriminator: bare, where it has joined.

        Raises:
            UserError: images that do not fit the model or cannot be read, a model that has diverged.
        """
        with distributed.alone():
            survey, tokens = Survey(tokenizer), dict[int, Tensor]()
            batches = evaluation_batches(self._held_out, self._config, tokenizer.config.autoencoder.image_channels)
            for batch in together(batches, tokenizer):
                found = survey.update(batch).tokens
                tokens.update(zip(batch.positions.tolist(), found.cpu().unbind(), strict=True))
            latents, distortion = survey.latents(), survey.distortion()
            values = {name: getattr(latents, name) for name in OF_LATENTS}
            values = {name: value for name, value in values.items() if value is not None}
            values |= {name: getattr(distortion, name) for name in OF_DISTORTION}
            values |= self._since_before(_Moment(tokens, survey.codewords))
            if self._gradient_batch is not None:
                (batch,) = together([self._gradient_batch], tokenizer)
                for row in term_gradients(tokenizer, batch, objective, discriminator):
                    values[gradient_name(row.term)] = row.rms
        return {name: math.nan if value is None else value for name, value in values.items()}

    def _since_before(self, now: _Moment) -> dict[str, float | None]:
        before, self._before = self._before, now
        # An image that could be read but once is in one of the two alone.
        common = now.tokens.keys() & before.tokens.keys() if before is not None else ()
        if before is None or not common:
            return {}
        changed = changed_tokens((now.tokens[image], before.tokens[image]) for image in common)
        if now.codewords is None or before.codewords is None:
            return {"changed_tokens": changed}
        if len(before.codewords) != len(now.codewords):  # resized: indices are others
            return {}
        return {"changed_tokens": changed, "codeword_drift": codeword_drift(now.codewords, before.codewords)}


def gradient_name(term: str) -> str:
    """What the gradient of a term is logged as: `gradient/pixel_quantized` of `pixel, quantized`."""
    return f"gradient/{term.replace(', ', '_')}"
