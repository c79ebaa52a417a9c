"""The example pictures of a report: held-out images, encoded deterministically and decoded again."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vaevq.config import EvalConfig
from vaevq.data.images import Pixels, to_pixels
from vaevq.data.index import ImageIndex
from vaevq.data.loader import evaluation_batches
from vaevq.data.volumes.entries import SliceEntry
from vaevq.metrics.image import psnr
from vaevq.metrics.result import read_evaluation
from vaevq.report.page import write_report
from vaevq.report.pictures import Tokens, write_pictures
from vaevq.report.projection import projection_of, write_projection
from vaevq.report.run_folder import ENDS
from vaevq.report.slices import Look
from vaevq.tokenizer import Tokenizer

EXAMPLES = 8
"""How many images a report shows, evenly spaced over the held-out ones: chosen by place, not by success."""

EXTREMES = 4
"""So many of the worst and of the best images are shown besides."""


@dataclass(frozen=True)
class Examples:
    """A few images, what comes back of them, and their tokens.

    Attributes:
        names: of the images.
        originals, reconstructions: uint8 H×W×C of each.
        tokens: int64 h×w or h×w×q of each.
        looks: of each how it is shown, where they are slices of volumes; else None.
    """

    names: list[str]
    originals: list[Pixels]
    reconstructions: list[Pixels]
    tokens: list[Tokens]
    looks: list[Look | None]

    def write(self, folder: Path, codebook_size: int) -> None:
        """Writes their pictures (`write_pictures`)."""
        parts = (self.originals, self.reconstructions, self.tokens, self.names)
        write_pictures(folder, *parts, codebook_size, self.looks)


@torch.inference_mode()
def examples(tokenizer: Tokenizer, held_out: ImageIndex, config: EvalConfig, count: int = EXAMPLES) -> Examples:
    """Encodes and decodes `count` images, evenly spaced over the held-out ones and prepared as `config` says.

    The tokenizer is in evaluation mode, on any device.
    """
    first = next(tokenizer.parameters())
    made, entries = Examples([], [], [], [], []), {entry.name: entry for entry in held_out}
    few = config.model_copy(update={"images": count})
    for batch in evaluation_batches(held_out, few, tokenizer.config.autoencoder.image_channels):
        grids = tokenizer.encode(batch.images.to(first.device, first.dtype))
        decoded = tokenizer.decode(grids, size=(batch.images.shape[-2], batch.images.shape[-1]))
        made.names.extend(batch.names)
        made.originals.extend(to_pixels(batch.images))
        made.reconstructions.extend(to_pixels(decoded))
        made.tokens.extend(grids.cpu().numpy())
        scores = psnr(batch.measurable(batch.images), batch.measurable(decoded.cpu())).tolist()
        for name, score in zip(batch.names, scores, strict=True):
            entry = entries[name]
            made.looks.append(Look.of(entry, score) if isinstance(entry, SliceEntry) else None)
    return made


def report_run(run_dir: Path, tokenizer: Tokenizer, held_out: ImageIndex, config: EvalConfig) -> Path:
    """Writes a run's pictures, those of its best and worst images, its codebook's projection, and then its report.

    Args:
        run_dir: the run folder.
        tokenizer: in evaluation mode, on any device.
        held_out: images that it was not trained on; those shown are prepared as `config` says.

    Returns:
        The path of report.html.
    """
    size, images = tokenizer.quantizer.codebook_size, run_dir / "images"
    examples(tokenizer, held_out, config).write(images, size)
    for end, names in _extremes(run_dir).items():
        places = [i for i, entry in enumerate(held_out) if entry.name in names]
        if places:
            chosen = held_out.subset(places)
            examples(tokenizer, chosen, config, len(places)).write(images / end, size)
    write_projection(run_dir, projection_of(tokenizer, held_out, config))
    return write_report(run_dir)


def _extremes(run_dir: Path) -> dict[str, list[str]]:
    """The names of the worst and best images of the run's evaluation; nothing before it has one."""
    path = run_dir / "eval.json"
    if not path.exists():
        return {}
    evaluation = read_evaluation(path)
    listed = {"worst": evaluation.worst, "best": evaluation.best}
    return {end: [row["name"] for row in listed[end][:EXTREMES]] for end in ENDS}
