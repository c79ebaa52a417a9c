"""The report's plots: small SVGs to stand inside a page, whose colours are the page's own, by day and by night.

`figure`, `svg` and `png` are what every plot is made with, and lines over images seen the most common of them.
"""

import hashlib
import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaevq.files import written_aside


@dataclass(frozen=True)
class Colours:
    """What a plot is drawn in.

    Attributes:
        ink, muted, rule: titles, other text, and axes with their grid.
        first, second, faded: of a plot's own line, what it stands beside, and what is of less weight.
        series: of things of equal weight, in order; after the last one they start anew.
    """

    ink: str
    muted: str
    rule: str
    first: str
    second: str
    faded: str
    series: tuple[str, ...]


_NAMES = ("ink", "muted", "rule", "first", "second", "faded", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
# Drawn as these, which `svg` replaces with the page's CSS variables.
_VARIABLES = {f"#{i:02x}{i:02x}{i:02x}": f"--{name}" for i, name in enumerate(_NAMES, start=1)}


def _colours(values: Sequence[str]) -> Colours:
    ink, muted, rule, first, second, faded, *others = values
    return Colours(ink, muted, rule, first, second, faded, (first, second, *others))


PAGE = _colours(list(_VARIABLES))
"""The page's own colours: for `svg`."""

PRINT = _colours(
    [
        *("#1c1e21", "#5c636b", "#dcdfe3", "#1f6feb", "#b4540a", "#9aa1a9"),
        *("#1a7f37", "#8250df", "#bf3989", "#0a7e8c", "#7a6a00", "#57606a"),
    ]
)
"""The page's colours by day: for `png`."""

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
    with figure(3.5, 2.3) as drawn_on:
        axes = drawn_on.subplots()
        drawn = [thinned(line) for line in lines]
        values = np.concatenate([line.values for line in drawn])
        finite = values[np.isfinite(values)]
        logarithmic = by_ratio and finite.size > 1 and 0 < 20 * finite.min() < finite.max()
        if logarithmic:
            set_log_scale(axes, float(finite.max() / finite.min()))
        for i, line in enumerate(drawn):
            look: dict[str, Any] = {"color": PAGE.first} if i == 0 else {"color": PAGE.second, "dashes": (4, 2)}
            if len(line.values) < 12:
                look |= {"marker": "o" if i == 0 else "_", "markersize": 3.5 if i == 0 else 8}
            axes.plot(line.images_seen, line.values, label=line.label, **look)
        if len(lines) > 1:
            axes.legend(loc="best")
        add_title(drawn_on, title)
        axes.set_ylabel(", ".join(part for part in (unit, "log scale" if logarithmic else "") if part))
        set_images_seen(axes)
        if not logarithmic:
            axes.yaxis.set_major_locator(locator(5))
            axes.yaxis.set_major_formatter(engineering)
            if finite.size:  # what is the same all the time is a level line, not an axis of rounding errors
                low, high = float(finite.min()), float(finite.max())
                least = 0.02 * max(abs(low), abs(high)) or 1.0
                if high - low < least:
                    axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)
        return svg(drawn_on, f"{title}. {description}")


@contextmanager
def figure(width: float, height: float, colours: Colours = PAGE) -> Iterator[Any]:
    """A matplotlib figure, inches wide and high, in the report's style; draw and call `svg` or `png` inside."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(colours)):
        yield Figure(figsize=(width, height), layout="constrained")


def _style(colours: Colours) -> dict[Any, Any]:
    return {
        "svg.hashsalt": "vaevq",  # the same ids every time
        "text.parse_math": False,
        "svg.fonttype": "none",  # text stays text, in the page's font
        "font.size": 11,
        "axes.edgecolor": colours.rule,
        "axes.labelcolor": colours.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlecolor": colours.ink,
        "axes.titlelocation": "left",
        "axes.titlesize": 12,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.grid.axis": "y",
        "grid.color": colours.rule,
        "grid.linewidth": 0.6,
        "text.color": colours.muted,
        "xtick.color": colours.rule,
        "ytick.color": colours.rule,
        "xtick.labelcolor": colours.muted,
        "ytick.labelcolor": colours.muted,
        "xtick.minor.visible": False,
        "ytick.minor.size": 0,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.fontsize": 10,
        "legend.labelcolor": colours.muted,
    }


def add_title(drawn: Any, title: str) -> None:
    """A title from the left edge of a small figure on: above its axes alone a long one would be cut."""
    drawn.suptitle(title, x=0.02, ha="left", color=PAGE.ink, fontsize=12)


def png(drawn: Any, path: Path) -> None:
    """Writes a figure that was drawn in `PRINT` as a picture file."""
    with written_aside(path) as aside:
        drawn.savefig(aside, format="png", dpi=150, metadata={"Software": None})


def svg(drawn: Any, description: str) -> str:
    """The figure as an svg element without fixed size, with `description` as its accessible name."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    text = text[text.index(">", text.index("<svg")) + 1 :]
    # A style element in a page holds for all of the page.
    text = re.sub(r"<(style|metadata)\b.*?</\1>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r'\bd="([^"]*)"', lambda path: f'd="{_shortened(path[1])}"', text)
    # One page holds several charts: their ids must differ.
    prefix = "c" + hashlib.blake2b(description.encode(), digest_size=4).hexdigest()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return f'<svg {view[0]} role="img" aria-label="{html.escape(description)}" stroke-linejoin="round">{text}'


def _shortened(path: str) -> str:
    """A path in hundredths of a point; a dot, which is a line to where it starts, in few letters and tenths."""
    short = " ".join(re.sub(r"(\.\d\d)\d+", r"\1", path).split())
    dot = r"M (\S+\.\d)\d? (\S+\.\d)\d? L \1\d? \2\d?(?: (?=M)|$)"
    return re.sub(dot, r"M\1 \2h0", short)


def set_log_scale(axes: Any, span: float) -> None:
    """A logarithmic scale with plain numbers; `span`, largest over smallest, decides how many."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if span < 1000 else (1.0,), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(engineering)


def set_images_seen(axes: Any) -> None:
    """Images seen from left to right, from 0 on."""
    axes.set_xlabel("images seen")
    axes.xaxis.set_major_formatter(engineering)
    axes.xaxis.set_major_locator(locator(4))
    axes.set_xlim(left=0)


def engineering(value: float, _: Any = None) -> str:
    """12000 as 12k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def locator(most: int, *, whole: bool = False) -> Any:
    """At most so many ticks at round numbers, by option at whole ones alone."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, integer=whole)


@dataclass(frozen=True)
class Drawn:
    """A line as it is drawn."""

    label: str
    images_seen: np.ndarray[Any, np.dtype[np.float64]]
    values: np.ndarray[Any, np.dtype[np.float64]]


def thinned(line: Line) -> Drawn:
    """A line of at most `MOST_POINTS` points."""
    x, y = np.asarray(line.images_seen, dtype=np.float64), np.asarray(line.values, dtype=np.float64)
    if len(x) > MOST_POINTS:
        stretches = np.array_split(np.arange(len(x)), MOST_POINTS)
        x, y = (np.array([values[stretch].mean() for stretch in stretches]) for values in (x, y))
    return Drawn(line.label, x, y)
