"""Measures a tokenizer on images it was not trained on, in constant memory, on any number of processes."""

from collections.abc import Callable
from importlib.metadata import version

import torch

from vaevq import distributed
from vaevq.config import EvalConfig
from vaevq.data.images import to_uint8
from vaevq.data.index import ImageIndex
from vaevq.data.loader import evaluation_batches
from vaevq.errors import UserError
from vaevq.metrics.codebook import TokenHistogram
from vaevq.metrics.image import PSNR_CAP
from vaevq.metrics.networks import load_feature_network, load_lpips
from vaevq.metrics.result import Evaluation, FigureRow
from vaevq.metrics.set_distances import SetDistances
from vaevq.tokenizer import Tokenizer

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

    Reconstructions are rounded to 8 bits before anything is measured of them. Every process of a group calls this
    with the same arguments and gets the same result, which depends neither on their number nor on the batch size
    (but for the last digits that the networks themselves change with it).

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
    lpips, network = load_lpips(config, device), load_feature_network(config, device)
    chosen = _chosen(index, config)
    tokenizer.to(device)
    dtype = next((p.dtype for p in tokenizer.parameters()), torch.float32)
    channels = tokenizer.config.autoencoder.image_channels
    shares = {"rank": distributed.rank(), "world_size": distributed.world_size()}

    histogram = TokenHistogram(tokenizer.quantizer.codebook_size, device)
    scores = _image_scores(config, device)
    seen = torch.zeros(len(chosen), dtype=torch.int64, device=device)
    pixels = torch.zeros(1, dtype=torch.int64, device=device)
    capped = torch.zeros(1, dtype=torch.int64, device=device)
    distances = None
    if network is not None:
        others = None if reference is None else _in_random_order(reference)
        options = config.model_copy(update={"images": None})
        batches = None if others is None else evaluation_batches(others, options, channels, **shares)
        size = len(chosen) if others is None else len(others)
        distances = SetDistances(network, config, len(chosen), batches, size, device)

    own = sum(i // config.kid_block % shares["world_size"] == shares["rank"] for i in range(len(chosen)))
    with _evaluation_mode(tokenizer), torch.inference_mode():
        for batch in evaluation_batches(chosen, config, channels, **shares):
            images = batch.images.to(device)
            output = tokenizer(images.to(dtype))
            if not bool(output.reconstruction.isfinite().all()):
                raise UserError(f"{batch.names[0]}: its reconstruction is not finite; the model has diverged")
            originals, reconstructions = to_uint8(images), to_uint8(output.reconstruction)
            histogram.update(output.quantized.tokens)
            values = _measured(scores.names, originals, reconstructions, lpips)
            scores.update(batch.positions, values)
            if distances is not None:
                distances.update(batch.positions, originals, reconstructions)
            seen[batch.positions.to(device)] += 1
            pixels += len(images) * images.shape[-2] * images.shape[-1]
            if "psnr" in scores.names:
                capped += int((values[:, scores.names.index("psnr")] >= PSNR_CAP).sum())
            if progress is not None:
                progress(int(seen.sum()), own)
        histogram.all_reduce()
        scores.all_reduce()
        seen, pixels, capped = (distributed.all_reduce_sum(t) for t in (seen, pixels, capped))
        assert int(seen.max()) <= 1, "no image is measured twice"
        set_figures = distances.figures() if distances is not None else {}

    statistics = histogram.statistics()
    unreadable = sorted(chosen[i].name for i in (seen == 0).nonzero().flatten().tolist())
    protocol = {
        "model_digest": tokenizer.digest,
        "split": split_name,
        "data_digest": (chosen if config.images else index).digest,
        "images": int(seen.sum()),
        "unreadable": len(unreadable),
        **_preparation(config),
        **_image_protocol(scores.names, lpips),
        **(_set_protocol(network, config, reference, index) if network is not None else {}),
        "codebook_size": statistics.codebook_size,
        "tokens": statistics.tokens,
        "tokens_per_codeword": statistics.tokens_per_codeword,
        "pixels": int(pixels),
        "vaevq": version("vaevq"),
        "torch": torch.__version__,
    }
    return Evaluation(
        figures=_figures(scores) | set_figures | _codebook_figures(statistics, int(pixels)),
        protocol=protocol,
        histogram=histogram.counts.tolist(),
        images=int(seen.sum()),
        notes=[
            *_notes(statistics, int(capped), len(unreadable), len(chosen)),
            *(distances.notes() if distances is not None else []),
        ],
        best=[_named(image, chosen) for image in scores.best()],
        worst=[_named(image, chosen) for image in scores.worst()],
        unreadable=unreadable[:NAMED_UNREADABLE],
    )
