"""The Gaussian with the moments of what is quantized, averaged while a tokenizer trains."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaevq.distributed import all_reduce_mean


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance): d and d×d."""

    mean: Tensor
    covariance: Tensor


class RunningMoments(nn.Module):
    """Mean and covariance of what is quantized, the aggregate posterior, averaged exponentially and over processes."""

    mean: Tensor
    second: Tensor
    updates: Tensor

    def __init__(self, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("second", torch.zeros(dim, dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, latents: Tensor) -> Gaussian:
        """Takes in a batch of latents, B×d×h×w with the same B on every process, and gives the moments so far.

        Latents that are not finite are not taken in: their moments would stay NaN for ever.
        """
        rows = latents.detach().transpose(0, 1).flatten(1).to(self.mean.dtype)
        with torch.autocast(rows.device.type, enabled=False):
            mean = all_reduce_mean(rows.mean(dim=1))
            second = all_reduce_mean(rows @ rows.T / rows.shape[1])
        if not bool(mean.isfinite().all() & second.isfinite().all()):
            return Gaussian(mean, second)
        self.updates += 1
        # The plain average of the first batches, then exponential: no bias towards the zeros it starts from.
        weight = max(1.0 / int(self.updates), 1.0 - self.decay)
        self.mean.lerp_(mean, weight)
        self.second.lerp_(second, weight)
        return Gaussian(self.mean.clone(), self.second - torch.outer(self.mean, self.mean))
