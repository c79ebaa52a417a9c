"""The images of a data set as a fixed sequence: where each one lies, its label, and the shoot it belongs to."""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, overload

from vaevq.data.images import IMAGE_EXTENSIONS, Picture, UnreadableImage, load_image


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a data set: a file, or `size` bytes at `offset` of a shard. Small, and safe to send to workers."""

    name: str  # relative to the location, parts joined by /; in a shard: shard/member
    label: int | None
    file: str
    offset: int = 0
    size: int | None = None  # None: the whole file

    @property
    def group(self) -> str:
        """The shoot that the image belongs to; see `shoot_of`."""
        return shoot_of(self.name)

    @property
    def subject(self) -> str | None:
        """Whose slice of a volume it is; None of an image."""
        return None

    def open(self) -> BinaryIO:
        """The encoded image as a binary file."""
        return Path(self.file).open("rb") if self.size is None else io.BytesIO(self.read())

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: the file is absent, or shorter than when it was indexed.
        """
        with Path(self.file).open("rb") as file:
            file.seek(self.offset)
            data = file.read(-1 if self.size is None else self.size)
        if self.size is not None and len(data) < self.size:
            raise OSError(f"{self.file} has become shorter since it was indexed")
        return data

    def load(self, channels: int, shorter: int | None = None) -> Picture:
        """The decoded image, uint8 H×W×channels, or a slice in floating point.

        Args:
            channels: see `load_image`.
            shorter: the shorter side is brought to so many pixels (`resize_shorter`); None leaves it.

        Raises:
            UnreadableImage: it cannot be decoded; `name: reason`.
        """
        try:
            with self.open() as file:
                return load_image(file, channels, self.name, shorter=shorter)
        except OSError as error:
            raise UnreadableImage(f"{self.name}: {(error.strerror or str(error)).lower()}") from None


@dataclass(frozen=True, eq=False)
class ImageIndex(Sequence[ImageEntry]):
    """The images of one location, in a fixed order. Where the data has classes, `classes[entry.label]` is the name."""

    location: str
    entries: tuple[ImageEntry, ...]
    classes: tuple[str, ...] = ()

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
        return ImageIndex(self.location, tuple(self.entries[i] for i in positions), self.classes)

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


def shoot_of(name: str) -> str:
    """The shoot an image belongs to: its name without extension and without a trailing `-N` or ` (N)`.

    `desk-2.jpg`, `desk (3).jpg` and `desk.jpg` are one shoot. N has one or two digits and what is left must hold a
    letter, so that neither the counters of cameras (`IMG_0001`, `DSC-0412`) nor dates (`2024-05-01`) join images that
    have nothing in common. Images in different folders are never of one shoot. In a shard the stem ends at the
    first dot, as webdataset's keys do.
    """
    folder, _, file = name.rpartition("/")
    stem = file.partition(".")[0] if folder.endswith(".tar") or ".tar/" in folder else file.rpartition(".")[0]
    match = re.fullmatch(r"(.*[^\W\d_].*?)(?:-[0-9]{1,2}| ?\([0-9]{1,2}\))", stem)
    return f"{folder}/{match[1] if match else stem}".lstrip("/")


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image's does and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)


def natural_key(name: str) -> tuple[object, ...]:
    """Sorts `frame2` before `frame10`, folder by folder, regardless of case; equal only for equal names."""
    return tuple(_natural_part(part) for part in name.split("/")), name


def _natural_part(part: str) -> tuple[tuple[int, int, str], ...]:
    pieces = re.split(r"([0-9]+)", part.casefold())
    return tuple((0, int(piece), "") if i % 2 else (1, 0, piece) for i, piece in enumerate(pieces) if piece)
