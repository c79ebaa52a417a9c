"""Generated images as files: a PNG each, a grid of the first ones, and one .npz for the evaluators in use."""

import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vaevq.data.images import save_png, to_pixels
from vaevq.errors import UserError
from vaevq.files import make_folder, require_absent, write_json, written_aside
from vaevq.generation.generator import Generator, Samples

GRID_IMAGES = 64
"""At most so many images are in the grid."""

Bytes = npt.NDArray[np.uint8]
_OURS = re.compile(r"[0-9]{6,}\.png")


def write_samples(
    generator: Generator,
    samples: Iterator[Samples],
    count: int,
    folder: Path,
    about: Mapping[str, Any],
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Decodes samples and writes them, batch by batch, in constant memory.

    `images/000000.png` and so on; `grid.png`; `samples.npz` with `arr_0`, uint8 N×H×W×C, and, of a conditional
    generator, `arr_1`, int64 N, the labels (the form of ADM's evaluator); `samples.json`, what was asked for.

    Raises:
        UserError: such files are there (unless `force`, which removes them) or cannot be written.
    """
    images, archive = folder / "images", folder / "samples.npz"
    standing = [path for path in (archive, folder / "grid.png", folder / "samples.json") if path.exists()]
    standing += sorted(path for path in images.glob("*.png") if _OURS.fullmatch(path.name))
    require_absent(standing, force=force)
    for path in standing:
        path.unlink()
    make_folder(images)
    first: list[torch.Tensor] = []
    labels: list[int] = []

    def decoded() -> Iterator[Bytes]:
        for batch in samples:
            pictures = generator.decode(batch.tokens).cpu()
            for number, picture in zip(batch.numbers, pictures, strict=True):
                with written_aside(images / f"{number:06d}.png") as aside:
                    save_png(picture, aside)
            first.extend(pictures[: GRID_IMAGES - len(first)])
            labels.extend([] if batch.labels is None else batch.labels.tolist())
            progress(batch.numbers.stop)
            yield to_pixels(pictures)

    with written_aside(archive) as aside:
        _write_npz(aside, decoded(), count, labels)
    with written_aside(folder / "grid.png") as aside:
        save_png(grid(torch.stack(first)), aside)
    write_json(folder / "samples.json", dict(about))


def grid(images: torch.Tensor, gap: int = 2) -> torch.Tensor:
    """Images B×C×H×W in a square, row by row, as C×H'×W', white between them."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    whole = images.new_ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        whole[:, top : top + height, left : left + width] = image
    return whole


def _write_npz(path: Path, batches: Iterator[Bytes], count: int, labels: list[int]) -> None:
    """`np.savez(path, images, labels)` without all images in memory; `labels` is full once the batches are through."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            written = 0
            for batch in batches:
                if not written:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *batch.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(batch).tobytes())
                written += len(batch)
        if written != count:
            raise UserError(f"{written} images instead of {count}")
        if labels:
            with archive.open("arr_1.npy", "w") as file:
                np.lib.format.write_array(file, np.array(labels, dtype=np.int64))
