"""The options of a run: losses, images, optimization, measuring, and the whole of them."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vaevq.config.adapt import AdaptConfig
from vaevq.config.baselines import VqganLcConfig
from vaevq.config.model import TokenizerConfig
from vaevq.config.section import Reduction, Section, check_accumulation, merged
from vaevq.config.shapes import QUANTIZE_FROM
from vaevq.config.variants import VARIANTS, Variant, kind_of, variant_of
from vaevq.config.variational import VariationalConfig
from vaevq.config.volumes import VolumesConfig
from vaevq.effect import last_step_from

NO_SOFT_LATENT = "{} decodes its codewords alone; softvq has a mean of them to measure, which needs no tokens"
"""What is said of a kind of quantizer where `eval.soft` asks for what it has not."""


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
    perceptual_channels: Literal["colour", "each"] = Field(
        default="colour", exclude_if=lambda value: value == "colour"
    )  # each: every channel as grey, as contrasts are; colour: three are red, green and blue
    adversarial_weight: float = Field(default=0.0, ge=0)
    adversarial_form: Literal["non_saturating", "hinge"] = "non_saturating"
    adversarial_adaptive: bool = False  # scaled to the gradient of the other image terms, as VQGAN
    adversarial_start: int = Field(default=0, ge=0)  # images seen before the discriminator joins
    discriminator_width: int = Field(default=64, ge=8)
    discriminator_layers: int = Field(default=3, ge=1)
    lecam_weight: float = Field(default=0.0, ge=0)

    def has_discriminator(self, images_seen: int) -> bool:
        """Whether the discriminator takes part in the step that begins after so many images seen."""
        return self.adversarial_weight > 0 and images_seen >= self.adversarial_start


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
    volumes: VolumesConfig = Field(default=VolumesConfig(), exclude_if=lambda value: value == VolumesConfig())
    volume_cache: bool = Field(default=True, exclude_if=lambda on: on)  # unpacked voxels are kept on disk

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, not {low:g}, {high:g}")
        return self


class TrainConfig(Section):
    """Optimization. Progress, schedules and intervals are counted in images seen."""

    images: int = Field(default=100_000, ge=1)
    init_from: str | None = None  # a run folder, model folder or hub name whose weights it starts from
    batch_size: int = Field(default=16, ge=1)  # images an optimizer step, over all processes
    accumulation: int = Field(default=1, ge=1)  # micro-batches a step
    learning_rate: float = Field(default=6e-4, gt=0)
    discriminator_learning_rate: float | None = Field(default=None, gt=0)  # None: as learning_rate
    betas: tuple[float, float] = (0.5, 0.9)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_images: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    # Both Adams in one pass over the weights: less time, weights differ in their last bits.
    fused_optimizer: bool = Field(default=False, exclude_if=lambda on: not on)
    # Convolutions with channels last in memory, and encoder, decoder and discriminator through torch.compile: less time
    # on some machines, minutes at the start for the second; numbers differ in their last bits.
    channels_last: bool = Field(default=False, exclude_if=lambda on: not on)
    compile: bool = Field(default=False, exclude_if=lambda on: not on)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)  # 0: no averaging
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"  # auto: bfloat16 autocast on CUDA
    gradient_checkpointing: bool = False
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    log_every: int = Field(default=1_600, ge=1)
    evaluate_every: int = Field(default=16_000, ge=1)
    evaluate_images: int = Field(default=64, ge=1)  # held-out images of the quick evaluations on the way
    checkpoint_every: int = Field(default=16_000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    # Where a loss term or a gradient is not finite: stop; skip the step; rollback: to the weights and optimizers of the
    # newest checkpoint, while images go on. No weight is ever changed by it.
    on_nonfinite: Literal["stop", "skip", "rollback"] = "skip"
    nonfinite_limit: int = Field(default=10, ge=1)  # so many such steps in a row stop the run
    digest_every: int = Field(default=16_000, ge=0)  # whether all processes hold the same weights; 0: no
    usage_floor: float = Field(default=0.2, ge=0, lt=1)  # a warning where held-out usage / usage_ceiling falls below
    perplexity_floor: float = Field(default=0.02, ge=0, lt=1)  # or perplexity / K; 0: no warning
    tensorboard: bool = True
    wandb: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_accumulation(self.batch_size, self.accumulation)
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
    soft: bool = False  # SoftVQ's mean of codewords is decoded as well; its figures are called continuous

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


class RunConfig(Section):
    """One training run, whole."""

    variant: Variant | None = None
    seed: int = Field(default=0, ge=0)
    model: TokenizerConfig = TokenizerConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    adapt: AdaptConfig = AdaptConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="before")
    @classmethod
    def _apply_variant_and_kind(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        kind, variant = kind_of(given), variant_of(given)
        if variant and kind != "vaevq":
            raise ValueError(f"variant: {variant} goes with model.quantizer.kind: vaevq, not {kind}")
        if variant:
            return merged(VARIANTS[variant], given)
        # What no other quantizer has is not to be switched off by hand.
        return merged({"loss": {"continuous_path": 0}}, given) if kind != "vaevq" else given

    @model_validator(mode="after")
    def _resolve_quantize_from(self) -> Self:
        quantizer = self.model.quantizer
        if isinstance(quantizer, VariationalConfig | VqganLcConfig) and quantizer.quantize_from is None:
            # Weights that a run starts from have a codebook, and a decoder that knows it.
            share = quantizer.continuous_share if self.train.init_from is None else 0.0
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
        if self.eval.soft and not self.model.quantizer.has_soft_latent:
            raise ValueError(f"eval.soft: {NO_SOFT_LATENT.format(self.model.quantizer.kind)}")
        self._check_adapt()
        quantize_from = getattr(self.model.quantizer, "quantize_from", 0)
        if quantize_from > last_step_from(self.train.images, self.train.batch_size):
            raise ValueError(
                f"model.quantizer.quantize_from {quantize_from} is past the last step of train.images "
                f"{self.train.images}: the decoder would see no codeword; left out, it is {QUANTIZE_FROM} of the run"
            )
        return self

    def _check_adapt(self) -> None:
        adapt, quantizer = self.adapt, self.model.quantizer
        if adapt.by == "none":
            return
        if not quantizer.resizable:
            kind = "vaevq with codebook projected" if isinstance(quantizer, VariationalConfig) else quantizer.kind
            raise ValueError(
                f"adapt.by: {adapt.by} needs a quantizer whose codewords stand each for itself: vaevq with codebook "
                f"averaged or embedding, vq, vq_ema or wasserstein, not {kind}"
            )
        if not adapt.min_size <= quantizer.codebook_size <= adapt.max_size:
            raise ValueError(
                f"model.quantizer.codebook_size {quantizer.codebook_size} is not within adapt.min_size "
                f"{adapt.min_size} and adapt.max_size {adapt.max_size}"
            )
        if 2 * adapt.every > (adapt.until - adapt.start) * self.train.images:
            raise ValueError(
                f"adapt.every {adapt.every} does not fit twice between adapt.start {adapt.start:g} and adapt.until "
                f"{adapt.until:g} of train.images {self.train.images}: the size would never change"
            )
