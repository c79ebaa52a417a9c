"""What the options of quantizers have in common: the latent's shape, how many codes a position has, the gradient."""

from typing import ClassVar, Literal

from pydantic import Field

from vaevq.config.section import Section

QUANTIZE_FROM = 0.3
"""The share of a run in which VAEVQ trains its continuous path alone, and VQGAN-LC its warm-up, unless `quantize_from`
says otherwise."""


PointGradient = Literal["straight_through", "rotation"]
"""How the decoder's gradient passes the choice of a codeword (`vaevq.quantization.gradient`)."""


class LatentShape(Section):
    """What every quantizer has."""

    has_soft_latent: ClassVar[bool] = False  # a latent of its own beside the tokens, which `eval.soft` measures
    code_dim: int = Field(default=8, ge=1)
    codebook_size: int = Field(default=4096, ge=2, le=2**31)  # as many as a token file can name

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


def check_rotation(gradient: str, code_dim: int) -> None:
    """ValueError where latents of so many dimensions cannot be turned."""
    if gradient == "rotation" and code_dim < 2:
        raise ValueError("gradient: rotation needs a code_dim of at least 2: one dimension has nothing to turn in")
