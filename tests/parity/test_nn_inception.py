"""The FID Inception, with random weights, against another implementation, run once elsewhere.

The published weights were not to be had where this was written: what is checked is that the names, shapes and
arithmetic are those of the published network, not the published features.
"""

import hashlib
from pathlib import Path

import pytest
import torch
from skimage import data

from vaevq.nn.features import feature_network
from vaevq.nn.inception import FidInception
from vaevq.seeding import generator


def random_state() -> dict[str, torch.Tensor]:
    """Weights that depend on their names alone and keep the features at a natural size."""
    state = {}
    for name, value in FidInception().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape, generator=generator("inception", name))
        if name.endswith(("running_var", "bn.weight")):
            state[name] = (1 + 0.1 * noise).abs()
        else:
            state[name] = noise * ((2 / noise[0].numel()) ** 0.5 if noise.ndim == 4 else 0.1)
    return state


def test_names_are_those_of_the_published_file() -> None:
    names = "\n".join(sorted(random_state()))
    # Of the 472 names of pytorch-fid's network, sorted, a line each, without BatchNorm's counters.
    assert hashlib.sha256(names.encode()).hexdigest() == (
        "ed87dd0f166ade6855a6d284ee17fb1bc768f59db1b37c53afed23d5c199e182"
    )


# By pytorch-fid's InceptionV3 (b9c1811, over torchvision 0.20.1's blocks) with `random_state()`, on whole photos
# of scikit-image in [0, 1], which it resizes and scales itself. Sum, length, sum weighted by −1 … 1 in equal steps.
GOLDEN = {
    "astronaut": (1130.1848656643779, 41.24416098362894, 8.854155096166664),  # 512×512
    "chelsea": (761.2932409007553, 27.840421025871102, 6.025135203335081),  # 300×451
}


def test_features_of_photos(tmp_path: Path) -> None:
    torch.save(random_state(), tmp_path / "random.pth")
    network = feature_network("inception", tmp_path / "random.pth")
    ramp = torch.linspace(-1, 1, network.dim, dtype=torch.float64)
    for photo, expected in GOLDEN.items():
        image = torch.from_numpy(getattr(data, photo)()).permute(2, 0, 1)[None] / 127.5 - 1
        features = network(image)[0].double()
        measured = (features.sum().item(), features.norm().item(), (features * ramp).sum().item())
        assert measured == pytest.approx(expected, rel=1e-5), photo
