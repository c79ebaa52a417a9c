"""VQ-EMA (van den Oord et al. 2017, app. A.1; VQGAN-EMA): commitment alone is descended, the codebook is averaged."""

from typing import Any

from vaevq.config import EmaConfig
from vaevq.quantization.averaged import AveragedCodebook
from vaevq.quantization.baselines.vq import PointQuantizer


class EmaQuantizer(PointQuantizer):
    """Vector quantization with a codebook of moving averages, which `finish_step` moves.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.EmaConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = EmaConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        codebook = AveragedCodebook(
            codebook_size, code_dim, average_decay=config.average_decay, revive_below=config.revive_below
        )
        super().__init__(
            codebook, codebook_weight=0.0, commitment_weight=config.commitment_weight, gradient=config.gradient
        )
