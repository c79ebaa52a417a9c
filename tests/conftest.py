"""Shared fixtures: small real photos, and a small finished run."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

import numpy as np
import pytest
import torch
from PIL import Image

from runs import small_recipe, vaevq

torch.set_num_threads(1)


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


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that the command has trained, evaluated and reported on. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = vaevq("train", small_recipe(folder, photos), "-o", folder / "run", "--quiet")
    assert outcome.code == 0, outcome.err
    return folder / "run"


@pytest.fixture(scope="session")
def tokens(finished: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token file that the command has made of all photos, whole, with the finished run's model."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.safetensors"
    outcome = vaevq("encode", photos, "--model", finished, "-o", path, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    return path
