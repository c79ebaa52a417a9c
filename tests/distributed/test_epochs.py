"""Two processes with two workers each show every image of some shards once an epoch, and count epochs exactly."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from runs import on_two_processes
from vaevq.config import DataConfig
from vaevq.data.index import find_images
from vaevq.data.loader import training_batches
from vaevq.distributed import rank, world_size

IMAGES, BATCH = 21, 4
"""No multiple of each other: batches reach from one epoch into the next."""


def work(folder: Path) -> None:
    """What each of two processes does: three epochs, entered anew after the first ten batches."""
    shown: list[tuple[int, str, float]] = []
    config, index = DataConfig(image_size=8, workers=2, flip=False), find_images(folder)
    for start, stop in ((0, 40), (40, 64)):
        batches = training_batches(
            index, config, 3, seed=1, start=start, stop=stop, batch_size=BATCH, rank=rank(), world_size=world_size()
        )
        for batch in batches:
            grey = ((batch.images.mean(dim=(1, 2, 3)) + 1) * 127.5).round().tolist()
            shown += zip(batch.positions.tolist(), batch.names, grey, strict=True)
    torch.save(shown, folder / f"{rank()}.pt")


def test_every_image_is_shown_once_an_epoch_by_one_process(tmp_path: Path) -> None:
    for shard in range(3):
        with tarfile.open(tmp_path / f"part-{shard}.tar", "w") as tar:
            for number in range(shard, IMAGES, 3):
                content = io.BytesIO()
                Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)).save(content, format="PNG")
                member = tarfile.TarInfo(f"{number:02}.png")
                member.size = content.tell()
                content.seek(0)
                tar.addfile(member, content)
    on_two_processes(work, tmp_path)
    first, second = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert len(first) == len(second) == 32
    shown = sorted([*first, *second])
    assert [position for position, _, _ in shown] == list(range(64)), "no position twice, none left out"
    epochs = [shown[start : start + IMAGES] for start in range(0, 63, IMAGES)]
    for epoch in epochs:
        assert Counter(name for _, name, _ in epoch) == Counter({name: 1 for _, name, _ in epochs[0]})
        assert len(epoch) == IMAGES
        for _, name, grey in epoch:  # what is under a name is that image
            assert grey == 10 * int(name.rpartition("/")[2].removesuffix(".png"))
    assert [name for _, name, _ in epochs[0]] != [name for _, name, _ in epochs[1]], "in another order"
