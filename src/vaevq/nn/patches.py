"""One feature vector a patch of an image, of frozen networks: what a codebook of cluster centres is made of."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vaevq.nn.efficientnet import read_efficientnet_lite0
from vaevq.nn.frozen import FrozenNetwork, three_channels
from vaevq.nn.grid import as_rows
from vaevq.nn.lpips import Lpips

PatchNetworkName = Literal["alexnet", "vgg16", "efficientnet_lite0"]

SIZE = 224
"""Images are brought to this side first: 13×13 patches for AlexNet, 14×14 for VGG16, 7×7 for EfficientNet-Lite0."""


class PatchFeatures(FrozenNetwork):
    """Images B×1×H×W or B×3×H×W in [-1, 1] -> features N×D float32, N = B · patches: the last map before pooling.

    Args:
        name: of the network; D is 256, 512 and 1,280.
        weights: LPIPS's `alexnet.ckpt` or `vgg16.ckpt`, or the .pth of EfficientNet-Lite0.

    Raises:
        UserError: the file is absent, damaged or of another network.
    """

    def __init__(self, name: PatchNetworkName, weights: Path) -> None:
        super().__init__()
        self.name = name
        self.network = read_efficientnet_lite0(weights) if name == "efficientnet_lite0" else Lpips(name, weights)
        self.freeze()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Raises UserError for images of 2 or 4 channels."""
        with torch.autocast(images.device.type, enabled=False):
            images = three_channels(images, self.name, "take another model.quantizer.features").float()
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
            network = self.network
            found = network.backbone(images)[-1] if isinstance(network, Lpips) else network.maps(images)
        return as_rows(found)
