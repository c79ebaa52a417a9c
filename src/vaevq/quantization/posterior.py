"""Section "VLQ", eq. 1: the encoder's posterior q(z|x) = N(μ, diag σ²) and the sample z_c = μ + σ ⊙ ε.

A quantizer without a posterior gets a point mass: `logvar` is None, the sample is the mean, and there is no KL.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaevq.config import Reduction
from vaevq.nn.precision import at_least_float32
from vaevq.nn.reduction import reduce


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian for each position.

    Attributes:
        mean: μ, B×d×h×w.
        logvar: log σ² of the same shape, or None for a point mass.
    """

    mean: Tensor
    logvar: Tensor | None = None

    @property
    def std(self) -> Tensor:
        """σ, B×d×h×w. Only a variational posterior has one."""
        assert self.logvar is not None, "a point mass has no standard deviation"
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """z_c = μ + σ ⊙ ε (eq. 1). `noise` is ε, B×d×h×w; None draws it. The sample of a point mass is its mean."""
        if self.logvar is None:
            return self.mean
        epsilon = torch.randn_like(self.mean) if noise is None else noise.to(self.mean)
        return self.mean + self.std * epsilon

    def kl(self, reduction: Reduction = "position") -> Tensor:
        """KL(q(z|x) ‖ N(0, I)) = ½ (μ² + σ² − log σ² − 1) in nats, a scalar (Kingma and Welling 2014, app. B)."""
        assert self.logvar is not None, "a point mass has no finite KL to a Gaussian"
        # expm1(x) − x keeps its digits where σ is near 1, the optimum.
        nats = 0.5 * (self.mean.square() + torch.expm1(self.logvar) - self.logvar)
        return reduce(nats, reduction)


class PosteriorHead(nn.Module):
    """Encoder features to a posterior: one 1×1 convolution for μ and, where it is variational, one for log σ².

    The second starts as the constant `initial_logvar`; None makes a point mass. Two heads rather than one split in
    halves, so that every quantizer of one code_dim starts from the same mean head.
    """

    def __init__(self, width: int, code_dim: int, initial_logvar: float | None = None) -> None:
        super().__init__()
        self.mean = nn.Conv2d(width, code_dim, kernel_size=1)
        self.logvar: nn.Conv2d | None = None
        if initial_logvar is not None:
            self.logvar = nn.Conv2d(width, code_dim, kernel_size=1)
            nn.init.zeros_(self.logvar.weight)
            assert self.logvar.bias is not None
            nn.init.constant_(self.logvar.bias, initial_logvar)

    def forward(self, features: Tensor) -> Posterior:
        """B×width×h×w to a posterior of B×d×h×w, in at least float32 whatever the autocast."""
        mean = at_least_float32(self.mean(features))
        if self.logvar is None:
            return Posterior(mean)
        # exp(20) and exp(-30) are finite in float32 with room for squares and inverses.
        return Posterior(mean, at_least_float32(self.logvar(features)).clamp(-30.0, 20.0))
