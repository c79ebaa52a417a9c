"""Which groups of codewords can hold the nearest one, told by a product in 8 bits whose error is bounded.

A processor with VNNI multiplies 8-bit integers several times faster than float32. Latents and codewords are rounded to
127 steps a side, z = s_z q_z + r_z and e = s_e q_e + r_e; by Cauchy and Schwarz the product is wrong by at most
‖r_z‖ ‖e‖ + ‖s_z q_z‖ ‖r_e‖. A group whose least score lies above the row's least by more than twice that, and by what
float32 rounds, cannot hold the codeword that a search in float32 finds: only the others are scored in float32.
"""

import torch
from torch import Tensor

GROUP = 128
"""Codewords that are screened and scored together."""

_STEPS = 127
_ROWS, _COLUMNS = 512, 2048
"""The tile of 8-bit products, which stays in a processor's cache while minima are taken of it."""

_NEVER = 1 << 30
"""A score that no codeword has: of norms and of products, up to `_LARGEST_DIM`, each stays below a quarter of it."""

_LARGEST_DIM = 1 << 14
_FLOAT_STEP = torch.finfo(torch.float32).eps


def has_fast_bytes() -> bool:
    """Whether this machine's processor has the instructions, and torch uses them."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return hasattr(torch, "_int_mm") and supported is not None and bool(supported())


class Screen:
    """Codewords in 8 bits.

    Args:
        codewords: K×d float32 on the CPU.
        half_norms: ½‖e‖², K: a score is ½‖e‖² − z·e.
    """

    def __init__(self, codewords: Tensor, half_norms: Tensor) -> None:
        size, dim = codewords.shape
        self._half_norms = half_norms
        self._largest_half_norm = float(half_norms.abs().max())
        self._scale = _step(codewords)
        self._codes = torch.zeros(-(-size // GROUP) * GROUP, dim, dtype=torch.int8)
        self._longest = self._residual = 0.0
        if not self._is_regular(self._scale):
            return
        for first in range(0, size, _COLUMNS):
            tile = codewords[first : first + _COLUMNS]
            codes, residual = _rounded(tile, self._scale)
            self._codes[first : first + len(tile)] = codes.neg_()
            self._longest = max(self._longest, float(torch.linalg.vector_norm(tile, dim=1).max()))
            self._residual = max(self._residual, float(residual.max()))

    def groups(self, latents: Tensor) -> Tensor | None:
        """Where the nearest codewords can be: bool N×⌈K/GROUP⌉ for N×d float32.

        None where it cannot tell: values that are not finite, 0 throughout, or far from the codewords' magnitude.
        """
        scale = _step(latents)
        if not (self._is_regular(scale) and self._is_regular(self._scale)):
            return None
        unit = scale * self._scale
        if not self._largest_half_norm / unit < _NEVER // 4 or latents.shape[1] > _LARGEST_DIM:
            return None
        codes, residual = _rounded(latents, scale)
        norm = torch.linalg.vector_norm(latents, dim=1)
        rounding = (latents.shape[1] + 16) * _FLOAT_STEP * (norm * self._longest + self._largest_half_norm)
        bound = residual * self._longest + (norm + residual) * self._residual + rounding + unit
        least = self._least_of_groups(codes, unit)
        # A hundredth more, for what float32 rounds in the bound itself. No two scores lie _NEVER apart.
        slack = (2.02 / unit * bound).clamp(max=_NEVER).int() + 1
        possible: Tensor = least <= (least.amin(dim=1) + slack)[:, None]
        return possible

    def _least_of_groups(self, codes: Tensor, unit: float) -> Tensor:
        """The least score of each group in units, int32 N×⌈K/GROUP⌉, each within 1 of ½‖e‖²/unit − q_z·q_e."""
        size = len(self._codes)
        norms = torch.full((size,), _NEVER, dtype=torch.int32)
        norms[: len(self._half_norms)] = (self._half_norms.double() / unit).round().int()
        least = torch.empty(len(codes), size // GROUP, dtype=torch.int32)
        for first in range(0, size, _COLUMNS):
            columns = slice(first, min(first + _COLUMNS, size))
            for start in range(0, len(codes), _ROWS):
                scores = torch._int_mm(codes[start : start + _ROWS], self._codes[columns].T).add_(norms[columns])
                groups = scores.view(len(scores), -1, GROUP).amin(dim=2)
                least[start : start + _ROWS, columns.start // GROUP : columns.stop // GROUP] = groups
        return least

    def _is_regular(self, scale: float) -> bool:
        """Whether nothing that is made of values on this scale leaves float32's range; false for 0, inf and NaN."""
        return 1e-15 < scale < 1e12


def _step(values: Tensor) -> float:
    """The largest magnitude over `_STEPS`, a number that float32 has."""
    least, most = torch.aminmax(values)
    return float(torch.maximum(-least, most) / _STEPS)


def _rounded(values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Rows in steps of `scale`, int8, and an upper bound of what is lost by it: the norm of each row's remainder."""
    steps = torch.round(values / scale)
    codes = steps.to(torch.int8)
    lost = torch.linalg.vector_norm(steps.mul_(scale).sub_(values), dim=1)
    # What float32 itself rounds on the way here.
    return codes, lost + 4 * _FLOAT_STEP * torch.linalg.vector_norm(values, dim=1)
