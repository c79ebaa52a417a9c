"""The table: rows in groups of equal rate, ranked within each, with intervals and differences to the reference."""

import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vaevq.comparison import diagnostics
from vaevq.comparison.cells import Cell, Task, find_cell
from vaevq.comparison.code import same_numbers
from vaevq.comparison.plan import Plan
from vaevq.comparison.statistics import Difference, Estimate, estimate, higher_is_better, paired_difference
from vaevq.config import RunConfig
from vaevq.files import write_text

_TRAINING_QUERIES = {
    f"codebook/{name}_training_queries": f"{name}_training_queries" for name in ("usage", "perplexity")
}
# Of the model, of which images a seed holds out, or of the rate: these differ between cells that may be compared.
_MAY_DIFFER = {"model_digest", "data_digest", "images", "unreadable"}
_MAY_DIFFER |= {"codebook_size", "codes_per_position", "codebooks", "tokens", "tokens_per_codeword"}


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        name: the row's.
        bits_per_pixel: its rate, each token written with log₂K bits.
        codebook_size: K; where training finds it, that of the mean rate over the seeds.
        codes_per_position: q.
        downsample_factor: f.
        cells: those that have figures, by seed.
        failed: why others have none, by seed.
        missing: seeds that have not been run.
        estimates: of each figure over the seeds.
        differences: of each figure to the reference, where it is in the same group and another row.
        continuous: of each figure of the soft latent, which is ranked nowhere: it has no tokens, so no rate.
    """

    name: str
    bits_per_pixel: float
    codebook_size: int
    codes_per_position: int
    downsample_factor: int
    cells: Mapping[int, Cell]
    failed: Mapping[int, str]
    missing: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    continuous: Mapping[str, Estimate]

    def values(self, name: str) -> dict[int, float]:
        """A figure by seed."""
        return _values(self.cells, name)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that the means are over."""
        return tuple(sorted(self.cells))


@dataclass(frozen=True)
class Group:
    """Rows of equal rate, the best first by PSNR (or the first figure that there is); rows without figures last.

    Ranks and best values are over the seeds that all rows with figures have: a seed holds out images of its own, so
    that a row which lacks the seed of hard images would seem better.
    """

    bits_per_pixel: float
    entries: tuple[Entry, ...]

    @property
    def common_seeds(self) -> tuple[int, ...]:
        """The seeds that ranks are over."""
        return common_seeds(self.entries)

    def best(self, name: str) -> str | None:
        """The row with the best mean of a figure; None where the figure has no better side, or with one row."""
        higher = higher_is_better(name)
        means = {entry.name: _mean_over(entry, name, self.common_seeds) for entry in self.entries}
        found = {row: mean for row, mean in means.items() if mean is not None}
        if higher is None or len(found) < 2:
            return None
        return max(found, key=lambda row: found[row] if higher else -found[row])


@dataclass(frozen=True)
class Comparison:
    """All that the pages, files and tables show.

    Attributes:
        plan: what was asked for.
        groups: of equal rate, the lowest first.
        other_code: names of the cells that other numeric code made.
    """

    plan: Plan
    groups: tuple[Group, ...]
    other_code: tuple[str, ...]

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All rows, in the order of the plan."""
        by_name = {entry.name: entry for group in self.groups for entry in group.entries}
        return tuple(by_name[row.name] for row in self.plan.rows)

    @property
    def cells(self) -> list[Cell]:
        """All that have figures."""
        return [cell for entry in self.entries for cell in entry.cells.values()]

    @property
    def figures(self) -> list[str]:
        """The names of the figures, in the order in which they were measured."""
        return list(dict.fromkeys(name for entry in self.entries for name in entry.estimates))

    @property
    def config(self) -> RunConfig:
        """The reference's: what it has of the budget holds for all."""
        return next(row.config for row in self.plan.rows if row.name == self.plan.reference)

    def protocol(self) -> tuple[dict[str, Any], list[str]]:
        """What the cells' protocols have in common, and the names of what should be equal and is not."""
        protocols = [{k: v for k, v in cell.protocol.items() if k not in _MAY_DIFFER} for cell in self.cells]
        names = list(dict.fromkeys(name for protocol in protocols for name in protocol))
        values = {name: [protocol.get(name) for protocol in protocols] for name in names}
        equal = {name: found[0] for name, found in values.items() if all(value == found[0] for value in found)}
        return equal, [name for name in names if name not in equal]

    def to_json(self) -> dict[str, Any]:
        """Plain data for programs."""
        equal, unequal = self.protocol()
        return {
            "plan": self.plan.path.name,
            "reference": self.plan.reference,
            "images_seen": self.config.train.images,
            "protocol": equal,
            "protocol_differs_in": unequal,
            "made_by_other_code": list(self.other_code),
            "groups": [
                {
                    "bits_per_pixel": group.bits_per_pixel,
                    "rows": [_entry_json(entry) for entry in group.entries],
                    "best": {name: best for name in self.figures if (best := group.best(name)) is not None},
                }
                for group in self.groups
            ],
        }


def make_comparison(plan: Plan, tasks: Sequence[Task], folder: Path, *, any_code: bool = False) -> Comparison:
    """Reads the cells that stand and makes the table of them.

    Args:
        plan: what was asked for.
        tasks: its cells.
        folder: where their files lie.
        any_code: accepts cells of other numeric code; the comparison names them.

    Raises:
        UserError: a cell's file is damaged.
    """
    found = {(task.row, task.seed): find_cell(folder, task, any_code=any_code) for task in tasks}
    other = [
        f"{task.row}, seed {task.seed}"
        for task in tasks
        if (cell := found[task.row, task.seed]) is not None and not same_numbers(cell.code, task.code, task.config)
    ]
    cells = {
        row.name: {seed: cell for seed in row.configs if (cell := found[row.name, seed]) is not None}
        for row in plan.rows
    }
    bits = {row.name: _position_bits(row.config, cells[row.name].values()) for row in plan.rows}
    rates = {row.name: bits[row.name] / row.config.model.autoencoder.downsample_factor**2 for row in plan.rows}
    reference = {seed: cell for seed, cell in cells[plan.reference].items() if not cell.failure}
    entries = []
    for row in plan.rows:
        same_rate = row.name != plan.reference and rates[row.name] == rates[plan.reference]
        made, quantizer = cells[row.name], row.config.model.quantizer
        finished = {seed: cell for seed, cell in made.items() if not cell.failure}
        names = list(dict.fromkeys(name for cell in finished.values() for name in _figures(cell)))
        paired = {
            name: paired_difference(name, _values(finished, name), _values(reference, name) if same_rate else {})
            for name in names
        }
        entries.append(
            Entry(
                name=row.name,
                bits_per_pixel=rates[row.name],
                codebook_size=round(2 ** (bits[row.name] / quantizer.codes_per_position)),
                codes_per_position=quantizer.codes_per_position,
                downsample_factor=row.config.model.autoencoder.downsample_factor,
                cells=finished,
                failed={seed: cell.failure for seed, cell in made.items() if cell.failure},
                missing=tuple(seed for seed in row.configs if seed not in made),
                estimates={name: estimate(list(_values(finished, name).values())) for name in names},
                differences={name: difference for name, difference in paired.items() if difference is not None},
                continuous=_estimates_of_continuous(finished.values()),
            )
        )
    groups = [_group(rate, [entry for entry in entries if entry.bits_per_pixel == rate]) for rate in {*rates.values()}]
    return Comparison(plan, tuple(sorted(groups, key=lambda group: group.bits_per_pixel)), tuple(other))


def _position_bits(config: RunConfig, cells: Iterable[Cell]) -> float:
    """q·log₂K: of the configuration's K, or the mean over what the cells have come to, where training finds it."""
    found = [cell.protocol["codebook_size"] for cell in cells if cell.protocol]
    quantizer = config.model.quantizer
    if config.adapt.by == "none" or not found:
        # Of one power, so that equal rates are equal to the last digit.
        return math.log2(quantizer.codebook_size**quantizer.codes_per_position)
    return quantizer.codes_per_position * statistics.fmean(map(math.log2, found))


def write_json(comparison: Comparison, path: Path) -> None:
    """Writes the table for programs."""
    write_text(path, json.dumps(comparison.to_json(), indent=1) + "\n")


def common_seeds(entries: Sequence[Entry]) -> tuple[int, ...]:
    """The seeds that all rows with figures have."""
    sets = [set(entry.cells) for entry in entries if entry.cells]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _group(rate: float, entries: Sequence[Entry]) -> Group:
    names = dict.fromkeys(name for entry in entries for name in entry.estimates if higher_is_better(name) is not None)
    first, shared = "psnr" if "psnr" in names else next(iter(names), ""), common_seeds(entries)

    def place(entry: Entry) -> float:
        mean = _mean_over(entry, first, shared)
        return math.inf if mean is None else -mean if higher_is_better(first) else mean

    return Group(rate, tuple(sorted(entries, key=place)))


def _mean_over(entry: Entry, name: str, seeds: Sequence[int]) -> float | None:
    values = entry.values(name)
    found = [values[seed] for seed in seeds if seed in values]
    return statistics.fmean(found) if found and len(found) == len(seeds) else None


def _figures(cell: Cell) -> dict[str, float]:
    """A cell's figures, tokens and bits an image, and what training counted of its own queries in its last interval."""
    train = [row for row in cell.curves if row["split"] == "train"]
    last = train[-1] if train else {}
    queries = {name: last.get(logged) for logged, name in _TRAINING_QUERIES.items()}
    images = {}
    if cell.protocol:
        per_image = cell.protocol["tokens"] / cell.protocol["images"]
        bits = math.log2(cell.protocol["codebook_size"])
        images = {"tokens_per_image": per_image, "bits_per_image": per_image * bits}
    return {name: value for name, value in {**cell.figures, **images, **queries}.items() if value is not None}


def _values(cells: Mapping[int, Cell], name: str) -> dict[int, float]:
    figures = {seed: _figures(cell) for seed, cell in sorted(cells.items())}
    return {seed: found[name] for seed, found in figures.items() if name in found}


def _estimates_of_continuous(cells: Collection[Cell]) -> dict[str, Estimate]:
    names = dict.fromkeys(name for cell in cells for name in cell.continuous)
    return {name: estimate([cell.continuous[name] for cell in cells if name in cell.continuous]) for name in names}


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "row": entry.name,
        "codebook_size": entry.codebook_size,
        "codes_per_position": entry.codes_per_position,
        "downsample_factor": entry.downsample_factor,
        "seeds": list(entry.seeds),
        "failed": {str(seed): reason for seed, reason in entry.failed.items()},
        "missing": list(entry.missing),
        "figures": {
            name: {**asdict(found), "by_seed": {str(seed): value for seed, value in entry.values(name).items()}}
            for name, found in entry.estimates.items()
        },
        "continuous": {name: asdict(found) for name, found in entry.continuous.items()},
        "diagnostics": diagnostics.means(entry.cells.values()),
        "difference_to_reference": {
            name: {**asdict(difference.estimate), "seeds": list(difference.seeds), "verdict": difference.verdict}
            for name, difference in entry.differences.items()
        },
    }
