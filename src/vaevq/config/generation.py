"""The options of a generator: its network, the tokens it makes, and the run that trains it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from vaevq.config.diffusion import DiffusionConfig
from vaevq.config.section import Section, check_accumulation, merged, sized

Size = Literal["tiny", "small", "B", "L", "XL", "XXL"]

SIZES: dict[Size, dict[str, int]] = {
    "tiny": {"layers": 2, "heads": 2, "width": 32},
    "small": {"layers": 6, "heads": 4, "width": 192},
    # LlamaGen's (Sun et al. 2024, table 1).
    "B": {"layers": 12, "heads": 12, "width": 768},
    "L": {"layers": 24, "heads": 16, "width": 1024},
    "XL": {"layers": 36, "heads": 20, "width": 1280},
    "XXL": {"layers": 48, "heads": 24, "width": 1536},
}
"""Layers, heads and width by the size's name."""


class TransformerConfig(Section):
    """A transformer over tokens. `size` sets layers, heads and width; each of them given wins over it."""

    of_latents: ClassVar[bool] = False
    shape_options: ClassVar[frozenset[str]] = frozenset(SIZES["B"])  # what a size sets

    size: Size = "B"
    layers: int = Field(default=SIZES["B"]["layers"], ge=1)
    heads: int = Field(default=SIZES["B"]["heads"], ge=1)
    width: int = Field(default=SIZES["B"]["width"], ge=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)  # of embeddings, attention's and feed-forward's outputs
    conditional: bool = True  # on the labels of the tokens; False: labels are not looked at
    class_dropout: float = Field(default=0.1, ge=0, lt=1)  # share of the images shown without their class: for guidance

    @property
    def extent(self) -> tuple[int, int]:
        """How many layers there are, and numbers that the largest of their tensors has at least."""
        return self.layers, self.width

    @model_validator(mode="before")
    @classmethod
    def _apply_size(cls, given: Any) -> Any:
        return sized(given, SIZES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 4 × heads: rotary positions of rows and columns")
        return self


class AutoregressiveConfig(TransformerConfig):
    """A decoder-only transformer that predicts one token after another, row by row (LlamaGen)."""

    kind: Literal["ar"] = "ar"


class MaskedConfig(TransformerConfig):
    """A bidirectional transformer that predicts masked tokens (MaskGIT)."""

    kind: Literal["mask"] = "mask"


AnyNetworkConfig = AutoregressiveConfig | MaskedConfig | DiffusionConfig
NetworkConfig = Annotated[AnyNetworkConfig, Field(discriminator="kind")]
GENERATORS: dict[str, type[AnyNetworkConfig]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(AnyNetworkConfig)
}


class TokensConfig(Section):
    """What tokens a generator makes, and whose they are."""

    codebook_size: int = Field(ge=2)
    grid: tuple[int, int]  # (h, w)
    codes_per_position: int = Field(default=1, ge=1)
    image_size: tuple[int, int]  # (H, W) in pixels
    tokenizer_digest: str
    class_count: int = Field(default=0, ge=0)  # 0: not conditional
    classes: tuple[str, ...] = ()  # names by label; empty where they are not known

    @property
    def length(self) -> int:
        """Tokens an image, codes of a position counted one by one."""
        return self.grid[0] * self.grid[1] * self.codes_per_position


class LatentsConfig(Section):
    """What latents a generator of latents makes: network's units are (latent − mean) / std."""

    source: Literal["codewords", "continuous"]  # what tokens look up, or the means of the tokenizer's posteriors
    channels: int = Field(ge=1)  # d
    mean: float  # of the latents learned from
    std: float = Field(gt=0)  # likewise, over all channels


class GeneratorConfig(Section):
    """What a saved generator needs to be built again."""

    network: NetworkConfig
    tokens: TokensConfig
    latents: LatentsConfig | None = None  # of kind diffusion

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.latents is not None) != self.network.of_latents:
            raise ValueError(f"latents: kind {self.network.kind} makes {'latents' if self.latents is None else 'none'}")
        return self


class TokenDataConfig(Section):
    """Where the tokens come from."""

    tokens: str | None = None  # a folder of vaevq encode --shard-size, or a token file
    held_out: str | None = None  # None: a share of `tokens`, by image
    held_out_share: float = Field(default=0.02, gt=0, lt=1)
    # Of kind diffusion. codewords: what the tokens look up; continuous: the means that vaevq encode --latents has
    # written; auto: these where they are there.
    latents: Literal["auto", "codewords", "continuous"] = "auto"


class GeneratorTrainConfig(Section):
    """Optimization of a generator. Progress, schedules and intervals are counted in images seen."""

    images: int = Field(default=1_000_000, ge=1)
    batch_size: int = Field(default=256, ge=1)  # images an optimizer step, over all processes
    accumulation: int = Field(default=1, ge=1)  # micro-batches a step
    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)  # of matrices; not of norms and biases
    schedule: Literal["cosine", "constant"] = "constant"
    warmup_images: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # in training alone; held-out losses are without
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)  # 0: no averaging
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"  # auto: bfloat16 autocast on CUDA
    gradient_checkpointing: bool = False
    # Several processes: ddp, a whole network each; fsdp, weights and optimizer state spread over them.
    parallel: Literal["ddp", "fsdp"] = "ddp"
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    log_every: int = Field(default=12_800, ge=1)
    evaluate_every: int = Field(default=128_000, ge=1)
    evaluate_images: int = Field(default=5_000, ge=1)  # held-out images at most
    checkpoint_every: int = Field(default=128_000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    # Where a loss term or a gradient is not finite: stop; skip the step; rollback: to the weights and optimizers of the
    # newest checkpoint, while images go on. No weight is ever changed by it.
    on_nonfinite: Literal["stop", "skip", "rollback"] = "skip"
    nonfinite_limit: int = Field(default=10, ge=1)  # so many such steps in a row stop the run
    digest_every: int = Field(default=128_000, ge=0)  # whether all processes hold the same weights; 0: no
    tensorboard: bool = True
    wandb: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_accumulation(self.batch_size, self.accumulation)
        return self


class GeneratorRunConfig(Section):
    """One training run of a generator, whole."""

    seed: int = Field(default=0, ge=0)
    network: NetworkConfig = AutoregressiveConfig()
    data: TokenDataConfig = TokenDataConfig()
    train: GeneratorTrainConfig = GeneratorTrainConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("network"), Mapping):
            return merged({"network": {"kind": "ar"}}, given)
        return given


class GenerationEvalConfig(Section):
    """How generated images are measured against real ones."""

    metrics: tuple[Literal["frechet", "kid", "precision_recall", "inception_score"], ...] = (
        "frechet",
        "kid",
        "precision_recall",
    )
    resize: int | None = Field(default=None, ge=8)  # shorter side of the reference images
    crop: int | None = Field(default=None, ge=8)  # centre crop of the reference images; None: the whole image
    batch_size: int = Field(default=50, ge=1)
    images: int | None = Field(default=None, ge=2)  # of either side; None: all
    feature_network: Literal["efficientnet_lite0", "vgg16", "inception"] = "efficientnet_lite0"
    feature_weights: str | None = None  # a path; None: fetched once into the cache (inception has no such source)
    kid_block: int = Field(default=250, ge=2)
    neighbours: int = Field(default=3, ge=1)  # k of precision and recall's manifolds

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self
