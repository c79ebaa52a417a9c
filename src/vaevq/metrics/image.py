"""PSNR and SSIM of 8-bit images, one value an image, in float64."""

import math

import torch
from torch import Tensor

from vaevq.errors import UserError

MSE_FLOOR = 1 / 12
"""Variance, in grey levels², of the rounding that made the 8-bit original: no smaller error means anything."""

PSNR_CAP = 10 * math.log10(255**2 / MSE_FLOOR)
"""58.92 dB: what an identical image counts as, so that one of them (a blank slice) leaves a mean finite."""

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_SMALLEST_SIDE = 2 * SSIM_RADIUS + 1


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, data range 255, per image over all its channels.

    Args:
        x: originals, uint8 B×C×H×W.
        y: reconstructions, of the same shape and type.

    Returns:
        float64 B, at most `PSNR_CAP` (58.92 dB): mean squared errors below `MSE_FLOOR` count as that.
    """
    difference = _as_float64(x) - _as_float64(y)
    error = difference.square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error.clamp_min(MSE_FLOOR))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), per image: Gaussian window σ = 1.5 of 11 taps, K₁ = 0.01, K₂ = 0.03,
    data range 255, population covariance; mean over channels and over the positions whose window lies in the image.

    Args:
        x: originals, uint8 B×C×H×W.
        y: reconstructions, of the same shape and type.

    Returns:
        float64 B, at most 1.

    Raises:
        UserError: a side is shorter than the window.
    """
    height, width = x.shape[-2:]
    if min(height, width) < SSIM_SMALLEST_SIDE:
        raise UserError(
            f"SSIM needs images of at least {SSIM_SMALLEST_SIDE} pixels a side, not {height}×{width}: "
            "leave ssim out of eval.metrics or evaluate larger images"
        )
    # Channel by channel: what is in hand then stays in a CPU's cache, which makes it twice as fast.
    planes = zip(x.flatten(0, 1).unsqueeze(1).unbind(), y.flatten(0, 1).unsqueeze(1).unbind(), strict=True)
    means: Tensor = torch.cat([_mean_similarity(*pair) for pair in planes]).view(x.shape[:2]).mean(1)
    return means


def _mean_similarity(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of channels, uint8 N×H×W, averaged over positions: float64 N."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = _as_float64(x), _as_float64(y)
    mean_x, mean_y = _smooth(x), _smooth(y)
    mean_xy = mean_x * mean_y
    mean_squares = mean_x.square() + mean_y.square()
    # Only the sum of the two variances is in the formula, so one smoothing serves both.
    variances = _smooth(x.square() + y.square()) - mean_squares
    covariance = _smooth(x * y) - mean_xy
    similarity = ((2 * mean_xy + c1) * (2 * covariance + c2)) / ((mean_squares + c1) * (variances + c2))
    return similarity.flatten(1).mean(1)


def _as_float64(images: Tensor) -> Tensor:
    assert images.dtype == torch.uint8, "metrics are taken of uint8 images"
    # Apple's GPU has no float64.
    return images.to("cpu" if images.device.type == "mps" else images.device, torch.float64)


def _smooth(maps: Tensor) -> Tensor:
    """Each map under the Gaussian window, where the window lies wholly inside: N×H×W → N×(H−10)×(W−10)."""
    taps = [math.exp(-0.5 * (offset / SSIM_SIGMA) ** 2) for offset in range(SSIM_RADIUS + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    # Shifted sums, the mirrored pair at a time: PyTorch's float64 convolution is twice as slow on a CPU.
    for dim in (-1, -2):
        size = maps.shape[dim] - 2 * SSIM_RADIUS
        smoothed = maps.narrow(dim, SSIM_RADIUS, size) * (taps[0] / total)
        for offset in range(1, SSIM_RADIUS + 1):
            pair = maps.narrow(dim, SSIM_RADIUS - offset, size) + maps.narrow(dim, SSIM_RADIUS + offset, size)
            smoothed.add_(pair, alpha=taps[offset] / total)
        maps = smoothed
    return maps
