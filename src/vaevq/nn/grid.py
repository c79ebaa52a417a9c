"""A grid of vectors as rows, and back."""

from torch import Tensor


def as_rows(grid: Tensor) -> Tensor:
    """B×d×h×w to N×d with N = B·h·w."""
    return grid.permute(0, 2, 3, 1).reshape(-1, grid.shape[1])


def as_grid(rows: Tensor, like: Tensor) -> Tensor:
    """N×d to B×d×h×w, with B, h and w of `like`."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()
