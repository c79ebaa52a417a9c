"""How unequally K codewords are used: their counts in eleven numbers, and as a picture of one line."""

import math

from torch import Tensor

BARS = "▁▂▃▄▅▆▇█"


def deciles(counts: Tensor) -> list[int]:
    """The smallest count, nine between that a tenth more of the codewords do not exceed each, and the largest.

    Args:
        counts: int64 K, how often each codeword occurs.

    Returns:
        Eleven counts, ascending; each is that of a codeword (the nearest rank, not interpolated).
    """
    ascending = counts.sort().values.tolist()
    return [int(ascending[max(0, math.ceil(len(ascending) * tenth / 10) - 1)]) for tenth in range(11)]


def sparkline(counts: Tensor, columns: int = 40) -> str:
    """The counts as bars, the most frequent codeword on the left, on a logarithmic scale that starts at 1.

    A column is the codeword at that place of the order. One that never occurs is a dot, so that a dead tail shows
    and its share of the columns is its share of the codebook.

    Args:
        counts: int64 K.
        columns: at most so many, K where that is less.
    """
    descending = counts.sort(descending=True).values.tolist()
    columns = min(columns, len(descending))
    shown = [int(descending[(2 * i + 1) * len(descending) // (2 * columns)]) for i in range(columns)]
    top = math.log1p(max(descending))
    return "".join(BARS[math.ceil(len(BARS) * math.log1p(n) / top) - 1] if n else "·" for n in shown)
