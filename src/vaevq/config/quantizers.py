"""The options of each quantizer, one class a kind."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from vaevq.config.section import Reduction, Section

QUANTIZE_FROM = 0.3
"""The share of a run in which VAEVQ trains its continuous path alone, unless `quantize_from` says otherwise."""


class CodebookShape(Section):
    """What every quantizer with an explicit codebook has."""

    code_dim: int = Field(default=8, ge=1)
    codebook_size: int = Field(default=4096, ge=2)

    @property
    def resizable(self) -> bool:
        """Whether codewords stand each for itself and win what is nearest, so that one can be split or dropped."""
        return False


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
    def resizable(self) -> bool:
        """Not where all codewords go through one layer."""
        return self.codebook != "projected"

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

    @property
    def resizable(self) -> bool:
        """Always."""
        return True


class EmaConfig(CodebookShape):
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
