"""Makes the picture of docs/choosing.md of the cells of two comparisons: over codebook sizes and over code dimensions.

.venv/bin/python docs/make_choosing.py
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vaevq.report.plots import PRINT, figure, png

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PICTURE = Path(__file__).parent / "images" / "choosing.png"

SHOWN = {"vaevq": "VAEVQ", "vq_ema_revived": "VQ-EMA, revived", "simvq": "SimVQ", "vqgan_lc": "VQGAN-LC"}
"""Rows of codebook-size.yaml, each with its code_dim; all but the last are rows of code-dim.yaml too."""

Points = Mapping[str, Mapping[int, list[float]]]


def main() -> None:
    """Writes the picture."""
    sizes, dims = _cells("codebook-size"), _cells("code-dim")
    with figure(10.5, 3.3, PRINT) as on:
        on.set_facecolor("white")
        quality, use, dimension = on.subplots(1, 3)
        lines(quality, SHOWN, _points(sizes, _size, lambda cell: cell["figures"]["psnr"]))
        lines(use, SHOWN, _points(sizes, _size, lambda cell: 100 * cell["figures"]["usage_of_ceiling"]))
        best = _points(dims, _dim, lambda cell: cell["figures"]["psnr"])
        lines(dimension, SHOWN, {row: {d: [max(of)] for d, of in found.items()} for row, found in best.items()})
        for axes, title, unit in (
            (quality, "quality over K", "PSNR, dB"),
            (use, "codewords in use over K", "% of its ceiling"),
            (dimension, "quality over d, K = 1,024", "PSNR, dB"),
        ):
            axes.set_title(title)
            axes.set_ylabel(unit)
        quality.set_xlabel("codebook size K")
        use.set_xlabel("codebook size K")
        dimension.set_xlabel("code dimension d")
        use.set_ylim(50, 102)
        quality.legend(loc="lower right")
        png(on, PICTURE)
    print(PICTURE)


def lines(axes: Any, labels: Mapping[str, str], points: Points) -> None:
    """A line a row, means over seeds, over a logarithmic scale of base 2 whose ticks are the values."""
    ticks: set[int] = set()
    for (row, label), colour, mark in zip(labels.items(), PRINT.series, "os^D", strict=False):
        found = dict(sorted(points.get(row, {}).items()))
        ticks |= set(found)
        if not found:
            continue
        axes.plot(list(found), [np.mean(values) for values in found.values()], mark + "-", color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [f"{tick:,}" for tick in sorted(ticks)])
    axes.minorticks_off()


def _cells(name: str) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((EXPERIMENTS / name / "cells").glob("*.json"))
    ]


def _points(
    cells: list[dict[str, Any]],
    at: Callable[[dict[str, Any]], int],
    value: Callable[[dict[str, Any]], float],
) -> Points:
    """Row to place to values, of the cells whose row's name is one of a quantizer and of what was varied."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        name = re.sub(r"_(d64_)?k\d+$|(_d\d+)?(_weak|_strong|_strongest|_early)?$", "", cell["row"])
        if "_d64_k" not in cell["row"]:
            found[name][at(cell)].append(value(cell))
    return found


def _size(cell: dict[str, Any]) -> int:
    return int(cell["protocol"]["codebook_size"])


def _dim(cell: dict[str, Any]) -> int:
    return int(cell["configuration"]["model"]["quantizer"]["code_dim"])


if __name__ == "__main__":
    main()
