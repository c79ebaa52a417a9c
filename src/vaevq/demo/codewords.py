"""What a click on a picture means: a position of the grid, its codeword, where else that is, and painting with it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vaevq.data.images import Pixels
from vaevq.demo.photo import decoded, first_codes
from vaevq.errors import UserError
from vaevq.report.pictures import Tokens, shown
from vaevq.tokenizer import Tokenizer

PATCH = 5
"""A codeword is decoded as a field of so many positions a side: the decoder looks at a position's neighbours."""

_DIMMED = 0.25
_PATCH_PIXELS = 160


@dataclass(frozen=True)
class Position:
    """A row and a column of a grid of tokens."""

    row: int
    column: int


def position_at(x: int, y: int, grid: Tokens, factor: int, width: int) -> Position:
    """The position under a pixel of a picture.

    Args:
        x, y: the pixel; what lies outside counts as the nearest inside.
        grid: tokens h×w.
        factor: f.
        width: of the image. A picture may show channels side by side, each as wide as this.
    """
    row, column = y // factor, (x % width) // factor
    return Position(min(max(row, 0), grid.shape[0] - 1), min(max(column, 0), grid.shape[1] - 1))


def uses(image: Pixels, grid: Tokens, codeword: int, factor: int) -> Image.Image:
    """The image, uint8 H×W×C, dark except where the codeword is used."""
    mask = (grid == codeword).repeat(factor, axis=0).repeat(factor, axis=1)[: image.shape[0], : image.shape[1]]
    dimmed = np.where(mask[:, :, None], image, np.rint(image * _DIMMED).astype(np.uint8))
    return shown(dimmed)


def patch(tokenizer: Tokenizer, codes: Tokens) -> Image.Image:
    """The picture of the codeword, or of the q codes, of one position: the middle of a field of nothing else.

    Args:
        codes: int64, of shape () or (q,).
    """
    field = np.broadcast_to(codes, (PATCH, PATCH, *codes.shape)).copy()
    factor, middle = tokenizer.downsample_factor, PATCH // 2
    inside = slice(middle * factor, (middle + 1) * factor)
    picture = shown(decoded(tokenizer, field)[inside, inside])
    scale = max(1, _PATCH_PIXELS // picture.height)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def painted(tokens: Tokens, at: Position, codeword: int, brush: int, codebook_size: int) -> Tokens:
    """Tokens with a square of `brush` positions a side around `at` set to the codeword; of q codes the first is set.

    Raises:
        UserError: no such codeword.
    """
    check_codeword(codeword, codebook_size)
    result = tokens.copy()
    top, left = (max(0, corner - (brush - 1) // 2) for corner in (at.row, at.column))
    bottom, right = at.row + brush // 2 + 1, at.column + brush // 2 + 1
    first_codes(result)[top:bottom, left:right] = codeword
    return result


def example(tokens: Tokens, codeword: int) -> Tokens:
    """The codes, of shape () or (q,), of a position that uses the codeword.

    Where several codes stand together and no position uses it, those of the upper left with the codeword before them.
    """
    if tokens.ndim == 2:
        return np.array(codeword)
    where = np.argwhere(first_codes(tokens) == codeword)
    row, column = where[0] if len(where) else (0, 0)
    codes: Tokens = tokens[row, column].copy()
    codes[0] = codeword
    return codes


def check_codeword(codeword: int, codebook_size: int) -> None:
    """Raises a UserError where it is not in the codebook."""
    if not 0 <= codeword < codebook_size:
        raise UserError(f"codeword {codeword} is outside the codebook: 0 to {codebook_size - 1}")


def sentence(grid: Tokens, at: Position) -> str:
    """What there is to say of the codeword at a position."""
    codeword = int(grid[at.row, at.column])
    count = int((grid == codeword).sum())
    _, counts = np.unique(grid, return_counts=True)
    rank = int((counts > count).sum()) + 1
    times = "once" if count == 1 else f"{count:,} times"
    return (
        f"Codeword **{codeword}**, at row {at.row}, column {at.column}. In this photo it is used {times}, "
        f"{100 * count / grid.size:.1f} % of {grid.size:,} positions: number {rank} of {len(counts):,} in use."
    )
