"""The plots of a codebook: how often each codeword occurs, and where codewords lie among the latents."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vaevq.report.plots import PAGE, engineering, figure, locator, set_log_scale, svg
from vaevq.report.projection import Plane, Projection

Counts = npt.NDArray[np.int64]


def histogram_chart(counts: Sequence[int], description: str) -> str:
    """How often each codeword occurs, sorted, on a log scale, beside what a uniform use would show.

    The reference is not flat: of codewords that are equally likely some still occur more often than others. Where it
    reaches the axis is the ceiling of usage.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.int64))[::-1]
    used, size, mean = int((ordered > 0).sum()), len(ordered), float(ordered.mean())
    # The corners of the staircase are enough: a codebook of 262,144 has few different counts.
    last = np.flatnonzero(np.diff(ordered[:used], append=-1))
    right, height = last + 1, ordered[last]
    ranks, expected = uniform_ranks(size, mean)
    with figure(5.2, 2.7) as drawn_on:
        axes = drawn_on.subplots()
        set_log_scale(axes, float(ordered[0]))
        bottom = 0.7 * min(1.0, mean)
        axes.fill_between(
            np.append(0, right), np.append(height[:1], height), bottom, step="pre", color=PAGE.first, alpha=0.75, lw=0
        )
        if used < size:
            axes.axvspan(used, size, color=PAGE.faded, alpha=0.25, lw=0)
        axes.plot(ranks, expected, color=PAGE.second, lw=1.5, dashes=(4, 2))
        place = (ranks[-1], expected[-1]) if mean < 1 else (size, mean)
        axes.annotate(
            f"uniform use: T/K = {mean:,.1f}",
            place,
            xytext=(2, 5) if place[0] < size / 2 else (-2, 5),
            textcoords="offset points",
            ha="left" if place[0] < size / 2 else "right",
            color=PAGE.ink,
        )
        axes.set_xlim(0, size)
        axes.set_ylim(bottom, 1.6 * max(float(ordered[0]), mean, float(expected[0])))
        axes.set_title("How often each codeword occurs")
        axes.set_xlabel(f"codewords by falling count; {size - used:,} dead (shaded)")
        axes.set_ylabel("occurrences, log scale")
        axes.xaxis.set_major_formatter(engineering)
        return svg(drawn_on, description)


def uniform_ranks(size: int, mean: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What codewords that are equally likely would show: ranks, rising, and the counts that are expected there.

    `size` codewords of `mean` tokens each, counted independently: size · P(X ≥ c) of them occur c times or more, X of
    Poisson's distribution. The last rank, of c = 1, is the ceiling of usage times K. At most 200 corners.
    """
    spread = 6 * math.sqrt(mean) + 6
    least, most = max(1, math.floor(mean - spread)), math.ceil(mean + spread)
    values = np.arange(least, most + 200, dtype=np.float64)
    logs = values * math.log(mean) - mean - np.cumsum(np.log(np.arange(1, most + 200)))[least - 1 :]
    tail = np.cumsum(np.exp(logs)[::-1])[::-1]  # P(X ≥ c)
    ranks, counts = size * tail[: most - least + 1][::-1], values[: most - least + 1][::-1]
    kept = ranks >= 1
    if not kept.any():
        kept[-1] = True
    ranks, counts = ranks[kept], counts[kept]
    few = np.unique(np.linspace(0, len(ranks) - 1, min(200, len(ranks))).round().astype(int))
    return np.append(0.0, ranks[few]), np.append(counts[few[:1]], counts[few])


class _Use(NamedTuple):
    """Codewords of one degree of use, as they are drawn: words for the legend, a colour, a size, how opaque."""

    words: str
    which: npt.NDArray[np.bool_]
    colour: str
    points: float
    alpha: float


CELLS = 200
"""Codewords that would cover each other are drawn once: in so many cells from one side of the plot to the other."""

_BINS, _BLUR = 48, 1.5
_HALF, _MOST = 0.5, 0.95


def projection_chart(projection: Projection, counts: Sequence[int], description: str) -> str:
    """Codewords as dots by their use, over where half and 95 % of the held-out latents lie.

    Args:
        projection: the places.
        counts: how often each codeword occurs in held-out images, as many as there are codewords.
        description: for who cannot see it.
    """
    found = np.asarray(counts, dtype=np.int64)
    assert len(found) == len(projection.codewords)
    low, high = _limits(projection)
    width, height = high - low
    with figure(5.2, min(5.4, max(3.6, 1.4 + 4.3 * height / width))) as drawn_on:
        axes = drawn_on.subplots()
        handles = _draw_latents(axes, projection.latents, low, high)
        # The smaller lie on the larger and the dead on all, so that no dot is hidden by another use's.
        for use in sorted(_uses(found), key=lambda use: (use.colour == PAGE.second, -use.points)):
            _draw_dots(axes, projection.codewords[use.which], use, (high - low).max() / CELLS)
        handles = [*(_legend_dot(use) for use in _uses(found)), *handles]
        axes.update_datalim([low, high])
        axes.set_aspect("equal", adjustable="datalim")
        axes.autoscale_view()
        axes.grid(visible=False)
        kind = "principal axis" if projection.code_dim > 2 else "dimension"
        for i, axis in enumerate((axes.xaxis, axes.yaxis)):
            axis.set_label_text(f"{kind} {i + 1}, {projection.shares[i]:.1%} of variance")
            axis.set_major_locator(locator(5))
        axes.set_title("Codewords among held-out latents")
        drawn_on.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=9, columnspacing=1.0)
        return svg(drawn_on, description)


def _uses(counts: Counts) -> list[_Use]:
    """Dead codewords, and used ones by how their count compares with a uniform one; those that there are."""
    mean = counts.mean()
    uses = [
        _Use("dead", counts == 0, PAGE.second, 2.3, 1.0),
        _Use("below half of T/K", (counts > 0) & (counts < mean / 2), PAGE.first, 1.6, 0.55),
        _Use("half to twice T/K", (counts > 0) & (counts >= mean / 2) & (counts <= 2 * mean), PAGE.first, 2.6, 0.8),
        _Use("above twice T/K", counts > 2 * mean, PAGE.series[3], 4.2, 0.9),
    ]
    return [use for use in uses if use.which.any()]


def _limits(projection: Projection) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The corners of the plot: all codewords, and nearly all latents."""
    least, most = np.quantile(projection.latents, (0.005, 0.995), axis=0)
    low, high = np.minimum(projection.codewords.min(0), least), np.maximum(projection.codewords.max(0), most)
    margin = 0.04 * max(float((high - low).max()), 1e-6)
    return low - margin, high + margin


def _draw_dots(axes: Any, places: Plane, use: _Use, cell: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    column, row = np.floor((places - places.min(0)) / cell).astype(np.int64).T
    _, first = np.unique(column * (row.max() + 1) + row, return_index=True)
    # A dot is a line of no length with a round end: a dozen bytes where a marker takes a hundred.
    ends = places[np.sort(first)].repeat(2, axis=0)
    path = Path(ends, np.tile([Path.MOVETO, Path.LINETO], len(ends) // 2).astype(Path.code_type))
    path.should_simplify = False
    look = {"edgecolor": use.colour, "linewidth": use.points, "capstyle": "round", "alpha": use.alpha}
    axes.add_patch(PathPatch(path, fill=False, **look))


def _legend_dot(use: _Use) -> Any:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"color": use.colour, "alpha": use.alpha, "markersize": use.points + 2}
    words = f"{use.words}: {use.which.sum():,}"
    return Line2D([], [], linestyle="none", marker="o", markeredgewidth=0, label=words, **look)


def _draw_latents(axes: Any, latents: Plane, low: Any, high: Any) -> list[Any]:
    """The smallest areas that hold half and 95 % of the latents; nothing of latents that all lie in one place."""
    from matplotlib.patches import Patch

    x, y = (np.linspace(least, most, _BINS + 1) for least, most in zip(low, high, strict=True))
    density = np.histogram2d(latents[:, 0].astype(np.float64), latents[:, 1].astype(np.float64), (x, y))[0]
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / _BLUR) ** 2)
    for _ in range(2):
        density = np.apply_along_axis(np.convolve, 0, density, kernel / kernel.sum(), mode="same").T
    falling = np.sort(density, axis=None)[::-1]
    mass = np.cumsum(falling) / falling.sum()
    handles, clear = [], 1.0
    for share, alpha, words in ((_MOST, 0.22, "95 %"), (_HALF, 0.3, "half")):
        level = falling[min(int(np.searchsorted(mass, share)), len(falling) - 1)]
        if not 0 < level < falling[0]:
            continue
        middles = [(edges[1:] + edges[:-1]) / 2 for edges in (x, y)]
        axes.contourf(*middles, density.T, levels=[level, falling[0]], colors=[PAGE.faded], alpha=alpha)
        clear *= 1 - alpha  # the smaller area lies on the larger
        handles.append(Patch(color=PAGE.faded, alpha=1 - clear, lw=0, label=f"{words} of the latents"))
    return handles
