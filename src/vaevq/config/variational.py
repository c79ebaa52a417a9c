"""The options of VAEVQ, eq. 1-11; docs/fidelity.md has where each default comes from."""

from typing import Literal, Self

from pydantic import Field, model_validator

from vaevq.config.section import Reduction
from vaevq.config.shapes import QUANTIZE_FROM, CodebookShape, check_rotation


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
        check_rotation(self.gradient, self.code_dim)
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
