"""The options of the quantizers with a codebook that it is compared with, one class a kind."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from vaevq.config.shapes import QUANTIZE_FROM, CodebookShape, PointGradient, SeveralCodes, check_rotation
from vaevq.errors import nearest_name


class PointConfig(CodebookShape):
    """What plain VQ, VQ-EMA and SimVQ share: how the decoder's gradient passes the choice of a codeword."""

    # rotation: turned and scaled as the latent is (Fifty et al. 2024). Left out of dumps at its default: models of
    # before it was there keep their digest.
    gradient: PointGradient = Field(default="straight_through", exclude_if=lambda value: value == "straight_through")

    @model_validator(mode="after")
    def _check_gradient(self) -> Self:
        check_rotation(self.gradient, self.code_dim)
        return self


class PlainConfig(PointConfig):
    """Plain VQ (VQ-VAE, VQGAN): the baseline."""

    kind: Literal["vq"] = "vq"
    initial_logvar: None = None  # no posterior: the encoder gives a point
    codebook_weight: float = Field(default=1.0, ge=0)  # ‖sg(z) − e‖²
    commitment_weight: float = Field(default=0.25, ge=0)  # β ‖z − sg(e)‖², the encoder's side

    @property
    def resizable(self) -> bool:
        """Always."""
        return True


class EmaConfig(PointConfig):
    """VQ with a codebook of exponential moving averages (VQ-VAE's appendix, VQGAN-EMA)."""

    kind: Literal["vq_ema"] = "vq_ema"
    initial_logvar: None = None
    commitment_weight: float = Field(default=0.25, ge=0)  # β ‖z − sg(e)‖²; the codebook has no loss of its own
    average_decay: float = Field(default=0.99, gt=0, lt=1)
    revive_below: float = Field(default=0.0, ge=0, lt=1)  # share of the mean use under which a codeword is replaced

    @property
    def resizable(self) -> bool:
        """Always."""
        return True


class SimVQConfig(PointConfig):
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

    has_soft_latent: ClassVar[bool] = True
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

    @property
    def resizable(self) -> bool:
        """Always."""
        return True


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


class ResidualConfig(SeveralCodes):
    """Residual quantization (RVQ, RQ-VAE): each code of a position is of what those before it leave."""

    kind: Literal["residual"] = "residual"
    initial_logvar: None = None
    codebook: Literal["averaged", "embedding"] = "averaged"  # moving averages, or descended
    shared_codebook: bool = False  # one codebook for all codes of a position
    codebook_weight: float = Field(default=1.0, ge=0)  # ‖sg(r) − e‖² of a descended codebook, summed over codes
    commitment_weight: float = Field(default=0.25, ge=0)  # ‖r − sg(e)‖², summed over codes
    average_decay: float = Field(default=0.99, gt=0, lt=1)
    revive_below: float = Field(default=0.3, ge=0, lt=1)  # share of the mean use under which a codeword is replaced


class MoVQConfig(SeveralCodes):
    """MoVQ's multichannel quantization: chunks of the channels, each a code of one codebook."""

    kind: Literal["movq"] = "movq"
    initial_logvar: None = None
    codebook_weight: float = Field(default=1.0, ge=0)  # ‖sg(z) − e‖²
    commitment_weight: float = Field(default=0.25, ge=0)  # ‖z − sg(e)‖²

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.code_dim % self.codes_per_position:
            raise ValueError(f"code_dim {self.code_dim} is no multiple of codes_per_position {self.codes_per_position}")
        return self


FEATURE_DIMS = {"alexnet": 256, "vgg16": 512, "efficientnet_lite0": 1280}
"""D of the patch features of each frozen network."""


class VqganLcConfig(CodebookShape):
    """VQGAN-LC: frozen cluster centres of features of the training images, through a trained linear layer."""

    kind: Literal["vqgan_lc"] = "vqgan_lc"
    initial_logvar: None = None
    # What is clustered: patches of a frozen network (alexnet, vgg16, efficientnet_lite0), the one tensor N×D of a
    # .safetensors file (of N = K vectors each is a codeword), or warm_up: the tokenizer's own latents.
    features: str = "warm_up"
    feature_dim: int | None = Field(default=None, ge=1)  # D of a file; otherwise it is known
    feature_weights: str | None = None  # of the network, a path; None: fetched once into the cache
    # Images seen in training before latents are clustered and quantized; until then the decoder gets them as they are.
    # None: in a run `QUANTIZE_FROM` of train.images with features: warm_up, else 0.
    quantize_from: int | None = Field(default=None, ge=0)
    vectors_per_codeword: int = Field(default=32, ge=1)  # how many vectors are gathered, over K; a file's are all taken
    clustering_steps: int = Field(default=20, ge=1)  # of k-means, at most
    codebook_weight: float = Field(default=0.33, ge=0)  # ‖sg(z) − e‖², which moves the layer
    commitment_weight: float = Field(default=1.0, ge=0)  # ‖z − sg(e)‖²

    @property
    def continuous_share(self) -> float:
        """The share of a run that goes by before `quantize_from`, where this is left out."""
        return QUANTIZE_FROM if self.features == "warm_up" else 0.0

    @property
    def vector_dim(self) -> int:
        """D of what is clustered."""
        return self.feature_dim or FEATURE_DIMS.get(self.features, self.code_dim)

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = [*FEATURE_DIMS, "warm_up"]
        is_file = self.features.endswith(".safetensors")
        if not is_file and self.features not in known:
            hint = nearest_name(self.features, known)
            raise ValueError(
                f"features '{self.features}'{hint}: give one of {', '.join(known)}, or a file that ends in .safetensors"
            )
        if is_file and self.feature_dim is None:
            raise ValueError("feature_dim is needed beside a file of features: the second dimension of its tensor")
        if not is_file and self.feature_dim is not None:
            raise ValueError(f"feature_dim goes with a file of features: that of {self.features} is known")
        if self.quantize_from and self.features != "warm_up":
            raise ValueError(f"quantize_from goes with features: warm_up; {self.features} is there from the start")
        return self
