"""The images of a data set as a fixed sequence, and the order of their names."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from vaevq.data.entry import ImageEntry
from vaevq.data.images import IMAGE_EXTENSIONS
from vaevq.data.packed import PackedEntries


@dataclass(frozen=True, eq=False)
class ImageIndex(Sequence[ImageEntry]):
    """The images of one location, in a fixed order. Where the data has classes, `classes[entry.label]` is the name."""

    location: str
    entries: tuple[ImageEntry, ...] | PackedEntries
    classes: tuple[str, ...] = ()

    @classmethod
    def packed(cls, location: str, entries: Sequence[ImageEntry], classes: tuple[str, ...] = ()) -> "ImageIndex":
        """An index of images, of which there may be millions: see `PackedEntries`."""
        return cls(location, PackedEntries.of(entries), classes)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, at: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, at: slice) -> "ImageIndex": ...
    def __getitem__(self, at: int | slice) -> "ImageEntry | ImageIndex":
        if isinstance(at, slice):
            return ImageIndex(self.location, self.entries[at], self.classes)
        return self.entries[at]

    def subset(self, positions: Iterable[int]) -> "ImageIndex":
        """The images at `positions`, in that order, with the same classes."""
        at = list(positions)
        entries = (
            self.entries.take(at) if isinstance(self.entries, PackedEntries) else tuple(self.entries[i] for i in at)
        )
        return ImageIndex(self.location, entries, self.classes)

    @cached_property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return all(entry.label is not None for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that depend on the names and their order alone."""
        names = hashlib.sha256()
        for entry in self.entries:
            names.update(entry.name.encode("utf-8", "surrogateescape") + b"\0")
        return names.hexdigest()[:16]


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image's does and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)


def natural_key(name: str) -> tuple[object, ...]:
    """Sorts `frame2` before `frame10`, folder by folder, regardless of case; equal only for equal names."""
    return tuple(_natural_part(part) for part in name.split("/")), name


def _natural_part(part: str) -> tuple[tuple[int, int, str], ...]:
    pieces = re.split(r"([0-9]+)", part.casefold())
    return tuple((0, int(piece), "") if i % 2 else (1, 0, piece) for i, piece in enumerate(pieces) if piece)
