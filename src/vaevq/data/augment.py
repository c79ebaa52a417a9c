"""How a training image is cut: a square crop, resized where asked, and a flip, all from four numbers a position."""

import torch

from vaevq.config import DataConfig
from vaevq.data.images import Picture, check_crop, resize
from vaevq.seeding import generator


def augment(array: Picture, config: DataConfig, name: str, seed: int, position: int) -> Picture:
    """The training crop of an image, image_size×image_size×C: uint8, or float32 where `array` is a slice.

    It depends on (seed, position) and the options alone, and every position draws the same four numbers whatever the
    options are, so that switching the flip on or off moves no crop.

    Raises:
        UserError: a plain crop of an image that is smaller.
    """
    draws = torch.rand(4, generator=generator("augment", seed, position), dtype=torch.float64).tolist()
    height, width = array.shape[:2]
    side = config.image_size
    if config.crop == "random_resized":
        low, high = config.crop_scale
        shorter = min(height, width)
        side = min(shorter, max(1, round(shorter * (low + (high - low) * draws[2]))))
    else:
        check_crop(array, side, name, f"set data.resize to {side} or more, or data.crop to random_resized")
    top, left = int(draws[0] * (height - side + 1)), int(draws[1] * (width - side + 1))
    crop = resize(array[top : top + side, left : left + side], config.image_size, config.image_size)
    if config.flip and draws[3] < 0.5:
        crop = crop[:, ::-1].copy()
    return crop
