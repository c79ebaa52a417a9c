"""The upper rows of an image as the beginning of generated ones."""

import torch
from torch import Tensor

from vaevq.data.images import Picture, centre_crop, resize_shorter, to_tensor
from vaevq.errors import UserError
from vaevq.generation.generator import Generator


@torch.no_grad()
def upper_rows(generator: Generator, image: Picture, rows: int | None, name: str) -> Tensor:
    """The tokens, int64 h'×w or h'×w×q, of the upper rows of an image that is brought to the generator's size.

    Args:
        image: uint8 H×W×C with the channels of the generator's tokenizer.
        rows: h'; None: half of them.
        name: what errors call the image.

    Raises:
        UserError: another number of rows than there are, or an image that cannot be brought to the size.
    """
    (height, width), (grid_height, _) = generator.config.tokens.image_size, generator.config.tokens.grid
    kept = grid_height // 2 if rows is None else rows
    if not 1 <= kept <= grid_height:
        raise UserError(f"--rows must be from 1 to {grid_height}, not {kept}")
    if height == width:
        image = centre_crop(resize_shorter(image, height), height, name)
    elif image.shape[:2] != (height, width):
        raise UserError(f"{name}: {image.shape[1]}×{image.shape[0]} pixels; this generator's are {width}×{height}")
    device = generator.network.device
    tokens = generator.tokenizer.to(device).encode(to_tensor(image)[None].to(device))
    return tokens[0, :kept]
