"""Makes the picture of docs/why.md of the cells of a comparison, means over its seeds.

    .venv/bin/python docs/make_why.py experiments/claim-k1024

The rows drawn are those of `SHOWN` that have diagnostics.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vaevq.report.plots import PRINT, figure, png, set_log_scale

SHOWN = {
    "vq": "plain VQ",
    "vq_ema": "VQ-EMA",
    "simvq": "SimVQ",
    "vq_ema_revived": "VQ-EMA, revived",
    "vaevq": "VAEVQ",
}
IMAGES = Path(__file__).parent / "images"
MOST_TICKS = 8

Cells = dict[str, list[dict[str, Any]]]


def main(folder: Path) -> None:
    """Writes the picture."""
    cells: Cells = {row: [] for row in SHOWN}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["row"] in cells and cell["diagnostics"]:
            cells[cell["row"]].append(cell)
    cells = {row: found for row, found in cells.items() if found}
    spectra(cells, IMAGES / "why_spectra.png")


def spectra(cells: Cells, path: Path) -> None:
    """Eigenvalues of means and of codewords, a panel a row; a cell keeps those of few dimensions alone."""
    cells = {row: found for row, found in cells.items() if "mean_eigenvalues" in found[0]["diagnostics"]["latents"]}
    with figure(7.5, 2.7, PRINT) as on:
        on.set_facecolor("white")
        panels = on.subplots(1, len(cells), sharey=True)
        for axes, (row, found) in zip(np.atleast_1d(panels), cells.items(), strict=True):
            vectors = {name: _mean(found, "latents", f"{name}_eigenvalues") for name in ("mean", "codebook")}
            for (name, values), look in zip(vectors.items(), ("o-", "s--"), strict=True):
                colour = PRINT.first if name == "mean" else PRINT.second
                label = {"mean": "means", "codebook": "codewords"}[name]
                axes.plot(range(1, len(values) + 1), values, look, color=colour, markersize=3.5, label=label)
            axes.set_title(f"{SHOWN[row]}, d = {len(values)}")
            if len(values) <= MOST_TICKS:
                axes.set_xticks(range(1, len(values) + 1))
            axes.set_xlabel("eigenvalue, largest first")
        first = np.atleast_1d(panels)[0]
        set_log_scale(first, 1e4)
        first.set_ylabel("variance, log scale")
        first.legend(loc="best")
        png(on, path)
    print(path)


def _mean(found: list[dict[str, Any]], section: str, name: str) -> Any:
    return np.asarray([cell["diagnostics"][section][name] for cell in found], dtype=float).mean(axis=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
