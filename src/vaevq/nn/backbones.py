"""AlexNet (Krizhevsky 2014) and VGG16 (Simonyan & Zisserman 2015) without their classifiers."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BackboneName = Literal["alexnet", "vgg16"]


@dataclass(frozen=True)
class _Layer:
    """A convolution with its ReLU, after a max pooling of stride 2 where `pool` gives a window."""

    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int | None = None
    tap: bool = True


def _vgg_stage(width: int, count: int, pool: int | None = 2) -> list[_Layer]:
    return [_Layer(width, pool=pool if i == 0 else None, tap=i == count - 1) for i in range(count)]


_LAYERS: dict[BackboneName, list[_Layer]] = {
    "alexnet": [
        _Layer(64, kernel=11, stride=4, padding=2),
        _Layer(192, kernel=5, padding=2, pool=3),
        _Layer(384, pool=3),
        _Layer(256),
        _Layer(256),
    ],
    "vgg16": [
        *_vgg_stage(64, 2, pool=None),
        *_vgg_stage(128, 2),
        *_vgg_stage(256, 3),
        *_vgg_stage(512, 3),
        *_vgg_stage(512, 3),
    ],
}


class Backbone(nn.Module):
    """Images B×3×H×W in [-1, 1] -> five feature maps, of `tap_widths` channels, each after a ReLU.

    AlexNet is tapped after every ReLU; VGG16 at relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.
    """

    # ImageNet's mean and standard deviation, 0.485 … and 0.229 … of [0, 1], on the scale of [-1, 1].
    mean: Tensor
    std: Tensor

    def __init__(self, name: BackboneName) -> None:
        super().__init__()
        self._layers = _LAYERS[name]
        self.tap_widths = [layer.width for layer in self._layers if layer.tap]
        self.minimum_size = 31 if name == "alexnet" else 16  # below it nothing is left after the last pooling
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.convolutions = nn.ModuleList()
        inputs = 3
        for layer in self._layers:
            convolution = nn.Conv2d(inputs, layer.width, layer.kernel, layer.stride, layer.padding)
            self.convolutions.append(convolution)
            inputs = layer.width

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images - self.mean) / self.std
        taps = []
        for layer, convolution in zip(self._layers, self.convolutions, strict=True):
            if layer.pool is not None:
                x = F.max_pool2d(x, layer.pool, stride=2)
            x = F.relu(convolution(x), inplace=True)
            if layer.tap:
                taps.append(x)
        return taps
