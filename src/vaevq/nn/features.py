"""Feature networks for the Fréchet distance and KID, by name: from images of any size to one vector an image."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaevq.nn import efficientnet, inception
from vaevq.nn.frozen import FrozenNetwork, three_channels
from vaevq.nn.lpips import Lpips
from vaevq.nn.weights import checksum

FeatureNetworkName = Literal["efficientnet_lite0", "vgg16", "inception"]


@dataclass(frozen=True)
class _Kind:
    name: str
    dim: int
    size: int
    antialias: bool
    scaling: str
    read: Callable[[Path], nn.Module]  # a network from B×3×size×size in [-1, 1] to B×dim


class FeatureNetwork(FrozenNetwork):
    """Images B×1×H×W or B×3×H×W in [-1, 1] -> features B×dim float32, whatever the autocast around it.

    Attributes:
        name: what goes into the name of a metric: `efficientnet_lite0`, `vgg16_relu5_3`, `inception_v3`.
        dim: the number of features.
        checksum: SHA-256 of the weight file.
    """

    def __init__(self, kind: _Kind, weights: Path) -> None:
        super().__init__()
        self._kind = kind
        self.name = kind.name
        self.dim = kind.dim
        self.checksum = checksum(weights)
        self.network = kind.read(weights)
        self.freeze()

    @property
    def preprocessing(self) -> str:
        """How images are resized and scaled, in one line, for protocols."""
        antialias = "with" if self._kind.antialias else "without"
        return f"bilinear to {self._kind.size}×{self._kind.size} {antialias} antialias, {self._kind.scaling}"

    @property
    def is_standard_inception(self) -> bool:
        """Whether these are the features of published FIDs: only then may a distance in them be called FID."""
        return self.name == "inception_v3" and self.checksum.startswith(inception.STANDARD_CHECKSUM)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Raises UserError for images of 2 or 4 channels."""
        remedy = "leave frechet and kid out of eval.metrics"
        with torch.autocast(images.device.type, enabled=False):
            images = three_channels(images, self.name, remedy).float()
            size = (self._kind.size, self._kind.size)
            if images.shape[-2:] != size:
                images = F.interpolate(
                    images, size, mode="bilinear", align_corners=False, antialias=self._kind.antialias
                )
            images = images.contiguous(memory_format=torch.channels_last)  # a quarter faster on CPU
            return self.network(images)  # type: ignore[no-any-return]


class _Relu53(nn.Module):
    """VGG16's last tap, of the backbone that LPIPS uses, averaged over positions."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.backbone = Lpips("vgg16", weights).backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)[-1].mean(dim=(2, 3))  # type: ignore[no-any-return]


_KINDS: dict[FeatureNetworkName, _Kind] = {
    "efficientnet_lite0": _Kind(
        name="efficientnet_lite0",
        dim=efficientnet.FEATURES,
        size=efficientnet.INPUT_SIZE,
        antialias=True,
        scaling="(v − 127) / 128 of pixels 0 … 255",
        read=efficientnet.read_efficientnet_lite0,
    ),
    "vgg16": _Kind(
        name="vgg16_relu5_3",
        dim=512,
        size=224,
        antialias=True,
        scaling="ImageNet's mean and deviation",
        read=_Relu53,
    ),
    # No antialias: published FIDs resize so, and it changes the value (Parmar et al. 2022).
    "inception": _Kind(
        name="inception_v3",
        dim=inception.FEATURES,
        size=inception.INPUT_SIZE,
        antialias=False,
        scaling="[-1, 1]",
        read=inception.read_inception,
    ),
}


def feature_network(name: FeatureNetworkName, weights: Path) -> FeatureNetwork:
    """The feature network `name` with the weights in a file: LPIPS's `vgg16.ckpt`, or the .pth of the other two.

    Raises:
        UserError: the file is absent, damaged or of another network.
    """
    return FeatureNetwork(_KINDS[name], weights)
