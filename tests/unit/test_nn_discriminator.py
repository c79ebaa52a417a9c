"""The patch discriminator: shape, smallest image, and logits that do not know the rest of the batch."""

import pytest
import torch
from torch import nn

from vaevq.errors import UserError
from vaevq.nn.discriminator import PatchDiscriminator


def test_patchgan_of_three_layers_sees_70_pixels_and_has_its_published_shape() -> None:
    discriminator = PatchDiscriminator(3).double()
    images = torch.randn(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    logits = discriminator.body[:2](images)  # strides alone: GroupNorm makes every logit see everything
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions[1:]:
        logits = convolution(logits)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    rows = images.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512, 1]
    assert discriminator(images).shape == (1, 1, 30, 30)


@pytest.mark.parametrize(("channels", "width", "layers"), [(1, 8, 1), (2, 12, 2), (4, 8, 3), (3, 8, 5)])
def test_smallest_image_has_one_patch_and_one_pixel_less_is_refused(channels: int, width: int, layers: int) -> None:
    discriminator = PatchDiscriminator(channels, width, layers)
    size = discriminator.minimum_size
    assert discriminator(torch.randn(2, channels, size, size)).shape == (2, 1, 1, 1)
    with pytest.raises(UserError, match=rf"needs {size} a side: raise data.image_size"):
        discriminator(torch.randn(2, channels, size + 9, size - 1))


def test_width_is_capped_at_eight_times_the_first() -> None:
    widths = [m.out_channels for m in PatchDiscriminator(3, 8, 5).modules() if isinstance(m, nn.Conv2d)]
    assert widths == [8, 16, 32, 64, 64, 64, 1]


def test_logits_of_an_image_do_not_depend_on_its_batch_or_on_the_mode() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, 16).double()
    images = torch.randn(4, 3, 32, 40, dtype=torch.float64)
    images[1:] *= 5
    together = discriminator.train()(images)
    torch.testing.assert_close(together[:1], discriminator.eval()(images[:1]), rtol=0, atol=1e-12)
    assert list(discriminator.buffers()) == []


def test_convolutions_start_as_vqgans() -> None:
    torch.manual_seed(0)
    for convolution in (m for m in PatchDiscriminator(3).modules() if isinstance(m, nn.Conv2d)):
        assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not convolution.bias.any()


def test_every_parameter_learns() -> None:
    discriminator = PatchDiscriminator(3, 8, 2)
    discriminator(torch.randn(2, 3, 24, 24)).square().sum().backward()
    assert [n for n, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()] == []
