"""Checkpoints: a state dict to disk and back. This file knows no model.

Written aside, synced and renamed, so a kill at any moment leaves either the old ones or the new one, never half a
file. Read with `weights_only`, so nothing that is loaded is run.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from vaevq.errors import UserError
from vaevq.files import check_stored, make_folder, written_aside

_NAME = re.compile(r"^(\d{12})\.pt$")


def save_checkpoint(folder: Path, images_seen: int, state: dict[str, Any], keep: int) -> Path:
    """Writes `folder/<images_seen>.pt` and then removes all but the newest `keep`."""
    make_folder(folder)
    path = folder / f"{images_seen:012d}.pt"
    try:
        # To a file, not to a path, of whose failure torch's writer keeps no reason.
        with written_aside(path) as aside, aside.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # how torch's writer reports a full disk
        first = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(first, "strerror", None) or str(first).splitlines()[0]
        raise UserError(f"{path}: could not be written ({reason}); nothing was changed") from None
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; empty where there is none."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.match(path.name))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, on the CPU, from where networks and optimizers copy what is theirs.

    On a GPU it would stand beside them, and Adam's step counts would stay there, which it then waits for one by one.

    Raises:
        UserError: the file is absent, truncated, damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        check_stored(path)
        # torch checks no checksums, and takes what is no zip file for a pickle of its early days.
        with zipfile.ZipFile(path) as archive:
            sound = archive.testzip() is None
        state: Any = torch.load(path, map_location="cpu", weights_only=True) if sound else None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: it holds more than tensors and plain values, or is damaged{_way_out(path)}") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # damaged bytes can make the readers fail in any way
        state = None
    if not isinstance(state, dict):
        raise UserError(f"{path}: truncated, damaged, or no checkpoint{_way_out(path)}")
    return state


def _way_out(path: Path) -> str:
    """What to do about a damaged checkpoint, where it is one of a run."""
    if not _NAME.match(path.name):
        return ""
    older = [other.name for other in checkpoints(path.parent) if other.name < path.name]
    return f"; delete it to resume from {older[-1]}" if older else "; delete it to start again"
