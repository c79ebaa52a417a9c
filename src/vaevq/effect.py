"""Which options do nothing beside which others: data, which `vaevq.config` reads to refuse what would be ignored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Options = Mapping[str, Any]
"""Every option of a configuration by its dotted name."""


@dataclass(frozen=True)
class NoEffect:
    """Options that one and the same lack leaves without effect.

    Attributes:
        options: their dotted names.
        where: whether a configuration that has them has this lack.
        says: what a message says of one of them: the name, then this.
    """

    options: tuple[str, ...]
    where: Callable[[Options], bool]
    says: str


def last_step_from(images: int, batch_size: int) -> int:
    """Images seen when the last step of a run begins."""
    return (images - 1) // batch_size * batch_size


def _quantizer(*names: str) -> tuple[str, ...]:
    return tuple(f"model.quantizer.{name}" for name in names)


_IMAGE_TERMS = ("loss.pixel_weight", "loss.perceptual_weight", "loss.adversarial_weight")
_ADVERSARIAL = (
    "loss.adversarial_form",
    "loss.adversarial_adaptive",
    "loss.discriminator_width",
    "loss.discriminator_layers",
    "loss.lecam_weight",
    "train.discriminator_learning_rate",
)
_USES_OF_SIGMA = _quantizer("rcs_weight", "kl_weight")


def _without_image_term(of: Options) -> bool:
    return not any(of[weight] for weight in _IMAGE_TERMS)


def _posterior_unused(of: Options) -> bool:
    if of.get("model.quantizer.quantize") != "mean":  # a quantizer without this option samples its posterior
        return False
    point = of["model.quantizer.gradient"] != "reparameterized" and not of["model.quantizer.quantize_from"]
    return point and not of["loss.continuous_path"] and not any(of[weight] for weight in _USES_OF_SIGMA)


def _rcs_moves_nothing(of: Options) -> bool:
    # No gradient moves an averaged codebook, and with a share of 0 and σ detached none of it reaches the encoder.
    standing = of["model.quantizer.codebook"] == "averaged" and of["model.quantizer.rcs_detach_sigma"]
    return bool(standing and of["model.quantizer.rcs_weight"]) and not of["model.quantizer.rcs_encoder_share"]


def _has_features_of_a_file(of: Options) -> bool:
    return str(of["model.quantizer.features"]).endswith(".safetensors")


def _joins_too_late(of: Options) -> bool:
    last_step = last_step_from(of["train.images"], of["train.batch_size"])
    return bool(of["loss.adversarial_weight"]) and of["loss.adversarial_start"] > last_step


_NONFINITE_LIMIT = NoEffect(
    ("train.nonfinite_limit",),
    lambda of: of["train.on_nonfinite"] == "stop",
    "has no effect at train.on_nonfinite stop: the first such step stops the run",
)

NO_EFFECT: tuple[NoEffect, ...] = (
    NoEffect(
        ("model.autoencoder.upsampling",),
        lambda of: len(of["model.autoencoder.multipliers"]) == 1,
        "has no effect with a single level in model.autoencoder.multipliers",
    ),
    NoEffect(
        _quantizer("average_decay", "revive_below"),
        lambda of: of.get("model.quantizer.codebook", "averaged") != "averaged",  # that of vq_ema always is
        "has no effect unless model.quantizer.codebook is averaged",
    ),
    NoEffect(
        _quantizer("codebook_weight"),
        lambda of: of.get("model.quantizer.codebook") == "averaged",
        "has no effect where model.quantizer.codebook is averaged",
    ),
    NoEffect(
        _quantizer("shared_codebook"),
        lambda of: of["model.quantizer.codes_per_position"] == 1,
        "has no effect at model.quantizer.codes_per_position 1",
    ),
    NoEffect(
        _quantizer("initial_logvar"),
        _posterior_unused,
        "has no effect where nothing uses σ: model.quantizer.quantize mean, quantize_from 0, "
        "gradient straight_through or rotation, rcs_weight 0, kl_weight 0, and loss.continuous_path 0",
    ),
    NoEffect(
        _quantizer("rcs_form", "rcs_detach_sigma", "rcs_min_std", "rcs_encoder_share", "rcs_reduction"),
        lambda of: not of["model.quantizer.rcs_weight"],
        "has no effect at model.quantizer.rcs_weight 0",
    ),
    NoEffect(
        _quantizer("rcs_weight", "rcs_min_std", "rcs_reduction"),
        _rcs_moves_nothing,
        "has no effect at model.quantizer.rcs_encoder_share 0 with model.quantizer.codebook averaged",
    ),
    NoEffect(
        _quantizer("rcs_encoder_share"),
        _rcs_moves_nothing,
        "0 leaves model.quantizer.rcs_weight without effect where model.quantizer.codebook is averaged; "
        "model.quantizer.rcs_weight 0 says so",
    ),
    NoEffect(
        _quantizer("dcr_target", "dcr_square_root_term"),
        lambda of: not of["model.quantizer.dcr_weight"],
        "has no effect at model.quantizer.dcr_weight 0",
    ),
    NoEffect(
        _quantizer("kl_reduction"),
        lambda of: not of["model.quantizer.kl_weight"],
        "has no effect at model.quantizer.kl_weight 0",
    ),
    NoEffect(
        _quantizer("kl_tolerance", "kl_factor"),
        lambda of: not of["model.quantizer.kl_weight"],
        "has no effect at model.quantizer.kl_weight 0: nothing is steered",
    ),
    NoEffect(
        _quantizer("entropy_temperature", "entropy_group"),
        lambda of: not of["model.quantizer.entropy_weight"],
        "has no effect at model.quantizer.entropy_weight 0",
    ),
    NoEffect(
        _quantizer("moments_decay"),
        lambda of: not of["model.quantizer.wasserstein_weight"],
        "has no effect at model.quantizer.wasserstein_weight 0",
    ),
    NoEffect(
        _quantizer("feature_weights"),
        lambda of: of["model.quantizer.features"] == "warm_up" or _has_features_of_a_file(of),
        "has no effect unless model.quantizer.features is a network",
    ),
    NoEffect(
        _quantizer("vectors_per_codeword"),
        _has_features_of_a_file,
        "has no effect where model.quantizer.features is a file: all of its vectors are taken",
    ),
    NoEffect(
        _quantizer("temperature"),
        _without_image_term,
        f"has no effect without an image term: {', '.join(_IMAGE_TERMS)} are all 0",
    ),
    NoEffect(
        ("loss.quantized_path", "loss.continuous_path", *_quantizer("gradient", "codebook_gradient")),
        _without_image_term,
        f"has no effect without an image term: {', '.join(_IMAGE_TERMS)} are all 0",
    ),
    NoEffect(
        ("loss.pixel", "loss.pixel_reduction"),
        lambda of: not of["loss.pixel_weight"],
        "has no effect at loss.pixel_weight 0",
    ),
    NoEffect(
        ("loss.perceptual_network", "loss.perceptual_weights_path"),
        lambda of: not of["loss.perceptual_weight"],
        "has no effect at loss.perceptual_weight 0",
    ),
    NoEffect(
        ("loss.perceptual_channels",),
        lambda of: not of["loss.perceptual_weight"] or of["model.autoencoder.image_channels"] == 1,
        "has no effect at loss.perceptual_weight 0, and with a single channel",
    ),
    NoEffect(
        ("loss.adversarial_start", *_ADVERSARIAL),
        lambda of: not of["loss.adversarial_weight"],
        "has no effect at loss.adversarial_weight 0",
    ),
    NoEffect(
        ("loss.adversarial_weight", *_ADVERSARIAL),
        _joins_too_late,
        "has no effect with loss.adversarial_start past the last step of train.images",
    ),
    NoEffect(
        ("adapt.every", "adapt.start", "adapt.until", "adapt.min_size", "adapt.max_size"),
        lambda of: of["adapt.by"] == "none",
        "has no effect at adapt.by none",
    ),
    NoEffect(
        ("adapt.perplexity_share",), lambda of: of["adapt.by"] != "usage", "has no effect unless adapt.by is usage"
    ),
    NoEffect(
        ("adapt.gain",),
        lambda of: of["adapt.by"] != "distortion",
        "has no effect unless adapt.by is distortion",
    ),
    NoEffect(
        ("data.held_out_share", "data.split_by"),
        lambda of: of["data.held_out"] is not None,
        "has no effect with data.held_out: nothing is split",
    ),
    NoEffect(
        ("data.crop_scale",),
        lambda of: of["data.crop"] != "random_resized",
        "has no effect unless data.crop is random_resized",
    ),
    NoEffect(
        ("eval.lpips_network", "eval.lpips_weights"),
        lambda of: "lpips" not in of["eval.metrics"],
        "has no effect without lpips in eval.metrics",
    ),
    NoEffect(
        ("eval.feature_network", "eval.feature_weights"),
        lambda of: not {"frechet", "kid"} & set(of["eval.metrics"]),
        "has no effect without frechet or kid in eval.metrics",
    ),
    NoEffect(
        ("eval.kid_block",),
        lambda of: "kid" not in of["eval.metrics"],
        "has no effect without kid in eval.metrics",
    ),
    NoEffect(
        ("eval.soft",),
        lambda of: not of["eval.metrics"],
        "has no effect where eval.metrics is empty: it gives the same figures again, of the soft latent",
    ),
    _NONFINITE_LIMIT,
)

GENERATOR_NO_EFFECT: tuple[NoEffect, ...] = (
    NoEffect(
        ("network.class_dropout",),
        lambda of: not of["network.conditional"],
        "has no effect where network.conditional is false: there is no class to hide",
    ),
    NoEffect(
        ("data.held_out_share",),
        lambda of: of["data.held_out"] is not None,
        "has no effect with data.held_out: nothing is split",
    ),
    NoEffect(
        ("data.latents",),
        lambda of: of["network.kind"] != "diffusion",
        "has no effect unless network.kind is diffusion: the others learn from tokens",
    ),
    NoEffect(
        ("train.label_smoothing",),
        lambda of: of["network.kind"] == "diffusion",
        "has no effect where network.kind is diffusion: no token is predicted",
    ),
    NoEffect(
        ("network.beta_start", "network.beta_end"),
        lambda of: of.get("network.noise_schedule") == "cosine",
        "has no effect where network.noise_schedule is cosine",
    ),
    NoEffect(
        ("network.context_width",),
        lambda of: of["network.kind"] == "diffusion" and not of["network.conditional"],
        "has no effect where network.conditional is false: there is no class token",
    ),
    NoEffect(
        ("train.digest_every",),
        lambda of: of["train.parallel"] == "fsdp",
        "has no effect at train.parallel fsdp: no weight is on two processes",
    ),
    _NONFINITE_LIMIT,
)
"""Of the configuration of a generator's run."""

GENERATION_EVAL_NO_EFFECT: tuple[NoEffect, ...] = (
    NoEffect(("kid_block",), lambda of: "kid" not in of["metrics"], "has no effect without kid in metrics"),
    NoEffect(
        ("neighbours",),
        lambda of: "precision_recall" not in of["metrics"],
        "has no effect without precision_recall in metrics",
    ),
)
"""Of the options of an evaluation of generated images."""
