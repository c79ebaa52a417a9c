"""Fréchet distance between two sets of images: streamed float64 moments of features, and W₂² of their Gaussians."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaevq import distributed
from vaevq.errors import UserError


def accumulator_device(device: torch.device) -> torch.device:
    """Where float64 sums are kept: `device`, or the CPU beside a device without float64 (Apple's GPU)."""
    return torch.device("cpu") if device.type == "mps" else device


def as_float64(values: Tensor) -> Tensor:
    """Values in float64 where they are, or on the CPU beside a device without it."""
    return values.to(accumulator_device(values.device)).double()  # moved first: it would be made of them there


class FeatureMoments:
    """Count, mean and scatter (sum of outer products of deviations) of feature vectors seen one batch at a time.

    Batches are merged with Chan, Golub and LeVeque's update, which loses no digits where the mean is large against
    the deviations. Memory does not grow with the number of images.

    Attributes:
        count: vectors seen.
        mean: float64 dim.
        scatter: float64 dim×dim.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        place = accumulator_device(torch.device(device))
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=place)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=place)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.mean.numel()

    @property
    def full_rank(self) -> bool:
        """Whether there are enough vectors for a covariance of full rank; without it a Fréchet distance is heavily
        biased upwards and comparable with nothing but itself at the same count."""
        return self.count > self.dim

    def update(self, features: Tensor) -> None:
        """Takes in features B×dim of any float type."""
        if len(features) == 0:
            return
        features = features.detach().to(self.mean.device).double()
        mean = features.mean(0)
        deviations = features - mean
        total = self.count + len(features)
        shift = mean - self.mean
        self.scatter.addmm_(deviations.T, deviations)
        self.scatter.addr_(shift, shift, alpha=self.count * len(features) / total)
        self.mean += shift * (len(features) / total)
        self.count = total

    def all_reduce(self) -> None:
        """Merges what all processes have seen; afterwards each holds the moments of the whole."""
        if not distributed.is_active():
            return
        own = torch.tensor(float(self.count), dtype=torch.float64, device=self.mean.device)
        total = int(distributed.all_reduce_sum(own))
        if total == 0:
            return
        mean = distributed.all_reduce_sum(self.mean * (self.count / total))
        shift = self.mean - mean
        self.scatter = distributed.all_reduce_sum(self.scatter.addr(shift, shift, alpha=self.count))
        self.mean, self.count = mean, total

    def covariance(self) -> Tensor:
        """The unbiased covariance (divisor N − 1), float64 dim×dim."""
        assert self.count >= 2, "a covariance needs two vectors"
        return self.scatter / (self.count - 1)

    def variance(self) -> Tensor:
        """The unbiased variance of each feature, float64 dim; 0 with a single vector."""
        return self.scatter.diagonal() / max(self.count - 1, 1)


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """W₂² between the Gaussians with these moments: ‖μ₁ − μ₂‖² + Tr Σ₁ + Tr Σ₂ − 2 Tr (Σ₁^{1/2} Σ₂ Σ₁^{1/2})^{1/2}.

    The last trace is the nuclear norm of Σ₁^{1/2} Σ₂^{1/2}. Taken so, it needs no root of eigenvalues that are zero
    but for rounding, and stays exact and real for covariances of any rank; scipy's `sqrtm` gives the same where
    both have full rank. See `FeatureMoments.full_rank` for when the value means something.

    Raises:
        UserError: a set has fewer than two images.
    """
    assert a.dim == b.dim, "both sets go through the same network"
    if min(a.count, b.count) < 2:
        raise UserError(
            f"a Fréchet distance needs at least 2 images a set, not {min(a.count, b.count)}: "
            "leave frechet out of eval.metrics or evaluate more images"
        )
    first, second = a.covariance().cpu().numpy(), b.covariance().cpu().numpy()
    # numpy's LAPACK: for 1,280 features PyTorch's singular values took twenty times as long on a CPU.
    nuclear_norm = np.linalg.svd(_factor(first).T @ _factor(second), compute_uv=False).sum()
    shift = float((a.mean - b.mean).square().sum())
    return max(shift + float(first.trace() + second.trace() - 2 * nuclear_norm), 0.0)


def _factor(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """L with L Lᵀ = covariance, one column for each eigenvalue that is not zero."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    noise = eigenvalues[-1] * len(eigenvalues) * np.finfo(np.float64).eps
    kept = eigenvalues > noise
    factor: npt.NDArray[np.float64] = vectors[:, kept] * np.sqrt(eigenvalues[kept])
    return factor
