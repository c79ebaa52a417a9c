"""PatchGAN discriminator (Isola et al. 2017) in VQGAN's shape, normalised by groups.

GroupNorm stands where VQGAN has BatchNorm: with BatchNorm a logit depends on the other images of its process's
batch, so the losses change with the number of processes, and real and fake batches are normalised apart.
"""

from torch import Tensor, nn

from vaevq.errors import UserError
from vaevq.nn.normalization import group_norm


class PatchDiscriminator(nn.Module):
    """Images B×image_channels×H×W in [-1, 1] -> logits B×1×h'×w', one a patch; high means real.

    4×4 convolutions: `layers` of stride 2, then two of stride 1; the width doubles up to 8 × `width`.
    """

    def __init__(self, image_channels: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(image_channels, width, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(layers):
            stride = 2 if i < layers - 1 else 1
            body += [
                nn.Conv2d(widths[i], widths[i + 1], 4, stride, padding=1),
                group_norm(widths[i + 1]),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, padding=1))
        # A stride of 2 halves, rounding down; each of the two convolutions of stride 1 takes one pixel off.
        self.minimum_size = 3 * 2**layers
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Raises UserError where a side of the images is under `minimum_size`: no patch fits in."""
        if min(images.shape[-2:]) < self.minimum_size:
            height, width = images.shape[-2:]
            raise UserError(
                f"images of {height}×{width} pixels are too small for the discriminator, which needs "
                f"{self.minimum_size} a side: raise data.image_size or lower loss.discriminator_layers"
            )
        return self.body(images)  # type: ignore[no-any-return]


def _initialise(module: nn.Module) -> None:
    """VQGAN's start: weights N(0, 0.02²), biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
