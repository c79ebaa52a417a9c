"""LFQ (Yu et al. 2023, MAGVIT-v2, arXiv 2310.05737): codewords are {−1, 1}^d, with d = log₂K.

The entropies E H(p) − H(E p) are those of all K codewords, exact; p = softmax(−‖z − e‖² / τ).
"""

from typing import Any

from torch import Tensor

from vaevq.config import LfqConfig
from vaevq.quantization.baselines.binary import BinaryQuantizer


class LookupFreeQuantizer(BinaryQuantizer):
    """Lookup-free quantization: the sign of each dimension.

    Args:
        code_dim: d.
        codebook_size: 2^d.
        options: the further fields of `vaevq.config.LfqConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = LfqConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(config, scale=1.0, group=code_dim)

    def relaxed(self, mean: Tensor) -> Tensor:
        """The latent itself."""
        return mean
