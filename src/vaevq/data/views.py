"""Several views of one image, crops and their mirror images, each under a name of its own.

A generator that learns from tokens cannot crop or mirror what it learns from, so the views are made before encoding.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import torch

from vaevq.data.entries import ImageIndex
from vaevq.data.entry import ImageEntry
from vaevq.data.images import Picture, check_crop, resize_shorter
from vaevq.errors import UserError
from vaevq.seeding import generator

CORNERS = 4
_VIEW = re.compile(r"(@crop[0-9]+)?(@flip)?(?=(\.[^./]*)?$)")


@dataclass(frozen=True)
class Views:
    """Which views of an image there are.

    Attributes:
        resize: the shorter side is brought to so many pixels first; None leaves it.
        crop: side of the square views; None: the whole image.
        crops: how many: the first is the centre, four more are the corners, others lie where (name, number) says.
        flips: each of them mirrored as well.

    Raises:
        UserError: several crops of the whole image.
    """

    resize: int | None = None
    crop: int | None = None
    crops: int = 1
    flips: bool = False

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise UserError(f"crops must be at least 1, not {self.crops}")
        if self.crops > 1 and self.crop is None:
            raise UserError("several crops need their side: name it with --crop")

    @property
    def count(self) -> int:
        """Views an image."""
        return self.crops * (1 + self.flips)


def index_of_views(index: ImageIndex, views: Views) -> ImageIndex:
    """The views of all images, those of one image after another. They come cut: no resize or crop is left to do.

    `cat/7.jpg` is followed by `cat/7@flip.jpg`, `cat/7@crop1.jpg`, `cat/7@crop1@flip.jpg` and so on; labels stay.

    Raises:
        UserError: see `check_names`.
    """
    check_names(index, views)
    mirrored = (False, True) if views.flips else (False,)
    entries = (
        _View(_name(e.name, n, flip), e.label, e.file, e.offset, e.size, image=e, views=views, number=n, flip=flip)
        for e in index
        for n in range(views.crops)
        for flip in mirrored
    )
    return ImageIndex(index.location, tuple(entries), index.classes)


def check_names(index: ImageIndex, views: Views) -> None:
    """Makes sure that the views' names say which image each is of.

    Raises:
        UserError: an image is called as a view of another would be.
    """
    if views.count == 1:
        return
    for name in (entry.name for entry in index):
        if (image := image_of_view(name)) != name:
            raise UserError(
                f"{index.location}: '{name}' is called like a view of '{image}': rename it, or leave out --crops and "
                "--flips"
            )


def image_of_view(name: str) -> str:
    """The name of the image that a view is of; that of an image itself is returned as it is."""
    return _VIEW.sub("", name, count=1)


@dataclass(frozen=True, slots=True)
class _View(ImageEntry):
    image: ImageEntry | None = None
    views: Views = Views()
    number: int = 0
    flip: bool = False

    @property
    def subject(self) -> str | None:
        return None if self.image is None else self.image.subject

    def load(self, channels: int, shorter: int | None = None) -> Picture:
        assert self.image is not None
        array = _resized(self.image, self.views.resize, channels)
        if self.views.crop is not None:
            side = self.views.crop
            check_crop(array, side, self.image.name, f"set resize to {side} or more")
            top, left = self._corner(array.shape[0] - side, array.shape[1] - side)
            array = array[top : top + side, left : left + side]
        array = array[:, ::-1].copy() if self.flip else array
        return array if shorter is None else resize_shorter(array, shorter)

    def _corner(self, below: int, beside: int) -> tuple[int, int]:
        """The crop's upper left corner, where so many rows and columns are left over."""
        if self.number == 0:
            return below // 2, beside // 2
        if self.number <= CORNERS:
            return below * ((self.number - 1) // 2), beside * ((self.number - 1) % 2)
        assert self.image is not None
        draws = torch.rand(2, generator=generator("view", self.image.name, self.number), dtype=torch.float64).tolist()
        return int(draws[0] * (below + 1)), int(draws[1] * (beside + 1))


@lru_cache(maxsize=1)  # the views of one image come one after another
def _resized(image: ImageEntry, size: int | None, channels: int) -> Picture:
    return image.load(channels, size)


def _name(name: str, number: int, flip: bool) -> str:
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.rpartition(".")
    mark = f"@crop{number}" * (number > 0) + "@flip" * flip
    return f"{folder}{slash}{stem}{mark}{dot}{extension}" if stem else f"{folder}{slash}{file}{mark}"
