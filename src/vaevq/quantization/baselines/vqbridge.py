"""VQBridge (Chang et al. 2025, arXiv 2509.10140): an embedding compressed in groups, processed by a ViT, recovered.

One gradient moves all codewords together, less stiffly than SimVQ's. Loss and gradient are plain VQ's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaevq.config import VQBridgeConfig
from vaevq.quantization.baselines.vq import PointQuantizer
from vaevq.quantization.codebook import Codebook

HEADS = 4
MLP_RATIO = 2

EPSILON = 1e-6
"""Of the normalizations, as the authors have it: an embedding within ±1/K makes it count at first."""


class BridgeBlock(nn.Module):
    """A pre-norm transformer block without positions: T×width to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.GELU(approximate="tanh"), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        split = self.query_key_value(self.norm1(x)).view(len(x), 3, HEADS, -1).permute(1, 2, 0, 3)
        attended = F.scaled_dot_product_attention(*split.unbind())  # heads × T × width / heads
        x = x + self.out(attended.transpose(0, 1).reshape(x.shape))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class BridgedCodebook(Codebook):
    """An embedding, K×d, through the bridge.

    The authors lay the codewords out as a √K×√K image and cut it into patches. There are no positions, so a patch is
    but a group of codewords; here a group are codewords that follow each other, and K need not be a square.
    """

    def __init__(self, codebook_size: int, code_dim: int, *, group: int, width: int, depth: int) -> None:
        super().__init__(codebook_size, code_dim)
        self.group = group
        self.compress = nn.Linear(group * code_dim, width)
        self.blocks = nn.Sequential(*(BridgeBlock(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=EPSILON, elementwise_affine=False)
        self.recover = nn.Linear(width, group * code_dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        # All codewords start at 0 and part as they are chosen, as in the authors' code.
        nn.init.zeros_(self.recover.weight)

    def forward(self) -> Tensor:
        """e_k, K×d."""
        with torch.autocast(self.embedding.device.type, enabled=False):
            padded = F.pad(self.embedding, (0, 0, 0, -self.codebook_size % self.group))
            groups = self.compress(padded.view(-1, self.group * self.code_dim))
            recovered: Tensor = self.recover(self.norm(self.blocks(groups)))
        return recovered.view(-1, self.code_dim)[: self.codebook_size]


class VQBridge(PointQuantizer):
    """Vector quantization over an embedding through a small transformer. FVQ is this under an annealed learning rate
    (`train.schedule: cosine`).

    Its cost does not depend on the number of latents, but its attention grows as (K / group)².

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.VQBridgeConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = VQBridgeConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        codebook = BridgedCodebook(
            codebook_size, code_dim, group=config.bridge_group, width=config.bridge_width, depth=config.bridge_depth
        )
        super().__init__(codebook, codebook_weight=config.codebook_weight, commitment_weight=config.commitment_weight)
