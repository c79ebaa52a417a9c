"""How many levels each dimension of a grid has, where only their number and their product are given."""

import math
from collections.abc import Iterator, Sequence

MAX_RATIO = 2
"""The greatest of the chosen levels over the least, at most."""


def chosen_levels(size: int, dim: int) -> tuple[int, ...] | None:
    """`dim` numbers of at least 2 whose product is `size`, the greatest first, as equal as there are.

    None where there are none of which the greatest is at most `MAX_RATIO` times the least.
    """
    if size < 2**dim:
        return None
    found = [levels for levels in _products(size, dim, size) if levels[0] <= MAX_RATIO * levels[-1]]
    return min(found, key=lambda levels: (levels[0] / levels[-1], levels), default=None)


def nearest_size(size: int, dim: int) -> int:
    """The product of `dim` numbers, all alike or of two that follow each other, that is nearest to `size`."""
    low = 2
    while (low + 1) ** dim <= size:
        low += 1
    products = [math.prod([low] * (dim - i) + [low + 1] * i) for i in range(dim + 1)]
    return min(products, key=lambda product: abs(product - size))


def spread(levels: Sequence[int]) -> str:
    """Levels as text."""
    return ", ".join(map(str, levels))


def _products(size: int, dim: int, most: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `size` as a product of `dim` numbers of 2 to `most`, the greatest first."""
    if dim == 1:
        if 2 <= size <= most:
            yield (size,)
        return
    # The greatest is at least the mean, and leaves at least 2 for each of the others.
    least = math.ceil(size ** (1 / dim) - 1e-9)
    for first in range(max(2, least), min(most, MAX_RATIO * (least + 1), size // 2 ** (dim - 1)) + 1):
        if size % first == 0:
            yield from ((first, *rest) for rest in _products(size // first, dim - 1, first))
