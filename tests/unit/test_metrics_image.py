"""PSNR's cap and SSIM's limits; their values are held against scikit-image in tests/parity."""

import math

import pytest
import torch

from vaevq.errors import UserError
from vaevq.metrics.image import PSNR_CAP, psnr, ssim


def test_identical_images_count_as_rounding_noise() -> None:
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert psnr(x, x).tolist() == [PSNR_CAP, PSNR_CAP]
    assert pytest.approx(58.92, abs=0.005) == PSNR_CAP


def test_a_nearly_identical_image_never_beats_an_identical_one() -> None:
    x = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    y = x.clone()
    y[0, 0, 0, 0] = 1
    assert psnr(x, y).item() == PSNR_CAP
    y[0, :, :8] = 1  # a quarter of the values: more than rounding makes
    assert psnr(x, y).item() == pytest.approx(10 * math.log10(255**2 / 0.25))


def test_figures_are_of_each_image_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (5, 3, 20, 24), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 256, (5, 3, 20, 24), dtype=torch.uint8, generator=generator)
    for metric in (psnr, ssim):
        alone = torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(metric(x, y), alone, rtol=1e-12, atol=0)
        assert len(set(alone.tolist())) == 5


def test_differences_of_bytes_do_not_wrap_around() -> None:
    x = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    y = torch.full_like(x, 255)
    assert psnr(x, y).item() == pytest.approx(0)


def test_ssim_is_one_for_equal_images_and_symmetric() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (2, 1, 16, 18), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 256, (2, 1, 16, 18), dtype=torch.uint8, generator=generator)
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(ssim(x, y), ssim(y, x), rtol=0, atol=1e-12)


def test_ssim_of_an_image_smaller_than_its_window_says_what_to_do() -> None:
    x = torch.zeros(1, 3, 10, 40, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"at least 11 pixels a side, not 10×40: leave ssim out of eval\.metrics"):
        ssim(x, x)
