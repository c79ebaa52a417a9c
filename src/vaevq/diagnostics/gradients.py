"""Which loss moves the encoder: the gradient of every weighted term at the encoder's output, one term at a time."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vaevq.config import EvalConfig
from vaevq.data.index import ImageIndex
from vaevq.data.loader import ImageBatch, evaluation_batches
from vaevq.losses.objective import TokenizerObjective
from vaevq.seeding import generator, indexed_noise
from vaevq.tokenizer import Tokenizer, TokenizerOutput

GRADIENT_IMAGES, GRADIENT_SIDE = 8, 128
"""Gradients are of so many training images, cut to so many pixels: the memory of a training step."""


@dataclass(frozen=True)
class TermGradient:
    """The gradient of a term times its weight with respect to the encoder's features.

    Attributes:
        term: the term's name; an image term is there once a path, `pixel, quantized` and `pixel, continuous`.
        rms: root mean square over the batch's features.
        share: rms over that of the whole loss. Terms that oppose each other have shares that sum to more than 1.
        along: cosine to the gradient of the whole loss; None where either is 0.
    """

    term: str
    rms: float
    share: float
    along: float | None


def term_gradients(
    tokenizer: Tokenizer, batch: ImageBatch, objective: TokenizerObjective, discriminator: nn.Module | None = None
) -> list[TermGradient]:
    """The terms of one training step's loss on this batch, each by itself, `total` last.

    Works on a copy of the tokenizer: running moments, averages of codewords and gradients of the one that is given
    stay as they are, and so do torch's random numbers. The posterior's noise is a function of the images' positions.

    Args:
        tokenizer: on whose device and in whose format the images are.
        batch: training images.
        objective: the run's; image terms are on both paths where its `continuous_path` is not 0.
        discriminator: bare; None leaves the adversarial term out.
    """
    # Averaged weights take no gradient; without one nothing would reach the encoder's output.
    copied = copy.deepcopy(tokenizer).train().requires_grad_(True)
    captured: list[Tensor] = []
    copied.encoder.register_forward_hook(lambda _module, _inputs, features: captured.append(features))
    images = batch.images
    noise = indexed_noise(tokenizer.latent_shape(images.shape[-2], images.shape[-1]), batch.positions, 0).to(images)
    cards = [images.device] if images.device.type == "cuda" else []
    with torch.enable_grad(), torch.random.fork_rng(cards):
        torch.manual_seed(0)  # for a term that draws by itself
        output: TokenizerOutput = copied(images, noise, continuous=objective.config.continuous_path > 0)
        loss = objective(images, output, discriminator, copied.decoder.last_layer)
        (features,) = captured
        gradients = {"total": _gradient(loss.total, features)}
        for name, weighted in loss.weighted.items():
            if name in output.quantized.terms:
                gradients[name] = _gradient(weighted, features)
                continue
            for path, reconstruction in _paths(output).items():
                at_image = _gradient(weighted, reconstruction)
                gradients[f"{name}, {path}"] = _gradient(reconstruction, features, at_image)
    total = gradients.pop("total")
    return [_row(name, gradient, total) for name, gradient in (gradients | {"total": total}).items()]


def _paths(output: TokenizerOutput) -> dict[str, Tensor]:
    both = {"quantized": output.reconstruction, "continuous": output.continuous_reconstruction}
    return {path: image for path, image in both.items() if image is not None}


def _gradient(value: Tensor, at: Tensor, outer: Tensor | None = None) -> Tensor:
    """d value / d at, times `outer` where value is no scalar; zeros where it does not depend on it (DCR does not)."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(value, at, outer, retain_graph=True, allow_unused=True)
    return gradient if gradient is not None else torch.zeros_like(at)


def _row(term: str, gradient: Tensor, total: Tensor) -> TermGradient:
    own, whole = gradient.cpu().double().flatten(), total.cpu().double().flatten()
    size, of_whole = float(own.square().mean().sqrt()), float(whole.square().mean().sqrt())
    both = size * of_whole * len(own)
    return TermGradient(
        term=term,
        rms=size,
        share=size / of_whole if of_whole > 0 else 0.0,
        along=float(own @ whole) / both if both > 0 else None,
    )


def gradient_batch(train: ImageIndex, config: EvalConfig, channels: int) -> ImageBatch:
    """The same few training images every time, prepared as `config` says and cut to the memory of a training step.

    Raises:
        UserError: an image is smaller than `config.crop`, or none can be read.
    """
    few = shuffled(train, GRADIENT_IMAGES)
    batches = evaluation_batches(few, config.model_copy(update={"images": None}), channels)
    return centre_cut(next(batches), GRADIENT_IMAGES, GRADIENT_SIDE)


def shuffled(index: ImageIndex, most: int) -> ImageIndex:
    """At most `most` images in one fixed random order: neighbours are often of one shoot, and would say little."""
    order: list[int] = torch.randperm(len(index), generator=generator("diagnosis")).tolist()
    return index.subset(order[:most])


def centre_cut(batch: ImageBatch, images: int, side: int) -> ImageBatch:
    """The first images of a batch, cut to at most `side` pixels a side around their centre, as training cuts them."""
    height, width = batch.images.shape[-2:]
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    cut = batch.images[:images, :, top : top + side, left : left + side]
    return replace(batch, images=cut, positions=batch.positions[:images], names=batch.names[:images])
