"""Batches of images: for training a shuffled stream that can be entered anywhere, for evaluation one ordered walk."""

import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaevq.config import DataConfig, EvalConfig
from vaevq.data.augment import augment
from vaevq.data.entries import ImageIndex
from vaevq.data.images import Picture, UnreadableImage, as_tensor, centre_crop, to_uint8
from vaevq.errors import UserError
from vaevq.seeding import shuffled

T = TypeVar("T")

MOST_FAILURES = 100
"""So many unreadable images in a row mean that something else is wrong than a few damaged files."""


@dataclass(frozen=True)
class ImageBatch:
    """Images, and where they come from."""

    images: Tensor  # B×C×H×W float32 in [-1, 1]
    positions: Tensor  # int64, B: place in the run's stream; in evaluation, in the sequence of evaluated images
    labels: Tensor | None  # int64, B; None where an image of the index has none
    names: tuple[str, ...]
    unreadable: tuple[str, ...]  # `name: reason` of the images passed over on the way
    eight_bits: bool = True  # False: slices of volumes, whose intensities are no bytes

    def measurable(self, images: Tensor) -> Tensor:
        """Images of this kind in the form that figures are taken of: bytes, by rounding, or clamped to [-1, 1]."""
        return to_uint8(images) if self.eight_bits else images.detach().float().clamp(-1.0, 1.0)


def training_batches(
    index: ImageIndex,
    config: DataConfig,
    channels: int,
    *,
    seed: int,
    start: int,
    stop: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[ImageBatch]:
    """The training stream from position `start` on, in whole batches, until `stop` is reached or passed.

    Position p shows the image that `vaevq.seeding.shuffled` puts there, cut as (seed, p) says: nothing depends on the
    number of processes or workers, and a stream from `start` is the tail of the stream from 0. In the place of an
    unreadable image stands the next readable one of the index.

    Args:
        batch_size: images a batch over all processes, of which this rank gets its contiguous share.

    Raises:
        UserError: the batch cannot be shared evenly, an image is smaller than the crop, or images cannot be read.
    """
    if batch_size % world_size:
        raise UserError(f"a batch of {batch_size} images cannot be shared evenly by {world_size} processes")
    if config.crop == "random" and config.resize is not None and config.resize < config.image_size:
        raise UserError(f"data.resize {config.resize} is smaller than the crop, data.image_size {config.image_size}")
    images = _TrainingImages(index, config, channels, seed)
    share = batch_size // world_size
    order = _order(len(index), seed, range(start + rank * share, stop + rank * share, batch_size), share)
    if config.workers:
        return _delivered(_from_workers(images, order, config.workers), index)
    return _delivered(_one_ahead(map(images.__getitems__, order)), index)


def evaluation_batches(
    index: ImageIndex, config: EvalConfig, channels: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[ImageBatch]:
    """This rank's images in order: shorter side resized, centre cropped, up to `config.batch_size` of one size.

    With `config.images` set, that many are taken, evenly spaced over the index. Image i of these belongs to the rank
    `i // kid_block % world_size`. Unreadable images are passed over and reported.

    Raises:
        UserError: an image is smaller than the crop, or none can be read. Of several processes one may have none that
            can: whether all have is for the caller to ask.
    """
    count = min(len(index), config.images or len(index))
    mine = (i for i in range(count) if i // config.kid_block % world_size == rank)
    places = [_Place(i, i * len(index) // count) for i in mine]

    def prepared(image: int) -> Picture:
        array = index[image].load(channels, config.resize)
        if config.crop is None:
            return array
        # The option is eval.resize of a run, resize= of the verb eval and --resize of encode.
        return centre_crop(array, config.crop, index[image].name, f"set resize to {config.crop} or more")

    location = index.location if world_size == 1 else None
    return _delivered(_one_ahead(_same_sized(places, prepared, config.batch_size, location)), index)


class _Place(NamedTuple):
    """A position of the stream and the image of the index that stands there."""

    position: int
    image: int


@dataclass(frozen=True)
class _Cut:
    """A batch as a worker hands it over: one tensor, and a user's mistake as data, not as a traceback."""

    pixels: Tensor | None  # uint8 or float32 B×C×H×W
    places: tuple[_Place, ...] = ()
    unreadable: tuple[str, ...] = ()
    error: str | None = None


class _TrainingImages(Dataset[_Cut]):
    """Decodes and cuts; keeps decoded images until its share of `cache_mib` is full."""

    def __init__(self, index: ImageIndex, config: DataConfig, channels: int, seed: int) -> None:
        self._index, self._config, self._channels, self._seed = index, config, channels, seed
        self._kept: dict[int, Picture] = {}
        self._room = (config.cache_mib << 20) // max(1, config.workers)  # the limit holds for all workers together
        self._failed: dict[int, str] = {}

    def __getitems__(self, places: list[_Place]) -> _Cut:
        unreadable: dict[str, None] = {}
        shown, crops = [], []
        try:
            for position, wanted in places:
                image, array = self._next_readable(wanted, unreadable)
                crops.append(augment(array, self._config, self._index[image].name, self._seed, position))
                shown.append(_Place(position, image))
        except UserError as error:
            return _Cut(None, error=str(error))
        return _Cut(_stacked(crops), tuple(shown), tuple(unreadable))

    def _next_readable(self, wanted: int, unreadable: dict[str, None]) -> tuple[int, Picture]:
        """The first image from `wanted` on that can be decoded; those before it are noted in `unreadable`."""
        for step in range(min(len(self._index), MOST_FAILURES)):
            image = (wanted + step) % len(self._index)
            if image not in self._failed:
                try:
                    return image, self._load(image)
                except UnreadableImage as error:
                    self._failed[image] = str(error)
            unreadable[self._failed[image]] = None
        first = next(iter(unreadable))
        raise UserError(f"{self._index.location}: {len(unreadable)} images in a row cannot be read; {first}")

    def _load(self, image: int) -> Picture:
        if image in self._kept:
            return self._kept[image]
        array = self._index[image].load(self._channels, self._config.resize)
        if array.nbytes <= self._room:
            self._kept[image] = array
            self._room -= array.nbytes
        return array


def _order(count: int, seed: int, starts: Iterable[int], share: int) -> Iterator[list[_Place]]:
    """For each start, the `share` places from there on."""
    image_at = shuffled(count, seed)
    for start in starts:
        yield [_Place(p, image_at(p)) for p in range(start, start + share)]


def _same_sized(
    places: Iterable[_Place], prepared: Callable[[int], Picture], most: int, location: str | None
) -> Iterator[_Cut]:
    """Runs of at most `most` successive images of one size. What could not be read comes with the next run.

    Where these are all there is of a `location`, none that can be read is a mistake.
    """
    shown: list[_Place] = []
    arrays: list[Picture] = []
    unreadable: list[str] = []
    for place in places:
        try:
            array = prepared(place.image)
        except UnreadableImage as error:
            unreadable.append(str(error))
            continue
        if arrays and (len(arrays) == most or arrays[0].shape != array.shape):
            yield _Cut(_stacked(arrays), tuple(shown), tuple(unreadable))
            shown, arrays, unreadable = [], [], []
        shown.append(place)
        arrays.append(array)
    if arrays:
        yield _Cut(_stacked(arrays), tuple(shown), tuple(unreadable))
    elif unreadable and location is not None:
        raise UserError(f"{location}: none of {len(unreadable)} images can be read; {unreadable[0]}")


def _delivered(cuts: Generator[_Cut, None, None], index: ImageIndex) -> Iterator[ImageBatch]:
    """What workers hand over, as the caller gets it; a mistake they found is raised here, in the caller's process."""
    with closing(cuts):
        for cut in cuts:
            if cut.pixels is None:
                raise UserError(cut.error)
            entries = [index[place.image] for place in cut.places]
            yield ImageBatch(
                images=as_tensor(cut.pixels),
                positions=torch.tensor([place.position for place in cut.places]),
                labels=torch.tensor([entry.label for entry in entries]) if index.labelled else None,
                names=tuple(entry.name for entry in entries),
                unreadable=cut.unreadable,
                eight_bits=cut.pixels.dtype == torch.uint8,
            )


def _one_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """`items`, each made in a thread while the caller works on the one before (Pillow and torch release the GIL)."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="vaevq-data") as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def _from_workers(images: _TrainingImages, order: Iterator[list[_Place]], workers: int) -> Generator[_Cut, None, None]:
    loader = DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,  # __getitems__ makes whole batches
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),  # the global one must not depend on the number of workers
    )
    with killed_workers_named(workers):
        yield from loader


@contextmanager
def killed_workers_named(workers: int) -> Iterator[None]:
    """For the one who takes batches from workers: torch tells of a killed one wherever the main thread happens to be.

    Raises:
        UserError: in the place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a data worker was killed, most likely for want of memory; lower data.workers (now {workers}) "
            "or data.cache_mib"
        ) from None


def _stacked(arrays: list[Picture]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy())


def _as_it_is(cut: T) -> T:
    return cut


def _leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C in a terminal and what a scheduler sends go to a whole group: a run that they end saves first, and needs
    its workers for the step that it is in."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
