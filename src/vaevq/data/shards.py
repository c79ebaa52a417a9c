"""Webdataset shards, read by seeking: uncompressed tar files whose members are found once and never extracted."""

import itertools
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vaevq.data.entries import ImageIndex, is_image_name
from vaevq.data.entry import ImageEntry
from vaevq.errors import UserError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"PK": "zip"}
_BLOCK = 512
_MOST_SHARDS = 1_000_000


def expand_pattern(pattern: str) -> list[Path]:
    """`name-{000..009}.tar` as the paths it stands for, in order; several braces are combined, the last fastest.

    Raises:
        UserError: the braces hold no range of whole numbers, or a shard is absent.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_expand_range(part, pattern) if i % 2 else [part] for i, part in enumerate(parts)]
    paths = [Path("".join(choice)) for choice in itertools.product(*choices)]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise UserError(f"{pattern}: {len(absent)} of {len(paths)} shards are absent, the first is {absent[0]}")
    return paths


def index_shards(shards: Sequence[Path], location: str) -> ImageIndex:
    """The images in `shards`, in the order in which they are stored.

    A member's key is its name up to the first dot of its last part; `key.cls` holds the label of that key's images, a
    whole number. A member may have a longer extension than its format's (`key.left.jpg`).

    Raises:
        UserError: a shard is compressed, truncated or no tar file, holds a label that is no number, or no shard holds
            an image.
    """
    entries = [entry for shard in shards for entry in _index_shard(shard)]
    if not entries:
        raise UserError(f"{location}: no image found in {len(shards)} shard{'s' * (len(shards) > 1)}")
    labels = [entry.label for entry in entries if entry.label is not None]
    return ImageIndex.packed(location, entries, tuple(str(i) for i in range(max(labels, default=-1) + 1)))


def _index_shard(shard: Path) -> list[ImageEntry]:
    entries, keys = [], []
    labels: dict[str, int] = {}
    with shard.open("rb") as file:
        for member in _members(shard):
            # Names are only for reading, but they come back as names of files that are written.
            name = "/".join(part for part in PurePosixPath(member.name).parts if part not in ("/", ".."))
            folder, _, last = name.rpartition("/")
            key, _, extension = last.partition(".")
            if last.startswith("."):
                continue
            if extension.lower() == "cls":
                file.seek(member.offset_data)
                labels[f"{folder}/{key}"] = _label(file.read(min(member.size, 64)), f"{shard}: {name}")
            elif is_image_name(last):
                keys.append(f"{folder}/{key}")
                entries.append(ImageEntry(f"{shard.name}/{name}", None, str(shard), member.offset_data, member.size))
    return [replace(entry, label=labels.get(key)) for entry, key in zip(entries, keys, strict=True)]


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of an uncompressed tar; a UserError where it does not end as a tar does."""
    end = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                end = member.offset_data + (0 if not member.isreg() else -(-member.size // _BLOCK) * _BLOCK)
                if member.isreg() and not member.issparse():
                    yield member
    except (tarfile.TarError, EOFError):
        raise UserError(_complaint(shard)) from None
    except OSError as error:
        raise UserError(f"{shard}: {(error.strerror or str(error)).lower()}") from None
    with shard.open("rb") as file:  # tarfile takes a damaged header for the end
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise UserError(f"{shard}: the tar file is truncated or damaged after byte {end:,}; write it again")


def _complaint(shard: Path) -> str:
    with shard.open("rb") as file:
        kind = _COMPRESSED.get(file.read(2))
    if kind:
        return f"{shard}: compressed ({kind}); unpack it first, images are read from within plain .tar files"
    if shard.suffix == ".tar":
        return f"{shard}: the tar file is truncated or damaged; write it again"
    return f"{shard}: neither a folder, an image, a list of images (.txt) nor a shard (.tar)"


def _label(data: bytes, where: str) -> int:
    text = data.decode("ascii", "replace").strip()
    if not re.fullmatch("[0-9]{1,6}", text):
        raise UserError(f"{where}: a label is a whole number, not '{text[:20]}'")
    return int(text)


def _expand_range(braces: str, pattern: str) -> list[str]:
    match = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", braces)
    if not match or not 0 <= int(match[2]) - int(match[1]) < _MOST_SHARDS:
        raise UserError(f"{pattern}: {{{braces}}} is no range like {{000..099}}")
    width = len(match[1]) if match[1].startswith("0") or match[2].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(int(match[1]), int(match[2]) + 1)]
