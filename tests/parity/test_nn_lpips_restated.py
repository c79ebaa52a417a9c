"""LPIPS, with random weights, against a restatement in plain numpy."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage import data

from vaevq.nn.backbones import BackboneName
from vaevq.nn.lpips import Lpips

# Kernel, stride, padding, inputs, outputs, window of the pooling before (0: none), tapped.
LAYERS: dict[BackboneName, list[tuple[int, int, int, int, int, int, bool]]] = {
    "alexnet": [
        (11, 4, 2, 3, 64, 0, True),
        (5, 1, 2, 64, 192, 3, True),
        (3, 1, 1, 192, 384, 3, True),
        (3, 1, 1, 384, 256, 0, True),
        (3, 1, 1, 256, 256, 0, True),
    ],
    "vgg16": [
        (3, 1, 1, 3, 64, 0, False),
        (3, 1, 1, 64, 64, 0, True),
        (3, 1, 1, 64, 128, 2, False),
        (3, 1, 1, 128, 128, 0, True),
        (3, 1, 1, 128, 256, 2, False),
        (3, 1, 1, 256, 256, 0, False),
        (3, 1, 1, 256, 256, 0, True),
        (3, 1, 1, 256, 512, 2, False),
        (3, 1, 1, 512, 512, 0, False),
        (3, 1, 1, 512, 512, 0, True),
        (3, 1, 1, 512, 512, 2, False),
        (3, 1, 1, 512, 512, 0, False),
        (3, 1, 1, 512, 512, 0, True),
    ],
}
NAMES: dict[BackboneName, str] = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}


def random_weights(network: BackboneName) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    tree: dict[str, dict[str, dict[str, np.ndarray]]] = {NAMES[network]: {}}
    taps = 0
    for i, (kernel, _, _, inputs, outputs, _, tapped) in enumerate(LAYERS[network]):
        weight = rng.standard_normal((kernel, kernel, inputs, outputs), dtype=np.float32)
        weight *= (2 / (kernel * kernel * inputs)) ** 0.5
        bias = 0.1 * rng.standard_normal(outputs, dtype=np.float32)
        tree[NAMES[network]][f"Conv_{i}"] = {"kernel": weight, "bias": bias}
        if tapped:
            tree[f"NetLinLayer_{taps}"] = {"Conv_0": {"kernel": rng.uniform(size=(1, 1, outputs, 1))}}
            taps += 1
    return tree


def restated_taps(
    network: BackboneName, tree: dict[str, dict[str, dict[str, np.ndarray]]], image: np.ndarray
) -> list[np.ndarray]:
    """The backbone's taps of an image H×W×3 in [-1, 1], in numpy's float64."""
    x = (image - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    taps = []
    for i, (kernel, stride, padding, _, _, pool, tapped) in enumerate(LAYERS[network]):
        if pool:
            x = sliding_window_view(x, (pool, pool), axis=(0, 1))[::2, ::2].max(axis=(-2, -1))
        layer = tree[NAMES[network]][f"Conv_{i}"]
        padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
        windows = sliding_window_view(padded, (kernel, kernel), axis=(0, 1))[::stride, ::stride]
        x = np.einsum("hwcij,ijco->hwo", windows, layer["kernel"], optimize=True) + layer["bias"]
        x = np.maximum(x, 0)
        if tapped:
            taps.append(x)
    return taps


def restated_lpips(
    network: BackboneName, tree: dict[str, dict[str, dict[str, np.ndarray]]], x: np.ndarray, y: np.ndarray
) -> float:
    total = 0.0
    pairs = zip(restated_taps(network, tree, x), restated_taps(network, tree, y), strict=True)
    for i, (a, b) in enumerate(pairs):
        a = a / (np.sqrt((a**2).sum(axis=2, keepdims=True)) + 1e-10)
        b = b / (np.sqrt((b**2).sum(axis=2, keepdims=True)) + 1e-10)
        head = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)
        total += float((((a - b) ** 2) @ head).mean())
    return total


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 127.5 - 1


@pytest.mark.parametrize(("network", "height", "width"), [("alexnet", 96, 121), ("vgg16", 33, 48)])
def test_it_equals_a_restatement_in_numpy(network: BackboneName, height: int, width: int, tmp_path: Path) -> None:
    tree = random_weights(network)
    file = tmp_path / f"{network}.ckpt"
    file.write_bytes(pickle.dumps(tree))
    x = data.astronaut()[:height, :width]
    y = data.coffee()[:height, :width]
    expected = restated_lpips(network, tree, x / 127.5 - 1, y / 127.5 - 1)
    measured = Lpips(network, file).double()(to_tensor(x).double(), to_tensor(y).double())
    assert measured.item() == pytest.approx(expected, rel=1e-5)
