"""All diagnostics of a trained tokenizer in one call, for people and for programs."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vaevq import distributed
from vaevq.config import EvalConfig, LossConfig
from vaevq.data.index import ImageIndex
from vaevq.data.loader import ImageBatch, evaluation_batches
from vaevq.diagnostics.claims import (
    AlignmentFigures,
    OverfittingFigures,
    SmoothnessFigures,
    StabilityFigures,
    alignment,
    overfitting,
    smoothness,
    stability,
    together,
)
from vaevq.diagnostics.distortion import DistortionFigures
from vaevq.diagnostics.figures import rows_of
from vaevq.diagnostics.gradients import TermGradient, gradient_batch, shuffled, term_gradients
from vaevq.diagnostics.hubs import HubFigures, LatentSample, hub_figures
from vaevq.diagnostics.latents import LatentFigures
from vaevq.diagnostics.survey import Survey
from vaevq.errors import UserError
from vaevq.losses.objective import TokenizerObjective
from vaevq.metrics.networks import lpips_network
from vaevq.metrics.result import FigureRow
from vaevq.nn.discriminator import PatchDiscriminator
from vaevq.tokenizer import Tokenizer

PROBED = 128
"""At most so many images a side are decoded over and over for the claims; latents are of all held-out images."""


@dataclass(frozen=True)
class Diagnosis:
    """Why a tokenizer does well or badly.

    Attributes:
        model_digest: which weights.
        images: held-out images that were encoded.
        probed: of them, how many the claims were measured on.
        hubs: None where a position has several codes: no codeword is of positions.
        stability: None without an earlier state.
        gradients: of each loss term, `total` last.
    """

    model_digest: str
    images: int
    probed: int
    latents: LatentFigures
    distortion: DistortionFigures
    hubs: HubFigures | None
    smoothness: SmoothnessFigures
    stability: StabilityFigures | None
    alignment: AlignmentFigures
    overfitting: OverfittingFigures
    gradients: tuple[TermGradient, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers; None for what there is not or what is not finite."""
        tree: dict[str, Any] = _finite(dataclasses.asdict(self))
        return tree

    def rows(self) -> list[FigureRow]:
        """Every figure that this tokenizer has, with its unit and what it is."""
        sections = (
            self.latents,
            self.distortion,
            self.hubs,
            self.smoothness,
            self.stability,
            self.alignment,
            self.overfitting,
        )
        rows = [row for section in sections if section is not None for row in rows_of(section)]
        return rows + [_gradient_row(gradient) for gradient in self.gradients]


@distributed.alone()
def diagnose(
    tokenizer: Tokenizer,
    held_out: ImageIndex,
    train: ImageIndex,
    eval_config: EvalConfig,
    loss_config: LossConfig,
    *,
    device: torch.device | str,
    earlier: Tokenizer | None = None,
    discriminator: PatchDiscriminator | None = None,
) -> Diagnosis:
    """Measures on deterministic encodings, in one process. The models that are given stay as they are.

    Args:
        tokenizer: trained.
        held_out: images that it was not trained on; `eval_config.images` of them are encoded.
        train: images that it was trained on.
        eval_config: how both are prepared; its metrics do not matter here.
        loss_config: what it was trained with, for the gradients.
        device: where the networks run.
        earlier: a state of the same run, for stability.
        discriminator: of the same run, for the gradient of the adversarial term.

    Raises:
        UserError: fewer than two held-out images, no training image, images that do not fit the model, a model that
            has diverged, an `earlier` of another shape, perceptual weights that are not there.
    """
    if len(held_out) < 2 or len(train) < 1:
        raise UserError(
            f"diagnostics need at least 2 held-out images and 1 training image, not {len(held_out)} and {len(train)}"
        )
    copied = copy.deepcopy(tokenizer).to(device).eval()
    channels = copied.config.autoencoder.image_channels

    def walk(index: ImageIndex, config: EvalConfig = eval_config) -> Iterator[ImageBatch]:
        return together(evaluation_batches(index, config, channels), copied)

    survey, sample = Survey(copied), LatentSample(copied.quantizer.code_dim)
    for batch in walk(held_out):
        sample.update(batch.positions, survey.update(batch).means)
    latents, codewords = survey.latents(), survey.codewords
    rms = (sum(latents.mean_eigenvalues) / len(latents.mean_eigenvalues)) ** 0.5

    most = min(PROBED, eval_config.images or PROBED)
    probed, known = shuffled(held_out, most), shuffled(train, most)
    before = copy.deepcopy(earlier).to(device).eval() if earlier is not None else None
    plain = eval_config.model_copy(update={"images": None})
    return Diagnosis(
        model_digest=tokenizer.digest,
        images=survey.images,
        probed=len(probed),
        latents=latents,
        distortion=survey.distortion(),
        hubs=hub_figures(sample.latents, codewords, survey.histogram.counts) if codewords is not None else None,
        smoothness=smoothness(copied, walk(probed, plain), rms),
        stability=stability(copied, before, walk(held_out)) if before is not None else None,
        alignment=alignment(copied, walk(probed, plain)),
        overfitting=overfitting(copied, walk(probed, plain), walk(known, plain)),
        gradients=tuple(_gradients(copied, gradient_batch(train, plain, channels), loss_config, discriminator)),
    )


def _gradients(
    tokenizer: Tokenizer, batch: ImageBatch, config: LossConfig, discriminator: PatchDiscriminator | None
) -> list[TermGradient]:
    like = next(tokenizer.parameters())
    lpips = None
    if config.perceptual_weight:
        lpips = lpips_network(config.perceptual_network, config.perceptual_weights_path).to(like.device, like.dtype)
    objective = TokenizerObjective(config, tokenizer.quantizer.term_weights, lpips)
    judge = copy.deepcopy(discriminator).to(like.device, like.dtype) if discriminator is not None else None
    return term_gradients(tokenizer, next(together([batch], tokenizer)), objective, judge)


def _gradient_row(gradient: TermGradient) -> FigureRow:
    along = "" if gradient.along is None else f", cosine to it {gradient.along:+.2f}"
    return FigureRow(
        f"gradient, {gradient.term}",
        f"{gradient.rms:.3g}",
        f"RMS at the encoder's output, {gradient.share:.1%} of the whole loss's{along}",
    )


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    match value:
        case dict():
            return {name: _finite(item) for name, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value
