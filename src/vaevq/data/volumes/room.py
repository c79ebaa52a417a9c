"""How much disk unpacked voxels may take: what was longest unused goes, and what will not fit is said beforehand."""

import math
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from vaevq.data.volumes.cache import kept_voxels
from vaevq.data.volumes.layout import Volume
from vaevq.errors import UserError
from vaevq.files import make_folder

MOST_GB = 100.0
"""Gigabytes (10⁹ bytes) that all unpacked voxels may take, unless `VAEVQ_VOLUME_CACHE_GB` says otherwise: those of
about 1,400 visits of BraTS with four contrasts."""

_LEFT_BEHIND = 86_400
"""Seconds after which what was begun to be written is of a process that was killed."""


def make_room(volumes: Iterable[Volume], location: str) -> None:
    """Deletes unpacked voxels of other locations, the longest unused first, until those of these volumes fit.

    Args:
        volumes: that are about to be used. Their own voxels stay: training takes slices in any order, and would unpack
            each anew.
        location: what messages call them.

    Raises:
        UserError: they alone are more than `most_bytes`, or than the disk holds; nothing has been deleted.
    """
    wanted = _unpacked_sizes(volumes)
    if not wanted:
        return
    folder, most = next(iter(wanted)).parent, most_bytes()
    way_out = "or set data.volume_cache=false, which unpacks a file for each of its slices"
    if (whole := sum(wanted.values())) > most:
        raise UserError(
            f"{location}: its unpacked voxels are {_gb(whole)}, and the cache may take {_gb(most)}: raise the "
            f"environment's VAEVQ_VOLUME_CACHE_GB, {way_out}"
        )
    make_folder(folder)
    with FileLock(folder / "room.lock"):
        standing = _standing(folder)
        now = time.time_ns()
        for path in wanted.keys() & standing.keys():
            with suppress(OSError):  # used now; the time of writing stays
                os.utime(path, ns=(now, path.stat().st_mtime_ns))
        missing = sum(size for path, size in wanted.items() if path not in standing)
        others = {path: size for path, (size, _) in standing.items() if path not in wanted}
        free = shutil.disk_usage(folder).free
        if missing > free + sum(others.values()):
            raise UserError(
                f"{location}: {_gb(missing)} of voxels have to be unpacked, and {folder} has {_gb(free)} free: set "
                f"VAEVQ_CACHE to a folder on a larger disk, {way_out}"
            )
        excess = max(whole + sum(others.values()) - most, missing - free)
        for path in sorted(others, key=lambda path: standing[path][1]):
            if excess <= 0:
                break
            with suppress(OSError):  # another process has it, where a file in use cannot be deleted
                path.unlink()
                excess -= others[path]


def most_bytes() -> int:
    """How many bytes all unpacked voxels may take. UserError where the environment's variable is no number above 0."""
    text = os.environ.get("VAEVQ_VOLUME_CACHE_GB", "")
    try:
        gigabytes = float(text or MOST_GB)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise UserError(f"VAEVQ_VOLUME_CACHE_GB is '{text[:40]}' in the environment: gigabytes are wanted, above 0")
    return round(gigabytes * 1e9)


def _unpacked_sizes(volumes: Iterable[Volume]) -> dict[Path, int]:
    """Where the voxels of packed files are kept, each once, and how many bytes of them there are."""
    channels = {channel.identity: channel for volume in volumes for channel in volume.channels}
    headers = ((key, channel.header) for key, channel in channels.items())
    return {
        kept_voxels(key): math.prod(header.shape) * header.dtype.itemsize for key, header in headers if header.is_packed
    }


def _standing(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of the last use of what is kept; what killed processes have left behind is deleted."""
    found = {}
    for path in folder.iterdir():
        with suppress(OSError):  # deleted in between
            status = path.stat()
            if path.suffix == ".npy":
                found[path] = status.st_size, status.st_atime_ns
            elif path.suffix == ".part" and time.time() - status.st_mtime > _LEFT_BEHIND:
                path.unlink()
    return found


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3g} GB"
