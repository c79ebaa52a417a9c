"""The report's plots: small SVGs to stand inside a page, whose colours are the page's own, by day and by night."""

import hashlib
import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

# Colours are drawn as these and then replaced with the page's CSS variables.
_INK, _MUTED, _GRID, _FIRST, _SECOND, _FADED = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--rule",
    _FIRST: "--first",
    _SECOND: "--second",
    _FADED: "--faded",
}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "vaevq",  # the same ids every time
    "text.parse_math": False,
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 11,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _MUTED,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.minor.visible": False,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.labelcolor": _MUTED,
}

MOST_POINTS = 400
"""A longer line is drawn as the means of so many stretches."""


@dataclass(frozen=True)
class Line:
    """One line of a chart: its label for the legend, images seen, and values (a gap where not finite)."""

    label: str
    images_seen: Sequence[float]
    values: Sequence[float]


def line_chart(title: str, unit: str, lines: Sequence[Line], description: str, *, by_ratio: bool = False) -> str:
    """Lines over images seen; the first in the accent colour, others dashed.

    Args:
        title, unit: say what is drawn and in what; the unit also says so where the scale is logarithmic.
        description: for who cannot see the chart.
        by_ratio: values are compared by ratio: the scale is logarithmic where they span more than a decade.
    """
    with _figure(3.5, 2.3) as figure:
        axes = figure.subplots()
        drawn = [_thinned(line) for line in lines]
        values = np.concatenate([line.values for line in drawn])
        finite = values[np.isfinite(values)]
        logarithmic = by_ratio and finite.size > 1 and 0 < 20 * finite.min() < finite.max()
        if logarithmic:
            _set_log_scale(axes, float(finite.max() / finite.min()))
        for i, line in enumerate(drawn):
            look: dict[str, Any] = {"color": _FIRST} if i == 0 else {"color": _SECOND, "dashes": (4, 2)}
            if len(line.values) < 12:
                look |= {"marker": "o" if i == 0 else "_", "markersize": 3.5 if i == 0 else 8}
            axes.plot(line.images_seen, line.values, label=line.label, **look)
        if len(lines) > 1:
            axes.legend(loc="best")
        axes.set_title(title)
        axes.set_ylabel(", ".join(part for part in (unit, "log scale" if logarithmic else "") if part))
        axes.set_xlabel("images seen")
        axes.xaxis.set_major_formatter(_engineering)
        axes.xaxis.set_major_locator(_locator(4))
        axes.set_xlim(left=0)
        if not logarithmic:
            axes.yaxis.set_major_locator(_locator(5))
            axes.ticklabel_format(axis="y", style="plain", useOffset=False)
        return _svg(figure, f"{title}. {description}")


def histogram_chart(counts: Sequence[int], description: str) -> str:
    """How often each codeword occurs, sorted, on a log scale, beside what a uniform use would give."""
    ordered = np.sort(np.asarray(counts, dtype=np.int64))[::-1]
    used, size, mean = int((ordered > 0).sum()), len(ordered), float(ordered.mean())
    # The corners of the staircase are enough: a codebook of 262,144 has few different counts.
    last = np.flatnonzero(np.diff(ordered[:used], append=-1))
    right, height = last + 1, ordered[last]
    with _figure(5.2, 2.7) as figure:
        axes = figure.subplots()
        _set_log_scale(axes, float(ordered[0]))
        bottom = 0.7 * min(1.0, mean)
        axes.fill_between(
            np.append(0, right), np.append(height[:1], height), bottom, step="pre", color=_FIRST, alpha=0.75, lw=0
        )
        if used < size:
            axes.axvspan(used, size, color=_FADED, alpha=0.25, lw=0)
        axes.axhline(mean, color=_SECOND, lw=1.5, dashes=(4, 2))
        axes.annotate(
            f"uniform: T/K = {mean:,.1f}",
            (size, mean),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            color=_INK,
        )
        axes.set_xlim(0, size)
        axes.set_ylim(bottom, 1.6 * max(float(ordered[0]), mean))
        axes.set_title("How often each codeword occurs")
        axes.set_xlabel(f"codewords by falling count: {used:,} used, {size - used:,} dead (shaded)")
        axes.set_ylabel("occurrences, log scale")
        axes.xaxis.set_major_formatter(_engineering)
        return _svg(figure, description)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure, inches wide and high, in the report's style; draw and `_svg` inside."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any, description: str) -> str:
    """The figure as an svg element without fixed size, with `description` as its accessible name."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    text = text[text.index(">", text.index("<svg")) + 1 :]
    # A style element in a page holds for all of the page.
    text = re.sub(r"<(style|metadata)\b.*?</\1>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    # One page holds several charts: their ids must differ.
    prefix = "c" + hashlib.blake2b(description.encode(), digest_size=4).hexdigest()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return f'<svg {view[0]} role="img" aria-label="{html.escape(description)}" stroke-linejoin="round">{text}'


def _set_log_scale(axes: Any, span: float) -> None:
    """A logarithmic scale with plain numbers; `span`, largest over smallest, decides how many."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if span < 1000 else (1.0,), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(_engineering)


def _engineering(value: float, _: Any = None) -> str:
    """12000 as 12k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _locator(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most)


@dataclass(frozen=True)
class _Points:
    label: str
    images_seen: np.ndarray[Any, np.dtype[np.float64]]
    values: np.ndarray[Any, np.dtype[np.float64]]


def _thinned(line: Line) -> _Points:
    x, y = np.asarray(line.images_seen, dtype=np.float64), np.asarray(line.values, dtype=np.float64)
    if len(x) > MOST_POINTS:
        stretches = np.array_split(np.arange(len(x)), MOST_POINTS)
        x, y = (np.array([values[stretch].mean() for stretch in stretches]) for values in (x, y))
    return _Points(line.label, x, y)
