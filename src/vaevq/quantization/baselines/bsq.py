"""BSQ (Zhao et al. 2024, arXiv 2406.07548): u = z / ‖z‖ on the unit sphere, codewords {−1/√d, 1/√d}^d, d = log₂K.

The entropies are E H(p) − Σ_g H(E p_g) over groups of dimensions; p = softmax(−‖u − e‖² / τ). With groups of one
dimension it is the paper's factorization, which bounds H(E p) from above, and does not see how signs go together.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from vaevq.config import BsqConfig
from vaevq.quantization.baselines.binary import BinaryQuantizer


class BinarySphericalQuantizer(BinaryQuantizer):
    """Binary spherical quantization: the sign of each dimension of a latent of norm 1.

    Args:
        code_dim: d.
        codebook_size: 2^d.
        options: the further fields of `vaevq.config.BsqConfig`, by name.
    """

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = BsqConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        super().__init__(config, scale=code_dim**-0.5, group=config.entropy_group)

    def relaxed(self, mean: Tensor) -> Tensor:
        """u, B×d×h×w of norm 1 at each position."""
        return normalize(mean, dim=1)
