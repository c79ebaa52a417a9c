"""Plots of means with their intervals: a figure of each row, and each row's difference to the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from vaevq.comparison.charts import row_look
from vaevq.comparison.statistics import CONFIDENCE, Estimate, higher_is_better
from vaevq.comparison.table import Comparison
from vaevq.comparison.text import quality_figures, written
from vaevq.report.labels import is_share, label, unit
from vaevq.report.plots import PAGE, add_title, engineering, figure, locator, svg

_OF_USE = ("usage", "perplexity")


@dataclass(frozen=True)
class Interval:
    """What is drawn of a row: its mean with the interval over seeds, and the values of the seeds.

    Attributes:
        row: its name.
        words: what it is called in the plot.
        estimate: the mean and its interval.
        values: of each seed.
    """

    row: str
    words: str
    estimate: Estimate
    values: tuple[float, ...]


def figure_charts(comparison: Comparison) -> list[str]:
    """A plot of each figure of the reconstructions and of the codebook's use, a line a row, as the table has them."""
    rows, charts = [row.name for row in comparison.plan.rows], []
    several = len(comparison.groups) > 1
    for name in _drawn(comparison):
        found = [
            Interval(
                entry.name,
                f"{entry.name}, {group.bits_per_pixel:.3g} bpp" if several else entry.name,
                entry.estimates[name],
                tuple(entry.values(name).values()),
            )
            for group in comparison.groups
            for entry in group.entries
            if name in entry.estimates
        ]
        if found:
            charts.append(interval_chart(f"{label(name)}{_way(name)}", name, found, rows))
    return charts


def difference_charts(comparison: Comparison) -> list[str]:
    """The same of the differences to the reference, of the rows that have any, around 0."""
    rows, charts, reference = [row.name for row in comparison.plan.rows], [], comparison.plan.reference
    by_name = {entry.name: entry for entry in comparison.entries}
    for name in _drawn(comparison):
        found = []
        for entry in comparison.entries:
            if (difference := entry.differences.get(name)) is None:
                continue
            ours, theirs = entry.values(name), by_name[reference].values(name)
            values = tuple(ours[seed] - theirs[seed] for seed in difference.seeds)
            found.append(Interval(entry.name, entry.name, difference.estimate, values))
        if found:
            charts.append(
                interval_chart(f"{label(name)}, less {reference}{_way(name)}", name, found, rows, around_zero=True)
            )
    return charts


def interval_chart(
    title: str, name: str, drawn: Sequence[Interval], rows: Sequence[str], *, around_zero: bool = False
) -> str:
    """Rows below each other: the mean, a bar for its interval, and small dots for the seeds. As an SVG.

    Args:
        title: says which figure.
        name: the figure's.
        drawn: at least one.
        rows: all rows of the comparison: a row has one colour in all of its plots.
        around_zero: values are differences.
    """
    scale = 100 if is_share(name) else 1
    said = [f"{found.words} {_in_words(name, found.estimate)}" for found in drawn]
    description = f"{title}. Means and {CONFIDENCE:.0%} intervals over seeds: {'; '.join(said)}."
    with figure(4.6, 1.15 + 0.3 * len(drawn)) as on:
        axes = on.subplots()
        for place, found in enumerate(drawn):
            look, mean = row_look(found.row, rows, PAGE), scale * found.estimate.mean
            seeds = [scale * value for value in found.values]
            axes.plot(seeds, [place] * len(seeds), ".", color=PAGE.faded, markersize=4, zorder=1)
            if found.estimate.half_width is not None:
                half = scale * found.estimate.half_width
                axes.plot([mean - half, mean + half], [place, place], color=look["color"], lw=2, zorder=2)
            axes.plot([mean], [place], **look, markersize=6, zorder=3)
        if around_zero:
            axes.axvline(0, color=PAGE.second, lw=1.2, dashes=(4, 2), zorder=0)
        add_title(on, title)
        axes.set_xlabel(_axis(name, around_zero=around_zero))
        axes.set_yticks(range(len(drawn)), [found.words for found in drawn])
        axes.set_ylim(len(drawn) - 0.5, -0.5)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(locator(5))
        axes.xaxis.set_major_formatter(engineering)
        return svg(on, description)


def _drawn(comparison: Comparison) -> list[str]:
    return [*quality_figures(comparison), *(name for name in _OF_USE if name in comparison.figures)]


def _way(name: str) -> str:
    return {True: ", higher is better", False: ", lower is better", None: ""}[higher_is_better(name)]


def _axis(name: str, *, around_zero: bool) -> str:
    what = unit(name) or label(name)
    if not around_zero:
        return what
    return "percentage points" if is_share(name) else f"difference, {what}"


def _in_words(name: str, found: Estimate) -> str:
    half = "" if found.half_width is None else f" ± {written(name, found.half_width)}"
    return f"{written(name, found.mean)}{half}"
