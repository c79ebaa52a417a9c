"""How the table's values are written, and the table as Markdown and for the terminal."""

from collections.abc import Sequence

from vaevq.comparison.statistics import Difference, Estimate, higher_is_better
from vaevq.comparison.table import Comparison, Entry, Group
from vaevq.metrics.codebook import MINIMUM_TOKENS_PER_CODEWORD
from vaevq.metrics.result import figure_row
from vaevq.report.labels import label

_OF_CODEBOOK = ("bits_per_image", "usage", "usage_ceiling", "perplexity", "tokens_per_codeword")
QUERIES = ("usage_training_queries", "perplexity_training_queries")

CODEBOOK_COLUMNS = (
    *("usage", "usage_ceiling", "usage_of_ceiling", "dead_codewords", "perplexity", "perplexity_share"),
    *("tokens_per_codeword", "tokens_per_image", "bits_per_image", "bits_per_pixel", "bits_per_pixel_entropy"),
    *QUERIES,
)
"""All that is said of a codebook's use; what training counts of its own queries is the last, and labelled so."""

_STATED = ("encoding", "split", "resize", "crop", "rounding", "lpips", "feature_network")
_VERDICTS = {"better": "better", "worse": "worse", "open": "not decided"}


def quality_figures(comparison: Comparison) -> list[str]:
    """The figures of reconstructions, in the order in which they were measured."""
    good = [name for name in comparison.figures if higher_is_better(name) is not None]
    return [name for name in good if name not in CODEBOOK_COLUMNS]


def codebook_figures(comparison: Comparison) -> list[str]:
    """The rate, and the figures of the codebook's use; usage never without its ceiling and T/K."""
    return [name for name in _OF_CODEBOOK if name in comparison.figures]


def written(name: str, value: float) -> str:
    """A figure's value without its unit."""
    return _with_unit(name, value).partition(" ")[0]


def heading(name: str) -> str:
    """What a figure's column is called, with its unit and the way in which it is good."""
    unit = _with_unit(name, 0.0).partition(" ")[2]
    words = f"{label(_plain(name))}, training queries" if name in QUERIES else label(name)
    arrow = {True: " ↑", False: " ↓", None: ""}[higher_is_better(name)]
    return f"{words}{f' ({unit})' if unit in ('dB', 'bits') else ''}{arrow}"


def with_interval(name: str, found: Estimate | None) -> str:
    """`24.87 ± 0.12`; a dash where there is no value, the value alone for one seed and for what is set, as T/K."""
    if found is None:
        return "–"
    value = written(name, found.mean)
    is_set = higher_is_better(name) is None and name not in QUERIES
    return value if found.half_width is None or is_set else f"{value} ± {written(name, found.half_width)}"


def difference_words(name: str, found: Difference | None) -> str:
    """`+0.41 ± 0.10, better`."""
    if found is None:
        return "–"
    value = with_interval(name, found.estimate)
    sign = "+" if found.estimate.mean > 0 else ""
    if found.estimate.half_width is None:
        return f"{sign}{value}, one pair"
    return f"{sign}{value}, {_VERDICTS[found.verdict]}"


def notes(comparison: Comparison) -> list[str]:
    """What has to be known before a figure of the table is quoted."""
    found = []
    for entry in comparison.entries:
        found += [f"{entry.name}, seed {seed} failed: {reason}" for seed, reason in entry.failed.items()]
        if entry.missing:
            found.append(f"{entry.name}: not run yet: seed {', '.join(map(str, entry.missing))}")
    for group in comparison.groups:
        if len({entry.seeds for entry in group.entries if entry.cells}) > 1:
            common = ", ".join(map(str, group.common_seeds))
            which = f"ranks and best values are over those that all have ({common})" if common else "none is ranked"
            found.append(f"at {group.bits_per_pixel:.4g} bits a pixel not all rows have the same seeds: {which}")
    per_codeword = [cell.figures.get("tokens_per_codeword", 0.0) for cell in comparison.cells]
    if per_codeword and min(per_codeword) < MINIMUM_TOKENS_PER_CODEWORD:
        found.append(
            f"T/K is {min(per_codeword):.1f} in some cell: claims about usage and perplexity need at least "
            f"{MINIMUM_TOKENS_PER_CODEWORD} tokens a codeword"
        )
    if any(len(entry.cells) < 2 for entry in comparison.entries if entry.cells):
        found.append("a row of one seed has no interval, and decides nothing")
    if comparison.other_code:
        found.append(f"made by other numeric code than this version's: {'; '.join(comparison.other_code)}")
    _, unequal = comparison.protocol()
    if unequal:
        found.append(f"not all cells were measured alike: {', '.join(unequal)} differ")
    return found


def codebook_words(codebook_size: int, codes_per_position: int) -> str:
    """K, and q where it is not 1."""
    return f"{codebook_size:,}" + (f", {codes_per_position} codes a position" if codes_per_position > 1 else "")


def group_title(group: Group) -> str:
    """The rate in words."""
    shapes = {(entry.downsample_factor, entry.codebook_size, entry.codes_per_position) for entry in group.entries}
    each = " or ".join(f"f = {f}, K = {codebook_words(size, codes)}" for f, size, codes in sorted(shapes))
    return f"{group.bits_per_pixel:.4g} bits a pixel ({each})"


def table_header(comparison: Comparison) -> list[str]:
    """The columns of `table_rows`."""
    return ["", "seeds", *map(heading, quality_figures(comparison)), *map(heading, codebook_figures(comparison))]


def table_rows(comparison: Comparison, group: Group, best: str = "{}") -> list[list[str]]:
    """A group's rows as text; the best value of a figure is put into `best`."""
    names, rows = [*quality_figures(comparison), *codebook_figures(comparison)], []
    for entry in group.entries:
        rows.append([entry.name, seeds(entry), *(best_marked(group, entry, name, best) for name in names)])
        rows += continuous_rows(entry, names)
    return rows


def continuous_rows(entry: Entry, names: Sequence[str]) -> list[list[str]]:
    """A row of the figures of the soft latent where there are any, and it is the best of nothing; else none."""
    if not entry.continuous:
        return []
    values = (with_interval(name, entry.continuous.get(name)) for name in names)
    return [[f"{entry.name} (continuous)", seeds(entry), *values]]


def seeds(entry: Entry) -> str:
    """The seeds that a row's means are over."""
    return ", ".join(map(str, entry.seeds)) or ("failed" if entry.failed else "not run")


def markdown(comparison: Comparison) -> str:
    """The table for a document, with what was compared and how it was measured."""
    config, (protocol, _) = comparison.config, comparison.protocol()
    lines = [
        f"{config.train.images:,} images seen a run; mean ± 95 % interval over seeds; best of each rate in bold.",
        "",
    ]
    for group in comparison.groups:
        if len(comparison.groups) > 1:
            lines += [f"**{group_title(group)}**", ""]
        lines += [*_pipes(table_header(comparison), table_rows(comparison, group, "**{}**")), ""]
    if paired := difference_rows(comparison):
        lines += [f"Paired differences to {comparison.plan.reference}, over common seeds:", ""]
        lines += [*_pipes(difference_header(comparison), paired), ""]
    lines += [f"- {note}" for note in notes(comparison)]
    measured = [f"{name.replace('_', ' ')}: {value}" for name, value in protocol.items() if name in _STATED]
    lines += ["", f"Measured: {'; '.join(measured)}."] if measured else []
    return "\n".join(lines).rstrip() + "\n"


def difference_header(comparison: Comparison) -> list[str]:
    """The columns of `difference_rows`."""
    return ["", "seeds", *map(heading, _paired_figures(comparison))]


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """The paired differences to the reference of the rows that have any."""
    names = _paired_figures(comparison)
    return [
        [
            entry.name,
            ", ".join(map(str, next(iter(entry.differences.values())).seeds)),
            *(difference_words(name, entry.differences.get(name)) for name in names),
        ]
        for entry in comparison.entries
        if entry.differences
    ]


def _paired_figures(comparison: Comparison) -> list[str]:
    return [*quality_figures(comparison), *(name for name in ("usage", "perplexity") if name in comparison.figures)]


def best_marked(group: Group, entry: Entry, name: str, best: str) -> str:
    """A figure of a row with its interval, put into `best` where it is the best of the group."""
    text = with_interval(name, entry.estimates.get(name))
    return best.format(text) if group.best(name) == entry.name else text


def _pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def _with_unit(name: str, value: float) -> str:
    return figure_row(_plain(name), value).value


def _plain(name: str) -> str:
    return name.removesuffix("_training_queries")
