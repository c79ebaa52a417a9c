"""Voxels at hand: unpacked files are mapped where they lie, packed ones are unpacked once into the cache folder."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from vaevq.data.images import UnreadableImage
from vaevq.data.sources import cache_dir
from vaevq.data.volumes.dicom import open_series
from vaevq.data.volumes.source import VolumeFile, open_nifti
from vaevq.errors import UserError
from vaevq.files import make_folder, written_aside

VERSION = 1
"""Of what is cached: raised where the same files would give something else."""

Identity = tuple[str, int, int]
"""An absolute path, a size and a time: what is kept of a file is of exactly this one."""


def identity(path: str) -> Identity:
    """That of a file, or of the files of a DICOM series. UnreadableImage where it is absent."""
    try:
        place = Path(path)
        files = sorted(file for file in place.iterdir() if file.is_file()) if place.is_dir() else [place]
        found = [os.stat(file) for file in files]  # noqa: PTH116 - a series has thousands
    except OSError as error:
        raise UnreadableImage(f"{path}: {(error.strerror or str(error)).lower()}") from None
    newest = max((status.st_mtime_ns for status in found), default=0)
    return os.path.abspath(path), sum(status.st_size for status in found), newest  # noqa: PTH100 - keeps links


def open_volume(path: str, known: Identity | None = None) -> VolumeFile:
    """The header of a NIfTI file, or of the DICOM series in a folder.

    Args:
        path: of the file or the folder.
        known: its identity when it was found. A folder keeps it, so that it is not listed for each of its slices; a
            file is looked at again.

    Raises:
        UnreadableImage: it is none, or a folder that is no longer the known one.
    """
    return _opened(_now(path, known), path)


def stored_voxels(path: str, known: Identity | None = None, *, cached: bool) -> npt.NDArray[Any]:
    """The voxels of a file as they are stored, without reading those that are not asked for, where that is possible.

    Args:
        path: of the file, or the folder of a DICOM series.
        known: see `open_volume`.
        cached: unpacked voxels are kept in the cache folder; otherwise those of the last files stay in memory.

    Raises:
        UnreadableImage: it is absent or damaged, or a folder that is no longer the known one.
        UserError: the cache cannot be written.
    """
    return (_mapped if cached else _held)(_now(path, known), path)


def kept_facts(key: str) -> Path:
    """The file in which something that was found out is kept under a key."""
    return _folder() / f"{hashlib.sha256(f'{VERSION}{key}'.encode()).hexdigest()[:32]}.json"


def kept_voxels(key: Identity) -> Path:
    """The file in which the unpacked voxels of a packed one are kept."""
    return kept_facts(json.dumps(["voxels", *key])).with_suffix(".npy")


def read_facts(path: Path) -> Any:
    """What `write_facts` has written; None where it is not there, or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_facts(path: Path, facts: Any) -> None:
    """Keeps JSON data. UserError where the cache cannot be written."""
    make_folder(path.parent)
    with written_aside(path) as aside:
        aside.write_text(json.dumps(facts), encoding="utf-8")


def _now(path: str, known: Identity | None) -> Identity:
    return known if known is not None and Path(path).is_dir() else identity(path)


@lru_cache(maxsize=4096)
def _opened(key: Identity, path: str) -> VolumeFile:
    opened = open_series(path) if Path(path).is_dir() else open_nifti(path)
    _check_unchanged(key, path)
    return opened


@lru_cache(maxsize=256)
def _mapped(key: Identity, path: str) -> npt.NDArray[Any]:
    opened = _opened(key, path)
    if not opened.is_packed:
        return _voxels(key, path)
    kept = kept_voxels(key)
    make_folder(kept.parent)
    with FileLock(f"{kept}.lock"):  # processes of one run come to it at the same time
        voxels = _kept_voxels(kept, opened)
        if voxels is None:
            try:
                with written_aside(kept) as aside, aside.open("wb") as file:
                    np.save(file, np.asfortranarray(_voxels(key, path)), allow_pickle=False)
            except UserError as error:
                if isinstance(error, UnreadableImage):
                    raise
                raise UserError(f"{error}; data.volume_cache=false does without this cache") from None
            voxels = _kept_voxels(kept, opened)
    assert voxels is not None, "it has just been written"
    return voxels


@lru_cache(maxsize=4)
def _held(key: Identity, path: str) -> npt.NDArray[Any]:
    return _voxels(key, path)


def _voxels(key: Identity, path: str) -> npt.NDArray[Any]:
    voxels = _opened(key, path).read()
    _check_unchanged(key, path)  # nothing is kept of one file under the name of another
    return voxels


def _check_unchanged(key: Identity, path: str) -> None:
    if identity(path) != key:
        raise UnreadableImage(f"{path}: has changed since it was looked through; run the command again")


def _kept_voxels(path: Path, of: VolumeFile) -> npt.NDArray[Any] | None:
    try:
        voxels: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return voxels if voxels.shape == of.shape and voxels.dtype == of.dtype else None


def _folder() -> Path:
    return cache_dir() / "volumes"
