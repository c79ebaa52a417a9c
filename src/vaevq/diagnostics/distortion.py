"""How much of the latents' variance quantization loses, beside what the bits of a token could keep of a Gaussian."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vaevq.diagnostics.figures import Shown, ratio
from vaevq.diagnostics.latents import LatentMoments, eigenvalues
from vaevq.metrics.codebook import CodebookStatistics


@dataclass(frozen=True)
class DistortionFigures:
    """Shares are of Tr Cov(μ); None where the means do not vary.

    The references are the rate-distortion function of the Gaussian with the means' covariance (Shannon's bound, met by
    infinitely long blocks). A quantizer of single positions lies above it for Gaussian means; means that are far from
    Gaussian, clustered ones above all, can lie below.
    """

    quantization_error: Annotated[float, Shown("{:.4g}", "E‖μ − z_q‖² a position")]
    quantization_error_share: Annotated[float | None, Shown("{:.2%}", "as a share of Tr Cov(μ)")]
    reference_share: Annotated[
        float | None, Shown("{:.2%}", "what a position's tokens, log₂K bits each, leave of a Gaussian with Cov(μ)")
    ]
    reference_share_entropy: Annotated[float | None, Shown("{:.2%}", "what log₂(perplexity) bits a token leave of it")]
    token_bits: Annotated[float, Shown("{:.2f} bits", "log₂(perplexity) of all tokens of a position, of log₂K each")]


def reverse_water_filling(spectrum: Tensor, bits: float) -> float:
    """The least squared error of a Gaussian described with `bits` a vector (Cover and Thomas 2006, th. 10.3.3).

    D = Σ min(θ, λ_i) with ½ Σ log₂ max(λ_i / θ, 1) = bits. Solved exactly: the n largest eigenvalues share the bits,
    for the largest n whose smallest one needs less than `bits` as the water level, and θ follows in closed form.

    Args:
        spectrum: eigenvalues of the covariance, d, in any order; those below 0 by rounding count as 0.
        bits: R ≥ 0.

    Returns:
        D in the eigenvalues' units: their sum at 0 bits.
    """
    assert bits >= 0, "a rate is not negative"
    positive = spectrum.double()[spectrum > 0].sort(descending=True).values
    if bits == 0 or len(positive) == 0:
        return float(positive.sum())
    logs = positive.log2()
    count = torch.arange(1, len(positive) + 1, dtype=logs.dtype, device=logs.device)
    needed = 0.5 * (logs.cumsum(0) - count * logs)  # the rate at the water level λ_n, ascending in n
    active = int((needed < bits).sum())
    level = 2 ** (float(logs[:active].sum() - 2 * bits) / active)
    return active * level + float(positive[active:].sum())


def distortion_figures(
    moments: LatentMoments, statistics: CodebookStatistics, codes_per_position: int = 1
) -> DistortionFigures:
    """The figures of held-out latents and of the histogram of their tokens, of which a position has so many."""
    rate, coded = codes_per_position * math.log2(statistics.codebook_size), codes_per_position * statistics.entropy_bits
    spectrum = eigenvalues(moments.means.covariance())
    variance = float(spectrum.sum())
    error = moments.squared_error / moments.means.count
    return DistortionFigures(
        quantization_error=error,
        quantization_error_share=ratio(error, variance),
        reference_share=ratio(reverse_water_filling(spectrum, rate), variance),
        reference_share_entropy=ratio(reverse_water_filling(spectrum, coded), variance),
        token_bits=coded,
    )
