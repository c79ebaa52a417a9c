"""The slices of all volumes of a location: each volume is looked through once, and what was found is kept."""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from vaevq.config import VolumesConfig
from vaevq.data.entries import ImageIndex
from vaevq.data.images import UnreadableImage
from vaevq.data.volumes.cache import kept_facts, read_facts, write_facts
from vaevq.data.volumes.entries import SlicedVolume, channel_voxels
from vaevq.data.volumes.layout import Volume, find_volumes
from vaevq.data.volumes.room import make_room
from vaevq.data.volumes.slices import AXES, Slicing
from vaevq.data.volumes.window import Window
from vaevq.errors import UserError
from vaevq.files import make_folder

LOOKED_THROUGH_AT_ONCE = 4
SAY_FROM = 20
"""From so many volumes on that have to be looked through, a line says so."""


@dataclass(frozen=True)
class _Facts:
    """What looking through a volume has found: windows by channel, and of each plane foreground and energy."""

    windows: tuple[Window, ...]
    foreground: tuple[int, ...]
    energy: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> "_Facts | None":
        tree = read_facts(path)
        try:
            windows = tuple(Window(**window) for window in tree["windows"])
            return cls(windows, tuple(tree["foreground"]), tuple(tree["energy"]))
        except (TypeError, KeyError):
            return None


def index_volumes(paths: Sequence[Path], config: VolumesConfig, location: str, *, cached: bool = True) -> ImageIndex:
    """The slices of volumes, volume after volume.

    A slice is left out where less than `config.empty_below` of its voxels are foreground.

    Args:
        paths: NIfTI files, and folders of DICOM series.
        config: which volumes and slices.
        location: what messages call them.
        cached: unpacked voxels are kept on disk.

    Raises:
        UserError: see `find_volumes` and `make_room`; a volume that cannot be read, holds nothing, or voxels that are
            not finite.
    """
    volumes = find_volumes(paths, config, location)
    if cached:
        make_room(volumes, location)
    unknown = [volume for volume in volumes if not _facts_path(volume, config).is_file()]
    if len(unknown) >= SAY_FROM:
        print(f"{location}: looking through {len(unknown)} volumes once", file=sys.stderr)
    with ThreadPoolExecutor(LOOKED_THROUGH_AT_ONCE, thread_name_prefix="vaevq-volumes") as threads:
        found = list(threads.map(lambda volume: _facts(volume, config, cached), volumes))
    entries = [
        entry
        for volume, facts in zip(volumes, found, strict=True)
        for entry in _sliced(volume, facts, config, cached).slices()
    ]
    return ImageIndex(location, tuple(entries))


def _sliced(volume: Volume, facts: _Facts, config: VolumesConfig, cached: bool) -> SlicedVolume:
    opened = volume.channels[0].header
    shape, sizes = opened.ras_shape, opened.voxel_sizes
    slicing = Slicing(shape, config.axis, config.size, config.fit, ())
    area = slicing.plane_shape[0] * slicing.plane_shape[1]
    kept = tuple(place for place, count in enumerate(facts.foreground) if count and count >= config.empty_below * area)
    if not kept:
        raise UserError(
            f"{volume.name}: no slice has {config.empty_below:g} of foreground; lower data.volumes.empty_below or "
            "data.volumes.foreground"
        )
    column, row = (size for axis, size in enumerate(sizes) if axis != AXES[config.axis])
    return SlicedVolume(
        volume=volume,
        slicing=Slicing(shape, config.axis, config.size, config.fit, kept),
        windows=facts.windows,
        energy=facts.energy,
        config=config,
        spacing=(row, column),
        cached=cached,
    )


def _facts_path(volume: Volume, config: VolumesConfig) -> Path:
    files: list[Any] = [[*channel.identity, channel.frame] for channel in volume.channels]
    return kept_facts(json.dumps([files, config.percentiles, config.foreground, config.axis]))


def _facts(volume: Volume, config: VolumesConfig, cached: bool) -> _Facts:
    path = _facts_path(volume, config)
    if facts := _Facts.read(path):
        return facts
    make_folder(path.parent)
    with FileLock(f"{path}.lock"):  # the processes of a run share the work
        facts = _Facts.read(path)
        if facts is None:
            facts = _looked_through(volume, config, cached)
            write_facts(path, asdict(facts))
    return facts


def _looked_through(volume: Volume, config: VolumesConfig, cached: bool) -> _Facts:
    slicing = Slicing(volume.channels[0].header.ras_shape, config.axis, None, "pad", ())
    planes = slicing.planes_in_all
    seen = [np.zeros(slicing.plane_shape, dtype=bool) for _ in range(planes)]
    energy = [0.0] * planes
    windows = []
    for channel in volume.channels:
        opened, voxels = channel.header, channel_voxels(channel, cached=cached)
        try:
            window = Window.of(voxels, opened.slope, opened.inter, config.percentiles)
        except ValueError as error:
            raise UnreadableImage(f"{channel.path}: {error}") from None
        for place, plane in enumerate(slicing.planes(voxels)):
            share = (window.apply(plane, opened.slope, opened.inter).astype(np.float64) + 1) / 2
            seen[place] |= share > config.foreground
            energy[place] += float(np.square(share).sum())
        windows.append(window)
    return _Facts(tuple(windows), tuple(int(mask.sum()) for mask in seen), tuple(energy))
