"""Whether and how the codebook's size follows the data while a tokenizer trains."""

from typing import Literal, Self

from pydantic import Field, model_validator

from vaevq.config.section import Section


class AdaptConfig(Section):
    """The search for a codebook's size during training; `model.quantizer.codebook_size` is where it begins."""

    # usage: the largest K of which the share `perplexity_share` is in use. distortion: the largest K whose last bit
    # still lowers the quantization error by the share `gain` of the latents' variance.
    by: Literal["none", "usage", "distortion"] = "none"
    perplexity_share: float = Field(default=0.5, gt=0, lt=1)  # of training's means, with codewords revived as unused
    gain: float = Field(default=0.003, gt=0, lt=1)
    every: int = Field(default=800, ge=1)  # images seen between two looks at it; the second half is measured
    start: float = Field(default=0.3, ge=0, lt=1)  # share of train.images from which it is looked at
    until: float = Field(default=0.8, gt=0, le=1)  # and after which the size stands
    min_size: int = Field(default=16, ge=2)
    max_size: int = Field(default=65_536, ge=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is larger than max_size {self.max_size}")
        if self.start >= self.until:
            raise ValueError(f"start {self.start:g} must be below until {self.until:g}")
        return self
