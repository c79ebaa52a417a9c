"""Files written whole or not at all: aside, synced, then renamed."""

import json
import os
import shutil
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vaevq.errors import UserError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; at the end it is synced and takes `path`'s place.

    After an error nothing is left, and what stood at `path` still stands.

    Raises:
        UserError: the file cannot be written (no room, no permission, no such folder).
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_names(path.parent)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error}); nothing was changed") from None
    finally:
        with suppress(OSError):  # mostly because it is not there
            aside.unlink()


@contextmanager
def folder_aside(folder: Path, keep: Collection[str] = ()) -> Iterator[Path]:
    """Gives a folder beside `folder` to write files to; at the end each takes its place in `folder`, which is made.

    After an error nothing is left, and what stood in `folder` still stands. A kill can come between two files, each of
    which is old or new, and whole.

    Args:
        folder: the destination.
        keep: names of files that stay as they are where they stand already.

    Raises:
        UserError: the files cannot be written.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        make_folder(aside)
        yield aside
        for path in sorted(path for path in aside.rglob("*") if path.is_file()):
            place = folder / path.relative_to(aside)
            if place.name in keep and place.exists():
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            path.replace(place)
        _sync_names(folder)
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror or error}); nothing was changed") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync_names(folder: Path) -> None:
    """So that a name that was given outlives a power failure; not every system can do this."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes, at any depth, what a killed process had begun to write aside; no other may be writing there."""
    for aside in list(folder.rglob(".*.part")):
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; what is no text, in the name of a file, as an escape."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, tree: Any) -> None:
    """Writes JSON data for programs and for people, whole or not at all."""
    write_text(path, json.dumps(tree, indent=2) + "\n")


def require_absent(paths: Iterable[Path], *, force: bool) -> None:
    """Refuses to overwrite.

    Raises:
        UserError: one of `paths` exists and `force` is not set.
    """
    standing = [path for path in paths if os.path.lexists(path)]
    if standing and not force:
        more = f" and {len(standing) - 1} more" if len(standing) > 1 else ""
        raise UserError(f"{standing[0]}{more} already there; --force overwrites")


def require_place(path: Path, *, force: bool) -> None:
    """Makes sure that a file may be written, before the work whose result it takes.

    Raises:
        UserError: it exists and `force` is not set, it is a folder, or it cannot stand in a folder of that name.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a file to write")
    require_absent([path], force=force)
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise UserError(f"{path}: {above.name} is no folder; nothing can be written into it")


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where they are not there.

    Raises:
        UserError: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made a folder: {error.strerror or error}") from None


def check_stored(path: Path) -> None:
    """Passes what torch.save writes, a zip file of members that are not compressed, and what is no zip file at all.

    Raises:
        zipfile.BadZipFile: there is a compressed member, which could unpack to a thousand times its size.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("a compressed member")
