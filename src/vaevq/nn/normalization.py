"""Normalisation by group or none: no running statistics, so nothing depends on the batch or the processes."""

from torch import nn

from vaevq.config import Normalization


def normalization(kind: Normalization, width: int) -> nn.Module:
    """B×width×H×W to the same shape: `group_norm`, or nothing."""
    return group_norm(width) if kind == "group" else nn.Identity()


def group_norm(width: int) -> nn.GroupNorm:
    """A GroupNorm with as many groups as divide `width`, at most 32, each of two channels or more.

    A group of one channel would normalise every channel by itself and so erase its mean over the image.
    """
    groups = next(g for g in range(max(1, min(32, width // 2)), 0, -1) if width % g == 0)
    return nn.GroupNorm(groups, width, eps=1e-6)
