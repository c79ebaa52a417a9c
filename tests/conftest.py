"""Shared fixtures: small configurations and small real photos."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaevq.config import RunConfig

torch.set_num_threads(1)

EXPERIMENT_DATA = Path(os.environ.get("VAEVQ_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve real photos, 96 to 160 pixels a side: crops of three that come with scikit-image."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    sources = {"astronaut": data.astronaut(), "coffee": data.coffee(), "cat": data.chelsea()}
    for name, image in sources.items():
        for i in range(4):
            height, width = 96 + 16 * i, 160 - 16 * i
            crop = image[20 * i : 20 * i + height, 30 * i : 30 * i + width]
            Image.fromarray(np.ascontiguousarray(crop)).save(folder / f"{name}-{i}.png")
    return folder


def small_run(photos: Path, **sections: object) -> RunConfig:
    """A run that takes a second or two: 8-wide networks, 16 codewords, 16-pixel crops, five steps of four."""
    from vaevq.config import merged

    tree = {
        "seed": 3,
        "model": {
            "autoencoder": {"base_width": 8, "multipliers": [1, 2], "blocks": 1},
            "quantizer": {"kind": "vaevq", "code_dim": 4, "codebook_size": 16},
        },
        "data": {"train": str(photos), "image_size": 16, "split_by": "file"},
        "train": {
            "images": 20,
            "batch_size": 4,
            "device": "cpu",
            "tensorboard": False,
            "log_every": 4,
            "evaluate_every": 8,
            "checkpoint_every": 8,
        },
        "eval": {"metrics": ["psnr", "ssim"], "resize": 32, "crop": 32},
    }
    return RunConfig.model_validate(merged(tree, sections))
