"""The example pictures of a report: held-out images, encoded deterministically and decoded again."""

from pathlib import Path

import torch

from vaevq.config import EvalConfig
from vaevq.data.images import to_uint8
from vaevq.data.index import ImageIndex
from vaevq.data.loader import evaluation_batches
from vaevq.report.page import write_report
from vaevq.report.pictures import write_pictures
from vaevq.tokenizer import Tokenizer

EXAMPLES = 8
"""How many images a report shows, evenly spaced over the held-out ones: chosen by place, not by success."""


@torch.inference_mode()
def report_run(run_dir: Path, tokenizer: Tokenizer, held_out: ImageIndex, config: EvalConfig) -> Path:
    """Writes a run's pictures and then its report.

    Args:
        run_dir: the run folder.
        tokenizer: in evaluation mode, on any device.
        held_out: images that it was not trained on; those shown are prepared as `config` says.

    Returns:
        The path of report.html.
    """
    first = next(tokenizer.parameters())
    originals, reconstructions, tokens = [], [], []
    names: list[str] = []
    few = config.model_copy(update={"images": EXAMPLES})
    for batch in evaluation_batches(held_out, few, tokenizer.config.autoencoder.image_channels):
        grids = tokenizer.encode(batch.images.to(first.device, first.dtype))
        decoded = tokenizer.decode(grids, size=(batch.images.shape[-2], batch.images.shape[-1]))
        originals += list(to_uint8(batch.images).permute(0, 2, 3, 1).cpu().numpy())
        reconstructions += list(to_uint8(decoded).permute(0, 2, 3, 1).cpu().numpy())
        tokens += list(grids.cpu().numpy())
        names += batch.names
    write_pictures(run_dir, originals, reconstructions, tokens, names, tokenizer.quantizer.codebook_size)
    return write_report(run_dir)
