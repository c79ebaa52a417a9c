"""How σ of the posteriors is spread over positions and dimensions, in constant memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

_LOW, _HIGH, _BINS = -30.0, 20.0, 5000
"""Of log σ²: the range to which posteriors clamp it, and bins in which σ differs by half a percent."""


@dataclass(frozen=True)
class DeviationFigures:
    """σ over all positions and dimensions: its mean, and its quantiles to half a percent."""

    mean: float
    q05: float
    median: float
    q95: float


class Deviations:
    """Counts log-variances in bins of equal width; those outside the range count at its ends."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._counts = torch.zeros(_BINS, dtype=torch.int64, device=device)
        self._sum = 0.0

    def update(self, logvar: Tensor) -> None:
        """Takes in log σ² of any shape, float64, on this device."""
        logvar = logvar[logvar.isfinite()]  # what is not finite is told of elsewhere
        bins = ((logvar - _LOW) / (_HIGH - _LOW) * _BINS).floor().clamp(0, _BINS - 1).long()
        self._counts += torch.bincount(bins, minlength=_BINS)
        self._sum += float((logvar / 2).exp().sum())

    def figures(self) -> DeviationFigures | None:
        """None where nothing was taken in."""
        below = self._counts.cumsum(0)
        total = int(below[-1])
        if not total:
            return None
        ranks = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64, device=below.device) * (total - 1)
        places = torch.searchsorted(below, ranks.floor().long(), right=True)
        middles = _LOW + (places.double() + 0.5) * (_HIGH - _LOW) / _BINS
        low, median, high = (middles / 2).exp().tolist()
        return DeviationFigures(self._sum / total, low, median, high)
