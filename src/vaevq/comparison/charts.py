"""The plots of a comparison: curves with a band over seeds, and one point a cell."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaevq.comparison.table import Comparison, Entry, common_seeds
from vaevq.report.labels import is_share
from vaevq.report.plots import PAGE, PRINT, Colours, figure, locator, png, set_images_seen, svg

_MARKS = "os^DvP*X"
_PNG_SIZE = (6.0, 4.0)
_MOST_WITHIN = 8
"""A legend of more rows stands below the axes, in columns, and the figure is so much higher."""


@dataclass(frozen=True)
class Band:
    """A row's curve: images seen, and at each the mean, least and greatest value over its seeds."""

    label: str
    images_seen: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Points:
    """A row's cells as points."""

    label: str
    x: list[float]
    y: list[float]


def bands(comparison: Comparison, name: str) -> list[Band]:
    """A held-out figure of each row over images seen, over the seeds that all rows have, or its own if there is none.

    A seed may hold out images of its own: with other seeds a curve would lie higher for their sake alone.
    """
    common = common_seeds(comparison.entries)
    found = [_band(entry, name, common or entry.seeds) for entry in comparison.entries]
    return [band for band in found if band.images_seen]


def points(comparison: Comparison, x: Callable[[Entry, int], float | None], y: str) -> list[Points]:
    """A point for each cell that has both values; `x` is asked for a row and a seed."""
    made = []
    for entry in comparison.entries:
        pairs = [(x(entry, seed), value) for seed, value in entry.values(y).items()]
        known = [(left, value) for left, value in pairs if left is not None]
        made.append(Points(entry.name, [left for left, _ in known], [value for _, value in known]))
    return [found for found in made if found.x]


def band_chart(title: str, unit: str, drawn: Sequence[Band], rows: Sequence[str]) -> str:
    """Curves over images seen as an SVG.

    Args:
        title, unit: say what is drawn and in what.
        drawn: the curves.
        rows: all rows of the comparison: a row has one colour in all of its plots.
    """
    ends = [f"{band.label} {band.mean[-1]:.4g}" for band in drawn]
    description = f"{title}. At {drawn[0].images_seen[-1]:,} images seen: {', '.join(ends)} {unit}."
    with figure(*_higher(5.4, 3.2, drawn)) as on:
        axes = on.subplots()
        for band in drawn:
            look = row_look(band.label, rows, PAGE)
            axes.fill_between(band.images_seen, band.low, band.high, color=look["color"], alpha=0.18, lw=0)
            axes.plot(band.images_seen, band.mean, label=band.label, markersize=4, **look)
        axes.set_title(title)
        axes.set_ylabel(unit)
        set_images_seen(axes)
        _plain_numbers(axes, "y")
        _add_legend(axes, drawn)
        return svg(on, description)


def point_chart(title: str, x: str, y: str, drawn: Sequence[Points], rows: Sequence[str]) -> str:
    """One point a cell as an SVG; `x` and `y` name the axes."""
    means = [f"{found.label} {statistics.fmean(found.x):.4g}, {statistics.fmean(found.y):.4g}" for found in drawn]
    with figure(*_higher(5.4, 3.2, drawn)) as on:
        _draw_points(on.subplots(), title, x, y, drawn, rows, PAGE)
        return svg(on, f"{title}. Means of {x} and {y}: {'; '.join(means)}.")


def point_picture(title: str, x: str, y: str, drawn: Sequence[Points], rows: Sequence[str], path: Path) -> None:
    """The same as a PNG file."""
    with figure(*_higher(*_PNG_SIZE, drawn), PRINT) as on:
        on.set_facecolor("white")
        _draw_points(on.subplots(), title, x, y, drawn, rows, PRINT)
        png(on, path)


def _draw_points(
    axes: Any, title: str, x: str, y: str, drawn: Sequence[Points], rows: Sequence[str], colours: Colours
) -> None:
    for found in drawn:
        axes.plot(
            found.x, found.y, label=found.label, linestyle="none", markersize=6, **row_look(found.label, rows, colours)
        )
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, axis="both")
    axes.margins(0.12)
    for axis in "xy":
        _plain_numbers(axes, axis)
    _add_legend(axes, drawn)


def _columns(width: float, drawn: Sequence[Band | Points]) -> int:
    longest = max(len(found.label) for found in drawn)
    return max(1, int(width / (0.5 + 0.08 * longest)))


def _higher(width: float, height: float, drawn: Sequence[Band | Points]) -> tuple[float, float]:
    """The size of a figure with room for its legend."""
    lines = -(-len(drawn) // _columns(width, drawn)) if len(drawn) > _MOST_WITHIN else 0
    return width, height + 0.21 * lines


def _add_legend(axes: Any, drawn: Sequence[Band | Points]) -> None:
    if len(drawn) > _MOST_WITHIN:
        columns = _columns(axes.figure.get_figwidth(), drawn)
        axes.figure.legend(loc="outside lower left", ncols=columns, columnspacing=1.0)
    else:
        axes.legend(loc="best")


def _plain_numbers(axes: Any, axis: str) -> None:
    getattr(axes, f"{axis}axis").set_major_locator(locator(5))
    axes.ticklabel_format(axis=axis, style="plain", useOffset=False)


def row_look(row: str, rows: Sequence[str], colours: Colours) -> dict[str, Any]:
    """The colour and the mark of a row, the same in all plots of a comparison; `rows` are all of its rows."""
    place = list(rows).index(row)
    # With more rows than colours the marks still differ.
    turn = place + place // len(colours.series)
    return {"color": colours.series[place % len(colours.series)], "marker": _MARKS[turn % len(_MARKS)]}


def _band(entry: Entry, name: str, seeds: Sequence[int]) -> Band:
    scale = 100 if is_share(name) else 1
    values: dict[int, list[float]] = {}
    for seed in seeds:
        for row in entry.cells[seed].curves if seed in entry.cells else ():
            if row["split"] == "held_out" and row.get(name) is not None:
                values.setdefault(row["images_seen"], []).append(scale * row[name])
    common = sorted(seen for seen, found in values.items() if len(found) == len(seeds))
    return Band(
        entry.name,
        common,
        [statistics.fmean(values[seen]) for seen in common],
        [min(values[seen]) for seen in common],
        [max(values[seen]) for seen in common],
    )
