"""FSQ (Mentzer et al. 2023, arXiv 2309.15505): each dimension through tanh onto its levels, rounded straight through.

No codebook, no loss term: the decoder's loss alone trains the encoder.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaevq.config import FsqConfig
from vaevq.quantization.baselines.scalar import ScalarQuantizer

MARGIN = 1e-3
"""By how much tanh reaches past the outermost level, as a share, so that this one is reached as well."""


class FiniteScalarQuantizer(ScalarQuantizer):
    """Finite scalar quantization: codewords are a grid in [-1, 1]^d.

    An even number of levels is shifted by half a step, so that 0 is a level. Two levels are ±1 on either side of 0
    instead, as in the symmetric form of Parker et al. 2024 (arXiv 2411.19842, sec. 3.2): shifted, their threshold would
    lie where tanh is flat.

    Args:
        code_dim: d.
        codebook_size: K.
        options: the further fields of `vaevq.config.FsqConfig`, by name.
    """

    reach: Tensor
    offset: Tensor
    shift: Tensor

    def __init__(self, code_dim: int, codebook_size: int, **options: Any) -> None:
        config = FsqConfig(code_dim=code_dim, codebook_size=codebook_size, **options)
        levels = config.levels
        assert levels is not None, "the configuration has chosen them"
        super().__init__(levels, [0.5 if count == 2 else float(count // 2) for count in levels], first_is_lowest=True)
        counts = torch.tensor(levels, dtype=torch.float64).view(-1, 1, 1)
        reach = 0.5 * (counts - 1) * (1 + MARGIN)
        offset = torch.where(counts % 2 == 0, 0.5, 0.0)
        offset[counts == 2], reach[counts == 2] = 0.0, 0.5
        for name, value in (("reach", reach), ("offset", offset), ("shift", torch.atanh(offset / reach))):
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def term_weights(self) -> Mapping[str, float]:
        """There is no loss term."""
        return {}

    def relaxed(self, mean: Tensor) -> Tensor:
        """The bounded latent, in units of the codewords: B×d×h×w."""
        bounded = torch.tanh(mean + self.shift) * self.reach - self.offset
        return bounded / self.half_width
