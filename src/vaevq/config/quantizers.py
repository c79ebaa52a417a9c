"""The options of each quantizer, one class a kind."""

import math
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from vaevq.config.levels import MAX_RATIO, chosen_levels, nearest_size, spread
from vaevq.config.section import Reduction, Section
from vaevq.errors import nearest_name

QUANTIZE_FROM = 0.3
"""The share of a run in which VAEVQ trains its continuous path alone, and VQGAN-LC its warm-up, unless `quantize_from`
says otherwise."""

LARGEST_BITS = 20
"""Messages propose no codebook of more bits than this."""


PointGradient = Literal["straight_through", "rotation"]
"""How the decoder's gradient passes the choice of a codeword (`vaevq.quantization.gradient`)."""


class LatentShape(Section):
    """What every quantizer has."""

    has_soft_latent: ClassVar[bool] = False  # a latent of its own beside the tokens, which `eval.soft` measures
    code_dim: int = Field(default=8, ge=1)
    codebook_size: int = Field(default=4096, ge=2)

    @property
    def resizable(self) -> bool:
        """Whether codewords stand each for itself and win what is nearest, so that one can be split or dropped."""
        return False


class CodebookShape(LatentShape):
    """What every quantizer of one code a position has."""

    @property
    def codes_per_position(self) -> int:
        """q: how many tokens a position has, each of log₂K bits."""
        return 1


class SeveralCodes(LatentShape):
    """What every quantizer of several codes a position has; with one its tokens are B×h×w, as everywhere."""

    codes_per_position: int = Field(default=4, ge=1)  # q


def _check_rotation(gradient: str, code_dim: int) -> None:
    if gradient == "rotation" and code_dim < 2:
        raise ValueError("gradient: rotation needs a code_dim of at least 2: one dimension has nothing to turn in")


class VariationalConfig(CodebookShape):
    """VAEVQ: variational latent quantization with its RCS, DCR and KL terms (see docs/fidelity.md for the defaults)."""

    kind: Literal["vaevq"] = "vaevq"
    # VLQ, eq. 1-4
    quantize: Literal["sample", "mean"] = "sample"  # in training; at inference always the mean
    # Images seen in training before the decoder gets codewords; until then z_c, while the codebook follows the latents.
    # None: in a run `QUANTIZE_FROM` of train.images (0 where nothing moves the codebook then), in a layer alone 0.
    quantize_from: int | None = Field(default=None, ge=0)
    gradient: Literal["straight_through", "reparameterized", "rotation"] = "straight_through"
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
    def resizable(self) -> bool:
        """Not where all codewords go through one layer."""
        return self.codebook != "projected"

    @property
    def codebook_follows(self) -> bool:
        """Whether anything brings the codebook to the latents while the decoder gets z_c."""
        return self.codebook == "averaged" or self.rcs_weight > 0

    @property
    def continuous_share(self) -> float:
        """The share of a run that goes by before `quantize_from`, where this is left out."""
        return QUANTIZE_FROM if self.codebook_follows else 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_rotation(self.gradient, self.code_dim)
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


class PointConfig(CodebookShape):
    """What plain VQ, VQ-EMA and SimVQ share: how the decoder's gradient passes the choice of a codeword."""

    gradient: PointGradient = "straight_through"  # rotation: turned and scaled as the latent is (Fifty et al. 2024)

    @model_validator(mode="after")
    def _check_gradient(self) -> Self:
        _check_rotation(self.gradient, self.code_dim)
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


class FsqConfig(CodebookShape):
    """FSQ: each dimension is bounded and rounded to one of its levels; there is no codebook."""

    kind: Literal["fsq"] = "fsq"
    initial_logvar: None = None
    # Of each dimension, at least 2: code_dim is their number, codebook_size their product. None: chosen as equal as
    # these two allow, none more than twice another.
    levels: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.levels is None:
            levels = chosen_levels(self.codebook_size, self.code_dim)
            if levels is None:
                raise ValueError(self._possibilities())
            self.__dict__["levels"] = levels  # a frozen section is filled in only here, before anybody has it
        dim, size = len(self.levels or ()), math.prod(self.levels or ())
        if (self.code_dim, self.codebook_size) != (dim, size):
            raise ValueError(
                f"levels [{spread(self.levels or ())}] go with code_dim {dim} and codebook_size {size}, not "
                f"{self.code_dim} and {self.codebook_size}: write code_dim: {dim} and codebook_size: {size}, or "
                "leave levels out"
            )
        return self

    def _possibilities(self) -> str:
        """What could be written where no levels of this size and dimension lie close to each other."""
        ways = []
        if self.code_dim <= LARGEST_BITS:
            size = nearest_size(self.codebook_size, self.code_dim)
            ways.append(f"codebook_size: {size} (levels {spread(chosen_levels(size, self.code_dim) or ())})")
        for dim in range(min(self.code_dim - 1, self.codebook_size.bit_length()), 0, -1):
            levels = chosen_levels(self.codebook_size, dim)
            if levels is not None:
                ways.append(f"code_dim: {dim} (levels {spread(levels)})")
                break
        return (
            f"codebook_size {self.codebook_size} is no product of code_dim {self.code_dim} numbers of which none is "
            f"more than {MAX_RATIO} times another; write {' or '.join(ways)}, or levels"
        )


class BinaryShape(CodebookShape):
    """What quantizers with one bit a dimension have: code_dim is log₂ of codebook_size."""

    code_dim: int = Field(default=12, ge=1)

    @model_validator(mode="after")
    def _check_bits(self) -> Self:
        bits = self.codebook_size.bit_length() - 1
        if self.codebook_size != 2**bits:
            raise ValueError(
                f"codebook_size {self.codebook_size} is no power of 2: write codebook_size: {2**bits} with "
                f"code_dim: {bits}, or codebook_size: {2 ** (bits + 1)} with code_dim: {bits + 1}"
            )
        if self.code_dim != bits:
            other = f" or codebook_size: {2**self.code_dim}" if self.code_dim <= LARGEST_BITS else ""
            raise ValueError(
                f"code_dim is log₂ of codebook_size here, and {self.code_dim} is not that of {self.codebook_size}: "
                f"write code_dim: {bits}{other}"
            )
        return self


class LfqConfig(BinaryShape):
    """LFQ (MAGVIT-v2): the sign of each dimension, with an entropy penalty over all codewords."""

    kind: Literal["lfq"] = "lfq"
    initial_logvar: None = None
    commitment_weight: float = Field(default=0.25, ge=0)  # ‖z − sg(e)‖²
    entropy_weight: float = Field(default=0.1, ge=0)  # of E H(p) − H(E p), nats
    entropy_temperature: float = Field(default=0.01, gt=0)  # τ of p = softmax(−‖z − e‖² / τ)


class BsqConfig(BinaryShape):
    """BSQ: latents on the unit sphere, the sign of each dimension over √d, with an entropy penalty in groups."""

    kind: Literal["bsq"] = "bsq"
    initial_logvar: None = None
    commitment_weight: float = Field(default=0.25, ge=0)  # ‖u − sg(e)‖²
    entropy_weight: float = Field(default=0.1, ge=0)  # of E H(p) − Σ_g H(E p_g), nats
    entropy_temperature: float = Field(default=0.1, gt=0)  # τ of p = softmax(−‖u − e‖² / τ)
    # How many dimensions a group g has: within one the entropy is exact, over them it is summed. 1: the paper's
    # formula, for which two codewords of opposite signs are as good as all; 9: the authors' code; from d on: exact.
    entropy_group: int = Field(default=9, ge=1, le=24)


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
    | FsqConfig
    | LfqConfig
    | BsqConfig
    | ResidualConfig
    | MoVQConfig
    | VqganLcConfig
)
QuantizerConfig = Annotated[AnyQuantizerConfig, Field(discriminator="kind")]
QUANTIZERS: dict[str, type[AnyQuantizerConfig]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(AnyQuantizerConfig)
}
