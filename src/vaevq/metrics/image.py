"""PSNR and SSIM of 8-bit images, and of slices in floating point, one value an image, in float64."""

import math

import torch
from torch import Tensor

from vaevq.errors import UserError
from vaevq.metrics.fid import as_float64

MSE_FLOOR = 1 / 12
"""Variance, in grey levels², of the rounding that made the 8-bit original: no smaller error means anything."""

PSNR_CAP = 10 * math.log10(255**2 / MSE_FLOOR)
"""58.92 dB: what an identical image counts as, so that one of them (a blank slice) leaves a mean finite."""

WINDOW_RANGE = 2.0
"""The data range of slices: the window from its bottom, -1, to its top, 1."""

WINDOW_FLOOR = (WINDOW_RANGE / 65535) ** 2 / 12
"""What rounding to 16 bits would leave of a mean squared error: slices are capped by it, at 107.12 dB."""

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_SMALLEST_SIDE = 2 * SSIM_RADIUS + 1


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, per image over all its channels.

    Args:
        x: originals, uint8 B×C×H×W, data range 255; or slices of volumes, floating point in [-1, 1], range 2.
        y: reconstructions, of the same shape and type.

    Returns:
        float64 B, at most `PSNR_CAP` (58.92 dB): mean squared errors below `MSE_FLOOR` count as that. Of slices, those
        below `WINDOW_FLOOR`.
    """
    difference = _as_float64(x) - _as_float64(y)
    error = difference.square().flatten(1).mean(1)
    if x.is_floating_point():
        return psnr_of_error(error, WINDOW_RANGE, WINDOW_FLOOR)
    return psnr_of_error(error, 255, MSE_FLOOR)


def psnr_of_error(error: Tensor, data_range: float, floor: float) -> Tensor:
    """PSNR of mean squared errors, any shape, of which those below `floor` count as that."""
    return 10 * torch.log10(data_range**2 / error.clamp_min(floor))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), per image: Gaussian window σ = 1.5 of 11 taps, K₁ = 0.01, K₂ = 0.03,
    data range as in `psnr`, population covariance; mean over channels and over the positions whose window lies in the
    image.

    Args:
        x: originals, B×C×H×W as in `psnr`.
        y: reconstructions, of the same shape and type.

    Returns:
        float64 B, at most 1.

    Raises:
        UserError: a side is shorter than the window.
    """
    _check_ssim_size(x)
    # Channel by channel: what is in hand then stays in a CPU's cache, which makes it twice as fast.
    planes = zip(x.flatten(0, 1).unsqueeze(1).unbind(), y.flatten(0, 1).unsqueeze(1).unbind(), strict=True)
    means: Tensor = torch.cat([_similarity(*pair).flatten(1).mean(1) for pair in planes]).view(x.shape[:2]).mean(1)
    return means


def ssim_maps(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at every position whose window lies in the image: B×C×H×W as in `ssim` to float64 B×C×(H−10)×(W−10)."""
    _check_ssim_size(x)
    maps = _similarity(x.flatten(0, 1), y.flatten(0, 1))
    return maps.view(*x.shape[:2], *maps.shape[-2:])


def _check_ssim_size(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < SSIM_SMALLEST_SIDE:
        raise UserError(
            f"SSIM needs images of at least {SSIM_SMALLEST_SIDE} pixels a side, not {height}×{width}: "
            "leave ssim out of eval.metrics or evaluate larger images"
        )


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of channels N×H×W at every position: float64 N×(H−10)×(W−10)."""
    top = WINDOW_RANGE if x.is_floating_point() else 255
    c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
    x, y = _as_float64(x), _as_float64(y)
    mean_x, mean_y = _smooth(x), _smooth(y)
    mean_xy = mean_x * mean_y
    mean_squares = mean_x.square() + mean_y.square()
    # Only the sum of the two variances is in the formula, so one smoothing serves both.
    variances = _smooth(x.square() + y.square()) - mean_squares
    covariance = _smooth(x * y) - mean_xy
    return ((2 * mean_xy + c1) * (2 * covariance + c2)) / ((mean_squares + c1) * (variances + c2))


def _as_float64(images: Tensor) -> Tensor:
    assert images.dtype == torch.uint8 or images.is_floating_point(), "bytes, or slices"
    return as_float64(images)


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
