"""The U-Net of latent diffusion, by the library diffusers, in LDM's shape (Rombach et al. 2022, arXiv 2112.10752).

Unconditional it has self-attention alone. Told of classes, its attention also looks at a context of one learned token,
the class's, as the class-conditional LDM-4 does on ImageNet.
"""

import math
from typing import Any

from torch import Tensor, nn

from vaevq.config.diffusion import DiffusionConfig
from vaevq.errors import UserError

NORM_GROUPS = 32
"""Groups of channels that are normalized together, where all widths are multiples of it."""


class UNet(nn.Module):
    """What is predicted from a noisy latent: B×d×h×w to the same.

    Args:
        config: its shape.
        channels: d.
        grid: (h, w).
        class_count: classes, with which it has embeddings of each and of no class; 0: unconditional.

    Raises:
        UserError: the grid cannot be halved as often as there are levels, or diffusers is not installed.
    """

    def __init__(self, config: DiffusionConfig, channels: int, grid: tuple[int, int], class_count: int) -> None:
        super().__init__()
        halvings = len(config.widths) - 1
        if grid[0] % 2**halvings or grid[1] % 2**halvings:
            raise UserError(
                f"network.widths: {len(config.widths)} levels halve a grid {halvings} times, which {grid[0]}×{grid[1]} "
                "does not allow; name fewer widths (and as many of network.attention)"
            )
        diffusers = _diffusers()
        shape: dict[str, Any] = {
            "sample_size": grid,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": config.widths,
            "layers_per_block": config.blocks,
            "dropout": config.dropout,
            "norm_num_groups": math.gcd(NORM_GROUPS, *config.widths),
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        }
        self.classes: nn.Embedding | None = None
        if class_count:
            self.classes = nn.Embedding(class_count + 1, config.context_width)
            self.network = diffusers.UNet2DConditionModel(
                **shape,
                **_block_types(config.attention, "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=config.context_width,
                # There it is how many heads a level has.
                attention_head_dim=tuple(width // (config.head_width or width) for width in config.widths),
            )
        else:
            self.network = diffusers.UNet2DModel(
                **shape,
                **_block_types(config.attention, "AttnDownBlock2D", "AttnUpBlock2D"),
                attention_head_dim=config.head_width,
            )
        # As LDM's: each residual block starts as its shortcut, each attention as nothing, and the output as 0.
        ends = ("conv2", "conv_out", "to_out.0" if self.classes is None else "proj_out")
        for name, module in self.network.named_modules():
            if name.endswith(ends):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, noisy: Tensor, steps: Tensor, labels: Tensor) -> Tensor:
        """Of latents B×d×h×w at noise steps B in [0, T), with labels B in [0, class_count]."""
        if self.classes is None:
            predicted: Tensor = self.network(noisy, steps, return_dict=False)[0]
        else:
            context = self.classes(labels)[:, None]
            predicted = self.network(noisy, steps, context, return_dict=False)[0]
        return predicted

    @property
    def blocks(self) -> list[nn.Module]:
        """The levels on the way down, what is below them, and those on the way up."""
        return [*self.network.down_blocks, self.network.mid_block, *self.network.up_blocks]

    def checkpoint_gradients(self) -> None:
        """From now on computes blocks again in the backward pass."""
        self.network.enable_gradient_checkpointing()


def _block_types(attention: tuple[bool, ...], down: str, up: str) -> dict[str, tuple[str, ...]]:
    return {
        "down_block_types": tuple(down if has else "DownBlock2D" for has in attention),
        "up_block_types": tuple(up if has else "UpBlock2D" for has in reversed(attention)),
    }


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise UserError('network.kind: diffusion needs the library diffusers: pip install "vaevq[diffusion]"') from None
    return diffusers
