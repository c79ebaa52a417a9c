"""What the paper's abstract claims of a variational tokenizer, as measurements that a plain one can be held against.

A smooth latent space, stable tokens, quantized latents aligned with continuous ones, and no overfitting to noise.
Every function takes a tokenizer in evaluation mode, on whose device and in whose format the images are, and
walks over batches in constant memory; all noise is a function of the image's position.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from vaevq.data.loader import ImageBatch
from vaevq.diagnostics.figures import Shown, ratio
from vaevq.diagnostics.latents import all_codewords
from vaevq.errors import UserError
from vaevq.metrics.image import psnr
from vaevq.metrics.scores import ImageScores
from vaevq.seeding import indexed_noise
from vaevq.tokenizer import Tokenizer

Batches = Iterable[ImageBatch]

STEPS = 9
"""How many equal steps lead from the latents of one image to those of another."""

RANDOM_STEP = 0.05
"""Length of a random step, in RMS of the latents."""

# Streams of noise: the posterior's, the random steps', the noise laid on images.
_SAMPLE, _DIRECTION, _PIXELS = 0, 1, 2


@dataclass(frozen=True)
class SmoothnessFigures:
    """Latent steps are measured in RMS of the latents about their mean, so that no rescaling of them counts."""

    interpolation_gain: Annotated[
        float | None, Shown("{:.4g}", "squared pixel change per squared latent step, from one image to another")
    ]
    interpolation_unevenness: Annotated[
        float | None, Shown("{:.3f}", "largest over mean of the nine pixel steps on that way; 1 is even, 9 one jump")
    ]
    random_gain: Annotated[
        float | None, Shown("{:.4g}", "squared pixel change per squared latent step, in random directions of 5 % RMS")
    ]


@dataclass(frozen=True)
class StabilityFigures:
    """Against an earlier state of the same run."""

    changed_tokens: Annotated[float, Shown("{:.2%}", "held-out tokens that the earlier model gave otherwise")]
    codeword_drift: Annotated[
        float | None, Shown("{:.4f}", "RMS way of the codewords since then, over their RMS about their mean")
    ]


@dataclass(frozen=True)
class AlignmentFigures:
    """Mean and sample against z_q, the codeword nearest to the mean; None without a posterior."""

    mean_mse: Annotated[float, Shown("{:.4g}", "mean squared difference between μ and z_q, an element")]
    mean_cosine: Annotated[float, Shown("{:.4f}", "cosine between μ and z_q, mean over positions")]
    sample_mse: Annotated[float | None, Shown("{:.4g}", "mean squared difference between z_c and z_q, an element")]
    sample_cosine: Annotated[float | None, Shown("{:.4f}", "cosine between z_c and z_q, mean over positions")]
    psnr_quantized: Annotated[float, Shown("{:.2f} dB", "of the decoded z_q")]
    psnr_mean: Annotated[float, Shown("{:.2f} dB", "of the decoded μ")]
    psnr_sample: Annotated[float | None, Shown("{:.2f} dB", "of the decoded z_c")]
    path_gap: Annotated[float, Shown("{:+.2f} dB", "psnr_mean − psnr_quantized: what quantization costs in pixels")]


@dataclass(frozen=True)
class OverfittingFigures:
    """Training images are measured as held-out ones are. σ of the noise is in units of [-1, 1]."""

    psnr_train: Annotated[float, Shown("{:.2f} dB", "on images of the training side")]
    psnr_held_out: Annotated[float, Shown("{:.2f} dB", "on held-out images")]
    generalization_gap: Annotated[float, Shown("{:+.2f} dB", "psnr_train − psnr_held_out")]
    generalization_gap_error: Annotated[float, Shown("{:.2f} dB", "its standard error over images")]
    psnr_noise_005: Annotated[float, Shown("{:.2f} dB", "against the clean image, with noise of σ 0.05 on the input")]
    psnr_noise_010: Annotated[float, Shown("{:.2f} dB", "the same with σ 0.1")]
    input_noise_005: Annotated[float, Shown("{:.2f} dB", "of the noisy input itself, σ 0.05")]
    input_noise_010: Annotated[float, Shown("{:.2f} dB", "of the noisy input itself, σ 0.1")]


@torch.no_grad()
def smoothness(tokenizer: Tokenizer, batches: Batches, rms: float) -> SmoothnessFigures:
    """How much, and how evenly, decoded images follow steps between and around the means of images.

    Images are taken in pairs as they come; of two grids of different size the common part is used.

    Args:
        rms: of the latents about their mean, an element.
    """
    changes, lengths, unevenness, random_changes = 0.0, 0.0, list[float](), list[float]()
    waiting: Tensor | None = None
    for batch in batches:
        means = tokenizer.posterior(batch.images).mean
        directions = indexed_noise(tuple(means.shape[1:]), batch.positions, _DIRECTION).to(means)
        directions = directions / directions.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        moved = tokenizer.decode_latent(means + RANDOM_STEP * rms * directions) - tokenizer.decode_latent(means)
        random_changes += moved.square().mean(dim=(1, 2, 3)).tolist()
        for mean in means.unbind():
            if waiting is None:
                waiting = mean
                continue
            steps, length = _interpolation(tokenizer, waiting, mean)
            changes, lengths, waiting = changes + float(steps.square().sum()), lengths + length, None
            if float(steps.mean()) > 0:
                unevenness.append(float(steps.max() / steps.mean()))
    random_change = ratio(sum(random_changes), len(random_changes))
    return SmoothnessFigures(
        interpolation_gain=ratio(changes, lengths / rms**2) if rms > 0 else None,
        interpolation_unevenness=ratio(sum(unevenness), len(unevenness)),
        random_gain=random_change / RANDOM_STEP**2 if random_change is not None and rms > 0 else None,
    )


def _interpolation(tokenizer: Tokenizer, start: Tensor, end: Tensor) -> tuple[Tensor, float]:
    """RMS pixel changes of the steps, `STEPS` of them, and the steps' summed mean squares in the latents."""
    height, width = (min(start.shape[dim], end.shape[dim]) for dim in (-2, -1))
    start, way = start[..., :height, :width], end[..., :height, :width] - start[..., :height, :width]
    shares = [step / STEPS for step in range(STEPS + 1)]
    # One image at a time: ten at once would take ten times an evaluation's memory.
    decoded = [tokenizer.decode_latent((start + share * way)[None]) for share in shares]
    steps = [(b - a).square().mean().sqrt() for a, b in itertools.pairwise(decoded)]
    return torch.stack(steps), float((way / STEPS).square().mean()) * STEPS


@torch.no_grad()
def stability(tokenizer: Tokenizer, earlier: Tokenizer, batches: Batches) -> StabilityFigures:
    """What has changed since an earlier state of the same model: its tokens of these images and its codewords.

    Raises:
        UserError: the two have not the same codebook and grid.
    """
    is_now, was = _shape(tokenizer), _shape(earlier)
    if is_now != was:
        raise UserError(
            f"the earlier model has a codebook of {was}, this one {is_now}: stability compares two states of one run"
        )
    now, then = all_codewords(tokenizer.quantizer), all_codewords(earlier.quantizer)
    pairs = ((tokenizer.encode(batch.images), earlier.encode(batch.images)) for batch in batches)
    drift = codeword_drift(now, then) if now is not None and then is not None else None
    return StabilityFigures(changed_tokens=changed_tokens(pairs), codeword_drift=drift)


def _shape(tokenizer: Tokenizer) -> str:
    quantizer, f = tokenizer.quantizer, tokenizer.downsample_factor
    several = f", {quantizer.codes_per_position} codes a position" if quantizer.codes_per_position > 1 else ""
    return f"{quantizer.codebook_size}×{quantizer.code_dim}{several} and f = {f}"


def changed_tokens(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The share of tokens that differ between grids now and then, which come in pairs of one shape."""
    changed = total = 0
    for now, then in pairs:
        changed += int((now != then).sum())
        total += now.numel()
    return changed / total


def codeword_drift(now: Tensor, then: Tensor) -> float | None:
    """The RMS way of codewords, K×d each, over their RMS about their mean now; None where they are all equal."""
    now, then = now.cpu().double(), then.cpu().double()  # Apple's GPU has no float64
    way, spread = (now - then).square().sum(), (now - now.mean(dim=0)).square().sum()
    return ratio(math.sqrt(way), math.sqrt(spread))


@torch.no_grad()
def alignment(tokenizer: Tokenizer, batches: Batches) -> AlignmentFigures:
    """How close mean and sample are to z_q, and how well each of the three is decoded; means over images."""
    variational = tokenizer.config.quantizer.initial_logvar is not None
    sides = ("mean", "sample") if variational else ("mean",)
    names = [name for side in sides for name in (f"{side}_mse", f"{side}_cosine", f"psnr_{side}")]
    scores = ImageScores(("psnr_quantized", *names))
    for batch in batches:
        posterior = tokenizer.posterior(batch.images)
        quantized = tokenizer.lookup(tokenizer.quantizer.encode(posterior))
        noise = indexed_noise(tuple(quantized.shape[1:]), batch.positions, _SAMPLE)
        columns = [_psnr(tokenizer, batch, quantized)]
        for latent in (posterior.mean, posterior.sample(noise))[: len(sides)]:
            columns.append((latent - quantized).square().mean(dim=(1, 2, 3)))
            columns.append(F.cosine_similarity(latent, quantized, dim=1).mean(dim=(1, 2)))
            columns.append(_psnr(tokenizer, batch, latent))
        scores.update(batch.positions, _table(columns))
    figures = scores.figures()
    return AlignmentFigures(
        mean_mse=figures["mean_mse"],
        mean_cosine=figures["mean_cosine"],
        sample_mse=figures.get("sample_mse"),
        sample_cosine=figures.get("sample_cosine"),
        psnr_quantized=figures["psnr_quantized"],
        psnr_mean=figures["psnr_mean"],
        psnr_sample=figures.get("psnr_sample"),
        path_gap=figures["psnr_mean"] - figures["psnr_quantized"],
    )


@torch.no_grad()
def overfitting(tokenizer: Tokenizer, held_out: Batches, train: Batches) -> OverfittingFigures:
    """Whether training images come back better than others, and whether noise on the input comes back at all."""
    seen, unseen = ImageScores(("psnr",)), ImageScores(("psnr", "noise_005", "noise_010", "input_005", "input_010"))
    images_seen = images_unseen = 0
    for batch in train:
        seen.update(batch.positions, _table([_reconstructed(tokenizer, batch, batch.images)]))
        images_seen += len(batch.images)
    for batch in held_out:
        shape = tuple(batch.images.shape[1:])
        noise = indexed_noise(shape, batch.positions, _PIXELS).to(batch.images)
        noisy = [(batch.images + sigma * noise).clamp(-1, 1) for sigma in (0.05, 0.1)]
        columns = [_reconstructed(tokenizer, batch, images) for images in (batch.images, *noisy)]
        columns += [psnr(batch.measurable(batch.images), batch.measurable(images)) for images in noisy]
        unseen.update(batch.positions, _table(columns))
        images_unseen += len(batch.images)
    known, new = seen.figures(), unseen.figures()
    errors = (known["psnr_deviation"] ** 2 / images_seen, new["psnr_deviation"] ** 2 / images_unseen)
    return OverfittingFigures(
        psnr_train=known["psnr"],
        psnr_held_out=new["psnr"],
        generalization_gap=known["psnr"] - new["psnr"],
        generalization_gap_error=math.sqrt(sum(errors)),
        psnr_noise_005=new["noise_005"],
        psnr_noise_010=new["noise_010"],
        input_noise_005=new["input_005"],
        input_noise_010=new["input_010"],
    )


def together(batches: Batches, tokenizer: Tokenizer) -> Iterator[ImageBatch]:
    """Batches with their images on the tokenizer's device and in its format."""
    like = next(tokenizer.parameters())
    for batch in batches:
        yield replace(batch, images=batch.images.to(like))


def _reconstructed(tokenizer: Tokenizer, batch: ImageBatch, images: Tensor) -> Tensor:
    """PSNR of the quantized reconstruction of `images` against the batch's own, float64 B."""
    return _psnr(tokenizer, batch, tokenizer.lookup(tokenizer.encode(images)))


def _psnr(tokenizer: Tokenizer, batch: ImageBatch, latent: Tensor) -> Tensor:
    """PSNR of decoded latents against the batch's images, float64 B."""
    size = (batch.images.shape[-2], batch.images.shape[-1])
    return psnr(batch.measurable(batch.images), batch.measurable(tokenizer.decode_latent(latent, size)))


def _table(columns: list[Tensor]) -> Tensor:
    return torch.stack([column.cpu().double() for column in columns], dim=1)
