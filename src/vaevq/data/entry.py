"""One image of a data set: where it lies, its label, and the shoot it belongs to."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vaevq.data.images import Picture, UnreadableImage, load_image


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
