"""The options of the quantizers whose codewords are a grid: no codebook is stored."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vaevq.config.levels import MAX_RATIO, chosen_levels, nearest_size, spread
from vaevq.config.shapes import CodebookShape

LARGEST_BITS = 20
"""Messages propose no codebook of more bits than this."""


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
