"""SimVQ (Zhu et al. 2024, eq. 6): codewords are E W, the embedding E frozen and random, the d×d layer W trained.

One gradient moves all codewords together, so none is left behind. Loss and gradient are plain VQ's.
"""

from typing import Any

from vaevq.config import SimVQConfig
from vaevq.quantization.baselines.vq import PointQuantizer
from vaevq.quantization.codebook import Codebook


class SimVQ(PointQuantizer):
    """Vector quantization over a frozen embedding through one learnable linear layer.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.SimVQConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = SimVQConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(
            Codebook(codebook_size, code_dim, projection=True),
            codebook_weight=config.codebook_weight,
            commitment_weight=config.commitment_weight,
            gradient=config.gradient,
        )
        self.codebook.embedding.requires_grad_(False)
