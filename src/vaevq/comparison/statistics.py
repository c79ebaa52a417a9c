"""What can be said of a few seeds: means with Student's intervals, and differences of pairs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "open"]

CONFIDENCE = 0.95

# Quantiles of Student's t at 0.975 by degrees of freedom, from 1 on.
_T = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139),
    *(2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963),
    *(2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272),
)

_HIGHER = {
    *("psnr", "ssim", "psnr_foreground", "ssim_foreground", "psnr_3d", "psnr_3d_foreground"),
    *("usage", "usage_of_ceiling", "perplexity", "perplexity_share"),
}
_LOWER = {"rfid", "rkid", "dead_codewords"}


@dataclass(frozen=True)
class Estimate:
    """The mean of a few values.

    Attributes:
        mean: of them.
        half_width: the 95 % interval is mean ± this, for values of a normal distribution; None for one value.
        count: how many there are.
    """

    mean: float
    half_width: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does; without one nothing is excluded."""
        return self.half_width is not None and abs(self.mean) > self.half_width


@dataclass(frozen=True)
class Difference:
    """A row less the reference, seed by seed.

    Attributes:
        estimate: of the differences.
        seeds: those that both have.
        verdict: better or worse where the interval excludes 0, else open; also of a figure that has no better side.
    """

    estimate: Estimate
    seeds: tuple[int, ...]
    verdict: Verdict


def t_quantile(degrees: int) -> float:
    """Student's t at 0.975, to six digits."""
    assert degrees >= 1
    if degrees <= len(_T):
        return _T[degrees - 1]
    # The expansion around the normal distribution (Abramowitz and Stegun 26.7.5).
    z, n = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2), degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + terms[0] / n + terms[1] / n**2 + terms[2] / n**3


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and its interval; at least one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, len(values))
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, t_quantile(len(values) - 1) * error, len(values))


def paired_difference(name: str, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """A figure's difference over the seeds that both have; None where there is none.

    Args:
        name: of the figure.
        ours, theirs: its values by seed.
    """
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        return None
    found = estimate([ours[seed] - theirs[seed] for seed in seeds])
    higher = higher_is_better(name)
    verdict: Verdict = "open"
    if found.excludes_zero and higher is not None:
        verdict = "better" if (found.mean > 0) == higher else "worse"
    return Difference(found, seeds, verdict)


def higher_is_better(name: str) -> bool | None:
    """Which way a figure is good; None where it is neither, as T/K, a spread, or what training counts of itself."""
    if name.endswith(("_deviation", "_standard_error", "_training_queries")):
        return None
    if name in _HIGHER:
        return True
    return False if name in _LOWER or name.startswith(("lpips_", "fd_", "kid_")) else None
