"""Validated configuration: YAML and `key=value` in, JSON out, every mistake at once with its dotted path.

An option that is given and can do nothing beside the others (`vaevq.effect`) is a mistake too.

Every weight and every choice that the paper and the authors' released code make differently is a field here;
`variant: paper` and `variant: released` set them together, and a field that is given explicitly wins over both.
"""

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vaevq.effect import NO_EFFECT, last_step_from
from vaevq.errors import UserError, nearest_name

T = TypeVar("T", bound=BaseModel)
S = TypeVar("S", bound="Section")

Reduction = Literal["element", "position", "image"]
"""How a loss becomes a number: the mean over all elements; the sum over channels and mean over positions; the sum
over everything but the batch."""

Variant = Literal["paper", "released"]

Normalization = Literal["group", "none"]

QUANTIZE_FROM = 0.3
"""The share of a run in which VAEVQ trains its continuous path alone, unless `quantize_from` says otherwise."""


class Section(BaseModel):
    """A frozen section of the configuration that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AutoencoderConfig(Section):
    """Encoder and decoder in the shape of VQGAN's."""

    image_channels: int = Field(default=3, ge=1, le=4)
    base_width: int = Field(default=128, ge=8)
    decoder_width: int | None = Field(default=None, ge=8)  # None: as base_width
    patch_size: int = Field(default=1, ge=1)  # p×p pixels become channels first: a fast start for small machines
    multipliers: tuple[int, ...] = Field(default=(1, 2, 2, 4), min_length=1)
    blocks: int = Field(default=2, ge=1)  # residual blocks a level; the decoder has one more, as VQGAN's
    attention_levels: tuple[int, ...] = ()  # indices into multipliers; the last one's includes the middle block
    upsampling: Literal["depth_to_space", "nearest"] = "depth_to_space"
    # group: as VQGAN's. none: residual blocks start as their shortcut instead; better in small networks, short runs.
    normalization: Normalization = "group"

    @property
    def downsample_factor(self) -> int:
        """f: how many pixels a side one token stands for."""
        return int(self.patch_size * 2 ** (len(self.multipliers) - 1))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(m < 1 for m in self.multipliers):
            raise ValueError("multipliers must all be at least 1")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention_levels):
            raise ValueError(f"attention_levels are indices from 0 to {len(self.multipliers) - 1}")
        return self


class CodebookShape(Section):
    """What every quantizer with an explicit codebook has."""

    code_dim: int = Field(default=8, ge=1)
    codebook_size: int = Field(default=4096, ge=2)


class VariationalConfig(CodebookShape):
    """VAEVQ: variational latent quantization with its RCS, DCR and KL terms (see docs/fidelity.md for the defaults)."""

    kind: Literal["vaevq"] = "vaevq"
    # VLQ, eq. 1-4
    quantize: Literal["sample", "mean"] = "sample"  # in training; at inference always the mean
    # Images seen in training before the decoder gets codewords; until then z_c, while the codebook follows the latents.
    # None: in a run `QUANTIZE_FROM` of train.images (0 where nothing moves the codebook then), in a layer alone 0.
    quantize_from: int | None = Field(default=None, ge=0)
    gradient: Literal["straight_through", "reparameterized"] = "straight_through"
    # What the codewords are: moving averages of the means that they win (where RCS is low); an embedding that is
    # descended; such an embedding through one learnable d×d layer, as SimVQ's.
    codebook: Literal["averaged", "embedding", "projected"] = "averaged"
    codebook_gradient: bool = False  # whether the decoder's gradient reaches the codebook as well
    average_decay: float = Field(default=0.99, gt=0, lt=1)  # of an averaged codebook
    revive_below: float = Field(default=0.3, ge=0, lt=1)  # share of the mean use under which it replaces a codeword
    initial_logvar: float = -4.0
    # RCS, eq. 5-7
    rcs_weight: float = Field(default=0.001, ge=0)
    rcs_form: Literal["mahalanobis", "nll"] = "mahalanobis"
    rcs_detach_sigma: bool = True
    rcs_min_std: float = Field(default=0.03, ge=0)  # floor of σ inside RCS, plain commitment below it; 0: none
    rcs_encoder_share: float = Field(default=0.1, ge=0)  # pull on the encoder, where the codebook's is 1
    rcs_reduction: Reduction = "position"
    # DCR, eq. 8-11
    dcr_weight: float = Field(default=0.0, ge=0)
    dcr_target: Literal["prior", "aggregate_posterior"] = "prior"
    dcr_square_root_term: bool = True  # False: ‖μ‖² + Tr Σ alone, as the released code computes
    # KL of the posterior to N(0, I)
    kl_weight: float = Field(default=1e-5, ge=0)
    kl_reduction: Reduction = "position"

    @property
    def codebook_follows(self) -> bool:
        """Whether anything brings the codebook to the latents while the decoder gets z_c."""
        return self.codebook == "averaged" or self.rcs_weight > 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.quantize_from and not self.codebook_follows:
            raise ValueError(
                "quantize_from needs codebook: averaged or rcs_weight above 0: nothing else moves the codebook then"
            )
        if self.codebook == "averaged" and (self.codebook_gradient or self.dcr_weight):
            option = "dcr_weight" if self.dcr_weight else "codebook_gradient"
            raise ValueError(f"{option} needs codebook: embedding or projected: no gradient moves an averaged one")
        if self.rcs_form == "nll" and self.rcs_detach_sigma:
            raise ValueError("rcs_form: nll needs rcs_detach_sigma: false, or its log σ would do nothing")
        if self.dcr_target == "aggregate_posterior" and not self.dcr_square_root_term:
            raise ValueError("dcr_square_root_term: false goes with dcr_target: prior alone")
        return self


class PlainConfig(CodebookShape):
    """Plain VQ (VQ-VAE, VQGAN): the baseline."""

    kind: Literal["vq"] = "vq"
    initial_logvar: None = None  # no posterior: the encoder gives a point
    codebook_weight: float = Field(default=1.0, ge=0)  # ‖sg(z) − e‖²
    commitment_weight: float = Field(default=0.25, ge=0)  # β ‖z − sg(e)‖², the encoder's side


class EmaConfig(CodebookShape):
    """VQ with a codebook of exponential moving averages (VQ-VAE's appendix, VQGAN-EMA)."""

    kind: Literal["vq_ema"] = "vq_ema"
    initial_logvar: None = None
    commitment_weight: float = Field(default=0.25, ge=0)  # β ‖z − sg(e)‖²; the codebook has no loss of its own
    average_decay: float = Field(default=0.99, gt=0, lt=1)
    revive_below: float = Field(default=0.0, ge=0, lt=1)  # share of the mean use under which a codeword is replaced


class SimVQConfig(CodebookShape):
    """SimVQ: a frozen codebook through one learnable linear layer."""

    kind: Literal["simvq"] = "simvq"
    initial_logvar: None = None
    codebook_weight: float = Field(default=1.0, ge=0)
    commitment_weight: float = Field(default=0.25, ge=0)


class IbqConfig(CodebookShape):
    """IBQ: straight-through over the softmax of all logits, so that every codeword gets gradient."""

    kind: Literal["ibq"] = "ibq"
    initial_logvar: None = None
    # The double quantization loss: the one-hot through the softmax, and plain VQ's two sides. The authors' weights are
    # ten times these, beside L1 and LPIPS; beside the squared error here those collapse the codebook.
    index_weight: float = Field(default=0.1, ge=0)  # ‖z − z_q‖², z_q with the softmax's gradient
    codebook_weight: float = Field(default=0.025, ge=0)  # ‖sg(z) − e‖²
    commitment_weight: float = Field(default=0.1, ge=0)  # ‖z − sg(e)‖²
    entropy_weight: float = Field(default=0.05, ge=0)  # of E H(p) − H(E p), nats
    entropy_temperature: float = Field(default=0.01, gt=0)  # divides the logits of the entropies alone


class SoftVQConfig(CodebookShape):
    """SoftVQ: training decodes the softmax-weighted mean of the codewords, inference the nearest codeword."""

    kind: Literal["softvq"] = "softvq"
    initial_logvar: None = None
    temperature: float = Field(default=0.07, gt=0)  # τ, divides the cosines; towards 0 it is the nearest codeword
    entropy_weight: float = Field(default=0.01, ge=0)  # of E H(p) − H(E p), nats
    entropy_temperature: float = Field(default=0.01, gt=0)  # divides the cosines of the entropies alone


class WassersteinConfig(CodebookShape):
    """Wasserstein-VQ: plain VQ, and the codebook's Gaussian drawn to that of the latents."""

    kind: Literal["wasserstein"] = "wasserstein"
    initial_logvar: None = None
    codebook_weight: float = Field(default=1.0, ge=0)  # ‖sg(z) − e‖²
    commitment_weight: float = Field(default=1.0, ge=0)  # ‖z − sg(e)‖²
    wasserstein_weight: float = Field(default=0.5, ge=0)  # of W₂, in units of the latents' largest standard deviation
    moments_decay: float = Field(default=0.9, ge=0, lt=1)  # of the averages of the latents' mean and covariance


class VQBridgeConfig(CodebookShape):
    """VQBridge (FVQ): codewords are an embedding through a small transformer over groups of them."""

    kind: Literal["vqbridge"] = "vqbridge"
    initial_logvar: None = None
    codebook_weight: float = Field(default=1.0, ge=0)  # ‖sg(z) − e‖²
    commitment_weight: float = Field(default=0.25, ge=0)  # ‖z − sg(e)‖²
    bridge_group: int = Field(default=16, ge=1)  # codewords that are compressed into one position of the transformer
    bridge_width: int = Field(default=256, ge=4, multiple_of=4)  # of the transformer, which has four heads
    bridge_depth: int = Field(default=2, ge=1)  # blocks of the transformer


class GaussianConfig(CodebookShape):
    """Gaussian quantization: a Gaussian VAE whose KL is steered to log₂K bits, over a fixed codebook of N(0, I)."""

    code_dim: int = Field(default=8, ge=1, le=21201)  # as many dimensions as the Sobol sequence has
    kind: Literal["gaussian"] = "gaussian"
    initial_logvar: float = -2.0  # where log σ² starts, −30 to 20
    kl_weight: float = Field(default=0.001, ge=0)  # of the KL in bits, as it starts: steering multiplies it
    kl_tolerance: float = Field(default=0.5, ge=0)  # bits about log₂K within which a position's KL is left as it is
    kl_factor: float = Field(default=1.01, gt=1)  # what a step of steering multiplies or divides by
    prior_weight: float = Field(default=1.0, ge=0, le=1)  # of −log N(e; 0, I) in the choice; 0: the likelihood alone


AnyQuantizerConfig = (
    VariationalConfig
    | PlainConfig
    | EmaConfig
    | SimVQConfig
    | IbqConfig
    | SoftVQConfig
    | WassersteinConfig
    | VQBridgeConfig
    | GaussianConfig
)
QuantizerConfig = Annotated[AnyQuantizerConfig, Field(discriminator="kind")]
QUANTIZERS: dict[str, type[AnyQuantizerConfig]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(AnyQuantizerConfig)
}


class TokenizerConfig(Section):
    """What a saved model needs to be built again."""

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    quantizer: QuantizerConfig = VariationalConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("quantizer"), Mapping):
            return merged({"quantizer": {"kind": "vaevq"}}, given)
        return given


class LossConfig(Section):
    """The image terms of eq. 12. A weight of 0 removes the term and its cost."""

    pixel: Literal["l1", "l2"] = "l2"
    pixel_weight: float = Field(default=1.0, ge=0)
    pixel_reduction: Reduction = "element"
    quantized_path: float = Field(
        default=1.0, gt=0
    )  # weight of every image term on x̂_q, and until `quantize_from` on x̂_c
    continuous_path: float = Field(default=0.1, ge=0)  # and on x̂_c; 0, the default where there is none: not decoded
    perceptual_weight: float = Field(default=0.0, ge=0)
    perceptual_network: Literal["alexnet", "vgg16"] = "alexnet"
    perceptual_weights_path: str | None = None  # None: fetched once into the cache
    adversarial_weight: float = Field(default=0.0, ge=0)
    adversarial_form: Literal["non_saturating", "hinge"] = "non_saturating"
    adversarial_adaptive: bool = False  # scaled to the gradient of the other image terms, as VQGAN
    adversarial_start: int = Field(default=0, ge=0)  # images seen before the discriminator joins
    discriminator_width: int = Field(default=64, ge=8)
    discriminator_layers: int = Field(default=3, ge=1)
    lecam_weight: float = Field(default=0.0, ge=0)


class DataConfig(Section):
    """Where training images come from and how they are cut."""

    train: str | None = None  # folder, list file (.txt) or shards (.tar, {000..099}.tar); None: quick-start photos
    held_out: str | None = None  # None: a share of `train`, split by group
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    split_by: Literal["shoot", "file", "folder"] = "shoot"  # shoot: the file stem without its trailing number
    image_size: int = Field(default=64, ge=8)
    resize: int | None = Field(default=None, ge=8)  # the shorter side is brought to this before the crop
    crop: Literal["random", "random_resized"] = "random"
    crop_scale: tuple[float, float] = (
        0.5,
        1.0,
    )  # random_resized: side of the crop as a share of the shorter side
    flip: bool = True
    max_unreadable_share: float = Field(default=0.01, ge=0, le=1)
    workers: int = Field(default=0, ge=0)
    cache_mib: int = Field(default=1024, ge=0)  # decoded images kept in memory, a process

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, not {low:g}, {high:g}")
        return self


class TrainConfig(Section):
    """Optimization. Progress, schedules and intervals are counted in images seen."""

    images: int = Field(default=100_000, ge=1)
    batch_size: int = Field(default=16, ge=1)  # images an optimizer step, over all processes
    accumulation: int = Field(default=1, ge=1)  # micro-batches a step
    learning_rate: float = Field(default=6e-4, gt=0)
    discriminator_learning_rate: float | None = Field(default=None, gt=0)  # None: as learning_rate
    betas: tuple[float, float] = (0.5, 0.9)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_images: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)  # 0: no averaging
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"  # auto: bfloat16 autocast on CUDA
    gradient_checkpointing: bool = False
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    log_every: int = Field(default=1_600, ge=1)
    evaluate_every: int = Field(default=16_000, ge=1)
    evaluate_images: int = Field(default=64, ge=1)  # held-out images of the quick evaluations on the way
    checkpoint_every: int = Field(default=16_000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    tensorboard: bool = True
    wandb: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}")
        return self


Metric = Literal["psnr", "ssim", "lpips", "frechet", "kid"]


class EvalConfig(Section):
    """How held-out images are prepared and measured; all of it is stated in the protocol of every result."""

    metrics: tuple[Metric, ...] = ("psnr", "ssim", "lpips")  # usage and perplexity are always there
    resize: int | None = Field(default=256, ge=8)  # shorter side
    crop: int | None = Field(default=256, ge=8)  # centre crop; None: the whole image
    batch_size: int = Field(default=8, ge=1)
    images: int | None = Field(default=None, ge=1)  # None: all
    lpips_network: Literal["alexnet", "vgg16"] = "alexnet"
    feature_network: Literal["efficientnet_lite0", "vgg16", "inception"] = "efficientnet_lite0"
    feature_weights: str | None = None  # a path; None: fetched once into the cache (inception has no such source)
    lpips_weights: str | None = None
    kid_block: int = Field(default=250, ge=2)  # images a block of the block-wise unbiased estimate

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


VARIANTS: dict[Variant, dict[str, Any]] = {
    # The equations as printed: sums, both paths in full, λ_rcs = 1 and λ_dcr = 0.1, cosine annealing, batch 32.
    "paper": {
        "model": {
            "quantizer": {
                "quantize": "sample",
                "quantize_from": 0,
                "gradient": "straight_through",
                "codebook_gradient": False,
                "codebook": "embedding",
                "initial_logvar": 0.0,
                "rcs_weight": 1.0,
                "rcs_form": "mahalanobis",
                "rcs_detach_sigma": True,
                "rcs_min_std": 0.0,
                "rcs_encoder_share": 1.0,
                "rcs_reduction": "image",
                "dcr_weight": 0.1,
                "dcr_target": "prior",
                "dcr_square_root_term": True,
                "kl_weight": 1e-6,  # "in L_net", its weight is not given; the released code's unused one
                "kl_reduction": "image",
            }
        },
        "loss": {"pixel": "l2", "pixel_reduction": "image", "quantized_path": 1.0, "continuous_path": 1.0},
        "train": {"schedule": "cosine", "batch_size": 32},
    },
    # The authors' code as it runs: the mean quantized, σ not detached, means, no DCR or KL in the loss, no schedule.
    "released": {
        "model": {
            "quantizer": {
                "quantize": "mean",
                "quantize_from": 0,
                "gradient": "reparameterized",
                "codebook_gradient": True,
                "codebook": "projected",
                "initial_logvar": 0.0,
                "rcs_weight": 1.0,
                "rcs_form": "mahalanobis",
                "rcs_detach_sigma": False,
                "rcs_min_std": 0.0,
                "rcs_encoder_share": 1.0,
                "rcs_reduction": "element",
                "dcr_weight": 0.0,
                "dcr_target": "prior",
                "dcr_square_root_term": False,
                "kl_weight": 0.0,
                "kl_reduction": "image",
            }
        },
        "loss": {"pixel": "l1", "pixel_reduction": "element", "quantized_path": 0.5, "continuous_path": 0.5},
        "train": {"schedule": "constant", "batch_size": 512},
    },
}


class RunConfig(Section):
    """One training run, whole."""

    variant: Variant | None = None
    seed: int = Field(default=0, ge=0)
    model: TokenizerConfig = TokenizerConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="before")
    @classmethod
    def _apply_variant_and_kind(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        kind, variant = _kind(given), _variant(given)
        if variant and kind != "vaevq":
            raise ValueError(f"variant: {variant} goes with model.quantizer.kind: vaevq, not {kind}")
        if variant:
            return merged(VARIANTS[variant], given)
        # What no other quantizer has is not to be switched off by hand.
        return merged({"loss": {"continuous_path": 0}}, given) if kind != "vaevq" else given

    @model_validator(mode="after")
    def _resolve_quantize_from(self) -> Self:
        quantizer = self.model.quantizer
        if isinstance(quantizer, VariationalConfig) and quantizer.quantize_from is None:
            share = QUANTIZE_FROM if quantizer.codebook_follows else 0.0
            images = min(round(share * self.train.images), last_step_from(self.train.images, self.train.batch_size))
            resolved = quantizer.model_copy(update={"quantize_from": images})
            # A frozen section is filled in only here, before anybody has it.
            self.__dict__["model"] = self.model.model_copy(update={"quantizer": resolved})
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        f = self.model.autoencoder.downsample_factor
        if self.data.image_size % f:
            raise ValueError(f"data.image_size {self.data.image_size} is no multiple of the downsampling factor {f}")
        if self.model.quantizer.kind != "vaevq" and self.loss.continuous_path:
            raise ValueError(
                "loss.continuous_path must be 0: this quantizer has no continuous path; leave it out, or set it to 0"
            )
        quantize_from = getattr(self.model.quantizer, "quantize_from", 0)
        if quantize_from > last_step_from(self.train.images, self.train.batch_size):
            raise ValueError(
                f"model.quantizer.quantize_from {quantize_from} is past the last step of train.images "
                f"{self.train.images}: the decoder would see no codeword; left out, it is {QUANTIZE_FROM} of the run"
            )
        return self


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with every leaf of `over` laid on top; neither is changed."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted name."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _dig(tree: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else getattr(tree, key, None)
    return tree


def _kind(tree: Any) -> Any:
    return _dig(tree, "model.quantizer.kind") or "vaevq"


def _variant(tree: Mapping[str, Any]) -> Variant | None:
    """The variant that a tree names; None for none and for a mistake, which the field itself reports."""
    named: Any = tree.get("variant")
    return named if isinstance(named, str) and named in VARIANTS else None


def spelled_out(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the options of its variant in place of the variant's name."""
    variant = _variant(tree)
    rest = {name: copy.deepcopy(value) for name, value in tree.items() if not (variant and name == "variant")}
    return merged(VARIANTS[variant], rest) if variant else rest


def laid(ground: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A layer of settings on the one below; neither is changed.

    Where `given` names another kind of quantizer, of the ground's quantizer its codebook's shape alone is kept, and
    what the ground says of a continuous path goes where the new kind has none. A variant of the ground is spelled
    out: the rest of it stays.
    """
    if _dig(given, "model.quantizer.kind") is None or _kind(given) == _kind(ground):
        return merged(ground, given)
    kept = spelled_out(ground)
    quantizer, loss = _dig(kept, "model.quantizer"), kept.get("loss")
    if isinstance(quantizer, Mapping):
        kept["model"]["quantizer"] = {k: v for k, v in quantizer.items() if k in CodebookShape.model_fields}
    if isinstance(loss, dict) and _kind(given) != "vaevq":
        loss.pop("continuous_path", None)
    return merged(kept, given)


def without_effect(given: Mapping[str, Any], *configs: RunConfig) -> list[str]:
    """What a layer of settings gives in vain, a sentence an option.

    Defaults, and what a variant sets, are never in vain: they are given by nobody.

    Args:
        given: the layer, not validated.
        configs: the configurations that it is a part of; an option that has an effect in one of them is not named.
    """
    in_vain = [_in_vain(config) for config in configs]
    return [in_vain[-1][name] for name, _ in leaves(given) if all(name in of for of in in_vain)]


def _in_vain(section: Section, prefix: str = "") -> dict[str, str]:
    """What each option below a section that has no effect does not do, by name; those left at their default apart."""
    options = dict(leaves(section.model_dump(), prefix))
    variant = dict(leaves(VARIANTS.get(options.get("variant"), {})))  # type: ignore[arg-type]
    found: dict[str, str] = {}
    for rule in NO_EFFECT:
        for option in rule.options:
            if option not in options:  # another quantizer's, another section's
                continue
            parent, _, name = option.removeprefix(prefix).rpartition(".")
            default = type(_dig(section, parent) if parent else section).model_fields[name].default
            if options[option] not in (default, variant.get(option, default)) and rule.where(options):
                found.setdefault(option, f"{option} {rule.says}")
    return found


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in files("vaevq.recipes").iterdir() if p.name.endswith(".yaml"))


def recipe_tree(recipe: str | Path) -> dict[str, Any]:
    """What a recipe says, as plain data that is not validated yet.

    Args:
        recipe: the name of a packaged recipe or the path of a YAML file.

    Raises:
        UserError: a file that is absent, no YAML, or no mapping.
    """
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        return read_yaml(path, "recipe")
    if str(recipe) not in recipe_names():
        known = ", ".join(recipe_names())
        hint = nearest_name(str(recipe), recipe_names())
        raise UserError(f"no recipe named '{recipe}'{hint}: give a .yaml file or one of {known}")
    text = files("vaevq.recipes").joinpath(f"{recipe}.yaml").read_text()
    return dict(_parse_yaml(text, str(recipe)))


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file that holds a mapping of sections; `what` is what messages call it.

    Raises:
        UserError: it is absent, no YAML, or no mapping.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such {what} file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8, so no {what}") from None
    tree = _parse_yaml(text, str(path)) or {}
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: a {what} is a mapping of sections, not {type(tree).__name__}")
    return dict(tree)


def load_run_config(
    recipe: str | Path, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> RunConfig:
    """Reads a recipe and lays overrides on it.

    Args:
        recipe: the name of a packaged recipe or the path of a YAML file.
        overrides: `dotted.key=value` strings; values are read as YAML.
        flags: a tree that is laid on top of everything (what flags of the command set).

    An override of another kind of quantizer than the recipe's takes no more of the recipe's quantizer than its
    codebook's shape (`laid`).

    Raises:
        UserError: a file that is absent or no YAML, an unknown field (with the nearest right name), a wrong type, an
            option that the recipe by itself or what is laid on it gives in vain: every mistake in one message.
    """
    tree = recipe_tree(recipe)
    given = merged(_overrides_tree(overrides), flags or {})
    config = validate(RunConfig, laid(tree, given), str(recipe))
    mistakes = without_effect(given, config)
    with contextlib.suppress(ValidationError):  # of a recipe that what is laid on it mends
        # A term that is switched off on top of a recipe with its details leaves those in peace.
        if dict(leaves(tree)).keys() < dict(leaves(config.model_dump())).keys():  # else a saved run's, which lists all
            mistakes += without_effect(tree, RunConfig.model_validate(tree), config)
    if mistakes:
        raise UserError(f"{recipe}: {'; '.join(dict.fromkeys(mistakes))}")
    return config


def load_section(model: type[S], overrides: Sequence[str], base: S) -> S:
    """A section of the configuration: `base` with `key=value` overrides laid on it, validated whole.

    Raises:
        UserError: an unknown key, a wrong type, an override that has no effect.
    """
    given = _overrides_tree(overrides)
    section = validate(model, merged(base.model_dump(mode="json"), given), "options")
    prefix = next(f"{name}." for name, field in RunConfig.model_fields.items() if field.annotation is model)
    in_vain = _in_vain(section, prefix)
    mistakes = [in_vain[f"{prefix}{name}"] for name, _ in leaves(given) if f"{prefix}{name}" in in_vain]
    if mistakes:  # here the section's options go by their own names
        raise UserError(f"options: {'; '.join(mistakes)}".replace(prefix, ""))
    return section


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None


def _overrides_tree(overrides: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"'{override}': an override is written dotted.key=value, like train.images=20000")
        tree: Any = _parse_yaml(text, key)
        for part in reversed(key.split(".")):
            tree = {part: tree}
        given = merged(given, tree)
    return given


def validate(model: type[T], tree: Any, where: str) -> T:
    """`tree` as a `model`; every mistake in one UserError, each with its dotted path and the nearest right name."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, tree, dict(e)) for e in error.errors()]
        raise UserError(f"{where}: " + "; ".join(lines)) from None


def read_json(model: type[T], path: Path) -> T:
    """A configuration written by `write_json`.

    Raises:
        UserError: the file is absent, damaged, or not of this model.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{path}: not valid JSON") from None
    return validate(model, tree, str(path))


def _explain(model: type[BaseModel], tree: Any, error: dict[str, Any]) -> str:
    """One pydantic error as `dotted.path: what is wrong`."""
    # A discriminated union puts its tag into the location; it is no field, so it is left out of the path.
    location = [str(part) for part in error["loc"] if part not in QUANTIZERS]
    path = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _fields_beside(model, tree, location)
        name = location[-1]
        # A field named without its section is meant more often than one that is spelled alike.
        whole = [option for option in _option_names(model) if option.endswith(f".{name}")] if len(location) == 1 else []
        hint = f" (did you mean {' or '.join(whole)}?)" if whole else nearest_name(name, known)
        return f"{path}: unknown option{hint}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"].startswith("value_error") or not location:
        return f"{path}: {message}" if path else message
    return f"{path}: {message[0].lower()}{message[1:]}, not {error['input']!r}"


def _option_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all options below a model."""
    names = []
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        names += [option for section in sections for option in _option_names(section, f"{prefix}{name}.")]
        names += [] if sections else [f"{prefix}{name}"]
    return list(dict.fromkeys(names))


def _fields_beside(model: type[BaseModel], tree: Any, location: Sequence[str]) -> list[str]:
    """The names that would have been right where the last of `location` stands."""
    current: Any = model
    for depth, part in enumerate(location[:-1]):
        annotation = current.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            current = annotation
        else:
            kind = _dig(tree, ".".join([*location[: depth + 1], "kind"])) or "vaevq"
            current = QUANTIZERS[kind]
    return list(current.model_fields)
