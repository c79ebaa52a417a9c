"""What has to be equal for two results to be comparable, in words and numbers that go with every result."""

from importlib.metadata import version
from typing import Any

import torch

from vaevq.config import EvalConfig
from vaevq.data.index import ImageIndex
from vaevq.metrics.codebook import CodebookStatistics
from vaevq.metrics.image import PSNR_CAP
from vaevq.nn.features import FeatureNetwork
from vaevq.nn.lpips import Lpips


def codebook_protocol(statistics: CodebookStatistics, codes_per_position: int, model_digest: str) -> dict[str, Any]:
    """Which model, and how its tokens came about."""
    return {
        "model_digest": model_digest,
        "encoding": "mean quantized (deterministic)",
        "codebook_size": statistics.codebook_size,
        "codes_per_position": codes_per_position,
        "codebooks": statistics.codebooks,
        "tokens": statistics.tokens,
        "tokens_per_codeword": statistics.tokens_per_codeword,
    }


def data_protocol(
    split_name: str, data_digest: str, images: int, unreadable: int, config: EvalConfig
) -> dict[str, Any]:
    """Which images, and how they were prepared."""
    return {
        "split": split_name,
        "data_digest": data_digest,
        "images": images,
        "unreadable": unreadable,
        "resize": "none" if config.resize is None else f"shorter side to {config.resize} pixels",
        "interpolation": "none" if config.resize is None else "Pillow bicubic with antialias, on 8 bits",
        "crop": "none" if config.crop is None else f"centre, {config.crop}×{config.crop} pixels",
        "rounding": "reconstructions clamped and rounded to 8 bits",
    }


def image_protocol(config: EvalConfig, lpips: Lpips | None, *, of_slices: bool = False) -> dict[str, Any]:
    """How figures of single images are taken."""
    protocol: dict[str, Any] = {}
    data_range = "of the window, padding included" if of_slices else "255"
    if "psnr" in config.metrics:
        at_most = "16 bits" if of_slices else f"at most {PSNR_CAP:.2f} dB"
        protocol["psnr"] = f"per image over all channels, range {data_range}, {at_most} (rounding noise)"
    if "ssim" in config.metrics:
        taps = "Gaussian window σ 1.5 of 11 taps, borders left out"
        protocol["ssim"] = f"per image and channel, range {data_range}, {taps}"
    if lpips is not None:
        seen = "on each channel as grey in [-1, 1], mean over channels" if of_slices else "on 8-bit images in [-1, 1]"
        protocol["lpips"] = f"v0.1, {lpips.network}, {seen}"
        protocol["lpips_checksum"] = lpips.checksum
    return protocol


def set_protocol(network: FeatureNetwork | None, config: EvalConfig, reference: ImageIndex | None) -> dict[str, Any]:
    """How distances between sets are taken, and of what."""
    if network is None:
        return {}
    protocol: dict[str, Any] = {
        **network_protocol(network),
        "reference": "the originals of the reconstructions",
    }
    if reference is not None:
        protocol |= {
            "reference": reference.location,
            "reference_digest": reference.digest,
            "reference_images": len(reference),
        }
    if "kid" in config.metrics:
        protocol["kid"] = kid_words(network.dim, config.kid_block)
    return protocol


def network_protocol(network: FeatureNetwork) -> dict[str, Any]:
    """What features are of."""
    return {
        "feature_network": network.name,
        "feature_checksum": network.checksum,
        "feature_preprocessing": network.preprocessing,
        "features": network.dim,
    }


def kid_words(dim: int, block: int) -> str:
    """How KID is taken of so many features, over blocks of so many images."""
    return f"unbiased MMD², kernel (xᵀy/{dim} + 1)³, mean over blocks of {block} images in one fixed random order"


def software_protocol() -> dict[str, Any]:
    """What computed it."""
    return {"vaevq": version("vaevq"), "torch": str(torch.__version__)}
