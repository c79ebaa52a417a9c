"""The charts of metrics.jsonl: held-out figures on the way, each loss term, and what else was logged."""

import math
from collections.abc import Sequence
from typing import Any

from vaevq.report.labels import is_share, label, unit
from vaevq.report.plots import Line, line_chart
from vaevq.report.run_folder import RunFolder

_META = ("images_seen", "split", "seconds")


def held_out_charts(run: RunFolder) -> list[str]:
    """PSNR, usage beside its ceiling, perplexity, and whatever else the quick evaluations measured."""
    rows, charts = run.rows("held_out"), []
    for name in _names(rows):
        if name == "usage_ceiling":
            continue  # a line in the chart of usage
        lines = [logged_line("held-out", rows, name)]
        if name == "usage" and any("usage_ceiling" in row for row in rows):
            lines.append(logged_line("ceiling", rows, "usage_ceiling"))
        charts.append(line_chart(f"{label(name)}, held-out", unit(name), lines, in_words(lines[0], unit(name))))
    return charts


def loss_charts(run: RunFolder) -> list[str]:
    """Each loss term, with its weight."""
    rows, charts = run.rows("train"), []
    for name in _names(rows):
        term = name.removeprefix("loss/")
        if term == name:
            continue
        weight = run.setting(f"loss.{term}_weight", run.setting(f"model.quantizer.{term}_weight"))
        title = f"{term} (weight {weight:g})" if isinstance(weight, int | float) else term
        lines, unit = [logged_line(term, rows, name)], loss_unit(run, term)
        charts.append(line_chart(title, unit, lines, f"{in_words(lines[0], '')} In {unit}.", by_ratio=True))
    return charts


def loss_unit(run: RunFolder, term: str) -> str:
    """What a loss term is in; pixels are from −1 to 1, latents in units of their own."""
    quantizer, kind = "model.quantizer", run.setting("model.quantizer.kind")
    match term:
        case "total":
            return "weighted sum"
        case "pixel":
            error = "|x̂ − x|" if run.setting("loss.pixel") == "l1" else "(x̂ − x)²"
            return f"{error}, {_OVER.get(run.setting('loss.pixel_reduction'), 'mean')}"
        case "rcs":
            return f"½ (Δ/σ)², {_OVER.get(run.setting(f'{quantizer}.rcs_reduction'), 'mean')}"
        case "kl" if kind == "gaussian":
            return "bits a position, steered"
        case "kl":
            return {"image": "nats an image", "element": "nats a dimension"}.get(
                run.setting(f"{quantizer}.kl_reduction"), "nats a position"
            )
        case _:
            return _UNITS.get(term, "loss")


_OVER = {"element": "mean", "position": "a position", "image": "an image"}
_UNITS = {
    **{"perceptual": "LPIPS distance", "adversarial": "of logits", "discriminator": "hinge of logits"},
    **{"lecam": "squared logits", "dcr": "W₂², latent units²", "wasserstein": "W₂², latent units²"},
    **{"codebook": "latent units²", "commitment": "latent units²", "index": "latent units²", "entropy": "nats"},
}


def other_charts(run: RunFolder) -> list[str]:
    """Everything in the training log that is no loss."""
    rows, charts = run.rows("train"), []
    for name in _names(rows):
        if name.startswith("loss/"):
            continue
        short = name.rpartition("/")[2].removesuffix("_training_queries")
        title = f"{label(short)}, training queries" if name.endswith("_queries") else label(short)
        lines = [logged_line(short, rows, name)]
        charts.append(line_chart(title, unit(short), lines, in_words(lines[0], unit(short))))
    return charts


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if name not in _META))


def logged_line(label: str, rows: Sequence[dict[str, Any]], name: str) -> Line:
    """A name of metrics.jsonl over images seen, shares in percent."""
    scale = 100 if is_share(name.rpartition("/")[2]) else 1
    points = [(row["images_seen"], row[name]) for row in rows if name in row]
    values = [math.nan if value is None else scale * value for _, value in points]
    return Line(label, [images_seen for images_seen, _ in points], values)


def in_words(line: Line, unit: str) -> str:
    """The curve in words: where it starts and ends."""
    if not line.values:
        return "No values."
    ends = [f"{value:.4g} {unit}".strip() for value in (line.values[0], line.values[-1])]
    return f"From {ends[0]} at {line.images_seen[0]:,} images seen to {ends[1]} at {line.images_seen[-1]:,}."
