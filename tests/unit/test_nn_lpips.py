"""LPIPS with random weights: what must hold whatever the weights are."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vaevq.errors import UserError
from vaevq.nn.lpips import Lpips

ALEXNET = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]


def alexnet_file(folder: Path, **changes: np.ndarray) -> Path:
    """A weight file for AlexNet in the published layout; `changes` replace arrays, `__` standing for a slash."""
    rng = np.random.default_rng(0)
    tree: dict[str, dict[str, dict[str, np.ndarray]]] = {"AlexNet_0": {}}
    for i, (size, inputs, outputs) in enumerate(ALEXNET):
        kernel = rng.normal(size=(size, size, inputs, outputs)) * (2 / (size * size * inputs)) ** 0.5
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": 0.1 * rng.normal(size=outputs)}
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": rng.uniform(size=(1, 1, outputs, 1))}}
    for path, array in changes.items():
        network, layer, name = path.split("__")
        tree[network][layer][name] = array
    file = folder / "alexnet.ckpt"
    file.write_bytes(pickle.dumps(tree))
    return file


@pytest.fixture(scope="module")
def lpips(tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    return Lpips("alexnet", alexnet_file(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 40, 33, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_is_a_distance_per_image(lpips: Lpips, images: torch.Tensor) -> None:
    others = images.flip(0)
    distances = lpips(images, others)
    assert distances.shape == (3,)
    assert torch.equal(lpips(images, images), torch.zeros(3))
    torch.testing.assert_close(distances, lpips(others, images))
    assert distances[1] == 0  # the middle image is its own mirror in the batch
    assert distances[0] > 0.01
    torch.testing.assert_close(distances[:1], lpips(images[:1], others[:1]))


def test_features_computed_once_serve_several_distances(lpips: Lpips, images: torch.Tensor) -> None:
    features = lpips.features(images)
    assert [f.shape[1] for f in features] == [outputs for _, _, outputs in ALEXNET]
    for other in (images.flip(2), images * 0.5):
        torch.testing.assert_close(lpips.distance(features, lpips.features(other)), lpips(images, other))


def test_grey_images_count_as_three_equal_channels(lpips: Lpips, images: torch.Tensor) -> None:
    grey, other = images[:, :1], images[:, 1:2]
    torch.testing.assert_close(lpips(grey, other), lpips(grey.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_refused_with_the_way_out(lpips: Lpips, channels: int) -> None:
    images = torch.zeros(1, channels, 40, 40)
    with pytest.raises(UserError, match=rf"not of {channels}: set loss.perceptual_weight to 0"):
        lpips(images, images)


def test_smallest_image_works_and_a_smaller_one_is_refused(lpips: Lpips) -> None:
    smallest, smaller = torch.zeros(1, 3, 31, 40), torch.zeros(1, 3, 30, 40)
    assert lpips(smallest, smallest).shape == (1,)
    with pytest.raises(UserError, match="30×40 pixels are too small for LPIPS with alexnet, which needs 31"):
        lpips(smaller, smaller)


def test_gradients_reach_the_images_and_never_the_weights(lpips: Lpips, images: torch.Tensor) -> None:
    images.requires_grad_()
    lpips.train()
    assert not any(module.training for module in lpips.modules())
    lpips(images, images.detach().flip(3)).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in lpips.parameters())


def test_gradient_stays_finite_where_no_feature_answers(tmp_path: Path) -> None:
    dead = alexnet_file(tmp_path, AlexNet_0__Conv_0__bias=np.full(64, -100.0))
    images = torch.zeros(1, 3, 40, 40, requires_grad=True)
    Lpips("alexnet", dead)(images, torch.rand(1, 3, 40, 40)).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_float64_and_autocast(lpips: Lpips, images: torch.Tensor, tmp_path: Path) -> None:
    expected = lpips(images, images.flip(0))
    with torch.autocast("cpu", torch.bfloat16):
        halved = lpips(images, images.flip(0))
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, expected, rtol=0.1, atol=0)
    exact = Lpips("alexnet", alexnet_file(tmp_path)).double()(images.double(), images.flip(0).double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), expected, rtol=1e-4, atol=1e-6)


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"alexnet\.ckpt: not the weights of LPIPS with vgg16: "):
        Lpips("vgg16", alexnet_file(tmp_path))


def test_negative_head_is_refused(tmp_path: Path) -> None:
    file = alexnet_file(tmp_path, NetLinLayer_2__Conv_0__kernel=np.full((1, 1, 384, 1), -0.1))
    with pytest.raises(UserError, match="negative weights"):
        Lpips("alexnet", file)
