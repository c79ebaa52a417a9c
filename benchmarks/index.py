"""The index of a data set as large as ImageNet's training images: its memory, and what a forked worker adds to it."""

import ctypes
import gc
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.measuring import Row, Settings
from vaevq.data.entries import ImageIndex
from vaevq.data.entry import ImageEntry

IMAGES, CLASSES = 1_281_167, 1000


def measure(settings: Settings) -> list[Row]:
    """Memory that is no other process's, beside that of the same entries as Python objects."""
    images = 20_000 if settings.quick else IMAGES
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as processes:  # its processes may have children
        (kept, grown), (kept_plain, grown_plain) = processes.map(memory, [images] * 2, [True, False])
    work, figures = f"index of {images:,} images", {"ours": kept, "objects": kept_plain}
    return [
        Row(f"{work}: memory", "a Python object each", kept / kept_plain, figures=figures),
        Row(f"{work}: a worker that looked at each", "nothing", grown, "≤ 64 MiB", {"ours": grown}),
        Row(f"{work}: the same of Python objects", "nothing", grown_plain, figures={"objects": grown_plain}),
    ]


def memory(images: int, packed: bool) -> tuple[float, float]:
    """MiB of an index, and MiB that are a forked worker's own after it has looked at each image."""
    before = _own_mib()
    index = _index(images, packed)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what building it took goes back to the system
    kept = _own_mib() - before
    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(target=_look, args=(index, sender))
    worker.start()
    grown: float = receiver.recv()
    worker.join()
    return kept, grown


def _index(images: int, packed: bool) -> ImageIndex:
    names = (f"n{i % CLASSES:08}/n{i % CLASSES:08}_{i}.JPEG" for i in range(images))
    entries = [ImageEntry(name, i % CLASSES, f"/data/train/{name}") for i, name in enumerate(names)]
    return ImageIndex.packed("train", entries) if packed else ImageIndex("train", tuple(entries))


def _look(index: ImageIndex, tell: Connection) -> None:
    before = _own_mib()
    for entry in index:
        _ = entry.label
    tell.send(_own_mib() - before)


def _own_mib() -> float:
    """Memory of this process that it shares with no other."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(re.findall(r"Private_Dirty: +(\d+) kB", rollup)[0]) / 1024
