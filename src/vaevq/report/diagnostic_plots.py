"""The plots of the diagnostics: values by dimension, many terms over training, and rate against distortion."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vaevq.diagnostics.distortion import reverse_water_filling
from vaevq.report.plots import (
    PAGE,
    Line,
    add_title,
    engineering,
    figure,
    locator,
    set_images_seen,
    set_log_scale,
    svg,
    thinned,
)

_DASHES = ((), (4, 2), (1, 1.5))


def by_dimension_chart(title: str, unit: str, vectors: Mapping[str, Sequence[float]], order: str) -> str:
    """Vectors of d values by label, on a log scale where they span more than a decade; 0 leaves a gap there.

    Args:
        title, unit: say what is drawn and in what.
        order: what the place in a vector is, for the axis.
    """
    ends = [f"{label} from {max(values):.3g} to {min(values):.3g}" for label, values in vectors.items()]
    with figure(3.5, 2.3) as on:
        axes = on.subplots()
        positive = [value for values in vectors.values() for value in values if value > 0]
        logarithmic = bool(positive) and max(positive) > 10 * min(positive)
        if logarithmic:
            set_log_scale(axes, max(positive) / min(positive))
        for i, (label, values) in enumerate(vectors.items()):
            shown = [value if value > 0 or not logarithmic else math.nan for value in values]
            look = _look(i)
            if len(shown) <= 32:
                look |= {"marker": "os^"[i % 3], "markersize": 3.5}
            axes.plot(range(1, len(shown) + 1), shown, label=label, **look)
        if not logarithmic:
            axes.set_ylim(0, 1.1 * max(positive, default=1.0))
            axes.yaxis.set_major_formatter(engineering)
        if len(vectors) > 1:
            axes.legend(loc="best")
        add_title(on, title)
        axes.set_ylabel(f"{unit}, log scale" if logarithmic else unit)
        axes.set_xlabel(order)
        axes.xaxis.set_major_locator(locator(6, whole=True))
        return svg(on, f"{title}, {unit}: {'; '.join(ends)}.")


def terms_chart(title: str, unit: str, lines: Sequence[Line]) -> str:
    """Many lines over images seen on a log scale, with their legend beside them; zeros leave gaps."""
    ends = [f"{line.label} {line.values[-1]:.3g}" for line in lines if line.values]
    with figure(5.6, 2.7) as on:
        axes = on.subplots()
        drawn = [thinned(line) for line in lines]
        values = np.concatenate([line.values for line in drawn])
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size:
            set_log_scale(axes, float(positive.max() / positive.min()))
        for i, line in enumerate(drawn):
            few = {"marker": "o", "markersize": 3} if len(line.values) < 12 else {}
            shown = np.where(line.values > 0, line.values, np.nan)
            axes.plot(line.images_seen, shown, label=line.label.replace("_", " "), **_look(i), **few)
        on.legend(loc="outside right upper")
        axes.set_title(title)
        axes.set_ylabel(f"{unit}, log scale")
        set_images_seen(axes)
        at = f" at {lines[0].images_seen[-1]:,} images seen" if lines[0].images_seen else ""
        return svg(on, f"{title}, {unit}{at}: {', '.join(ends)}.")


@dataclass(frozen=True)
class Spread:
    """How a quantity is spread at each point of training; all lines are over the same images seen."""

    low: Line
    median: Line
    high: Line
    mean: Line


def spread_chart(title: str, unit: str, spread: Spread, description: str) -> str:
    """A band from low to high with the median in it and the mean dashed, over images seen, on a log scale."""
    drawn = {name: thinned(line) for name, line in vars(spread).items()}
    low, median, high, mean = (drawn[name] for name in ("low", "median", "high", "mean"))
    with figure(3.5, 2.3) as on:
        axes = on.subplots()
        values = np.concatenate([line.values for line in (low, high)])
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size:
            set_log_scale(axes, float(positive.max() / positive.min()))
        axes.fill_between(
            median.images_seen, low.values, high.values, color=PAGE.first, alpha=0.2, lw=0, label=spread.high.label
        )
        marks = {"marker": "o", "markersize": 3.5} if len(median.values) < 12 else {}
        axes.plot(median.images_seen, median.values, color=PAGE.first, label=median.label, **marks)
        axes.plot(mean.images_seen, mean.values, color=PAGE.second, dashes=(4, 2), label=mean.label)
        axes.legend(loc="best")
        add_title(on, title)
        axes.set_ylabel(f"{unit}, log scale")
        set_images_seen(axes)
        return svg(on, f"{title}. {description}")


def rate_distortion_chart(spectrum: Sequence[float], bits: float, share: float, token_bits: float | None) -> str:
    """A quantizer's error beside the least one that a Gaussian with these eigenvalues can have at a rate.

    Args:
        spectrum: eigenvalues of the means' covariance.
        bits: the rate, log₂K for each token of a position.
        share: the quantizer's error as a share of the means' variance, above 0.
        token_bits: the entropy of a position's tokens; None leaves that point out.
    """
    eigenvalues = torch.tensor(spectrum, dtype=torch.float64)
    rates = np.linspace(0, bits, 100)
    bound = [100 * reverse_water_filling(eigenvalues, float(rate)) / float(eigenvalues.sum()) for rate in rates]
    with figure(3.5, 2.3) as on:
        axes = on.subplots()
        set_log_scale(axes, max(100, 100 * share) / min([bound[-1], 100 * share]))
        axes.plot(rates, bound, color=PAGE.second, dashes=(4, 2), label="Gaussian bound")
        axes.plot([bits], [100 * share], "o", color=PAGE.first, label="at log₂K bits a token")
        if token_bits is not None:
            axes.plot(
                [token_bits], [100 * share], "s", color=PAGE.series[2], markersize=5, label="at its tokens' entropy"
            )
        axes.legend(loc="best")
        add_title(on, "Quantization error against rate")
        axes.set_ylabel("% of variance, log scale")
        axes.set_xlabel("bits a position")
        axes.set_xlim(left=0)
        entropy = f", {token_bits:.2f} bits by their entropy" if token_bits is not None else ""
        return svg(
            on,
            f"Quantization error against rate. {100 * share:.3g} % of the means' variance at {bits:.2f} bits a "
            f"position{entropy}; a Gaussian with their covariance could be described with {bound[-1]:.3g} %.",
        )


def _look(place: int) -> dict[str, Any]:
    colours = PAGE.series
    look: dict[str, Any] = {"color": colours[place % len(colours)]}
    dashes = _DASHES[place % len(_DASHES)]
    return look | ({"dashes": dashes} if dashes else {})
