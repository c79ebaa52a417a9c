"""What a comparison keeps of a run's diagnosis, and the table of what tells most."""

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vaevq.comparison.cells import Cell

MOST_ENTRIES = 16
"""A longer list of a diagnosis, of many dimensions, is not kept in a cell."""


@dataclass(frozen=True)
class Column:
    """A figure of the table: its section and name in diagnosis.json, and how it is headed and written."""

    section: str
    name: str
    heading: str
    form: str


COLUMNS = (
    Column("latents", "mean_dimension", "effective dimension, means", "{:.2f}"),
    Column("latents", "codebook_dimension", "effective dimension, codebook", "{:.2f}"),
    Column("distortion", "quantization_error_share", "quantization error / variance", "{:.1%}"),
    Column("distortion", "reference_share", "Gaussian bound", "{:.1%}"),
    Column("latents", "w2_codebook_means", "W₂² codebook–means", "{:.3g}"),
    Column("alignment", "path_gap", "PSNR of means − of tokens (dB)", "{:+.2f}"),
    Column("stability", "changed_tokens", "changed tokens", "{:.1%}"),
    Column("smoothness", "random_gain", "random gain", "{:.3g}"),
    Column("smoothness", "interpolation_unevenness", "interpolation unevenness", "{:.2f}"),
    Column("overfitting", "generalization_gap", "train − held-out (dB)", "{:+.2f}"),
    Column("overfitting", "psnr_noise_010", "PSNR at input noise σ 0.1 (dB)", "{:.2f}"),
)


def compact(diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    """A diagnosis as a cell keeps it: numbers and short lists, and of the gradients each term's RMS."""
    kept: dict[str, Any] = {}
    for name, value in diagnosis.items():
        match value:
            case Mapping():
                kept[name] = {key: item for key, item in value.items() if _is_short(item)}
            case list() if name == "gradients":
                kept[name] = {row["term"]: row["rms"] for row in value}
            case int() | float():
                kept[name] = value
    return kept


def means(cells: Collection[Cell]) -> dict[str, float]:
    """The columns of a row by name, each over the cells that have it; one that none has is left out."""
    values = {column.name: [_value(cell, column) for cell in cells] for column in COLUMNS}
    known = {name: [value for value in found if value is not None] for name, found in values.items()}
    return {name: statistics.fmean(found) for name, found in known.items() if found}


def table_row(found: Mapping[str, float]) -> list[str]:
    """What `means` gave as text, a dash for what there is not."""
    return [column.form.format(found[column.name]) if column.name in found else "–" for column in COLUMNS]


def _value(cell: Cell, column: Column) -> float | None:
    value = (cell.diagnostics.get(column.section) or {}).get(column.name)
    return value if isinstance(value, int | float) else None


def _is_short(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, list) and len(value) <= MOST_ENTRIES)
