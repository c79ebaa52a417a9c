"""What the networks with other people's weights share: they never train, and they see three channels."""

from typing import Self

from torch import Tensor, nn

from vaevq.errors import UserError


class FrozenNetwork(nn.Module):
    """Stays in evaluation mode whatever is asked of it; `freeze` takes its weights out of training."""

    def freeze(self) -> Self:
        """No gradients to the weights, evaluation mode; gradients to the images still flow."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: a parent's `train()` must not wake the normalisation layers."""
        return super().train(False)


def three_channels(images: Tensor, network: str, remedy: str) -> Tensor:
    """Images B×1×H×W repeated to B×3×H×W, B×3×H×W as they are; UserError, with `remedy`, for other channel counts."""
    channels = images.shape[1]
    if channels not in (1, 3):
        raise UserError(f"{network} sees images of 1 or 3 channels, not of {channels}: {remedy}")
    return images.expand(-1, 3, -1, -1)
