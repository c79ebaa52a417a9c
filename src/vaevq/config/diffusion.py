"""The options of a diffusion generator: a U-Net over latents, and the noise that it learns to take away."""

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vaevq.config.section import Section, sized

DiffusionSize = Literal["tiny", "small", "ldm-4"]

DIFFUSION_SIZES: dict[DiffusionSize, dict[str, Any]] = {
    "tiny": {"widths": (32, 64), "attention": (False, True), "blocks": 1, "head_width": 32, "context_width": 32},
    "small": {"widths": (64, 128), "attention": (False, True), "blocks": 1, "head_width": 32, "context_width": 128},
    # LDM-4 on ImageNet, class-conditional (Rombach et al. 2022, table 12): one head a level.
    "ldm-4": {
        "widths": (192, 384, 576, 960),
        "attention": (False, True, True, True),
        "blocks": 2,
        "head_width": None,
        "context_width": 512,
    },
}
"""The shape of the U-Net by the size's name."""

MOST_LEFT = 0.2
"""α at the last noise step may be so large: LDM's is 0.08."""


class DiffusionConfig(Section):
    """A U-Net that takes noise from latents (LDM). `size` sets its shape; each option of the shape given wins over it.

    Each level after the first has half the rows and columns of the one before it.
    """

    kind: Literal["diffusion"] = "diffusion"
    of_latents: ClassVar[bool] = True
    shape_options: ClassVar[frozenset[str]] = frozenset(DIFFUSION_SIZES["small"])  # what a size sets

    size: DiffusionSize = "small"
    widths: tuple[int, ...] = Field(default=DIFFUSION_SIZES["small"]["widths"], min_length=1)  # channels of each level
    attention: tuple[bool, ...] = DIFFUSION_SIZES["small"]["attention"]  # whether a level has it; below the last always
    blocks: int = Field(default=DIFFUSION_SIZES["small"]["blocks"], ge=1)  # residual blocks a level
    head_width: int | None = Field(default=DIFFUSION_SIZES["small"]["head_width"], ge=1)  # None: one head
    context_width: int = Field(default=DIFFUSION_SIZES["small"]["context_width"], ge=1)  # of the class token
    dropout: float = Field(default=0.0, ge=0, lt=1)  # in residual blocks
    conditional: bool = True  # on the labels of the tokens; False: labels are not looked at
    class_dropout: float = Field(default=0.1, ge=0, lt=1)  # share of the images shown without their class: for guidance
    prediction: Literal["epsilon", "v"] = "epsilon"  # the noise, or α ε − σ x (Salimans and Ho 2022)
    noise_steps: int = Field(default=1000, ge=2)  # T
    noise_schedule: Literal["linear", "scaled_linear", "cosine"] = "scaled_linear"  # of β; linear in √β is LDM's
    beta_start: float = Field(default=0.0015, gt=0, lt=1)
    beta_end: float = Field(default=0.0195, gt=0, lt=1)
    zero_terminal_snr: bool = False  # nothing is left of the latent at T (Lin et al. 2023); with prediction v

    @property
    def extent(self) -> tuple[int, int]:
        """How many layers there are, and numbers that the largest of their tensors has at least."""
        return self.blocks * len(self.widths), max(*self.widths, self.context_width)

    @model_validator(mode="before")
    @classmethod
    def _apply_size(cls, given: Any) -> Any:
        return sized(given, DIFFUSION_SIZES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.widths) != len(self.attention):
            raise ValueError(f"attention is said of {len(self.attention)} levels, widths of {len(self.widths)}")
        for width in self.widths:
            if width < 8 or width % 8:
                raise ValueError(f"width {width} is no multiple of 8: channels are normalized in groups")
            if self.head_width is not None and width % self.head_width:
                raise ValueError(f"width {width} is no multiple of head_width {self.head_width}")
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start:g} is above beta_end {self.beta_end:g}")
        if self.noise_schedule == "cosine" and self.prediction != "v":
            raise ValueError(
                "noise_schedule cosine needs prediction v: it ends where all is noise, and there knowing the noise "
                "tells nothing"
            )
        if self.noise_schedule != "cosine" and (left := self._left_at_the_end()) > MOST_LEFT:
            raise ValueError(
                f"a share of {left:.2f} of the latents is left at the last of {self.noise_steps} noise steps, and "
                "sampling starts from noise alone: more noise_steps or a higher beta_end take it away"
            )
        if self.zero_terminal_snr and self.prediction != "v":
            raise ValueError(
                "zero_terminal_snr needs prediction v: where all is noise, knowing the noise tells nothing"
            )
        return self

    def _left_at_the_end(self) -> float:
        """α at the last noise step; 0 where it is made so."""
        if self.zero_terminal_snr:
            return 0.0
        power = 2 if self.noise_schedule == "scaled_linear" else 1
        first, last = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
        steps = (first + (last - first) * i / (self.noise_steps - 1) for i in range(self.noise_steps))
        return math.exp(0.5 * math.fsum(math.log1p(-(step**power)) for step in steps))
