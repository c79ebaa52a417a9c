"""Training batches at 256×256 from JPEG files, in a folder and in a shard, against Pillow resizing and cropping alike.

Everything runs in this process, on the same cores. Nothing is kept in memory between epochs.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import Row, Settings, medians
from benchmarks.pictures import write_photos, write_shard
from benchmarks.training import our_step
from vaevq.config import DataConfig
from vaevq.data.entries import ImageIndex
from vaevq.data.images import from_uint8
from vaevq.data.index import find_images
from vaevq.data.loader import training_batches
from vaevq.seeding import generator

BATCH = 16


def ours(index: ImageIndex, config: DataConfig, images: int) -> Callable[[], torch.Tensor]:
    """The first images of the training stream; the last batch comes back."""

    def work() -> torch.Tensor:
        batches = training_batches(index, config, 3, seed=0, start=0, stop=images, batch_size=BATCH)
        return [batch.images for batch in batches][-1]

    return work


def plain(index: ImageIndex, config: DataConfig, images: int) -> Callable[[], torch.Tensor]:
    """The same images by Pillow and numpy; where to cut is drawn beforehand."""
    order = torch.randperm(len(index), generator=generator("order", 0, 0)).tolist()
    draws = [torch.rand(4, generator=generator("augment", 0, i), dtype=torch.float64).tolist() for i in range(images)]

    def one(position: int) -> np.ndarray:
        entry = index[order[position]]
        source = entry.file if entry.size is None else io.BytesIO(entry.read())
        image = Image.open(source).convert("RGB")
        if config.resize is not None:
            shorter = min(image.size)
            sides = [round(side * config.resize / shorter) for side in image.size]
            image = image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
        side, draw = config.image_size, draws[position]
        top, left = int(draw[0] * (image.height - side + 1)), int(draw[1] * (image.width - side + 1))
        image = image.crop((left, top, left + side, top + side))
        if config.flip and draw[3] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    def work() -> torch.Tensor:
        for first in range(0, images, BATCH):
            pixels = np.stack([one(i) for i in range(first, first + BATCH)])
            last = from_uint8(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
        return last

    return work


def measure(settings: Settings) -> list[Row]:
    """From a folder and from a shard; and what the small recipe's images cost beside its step."""
    count = 32 if settings.quick else 128
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = settings.photos or Path(scratch) / "photos"
        if settings.photos is None:
            write_photos(folder, count)
        index = find_images(folder)
        if len(index) < BATCH:
            raise SystemExit(f"{folder}: the loading benchmark needs {BATCH} images or more, not {len(index)}")
        images = min(count, len(index)) // BATCH * BATCH
        shard = Path(scratch) / "photos.tar"
        write_shard([Path(entry.file) for entry in index], shard)
        config = DataConfig(image_size=256, resize=256, workers=0, cache_mib=0)
        for name, place in {"folder": index, "shard": find_images(shard)}.items():
            works = {"ours": ours(place, config, images), "Pillow": plain(place, config, images)}
            if not torch.equal(works["ours"](), works["Pillow"]()):
                raise RuntimeError("the loader and Pillow do not give the same pixels")
            taken = medians(works, settings.turns(7), settings.clock)
            work = f"loading, {images} JPEG files at 256×256 from a {name}: time"
            rows.append(Row(work, "Pillow alone", taken["ours"] / taken["Pillow"], "≤ 1.15", taken))
        small = DataConfig(image_size=64, resize=320, workers=0, cache_mib=0)
        step = our_step("small", 64, BATCH)
        load = ours(index, small, images)
        taken = medians({"load": load, "step": step}, settings.turns(5), settings.clock)
        taken = {"load": taken["load"] / images, "step": taken["step"] / BATCH}
        work = "loading for the small network, nothing kept in memory: time an image"
        rows.append(Row(work, "its training step", taken["load"] / taken["step"], "≤ 1", taken))
    return rows
