"""Pictures in and out: any file Pillow opens as uint8 H×W×C, and the way between those bytes and tensors in [-1, 1]."""

import os
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vaevq.errors import UserError

Pixels = npt.NDArray[np.uint8]
"""An image as uint8 H×W×C, C from 1 to 4: grey, grey and alpha, RGB, RGBA."""

Floats = npt.NDArray[np.float32]
"""A slice of a volume as float32 H×W×C in [-1, 1]; it never becomes 8 bits before it is shown."""

Picture = Pixels | Floats
"""What the data rooms hand around: a decoded image, or a slice."""

# fmt: off
IMAGE_EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm",
    ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)
# fmt: on
"""What is taken for an image when a folder or a shard is searched; `load_image` itself goes by the content."""

MAX_PIXELS = 160_000_000
"""The largest image that is decoded, unless `VAEVQ_MAX_PIXELS` says otherwise; a small file that unpacks to more is an
attack or a mistake."""

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for each number of channels."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class UnreadableImage(UserError):  # noqa: N818 - it says what the image is, as UserError's message does
    """A file that cannot be decoded; the message is `name: reason`."""


def load_image(file: Path | BinaryIO, channels: int, name: str | None = None, *, shorter: int | None = None) -> Pixels:
    """Decodes the first frame of an image, upright.

    Transparent pixels are laid over white for 1 and 3 channels; opaque images get full alpha for 2 and 4. Grey of 16
    bits is scaled, not clipped (65535 becomes 255), and so is floating point (1.0 becomes 255 where the values lie
    in [0, 1]). CMYK is converted without its colour profile.

    Args:
        file: a path, or an open binary file.
        channels: 1 luminance, 2 luminance and alpha, 3 RGB, 4 RGBA.
        name: what errors call the image; the path where left out.
        shorter: the shorter side is brought to so many pixels, as `resize_shorter` does it and with the same result,
            but before the image becomes an array; None leaves it.

    Returns:
        uint8 H×W×channels.

    Raises:
        UnreadableImage: absent, no image, damaged, truncated, of more than `max_pixels()` pixels, or in a form without
            a defined conversion.
    """
    name = name or str(file if isinstance(file, Path) else getattr(file, "name", "image"))
    _ignore_pillow_warnings()
    most = max_pixels()
    try:
        with Image.open(file) as image:
            decoded = _decode(image, channels, most)
            if shorter is None:
                return _to_array(decoded)
            if channels not in (1, 3):  # each channel by itself
                return cast(Pixels, resize_shorter(_to_array(decoded), shorter))
            height, width = _sides(decoded.height, decoded.width, shorter)
            return _to_array(decoded.resize((width, height), Image.Resampling.BICUBIC))
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever their parsing runs into
        raise UnreadableImage(f"{name}: {_reason(error)}") from None


def max_pixels() -> int:
    """The largest image that is decoded, in pixels: `VAEVQ_MAX_PIXELS` of the environment, or `MAX_PIXELS`.

    Raises:
        UserError: the variable is no whole number above 0.
    """
    text = os.environ.get("VAEVQ_MAX_PIXELS", "")
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text)):
        raise UserError(f"VAEVQ_MAX_PIXELS is '{text[:40]}' in the environment: a whole number of pixels is wanted")
    most = int(text)
    # Pillow's own limit, which is of the process, would refuse what was allowed here.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, most)
    return most


def to_tensor(array: Picture) -> Tensor:
    """uint8 H×W×C, or a slice, as float32 C×H×W in [-1, 1]."""
    return as_tensor(torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))))


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images, any shape, as float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1], any shape, as uint8 of the same shape: clamped, then rounded (not truncated)."""
    return images.detach().float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)


def to_pixels(images: Tensor) -> Pixels:
    """The inverse of `to_tensor`, rounded: C×H×W in [-1, 1] as uint8 H×W×C; of a batch B×C×H×W as B×H×W×C."""
    array: Pixels = to_uint8(images).movedim(-3, -1).cpu().numpy()
    return array


def save_png(image: Tensor, path: Path) -> None:
    """Writes one image, C×H×W in [-1, 1] with 1 to 4 channels, as PNG; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pillow(to_pixels(image)).save(path, format="PNG")


def as_tensor(pictures: Tensor) -> Tensor:
    """Decoded images or slices of any shape as float32 in [-1, 1]; slices are that already."""
    return from_uint8(pictures) if pictures.dtype == torch.uint8 else pictures


def resize(array: Picture, height: int, width: int) -> Picture:
    """`array` at height×width: Pillow's bicubic filter, which averages when it shrinks (antialias).

    Channels do not mix: colours are not weighted with alpha, since the fourth channel may as well be a fourth contrast.
    """
    if array.shape[:2] == (height, width):
        return array
    if array.dtype != np.uint8:
        return resize_floats(cast(Floats, array), height, width)
    channels, size, pixels = array.shape[2], (width, height), cast(Pixels, array)
    if channels in (1, 3):
        return _to_array(to_pillow(pixels).resize(size, Image.Resampling.BICUBIC))
    parts = np.split(pixels, channels, axis=2)
    return np.concatenate([_to_array(to_pillow(p).resize(size, Image.Resampling.BICUBIC)) for p in parts], axis=2)


def resize_floats(array: Floats, height: int, width: int) -> Floats:
    """A slice at height×width, each channel by the same filter in floating point; what overshoots [-1, 1] is clipped.

    `array` may be H×W as well.
    """
    if array.shape[:2] == (height, width):
        return array
    planes = np.moveaxis(array, 2, 0) if array.ndim == 3 else array[None]
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BICUBIC))
        for plane in planes
    ]
    clipped: Floats = np.clip(np.stack(resized, axis=-1), -1, 1)
    return clipped if array.ndim == 3 else clipped[..., 0]


def resize_shorter(array: Picture, size: int) -> Picture:
    """`array` with its shorter side brought to `size` pixels, up or down, proportions kept (see `resize`)."""
    return resize(array, *_sides(array.shape[0], array.shape[1], size))


def _sides(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width with the shorter of them at `size`."""
    shorter = min(height, width)
    sides = round(height * size / shorter), round(width * size / shorter)
    if sides[0] * sides[1] > max(max_pixels(), height * width):
        raise UnreadableImage(f"{width}×{height} pixels, which a shorter side of {size} makes {sides[1]}×{sides[0]}")
    return sides


def centre_crop(array: Picture, size: int, name: str = "image", remedy: str = "resize it first") -> Picture:
    """The size×size square in the middle.

    Raises:
        UserError: the image is smaller than that; the message is built of `name` and `remedy`.
    """
    check_crop(array, size, name, remedy)
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


def check_crop(array: Picture, size: int, name: str, remedy: str) -> None:
    """Raises a UserError where `array` is smaller than a size×size crop."""
    height, width = array.shape[:2]
    if min(height, width) < size:
        raise UserError(f"{name}: {width}×{height} pixels, smaller than the {size}×{size} crop; {remedy}")


def _decode(image: Image.Image, channels: int, most: int) -> Image.Image:
    if image.width * image.height > most:
        raise Image.DecompressionBombError
    if image.format == "EPS":
        raise ValueError("an EPS file is a program, not a picture; convert it to PNG")
    image.load()  # before EXIF is asked: TIFF turns itself upright here, and forgets that it was turned
    image = _upright(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image), image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels in (1, 3):
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image).convert("RGB")
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to refuse sound pixels; viewers show them as they are
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_eight_bits(values: npt.NDArray[Any], image: Image.Image) -> Pixels:
    """Grey of more than 8 bits as uint8.

    The container says what full white is where it can (16-bit files, PGM); where it holds 32 bits, the smallest of 1.0
    (floating point only), 255 and 65535 that no value exceeds is taken.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise ValueError(f"values from {low:g} to {high:g}, where 0 to 65535 are expected; convert it to PNG")
    if image.mode == "F" and high <= 1.0:
        white = 1.0
    else:
        white = 255.0 if image.mode in ("I", "F") and image.format != "PPM" and high <= 255 else 65535.0
    return np.rint(values.astype(np.float64) * (255.0 / white)).astype(np.uint8)


def _to_array(image: Image.Image) -> Pixels:
    array = np.array(image, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


def to_pillow(array: Pixels) -> Image.Image:
    """uint8 H×W×C as Pillow's image, in the mode of its channels (`MODES`)."""
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def _reason(error: Exception) -> str:
    """Why decoding failed, in one line without memory addresses."""
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {max_pixels():,} pixels; make it smaller, or raise the environment's VAEVQ_MAX_PIXELS"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _ignore_pillow_warnings() -> None:
    # Once for the process: catch_warnings around each image is not thread-safe, and every use of it makes all
    # warnings that Python shows once appear again.
    if _PILLOW_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW_WARNINGS[3].pattern)
