"""A visitor's file as an image: nothing in it is trusted, and what is large is made smaller."""

from pathlib import Path
from typing import cast

from PIL import Image

from vaevq.data.images import Pixels, UnreadableImage, load_image, resize

MAX_PIXELS = 50_000_000
"""Larger ones are refused by what their header says: half of what files of one's own may have, and one at a time."""


def load_upload(path: Path, channels: int, side: int) -> Pixels:
    """The first frame of an image file, upright, as uint8 H×W×channels with at most `side` pixels on its longer side.

    Raises:
        UnreadableImage: no image, damaged, or of more than `MAX_PIXELS` pixels.
    """
    if not path.stat().st_size:
        raise UnreadableImage(f"{path.name}: the file is empty")
    width, height = _header_size(path)
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"{path.name}: {width}×{height} pixels, more than the {MAX_PIXELS:,} that this page takes; make it smaller"
        )
    array = load_image(path, channels, path.name)
    longer = max(array.shape[:2])
    if longer <= side:
        return array
    height, width = (max(1, round(length * side / longer)) for length in array.shape[:2])
    return cast(Pixels, resize(array, height, width))


def _header_size(path: Path) -> tuple[int, int]:
    """What the header says of width and height; 0, 0 where it says nothing, which `load_image` finds a reason for."""
    try:
        with Image.open(path) as image:
            return image.size
    except Image.DecompressionBombError:
        raise UnreadableImage(
            f"{path.name}: more than the {MAX_PIXELS:,} pixels that this page takes; make it smaller"
        ) from None
    except Exception:  # whatever the parsing of a damaged file runs into
        return 0, 0
