"""JPEG files and shards that the benchmarks read, made where none are given."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_photos(folder: Path, count: int, size: tuple[int, int] = (481, 321)) -> list[Path]:
    """`count` JPEG files of smooth noise with some grain, about as large as photos are; size is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = []
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        grain = random.normal(0, 6, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        paths.append(folder / f"{i:05d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def write_shard(photos: list[Path], shard: Path) -> None:
    """The files of `photos` in a tar file."""
    with tarfile.open(shard, "w") as tar:
        for i, photo in enumerate(photos):
            data = photo.read_bytes()
            member = tarfile.TarInfo(f"{i:05d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
