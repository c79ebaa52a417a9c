"""PSNR and SSIM against scikit-image, image by image."""

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from vaevq.metrics.image import psnr, ssim


def pairs(kind: str) -> tuple[Tensor, Tensor]:
    """Four originals and distorted versions of them, uint8."""
    rng = np.random.default_rng(7)
    if kind == "noise":
        x = rng.integers(0, 256, (4, 3, 37, 53))
        y = np.clip(x + rng.normal(0, [[[[1]]], [[[8]]], [[[40]]], [[[120]]]], x.shape).round(), 0, 255)
    elif kind == "smallest":
        x = rng.integers(0, 256, (4, 1, 11, 11))
        y = rng.integers(0, 256, x.shape)
    elif kind == "flat":  # variances of zero, and cancellation in E[x²] − E[x]² at its worst
        x = np.full((4, 2, 24, 24), 250)
        y = x + np.arange(4)[:, None, None, None]
    else:
        photo = data.astronaut()[:128, 100:292].transpose(2, 0, 1)
        x = np.stack([photo, photo[:, ::-1], photo // 2, 255 - photo])
        y = np.stack([np.roll(x[0], 1, axis=2), x[1] // 16 * 16, np.clip(x[2].astype(int) * 2, 0, 255), x[3] ^ 1])
    return torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y.astype(np.uint8))


@pytest.mark.parametrize("kind", ["noise", "smallest", "photo", "flat"])
def test_ssim_equals_scikit_image(kind: str) -> None:
    x, y = pairs(kind)
    expected = [
        structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=0,
        )
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    result = ssim(x, y)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["noise", "smallest", "photo"])
def test_psnr_equals_scikit_image_per_image(kind: str) -> None:
    x, y = pairs(kind)
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    assert max(expected) < 58.9, "the cap is tested elsewhere"
    np.testing.assert_allclose(psnr(x, y), expected, atol=1e-10, rtol=0)
