"""All diagnostics of a trained tokenizer in one call, for people and for programs."""

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaevq.config import EvalConfig, LossConfig, RunConfig, read_json
from vaevq.data.held_out import run_images
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
from vaevq.diagnostics.distortion import DistortionFigures, distortion_figures
from vaevq.diagnostics.figures import rows_of
from vaevq.diagnostics.gradients import TermGradient, centre_cut, term_gradients
from vaevq.diagnostics.hubs import HubFigures, LatentSample, hub_figures
from vaevq.diagnostics.latents import LatentFigures, LatentMoments, all_codewords, latent_figures
from vaevq.errors import UserError
from vaevq.losses.objective import TokenizerObjective
from vaevq.metrics.codebook import TokenHistogram
from vaevq.metrics.networks import lpips_network
from vaevq.metrics.result import FigureRow
from vaevq.nn.discriminator import PatchDiscriminator
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer
from vaevq.training.checkpoint import checkpoints, load_checkpoint

PROBED = 128
"""At most so many images a side are decoded over and over for the claims; latents are of all held-out images."""

GRADIENT_IMAGES, GRADIENT_SIDE = 8, 128
"""Gradients are of so many training images, cut to so many pixels: the memory of a training step."""


@dataclass(frozen=True)
class Diagnosis:
    """Why a tokenizer does well or badly.

    Attributes:
        model_digest: which weights.
        images: held-out images that were encoded.
        probed: of them, how many the claims were measured on.
        stability: None without an earlier state.
        gradients: of each loss term, `total` last.
    """

    model_digest: str
    images: int
    probed: int
    latents: LatentFigures
    distortion: DistortionFigures
    hubs: HubFigures
    smoothness: SmoothnessFigures
    stability: StabilityFigures | None
    alignment: AlignmentFigures
    overfitting: OverfittingFigures
    gradients: tuple[TermGradient, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings, numbers and None."""
        return dataclasses.asdict(self)

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

    def walk(index: ImageIndex, config: EvalConfig = eval_config) -> Iterator[ImageBatch]:
        channels = copied.config.autoencoder.image_channels
        return together(evaluation_batches(index, config, channels), copied)

    survey = _survey(copied, walk(held_out))
    codewords = all_codewords(copied.quantizer)
    latents = latent_figures(survey.moments, codewords)
    statistics = survey.histogram.statistics()

    most = min(PROBED, eval_config.images or PROBED)
    probed, known = _shuffled(held_out, most), _shuffled(train, most)
    plain = eval_config.model_copy(update={"images": None})
    rms = (sum(latents.mean_eigenvalues) / len(latents.mean_eigenvalues)) ** 0.5
    before = copy.deepcopy(earlier).to(device).eval() if earlier is not None else None
    return Diagnosis(
        model_digest=tokenizer.digest,
        images=survey.images,
        probed=len(probed),
        latents=latents,
        distortion=distortion_figures(survey.moments, statistics),
        hubs=hub_figures(survey.sample.latents, codewords, survey.histogram.counts),
        smoothness=smoothness(copied, walk(probed, plain), rms),
        stability=stability(copied, before, walk(held_out)) if before is not None else None,
        alignment=alignment(copied, walk(probed, plain)),
        overfitting=overfitting(copied, walk(probed, plain), walk(known, plain)),
        gradients=tuple(_gradients(copied, next(walk(known, plain)), loss_config, discriminator)),
    )


def diagnose_run(run: Path, *, device: torch.device | str) -> Diagnosis:
    """The diagnosis of a run's averaged weights on its own images.

    Args:
        run: the folder of a run that has written a model. Its last checkpoint has the discriminator, the one before
            is what stability is measured against; either may be missing.
        device: where the networks run.

    Raises:
        UserError: no run folder, or one without a model; see `diagnose`.
    """
    if not (run / "split.json").is_file():
        raise UserError(f"{run}: diagnostics need the folder of a run, for its held-out and training images")
    config = read_json(RunConfig, run / "config.json")
    tokenizer = Tokenizer.from_pretrained(run)
    images = run_images(config.data, config.seed)
    saved = [load_checkpoint(path, torch.device("cpu")) for path in checkpoints(run / "checkpoints")[-2:]]
    earlier, discriminator = None, None
    if len(saved) > 1:
        earlier = Tokenizer(config.model)
        earlier.load_state_dict(saved[-2]["average"])
    if saved and "discriminator" in saved[-1]:
        loss, channels = config.loss, config.model.autoencoder.image_channels
        discriminator = PatchDiscriminator(channels, loss.discriminator_width, loss.discriminator_layers)
        discriminator.load_state_dict(saved[-1]["discriminator"])
    return diagnose(
        tokenizer,
        images.held_out,
        images.train,
        config.eval,
        config.loss,
        device=device,
        earlier=earlier,
        discriminator=discriminator,
    )


@dataclass
class _Survey:
    """What one walk over all held-out images gathers."""

    moments: LatentMoments
    histogram: TokenHistogram
    sample: LatentSample
    images: int = 0


@torch.no_grad()
def _survey(tokenizer: Tokenizer, batches: Iterator[ImageBatch]) -> _Survey:
    quantizer, device = tokenizer.quantizer, next(tokenizer.parameters()).device
    survey = _Survey(
        LatentMoments(quantizer.code_dim, device),
        TokenHistogram(quantizer.codebook_size, device),
        LatentSample(quantizer.code_dim),
    )
    for batch in batches:
        posterior = tokenizer.posterior(batch.images)
        if not bool(posterior.mean.isfinite().all()):
            raise UserError(f"{batch.names[0]}: the latents are not finite: this model has diverged")
        quantized = quantizer(posterior)
        survey.moments.update(posterior, quantized.latent)
        survey.histogram.update(quantized.tokens)
        survey.sample.update(batch.positions, posterior.mean)
        survey.images += len(batch.images)
    return survey


def _shuffled(index: ImageIndex, most: int) -> ImageIndex:
    """At most `most` images in one fixed random order: neighbours are often of one shoot, and interpolating between
    them would say little."""
    order: list[int] = torch.randperm(len(index), generator=generator("diagnosis")).tolist()
    return index.subset(order[:most])


def _gradients(
    tokenizer: Tokenizer, batch: ImageBatch, config: LossConfig, discriminator: PatchDiscriminator | None
) -> list[TermGradient]:
    like = next(tokenizer.parameters())
    lpips = None
    if config.perceptual_weight:
        lpips = lpips_network(config.perceptual_network, config.perceptual_weights_path).to(like.device, like.dtype)
    objective = TokenizerObjective(config, tokenizer.quantizer.term_weights, lpips)
    judge = copy.deepcopy(discriminator).to(like.device, like.dtype) if discriminator is not None else None
    return term_gradients(tokenizer, centre_cut(batch, GRADIENT_IMAGES, GRADIENT_SIDE), objective, judge)


def _gradient_row(gradient: TermGradient) -> FigureRow:
    along = "" if gradient.along is None else f", cosine to it {gradient.along:+.2f}"
    return FigureRow(
        f"gradient, {gradient.term}",
        f"{gradient.rms:.3g}",
        f"RMS at the encoder's output, {gradient.share:.1%} of the whole loss's{along}",
    )
