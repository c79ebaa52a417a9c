"""Measures a tokenizer on images it was not trained on, in constant memory, on any number of processes."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vaevq import distributed
from vaevq.config import NO_SOFT_LATENT, EvalConfig
from vaevq.data.images import as_tensor
from vaevq.data.index import ImageIndex
from vaevq.data.loader import ImageBatch, evaluation_batches
from vaevq.errors import UserError
from vaevq.metrics.codebook import MINIMUM_TOKENS_PER_CODEWORD, CodebookStatistics, TokenHistogram
from vaevq.metrics.image import PSNR_CAP, psnr, ssim
from vaevq.metrics.kid import in_random_order
from vaevq.metrics.networks import load_feature_network, load_lpips
from vaevq.metrics.protocol import (
    codebook_protocol,
    data_protocol,
    image_protocol,
    set_protocol,
    software_protocol,
)
from vaevq.metrics.result import Evaluation, FigureRow
from vaevq.metrics.scores import ImageScores, ScoredImage
from vaevq.metrics.set_distances import SetDistances
from vaevq.metrics.volumes import SLICE_FIGURES, VolumeScores, volume_protocol
from vaevq.nn.features import FeatureNetwork
from vaevq.nn.lpips import Lpips
from vaevq.quantization.quantizer import Quantizer
from vaevq.tokenizer import Tokenizer, TokenizerOutput

__all__ = ["Evaluation", "FigureRow", "Progress", "evaluate"]

Progress = Callable[[int, int], None]
"""Told how many of this process's images are done, and how many it has."""

NAMED_UNREADABLE = 20
"""How many unreadable images a result names; it counts all."""


def evaluate(
    tokenizer: Tokenizer,
    index: ImageIndex,
    config: EvalConfig,
    *,
    device: torch.device | str,
    reference: ImageIndex | None = None,
    split_name: str = "held-out",
    progress: Progress | None = None,
) -> Evaluation:
    """Encodes and decodes images deterministically (the posterior's mean quantized) and measures the result.

    Reconstructions are rounded to 8 bits before anything is measured of them; those of slices are clamped to the
    window, and have figures of their foreground and of whole volumes besides (`metrics.volumes`). Every process of a
    group calls this with the same arguments and gets the same result, which depends neither on their number nor on
    the batch size (but for the last digits that the networks themselves change with it).

    Args:
        tokenizer: is brought to `device`; its mode is restored afterwards.
        index: the images to measure on.
        config: which figures, and how images are prepared.
        device: where the networks run.
        reference: another set that the Fréchet distance and KID compare with, prepared in the same way; None
            compares with the originals of the reconstructions.
        split_name: what the protocol calls the images.
        progress: called after every batch.

    Raises:
        UserError: no image, weights that are not there, images that a network does not take (see the message), a
            model whose reconstructions are not finite.
    """
    device = torch.device(device)
    tokenizer.to(device)
    if config.soft and not tokenizer.config.quantizer.has_soft_latent:
        raise UserError(f"eval.soft: {NO_SOFT_LATENT.format(tokenizer.config.quantizer.kind)}")
    dtype = next((p.dtype for p in tokenizer.parameters()), torch.float32)
    channels = tokenizer.config.autoencoder.image_channels
    lpips, network = load_lpips(config, device), load_feature_network(config, device)
    chosen = _chosen(index, config)
    ordered = in_random_order(chosen) if "kid" in config.metrics else chosen

    def new_tally() -> _Tally:
        distances = _set_distances(network, config, len(ordered), reference, channels, device) if network else None
        return _Tally(tokenizer.quantizer, config, lpips, distances, ordered, device)

    tally, continuous = new_tally(), new_tally() if config.soft else None

    rank, world_size = distributed.rank(), distributed.world_size()
    done, total = 0, sum(i // config.kid_block % world_size == rank for i in range(len(ordered)))
    with _evaluation_mode(tokenizer), torch.inference_mode():
        with distributed.together(device):
            for batch in evaluation_batches(ordered, config, channels, rank=rank, world_size=world_size):
                images = batch.images.to(device)
                output: TokenizerOutput = tokenizer(images.to(dtype))
                tally.update(batch, images, output)
                if continuous is not None:
                    continuous.update(batch, images, _softly(tokenizer, output))
                done += len(images)
                if progress is not None:
                    progress(done, total)
            for one in filter(None, (tally, continuous)):
                one.finish()
        if not distributed.any_process(done > 0, device):
            raise UserError(f"{index.location}: none of {len(ordered)} images can be read, '{ordered[0].name}' first")
        figures = tally.figures()
        soft_figures = continuous.figures() if continuous is not None else {}

    statistics = tally.histogram.statistics()
    unreadable = sorted(ordered[i].name for i in tally.missing())
    measured = len(ordered) - len(unreadable)
    return Evaluation(
        figures={**figures, **_codebook_figures(statistics, tally.pixels)},
        protocol={
            **data_protocol(split_name, chosen.digest, measured, len(unreadable), config),
            **volume_protocol(chosen),
            **codebook_protocol(statistics, tokenizer.quantizer.codes_per_position, tokenizer.digest),
            **image_protocol(config, lpips, of_slices=tally.volumes is not None),
            **set_protocol(network, config, reference),
            **software_protocol(),
        },
        histogram=tally.histogram.counts.tolist(),
        images=measured,
        notes=tally.notes(unreadable),
        continuous=soft_figures,
        best=[_named(image, ordered) for image in tally.scores.best()],
        worst=[_named(image, ordered) for image in tally.scores.worst()],
        unreadable=unreadable[:NAMED_UNREADABLE],
    )


class _Tally:
    """Everything that is counted while images go by, except the distances between sets, which it feeds."""

    def __init__(
        self,
        quantizer: Quantizer,
        config: EvalConfig,
        lpips: Lpips | None,
        distances: SetDistances | None,
        index: ImageIndex,
        device: torch.device,
    ) -> None:
        self.histogram = TokenHistogram(quantizer.codebook_size, device, codebooks=quantizer.codebooks)
        self._lpips = lpips
        self._lpips_name = f"lpips_{config.lpips_network}"
        names = {"psnr": "psnr", "ssim": "ssim", "lpips": self._lpips_name}
        self.volumes = VolumeScores.of(index, device)
        inside = [SLICE_FIGURES[m] for m in SLICE_FIGURES if m in config.metrics and self.volumes is not None]
        self.scores = ImageScores((*(names[m] for m in names if m in config.metrics), *inside), device)
        self._distances = distances
        self._seen = torch.zeros(len(index), dtype=torch.int64, device=device)
        self._pixels = torch.zeros((), dtype=torch.int64, device=device)
        self._capped = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, batch: ImageBatch, images: Tensor, output: TokenizerOutput) -> None:
        """Takes in a batch's images, B×C×H×W in [-1, 1] on the device, of which `output` was made."""
        if not bool(output.reconstruction.isfinite().all()):
            raise UserError(f"{batch.names[0]}: the reconstruction is not finite: this model has diverged")
        positions = batch.positions
        originals, reconstructions = batch.measurable(images), batch.measurable(output.reconstruction)
        self.histogram.update(output.quantized.tokens)
        values = self._values(originals, reconstructions)
        if values:
            self.scores.update(positions, torch.stack([values[name].cpu().double() for name in self.scores.names], 1))
        if "psnr" in values:
            self._capped += int((values["psnr"] >= PSNR_CAP).sum()) if self.volumes is None else 0
            if self.volumes is not None:
                self.volumes.update(positions, originals, reconstructions)
        if self._distances is not None:
            self._distances.update(positions, originals, reconstructions)
        self._seen[positions.to(self._seen.device)] += 1
        self._pixels += len(images) * images.shape[-2] * images.shape[-1]

    def finish(self) -> None:
        """Reads what is left to read; see `SetDistances.finish`."""
        if self._distances is not None:
            self._distances.finish()

    def figures(self) -> dict[str, float]:
        """Merges all processes, after which each holds the whole; the figures of images and of sets of them."""
        self.histogram.all_reduce()
        self.scores.all_reduce()
        self._seen = distributed.all_reduce_sum(self._seen)
        self._pixels = distributed.all_reduce_sum(self._pixels)
        self._capped = distributed.all_reduce_sum(self._capped)
        assert int(self._seen.max()) <= 1, "no image is measured twice"
        volumes = self.volumes.figures() if self.volumes is not None and "psnr" in self.scores.names else {}
        distances = self._distances.figures() if self._distances is not None else {}
        return {**self.scores.figures(), **volumes, **distances}

    @property
    def pixels(self) -> int:
        """H·W summed over the images as they were encoded, without the padding to a multiple of f."""
        return int(self._pixels)

    def missing(self) -> list[int]:
        """Positions of the images that were not measured, because they could not be read."""
        positions: list[int] = (self._seen == 0).nonzero().flatten().tolist()
        return positions

    def notes(self, unreadable: list[str]) -> list[str]:
        """What a reader of the figures has to know."""
        notes = []
        statistics = self.histogram.statistics()
        if statistics.tokens_per_codeword < MINIMUM_TOKENS_PER_CODEWORD:
            notes.append(
                f"T/K is {statistics.tokens_per_codeword:.2f}: claims about usage and perplexity need at least "
                f"{MINIMUM_TOKENS_PER_CODEWORD} tokens a codeword; even a perfectly uniform tokenizer would show "
                f"{statistics.usage_ceiling:.1%} usage here"
            )
        if int(self._capped):
            notes.append(f"{int(self._capped)} images are equal but for rounding; they count as {PSNR_CAP:.2f} dB")
        if unreadable:
            notes.append(f"{len(unreadable)} of {len(self._seen)} images could not be read, '{unreadable[0]}' first")
        notes += self.volumes.notes() if self.volumes is not None and "psnr" in self.scores.names else []
        return notes + (self._distances.notes() if self._distances is not None else [])

    def _values(self, originals: Tensor, reconstructions: Tensor) -> dict[str, Tensor]:
        """Figures of each image, B."""
        values = {}
        if "psnr" in self.scores.names:
            values["psnr"] = psnr(originals, reconstructions)
        if "ssim" in self.scores.names:
            values["ssim"] = ssim(originals, reconstructions)
        if self._lpips is not None:
            values[self._lpips_name] = self._perceptual(self._lpips, originals, reconstructions)
        if self.volumes is not None:
            taken = {"psnr": self.volumes.slice_psnr, "ssim": self.volumes.slice_ssim}
            values |= {SLICE_FIGURES[m]: taken[m](originals, reconstructions) for m in taken if m in self.scores.names}
        return values

    def _perceptual(self, lpips: Lpips, originals: Tensor, reconstructions: Tensor) -> Tensor:
        """LPIPS, B; of slices the mean over their channels, each seen as grey: contrasts are no colours."""
        if self.volumes is None:
            return lpips(as_tensor(originals), as_tensor(reconstructions))  # type: ignore[no-any-return]
        grey = [images.flatten(0, 1)[:, None] for images in (originals, reconstructions)]
        distances: Tensor = lpips(*grey)
        return distances.view(originals.shape[:2]).mean(1)


def _softly(tokenizer: Tokenizer, output: TokenizerOutput) -> TokenizerOutput:
    """The same with the soft latent decoded."""
    latent = tokenizer.quantizer.soft_latent(output.posterior)
    assert latent is not None, "the configuration says that there is one"
    size = (output.reconstruction.shape[-2], output.reconstruction.shape[-1])
    return replace(output, reconstruction=tokenizer.decode_latent(latent, size))


def _set_distances(
    network: FeatureNetwork,
    config: EvalConfig,
    images: int,
    reference: ImageIndex | None,
    channels: int,
    device: torch.device,
) -> SetDistances:
    if reference is None:
        return SetDistances(network, config, images, None, images, device)
    # All of the reference set, whatever share of the evaluated images is taken.
    options = config.model_copy(update={"images": None})
    ranks = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    ordered = in_random_order(reference) if "kid" in config.metrics else reference
    batches = evaluation_batches(ordered, options, channels, **ranks)
    return SetDistances(network, config, images, batches, len(reference), device)


def _chosen(index: ImageIndex, config: EvalConfig) -> ImageIndex:
    """`config.images` of the images, evenly spaced over the index, or all of them."""
    count = min(len(index), config.images or len(index))
    if count == 0:
        raise UserError(f"{index.location}: no image to evaluate on")
    return index if count == len(index) else index.subset(i * len(index) // count for i in range(count))


def _codebook_figures(statistics: CodebookStatistics, pixels: int) -> dict[str, float]:
    return {
        "usage": statistics.usage,
        "usage_ceiling": statistics.usage_ceiling,
        "usage_of_ceiling": statistics.usage_of_ceiling,
        "perplexity": statistics.perplexity,
        "perplexity_share": statistics.perplexity_share,
        "dead_codewords": statistics.dead_codewords,
        "tokens_per_codeword": statistics.tokens_per_codeword,
        "entropy_bits": statistics.entropy_bits,
        "bits_per_pixel": statistics.fixed_bits_per_pixel(pixels),
        "bits_per_pixel_entropy": statistics.entropy_bits_per_pixel(pixels),
    }


def _named(image: ScoredImage, index: ImageIndex) -> dict[str, Any]:
    return {"name": index[image.position].name, **image.figures}


@contextlib.contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part is back in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
