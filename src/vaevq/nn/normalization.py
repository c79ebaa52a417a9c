"""Normalisation by group or none: no running statistics, so nothing depends on the batch or the processes.

By option the latent modulates it (MoVQ, Zheng et al. 2022): F ← γ(z) ⊙ norm(F) + β(z), position by position.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from vaevq.config import Normalization


def normalization(kind: Normalization, width: int, latent_channels: int | None = None) -> nn.Module:
    """B×width×H×W to the same shape: `group_norm`, or nothing; modulated by a latent of so many channels, if any."""
    plain = group_norm(width) if kind == "group" else nn.Identity()
    return plain if latent_channels is None else ModulatedNorm(plain, width, latent_channels)


class ModulatedNorm(nn.Module):
    """γ(z) ⊙ norm(x) + β(z), both 1×1 convolutions: B×width×H×W and B×latent_channels×h×w to B×width×H×W.

    It starts as norm alone, and draws no random number, so that a decoder starts alike with it and without.
    """

    def __init__(self, norm: nn.Module, width: int, latent_channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.scale = skip_init(nn.Conv2d, latent_channels, width, 1)  # type: ignore[no-untyped-call]
        self.shift = skip_init(nn.Conv2d, latent_channels, width, 1)  # type: ignore[no-untyped-call]
        for conv, start in ((self.scale, 1.0), (self.shift, 0.0)):
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.bias, start)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        # Nearest, as published; a 1×1 convolution before or after it is the same, and cheaper before.
        scale, shift = (F.interpolate(conv(latent), x.shape[-2:]) for conv in (self.scale, self.shift))
        return scale * self.norm(x) + shift  # type: ignore[no-any-return]


def group_norm(width: int) -> nn.GroupNorm:
    """A GroupNorm with as many groups as divide `width`, at most 32, each of two channels or more.

    A group of one channel would normalise every channel by itself and so erase its mean over the image.
    """
    groups = next(g for g in range(max(1, min(32, width // 2)), 0, -1) if width % g == 0)
    return nn.GroupNorm(groups, width, eps=1e-6)
