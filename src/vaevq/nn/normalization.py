"""Group normalisation for any width: no running statistics, so nothing depends on the batch or the processes."""

from torch import nn


def group_norm(width: int) -> nn.GroupNorm:
    """A GroupNorm with as many groups as divide `width`, at most 32, each of two channels or more.

    A group of one channel would normalise every channel by itself and so erase its mean over the image.
    """
    groups = next(g for g in range(max(1, min(32, width // 2)), 0, -1) if width % g == 0)
    return nn.GroupNorm(groups, width, eps=1e-6)
