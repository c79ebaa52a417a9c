"""The JPEG that is as close to a photo as a reconstruction is."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vaevq.data.images import Pixels, to_pillow
from vaevq.metrics.image import psnr

QUALITIES = range(1, 101)


@dataclass(frozen=True)
class EqualJpeg:
    """The coarsest JPEG that is no farther from the photo than asked for.

    Attributes:
        quality: Pillow's, 1 to 100.
        psnr: in dB; below what was asked for only where quality 100 does not reach it.
        size: bytes, with JPEG's own headers and tables.
    """

    quality: int
    psnr: float
    size: int

    def words(self, asked: float) -> str:
        """Which JPEG that is, beside the PSNR that was asked for."""
        about = f"of quality {self.quality}, {self.psnr:.2f} dB"
        if self.psnr < asked:
            return f"{about}: the best it does, and below the tokenizer"
        return f"{about}: the worst it does, and above the tokenizer" if self.quality == 1 else about


def equal_jpeg(original: Pixels, asked: float) -> EqualJpeg:
    """By bisection over the quality, with optimized tables and Pillow's chroma subsampling (4:2:0).

    PSNR rises with the quality but for small dents, so that the quality found may miss the least one by as much.

    Args:
        original: uint8 H×W×C; 2 or 4 channels are a grey JPEG each, as they are shown.
        asked: PSNR in dB.
    """
    low, high = QUALITIES[0], QUALITIES[-1]
    found = _jpeg(original, high)
    while low < high:
        middle = (low + high) // 2
        tried = _jpeg(original, middle)
        if tried.psnr >= asked:
            high, found = middle, tried
        else:
            low = middle + 1
    return found


def _jpeg(original: Pixels, quality: int) -> EqualJpeg:
    channels = original.shape[2]
    planes = [original] if channels in (1, 3) else np.split(original, channels, axis=2)
    size, decoded = 0, []
    for plane in planes:
        file = io.BytesIO()
        to_pillow(plane).save(file, "JPEG", quality=quality, optimize=True)
        size += file.tell()
        decoded.append(np.asarray(Image.open(file)).reshape(plane.shape))
    pair = (original, np.concatenate(decoded, axis=2))
    error = psnr(*(torch.from_numpy(array.copy()).permute(2, 0, 1)[None] for array in pair))
    return EqualJpeg(quality, float(error), size)
