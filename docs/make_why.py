"""Makes the pictures of docs/why.md of the cells of a comparison, means over its seeds.

    .venv/bin/python docs/make_why.py experiments/claim-k1024

The rows drawn are those of `SHOWN` that have diagnostics.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vaevq.report.plots import PRINT, engineering, figure, locator, png, set_log_scale

SHOWN = {
    "vq": "plain VQ",
    "vq_ema": "VQ-EMA",
    "simvq": "SimVQ",
    "vq_ema_revived": "VQ-EMA, revived",
    "vaevq": "VAEVQ",
}
IMAGES = Path(__file__).parent / "images"

Cells = dict[str, list[dict[str, Any]]]


def main(folder: Path) -> None:
    """Writes both pictures."""
    cells: Cells = {row: [] for row in SHOWN}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["row"] in cells and cell["diagnostics"]:
            cells[cell["row"]].append(cell)
    cells = {row: found for row, found in cells.items() if found}
    spectra(cells, IMAGES / "why_spectra.png")
    curves(cells, IMAGES / "why_curves.png")


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
            axes.set_xlabel("eigenvalue, largest first")
        first = np.atleast_1d(panels)[0]
        set_log_scale(first, 1e4)
        first.set_ylabel("variance, log scale")
        first.legend(loc="best")
        png(on, path)
    print(path)


def curves(cells: Cells, path: Path) -> None:
    """PSNR and perplexity over training, and the quantization error at its end."""
    with figure(9.5, 2.9, PRINT) as on:
        on.set_facecolor("white")
        psnr, perplexity, bars = on.subplots(1, 3)
        for place, (row, found) in enumerate(cells.items()):
            colour = PRINT.series[place]
            for axes, name in ((psnr, "psnr"), (perplexity, "perplexity")):
                lines = [[(r["images_seen"], r[name]) for r in c["curves"] if r["split"] == "held_out"] for c in found]
                points = np.asarray(lines, dtype=float).mean(axis=0)
                axes.plot(points[:, 0], points[:, 1], "o-", markersize=3.5, color=colour, label=SHOWN[row])
            share, bound = (
                100 * _mean(found, "distortion", name) for name in ("quantization_error_share", "reference_share")
            )
            bars.bar(place - 0.2, share, 0.4, color=colour)
            bars.bar(place + 0.2, bound, 0.4, color=PRINT.faded)
        psnr.set_title("PSNR, held-out (dB)")
        perplexity.set_title("perplexity, held-out")
        for axes in (psnr, perplexity):
            axes.set_xlabel("images seen")
            axes.xaxis.set_major_formatter(engineering)
            axes.xaxis.set_major_locator(locator(4))
        bars.set_title("quantization error, % of variance")
        bars.set_xticks(range(len(cells)), [SHOWN[row].replace(" ", "\n") for row in cells], fontsize=6.5)
        bars.set_xlabel("grey: Gaussian bound at log₂K bits")
        perplexity.legend(loc="best")
        png(on, path)
    print(path)


def _mean(found: list[dict[str, Any]], section: str, name: str) -> Any:
    return np.asarray([cell["diagnostics"][section][name] for cell in found], dtype=float).mean(axis=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
