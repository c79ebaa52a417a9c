"""Section "DCR", eq. 8-11: L_dcr = W₂²(N(μ_q, Σ_q), target), which keeps the whole codebook spread like its target.

For the prior N(0, I): ‖μ_q‖² + Tr Σ_q − 2 Tr Σ_q^{1/2} + d, with the constant d, so that 0 is the optimum.
"""

from typing import Any

import torch
from torch import Tensor

from vaevq.quantization.moments import Gaussian


def distribution_consistency(
    codewords: Tensor, target: Gaussian | None = None, *, square_root_term: bool = True
) -> Tensor:
    """L_dcr, a scalar in the units of a squared latent; computed in float64 where the device has it.

    Args:
        codewords: K×d with K ≥ 2. Their covariance has the divisor K − 1.
        target: None for the prior N(0, I); nothing is differentiated through it.
        square_root_term: False leaves ‖μ_q‖² + Tr Σ_q, what the released code computes; for the prior alone.
    """
    size, dim = codewords.shape
    dtype = torch.float32 if codewords.device.type == "mps" else torch.float64
    points = codewords.to(dtype)
    mean = points.mean(dim=0)
    scaled = (points - mean) / (size - 1) ** 0.5  # Σ_q = scaledᵀ scaled
    distance = mean.square().sum() + scaled.square().sum()
    # Tr (Σ_t^{1/2} Σ_q Σ_t^{1/2})^{1/2} is the nuclear norm of scaled Σ_t^{1/2}.
    if target is not None:
        centre, covariance = target.mean.to(dtype), target.covariance.to(dtype)
        distance = (mean - centre).square().sum() + scaled.square().sum()
        distance = distance - 2 * nuclear_norm(scaled @ symmetric_root(covariance)) + covariance.trace()
    elif square_root_term:
        distance = distance - 2 * nuclear_norm(scaled) + dim
    result: Tensor = distance.to(codewords.dtype)
    return result


class _NuclearNorm(torch.autograd.Function):
    """‖A‖_* with the subgradient UVᵀ, which is bounded by 1 for singular values that are repeated, tiny or 0.

    Autograd through the singular vectors would divide by the gaps between them.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        # A GPU takes long over the SVD of a tall matrix.
        total, direction = (_through_qr if matrix.device.type == "cuda" else _directly)(matrix)
        ctx.save_for_backward(direction)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (direction,) = ctx.saved_tensors
        scaled: Tensor = gradient * direction
        return scaled


def _directly(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """‖A‖_* and UVᵀ of K×d."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return s.sum(), u @ vh


def _through_qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the SVD of d×d: with A = QR, R has the singular values of A, and U is Q times R's."""
    q, r = torch.linalg.qr(matrix)
    total, direction = _directly(r)
    return total, q @ direction


def nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values of K×d, a scalar, NaN where one is not finite; gradient: see `_NuclearNorm`."""
    if not bool(matrix.isfinite().all()):
        return matrix.sum() * torch.nan
    value: Tensor = _NuclearNorm.apply(matrix)  # type: ignore[no-untyped-call]
    return value


def symmetric_root(covariance: Tensor) -> Tensor:
    """Σ^{1/2} of a positive semi-definite d×d; eigenvalues that rounding made negative count as 0. NaN of what is not
    finite, which has none."""
    if not bool(covariance.isfinite().all()):
        return covariance * torch.nan
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * eigenvalues.clamp_min(0).sqrt()) @ vectors.T
    return root
