"""Feature networks with random weights: names, sizes, channels, and files that do not belong to them."""

import hashlib
import re
from itertools import permutations
from pathlib import Path

import pytest
import torch

from feature_networks import alive, write_lpips
from vaevq.errors import UserError
from vaevq.nn.efficientnet import EfficientNetLite0
from vaevq.nn.features import FeatureNetwork, FeatureNetworkName, feature_network
from vaevq.nn.inception import FidInception

KNOWN: dict[FeatureNetworkName, tuple[str, int]] = {
    "efficientnet_lite0": ("efficientnet_lite0", 1280),
    "vgg16": ("vgg16_relu5_3", 512),
    "inception": ("inception_v3", 2048),
}


def efficientnet_state() -> dict[str, torch.Tensor]:
    """Named as in the published file, where the name of every module begins with an underscore."""
    state = alive(EfficientNetLite0()).state_dict()
    return {re.sub(r"(^|\.)(?=[a-z]\w*\.)", r"\1_", name): value for name, value in state.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[FeatureNetworkName, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    files: dict[FeatureNetworkName, Path] = {
        "efficientnet_lite0": folder / "efficientnet.pth",
        "vgg16": folder / "vgg16.ckpt",
        "inception": folder / "inception.pth",
    }
    torch.save(efficientnet_state(), files["efficientnet_lite0"])
    write_lpips("vgg16", files["vgg16"])
    torch.save(alive(FidInception()).state_dict(), files["inception"])
    return files


@pytest.fixture(scope="module")
def networks(files: dict[FeatureNetworkName, Path]) -> dict[FeatureNetworkName, FeatureNetwork]:
    return {name: feature_network(name, file) for name, file in files.items()}


@pytest.mark.parametrize("name", KNOWN)
def test_every_network_turns_images_of_any_size_into_vectors(
    name: FeatureNetworkName,
    networks: dict[FeatureNetworkName, FeatureNetwork],
    files: dict[FeatureNetworkName, Path],
) -> None:
    network = networks[name]
    assert (network.name, network.dim) == KNOWN[name]
    assert network.checksum == hashlib.sha256(files[name].read_bytes()).hexdigest()
    network.train()
    assert not any(module.training for module in network.modules())
    images = torch.rand(2, 3, 40, 300) * 2 - 1
    features = network(images.requires_grad_())
    assert features.shape == (2, network.dim)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert 0.01 < features.std() < 100
    assert (features[0] - features[1]).abs().max() > 0.01
    with torch.autocast("cpu", torch.bfloat16):
        alone = network(images[:1].double())
    torch.testing.assert_close(alone, features[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KNOWN)
def test_grey_images_are_repeated_and_other_channel_counts_refused(
    name: FeatureNetworkName, networks: dict[FeatureNetworkName, FeatureNetwork]
) -> None:
    network, grey = networks[name], torch.rand(1, 1, 64, 64) * 2 - 1
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))
    for channels in (2, 4):
        with pytest.raises(UserError, match=rf"{network.name} sees images .* not of {channels}: leave frechet"):
            network(torch.zeros(1, channels, 64, 64))


def test_protocol_lines_say_size_antialias_and_scaling(
    networks: dict[FeatureNetworkName, FeatureNetwork],
) -> None:
    assert networks["inception"].preprocessing == "bilinear to 299×299 without antialias, [-1, 1]"
    assert networks["vgg16"].preprocessing.startswith("bilinear to 224×224 with antialias")
    assert "(v − 127) / 128" in networks["efficientnet_lite0"].preprocessing


def test_only_the_published_file_makes_a_distance_an_fid(
    networks: dict[FeatureNetworkName, FeatureNetwork],
) -> None:
    assert not any(network.is_standard_inception for network in networks.values())
    networks["inception"].checksum = "6726825d" + 56 * "0"
    assert networks["inception"].is_standard_inception


@pytest.mark.parametrize(("name", "other"), list(permutations(KNOWN, 2)))
def test_file_of_another_network_is_refused_in_one_line(
    name: FeatureNetworkName, other: FeatureNetworkName, files: dict[FeatureNetworkName, Path]
) -> None:
    with pytest.raises(UserError, match=files[other].name) as refusal:
        feature_network(name, files[other])
    assert "\n" not in str(refusal.value)


def test_inception_of_torchvision_is_refused(tmp_path: Path) -> None:
    state = FidInception().state_dict()
    state |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "inception_v3_google.pth")
    with pytest.raises(UserError, match=r"not the weights of the FID Inception-v3: 'fc.bias' has shape"):
        feature_network("inception", tmp_path / "inception_v3_google.pth")
