"""How the decoder's gradient passes the choice of a codeword: straight through, or turned with it."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vaevq.config import PointGradient

FLOOR = 1e-12
"""Of the norm that is divided by: a latent of 0 has no direction to turn."""


def passed_on(latent: Tensor, codeword: Tensor, gradient: PointGradient) -> Tensor:
    """The codeword in value, with the decoder's gradient to the latent and none to the codeword: B×d×h×w."""
    return rotated(latent, codeword) if gradient == "rotation" else straight_through(latent, codeword)


def straight_through(latent: Tensor, codeword: Tensor) -> Tensor:
    """The gradient as it is (Bengio et al. 2013)."""
    return latent + (codeword - latent).detach()


def rotated(latent: Tensor, codeword: Tensor) -> Tensor:
    """The rotation trick (Fifty et al. 2024, arXiv 2410.06424, sec. 4): e = λ R z with λ = ‖e‖ / ‖z‖ and R constants.

    R turns z's direction u to e's, v, in their plane: R = I − 2 w wᵀ + 2 v uᵀ with w = (u + v) / ‖u + v‖. The latent
    gets λ Rᵀ times the decoder's gradient, which stands to it at the angle that it stood at to the codeword.

    Args:
        latent: z, B×d×h×w with d ≥ 2.
        codeword: e of the same shape.
    """
    with torch.no_grad():
        u, v = normalize(latent, dim=1), normalize(codeword, dim=1)
        w = normalize(u + v, dim=1)
        scale = codeword.norm(dim=1, keepdim=True) / latent.norm(dim=1, keepdim=True).clamp_min(FLOOR)
    turned = scale * (latent - 2 * w * _product(w, latent) + 2 * v * _product(u, latent))
    # Equal but for rounding; the value is the codeword's.
    return straight_through(turned, codeword)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """The scalar product at each position, B×1×h×w."""
    return (one * other).sum(dim=1, keepdim=True)
