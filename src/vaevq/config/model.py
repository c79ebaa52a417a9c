"""What a saved model needs to be built again: the options of its networks and of its quantizer."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vaevq.config.quantizers import QuantizerConfig
from vaevq.config.section import Section, merged
from vaevq.config.variational import VariationalConfig

Normalization = Literal["group", "none"]


class AutoencoderConfig(Section):
    """Encoder and decoder in the shape of VQGAN's."""

    image_channels: int = Field(default=3, ge=1, le=4)
    base_width: int = Field(default=128, ge=8)
    decoder_width: int | None = Field(default=None, ge=8)  # None: as base_width
    patch_size: int = Field(default=1, ge=1)  # p×p pixels become channels first: a fast start for small machines
    multipliers: tuple[int, ...] = Field(default=(1, 2, 2, 4), min_length=1)
    blocks: int = Field(default=2, ge=1)  # residual blocks a level; the decoder has one more, as VQGAN's
    attention_levels: tuple[int, ...] = ()  # indices into multipliers; the last one's includes the middle block
    upsampling: Literal["depth_to_space", "nearest"] = "depth_to_space"
    # group: as VQGAN's. none: residual blocks start as their shortcut instead; better in small networks, short runs.
    normalization: Normalization = "group"
    # MoVQ's decoder: the latent gives what follows each of its normalizations a scale and a shift at every position.
    # With normalization none it scales and shifts what is not normalized. Left out where it is off, so that models that
    # were saved before keep their digest.
    modulated: bool = Field(default=False, exclude_if=lambda on: not on)
    # VQGAN's own ends and middle, to the letter, for published weights (`vaevq import`): the encoder ends in a 3×3
    # convolution to so many channels (its z_channels), the decoder begins with a 1×1 one back to as many; the middle
    # always attends, and halving pads below and on the right alone. None: none of it, and left out of dumps.
    vqgan_channels: int | None = Field(default=None, ge=1, exclude_if=lambda channels: channels is None)

    @property
    def downsample_factor(self) -> int:
        """f: how many pixels a side one token stands for."""
        return int(self.patch_size * 2 ** (len(self.multipliers) - 1))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(m < 1 for m in self.multipliers):
            raise ValueError("multipliers must all be at least 1")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention_levels):
            raise ValueError(f"attention_levels are indices from 0 to {len(self.multipliers) - 1}")
        return self


class TokenizerConfig(Section):
    """What a saved model needs to be built again."""

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    quantizer: QuantizerConfig = VariationalConfig()

    @property
    def extent(self) -> tuple[int, int]:
        """How many layers there are, and numbers that the largest of their tensors has at least."""
        shape, quantizer = self.autoencoder, self.quantizer
        bridge = getattr(quantizer, "bridge_depth", 0)
        # The fixed points of a Gaussian are computed where a network is built, however it is built.
        points = quantizer.codebook_size * quantizer.code_dim if quantizer.kind == "gaussian" else 0
        return max(shape.blocks * len(shape.multipliers), quantizer.codes_per_position, bridge), points

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("quantizer"), Mapping):
            return merged({"quantizer": {"kind": "vaevq"}}, given)
        return given
