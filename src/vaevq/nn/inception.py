"""The Inception-v3 of the Fréchet Inception distance (Szegedy et al. 2016; Heusel et al. 2017).

It has the structure and names of the file that published FIDs are computed with, `pt_inception-2015-12-05`, the
conversion of TensorFlow's network. Against torchvision's network its average poolings leave the padding out of the
mean, the last block pools by maximum, and there are 1,008 classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaevq.nn.weights import load_strictly, read_state_dict

INPUT_SIZE = 299
FEATURES = 2048
STANDARD_CHECKSUM = "6726825d"
"""How the SHA-256 of pt_inception-2015-12-05-6726825d.pth begins; only with that file is a distance an FID."""

Kernel = tuple[int, int]
_1x1, _1x3, _3x1, _3x3, _5x5, _1x7, _7x1 = (1, 1), (1, 3), (3, 1), (3, 3), (5, 5), (1, 7), (7, 1)
_Step = tuple[int, *tuple[Kernel, ...]]
"""Outputs of a convolution and its kernel; with two kernels, two convolutions side by side."""


class _Conv(nn.Module):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Mixed(nn.Module):
    """Chains of convolutions and a pooling side by side, their outputs concatenated in that order.

    `pool_width` is the width of the 1×1 convolution after a pooling of stride 1. With `reduce` the chains' last
    convolutions and the pooling have stride 2 and no padding, and there is no convolution after the pooling.
    """

    def __init__(
        self,
        inputs: int,
        chains: Mapping[str, Sequence[_Step]],
        pool_width: int = 0,
        pool: Literal["average", "maximum", "reduce"] = "average",
    ) -> None:
        super().__init__()
        self._pool = pool
        self._chains = [self._add_chain(inputs, name, steps) for name, steps in chains.items()]
        if pool != "reduce":
            self.branch_pool = _Conv(inputs, pool_width, _1x1)

    def _add_chain(self, width: int, chain: str, steps: Sequence[_Step]) -> list[list[str]]:
        """Makes a chain's convolutions, named as in the file; returns the names, step by step."""
        names = []
        for number, (outputs, *kernels) in enumerate(steps, start=1):
            stem = f"{chain}_{number}" if len(steps) > 1 else chain
            parallel = [stem] if len(kernels) == 1 else [f"{stem}a", f"{stem}b"]
            reduces = self._pool == "reduce" and number == len(steps)
            for name, kernel in zip(parallel, kernels, strict=True):
                self.add_module(name, _Conv(width, outputs, kernel, 2 if reduces else 1, same=not reduces))
            names.append(parallel)
            width = outputs
        return names

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for chain in self._chains:
            h = x
            for parallel in chain:
                h = torch.cat([self.get_submodule(name)(h) for name in parallel], dim=1)
            outputs.append(h)
        return torch.cat([*outputs, self._pooled(x)], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self._pool == "reduce":
            return F.max_pool2d(x, 3, stride=2)
        if self._pool == "maximum":
            return self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))  # type: ignore[no-any-return]
        average = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return self.branch_pool(average)  # type: ignore[no-any-return]


def _mixed_5(inputs: int, pool_width: int) -> _Mixed:
    chains: dict[str, list[_Step]] = {
        "branch1x1": [(64, _1x1)],
        "branch5x5": [(48, _1x1), (64, _5x5)],
        "branch3x3dbl": [(64, _1x1), (96, _3x3), (96, _3x3)],
    }
    return _Mixed(inputs, chains, pool_width)


def _mixed_6(width: int) -> _Mixed:
    chains: dict[str, list[_Step]] = {
        "branch1x1": [(192, _1x1)],
        "branch7x7": [(width, _1x1), (width, _1x7), (192, _7x1)],
        "branch7x7dbl": [(width, _1x1), (width, _7x1), (width, _1x7), (width, _7x1), (192, _1x7)],
    }
    return _Mixed(768, chains, 192)


def _mixed_7(inputs: int, pool: Literal["average", "maximum"]) -> _Mixed:
    chains: dict[str, list[_Step]] = {
        "branch1x1": [(320, _1x1)],
        "branch3x3": [(384, _1x1), (384, _1x3, _3x1)],
        "branch3x3dbl": [(448, _1x1), (384, _3x3), (384, _1x3, _3x1)],
    }
    return _Mixed(inputs, chains, 192, pool)


class FidInception(nn.Module):
    """Images B×3×299×299 in [-1, 1] -> the B×2048 "pool3" features, averaged over positions."""

    def __init__(self) -> None:
        super().__init__()
        layers = {
            "Conv2d_1a_3x3": _Conv(3, 32, _3x3, stride=2, same=False),
            "Conv2d_2a_3x3": _Conv(32, 32, _3x3, same=False),
            "Conv2d_2b_3x3": _Conv(32, 64, _3x3),
            "maxpool1": nn.MaxPool2d(3, stride=2),
            "Conv2d_3b_1x1": _Conv(64, 80, _1x1),
            "Conv2d_4a_3x3": _Conv(80, 192, _3x3, same=False),
            "maxpool2": nn.MaxPool2d(3, stride=2),
            "Mixed_5b": _mixed_5(192, pool_width=32),
            "Mixed_5c": _mixed_5(256, pool_width=64),
            "Mixed_5d": _mixed_5(288, pool_width=64),
            "Mixed_6a": _Mixed(
                288,
                {"branch3x3": [(384, _3x3)], "branch3x3dbl": [(64, _1x1), (96, _3x3), (96, _3x3)]},
                pool="reduce",
            ),
            "Mixed_6b": _mixed_6(128),
            "Mixed_6c": _mixed_6(160),
            "Mixed_6d": _mixed_6(160),
            "Mixed_6e": _mixed_6(192),
            "Mixed_7a": _Mixed(
                768,
                {
                    "branch3x3": [(192, _1x1), (320, _3x3)],
                    "branch7x7x3": [(192, _1x1), (192, _1x7), (192, _7x1), (192, _3x3)],
                },
                pool="reduce",
            ),
            "Mixed_7b": _mixed_7(1280, "average"),
            "Mixed_7c": _mixed_7(2048, "maximum"),
        }
        self._names = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        # Not computed; it is in the file, which is loaded whole, and its 1,008 classes tell it from torchvision's.
        self.fc = nn.Linear(FEATURES, 1008)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for name in self._names:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


def read_inception(file: Path) -> FidInception:
    """The network with the weights of `pt_inception-2015-12-05-6726825d.pth`.

    The names, shapes and arithmetic were checked with random weights; the true file was never run here.

    Raises:
        UserError: the file is absent, damaged or of another network, torchvision's Inception included.
    """
    network = FidInception()
    load_strictly(network, read_state_dict(file), file, "the FID Inception-v3")
    return network
