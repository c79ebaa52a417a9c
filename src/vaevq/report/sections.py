"""The sections of a report, each a function from a run folder to HTML; an empty one is left out."""

import shlex
from collections.abc import Mapping

from vaevq.metrics.result import Evaluation, FigureRow, figure_row
from vaevq.report.codebook_section import codebook_statistics
from vaevq.report.labels import label
from vaevq.report.markup import bullets, escape, figures_grid, flat, folded, paragraph, table
from vaevq.report.run_folder import RunFolder
from vaevq.report.training_curves import held_out_charts, loss_charts, other_charts

_KINDS = {
    **{"vaevq": "VAEVQ", "vq": "Plain VQ", "vq_ema": "VQ-EMA", "simvq": "SimVQ", "ibq": "IBQ", "softvq": "SoftVQ"},
    **{"wasserstein": "Wasserstein-VQ", "vqbridge": "VQBridge", "gaussian": "Gaussian quantization"},
    **{"fsq": "FSQ", "lfq": "LFQ", "bsq": "BSQ", "vqgan_lc": "VQGAN-LC"},
    **{"residual": "Residual quantization", "movq": "Multichannel quantization (MoVQ)"},
}
_NAMES_SHOWN = 200
_SETTING = ("setting", "value")
_HEADLINE = ("psnr", "ssim", "psnr_3d", "lpips_", "rfid", "fd_", "usage", "perplexity")
_SPREADS = ("_deviation", "_standard_error")


def title(run: RunFolder) -> str:
    """What was trained."""
    kind = run.setting("model.quantizer.kind", "vaevq")
    return f"{_KINDS.get(kind, kind)} tokenizer: {run.path.resolve().name}"


def head(run: RunFolder) -> str:
    """Title, what was trained, and the headline figures."""
    size, codes = run.codebook_size, run.codes_per_position
    dims = run.setting("model.quantizer.code_dim")
    becomes = (
        f"one token of a codebook with {size:,} codewords of {dims} dimensions"
        if codes == 1
        else f"{codes} tokens, each one of {size:,} codewords, for a latent of {dims} dimensions"
    )
    factor = run.setting("model.autoencoder.patch_size", 1)
    factor *= 2 ** (len(run.setting("model.autoencoder.multipliers", [1])) - 1)
    what = (
        f"Each {factor}×{factor} block of pixels becomes {becomes}. Trained on {run.images_seen:,} images seen "
        f"({len(run.split.get('train', [])):,} different ones, in crops of "
        f"{run.setting('data.image_size')}×{run.setting('data.image_size')} pixels) in {_duration(run.seconds)}, "
        f"{run.environment.get('device', 'device unknown')}, seed {run.setting('seed')}."
    )
    parts = ["<header>", f"<h1>{escape(title(run))}</h1>", paragraph(what, "muted")]
    if run.evaluation is None:
        parts.append(
            paragraph(
                f"This run is not finished: {run.images_seen:,} of {run.setting('train.images', 0):,} images are seen, "
                "and there is no evaluation yet. What follows is what there is.",
                "note",
            )
        )
    else:
        tiles = "".join(_tile(row, run.evaluation, size) for row in _headline(run.evaluation))
        parts.append(f'<div class="tiles">{tiles}</div>')
        parts.append(
            paragraph(
                f"Measured on {run.evaluation.images:,} held-out images, encoded deterministically; the protocol "
                "stands with the figures below.",
                "muted",
            )
        )
    return "\n".join([*parts, "</header>"])


def _headline(evaluation: Evaluation) -> list[FigureRow]:
    rows = [row for row in evaluation.rows() if not row.name.endswith(_SPREADS)]
    return [
        row
        for wanted in _HEADLINE
        for row in rows
        if row.name == wanted or (wanted.endswith("_") and row.name.startswith(wanted))
    ]


def _tile(row: FigureRow, evaluation: Evaluation, size: int) -> str:
    values = {row.name: row.value for row in evaluation.rows()}
    if row.name == "usage":
        remark = f"of {size * evaluation.codebooks:,} codewords; ceiling {values.get('usage_ceiling', '–')}"
    elif row.name == "perplexity":
        remark = f"of {size:,} codewords: {values.get('perplexity_share', '–')}"
    else:
        remark = "higher is better" if row.name in ("psnr", "ssim", "psnr_3d") else "lower is better"
    value = row.value.removesuffix(" codewords")
    return (
        f'<div class="tile"><small>{escape(label(row.name))}</small><b>{escape(value)}</b>'
        f"<small>{escape(remark)}</small></div>"
    )


def curves(run: RunFolder) -> str:
    """Held-out figures and loss terms on the way."""
    if not run.metrics:
        return paragraph("Nothing is logged yet.", "muted")
    parts = []
    held_out = held_out_charts(run)
    if held_out:
        images = len(run.split.get("held_out", []))
        few = min(images, run.setting("train.evaluate_images", images))
        parts.append(paragraph(f"Held-out, deterministic: {few:,} of {images:,} images, with the averaged weights."))
        parts.append(figures_grid(held_out))
    parts.append(
        paragraph(
            "Loss terms in training: means over each log interval, before their weights; total has them weighted."
        )
    )
    parts.append(figures_grid(loss_charts(run)))
    others = other_charts(run)
    if others:
        sampled = run.setting("model.quantizer.quantize") == "sample"
        why = (
            "Usage and perplexity of the training queries are of sampled latents: noise alone lights up codewords, so "
            "they are no measure of the codebook's use."
            if sampled
            else "Usage and perplexity here are of training queries in one log interval, not of held-out images."
        )
        parts.append(
            folded("Training queries, learning rate and speed", paragraph(why, "muted") + figures_grid(others))
        )
    return "\n".join(parts)


def figures(run: RunFolder) -> str:
    """Every figure with its unit, and the protocol in full."""
    if run.evaluation is None:
        return ""
    rows = {row.name: row for row in run.evaluation.rows()}
    lines = []
    for name, row in rows.items():
        spreads = [f"± {rows[name + end].value}" for end in _SPREADS if name + end in rows]
        if not name.endswith(_SPREADS):
            lines.append((label(name), row.value, ", ".join(spreads), row.meaning))
    parts = [table(lines, ("figure", "value", "spread", "what it is"), numbers=(1, 2), kind="stacked")]
    parts.append(
        paragraph(
            "Spread: the standard deviation over images; of a kernel distance, the standard error over blocks.", "muted"
        )
    )
    if soft := run.evaluation.continuous_rows():
        parts.append(paragraph("Of the soft latent, which has no tokens: continuous, not to be ranked with them."))
        parts.append(table(soft, ("figure", "value", "what it is"), numbers=(1,), kind="stacked"))
    parts += [paragraph(note, "note") for note in run.evaluation.notes]
    parts.append(
        folded("Protocol: how these were measured", table(flat(run.evaluation.protocol), ("of the protocol", "value")))
    )
    for heading, images in (("Best", run.evaluation.best), ("Worst", run.evaluation.worst)):
        if images:
            names = [name for name in images[0] if name != "name"]
            values = [(image["name"], *(f"{image[name]:.4g}" for name in names)) for image in images]
            body = table(values, ("image", *(label(name) for name in names)), numbers=range(1, len(names) + 1))
            parts.append(folded(f"{heading} {len(images)} images by {label(names[0])}", body))
    if run.evaluation.unreadable:
        parts.append(folded("Images that could not be read", bullets(run.evaluation.unreadable)))
    return "\n".join(parts)


def comparison(run: RunFolder) -> str:
    """Figures of several tokenizers, where the folder holds a comparison."""
    entries = [
        (entry["name"], {name: figure_row(name, value).value for name, value in entry["figures"].items()})
        for entry in run.comparison
    ]
    names = list(dict.fromkeys(name for _, values in entries for name in values))
    rows = [(entry, *(values.get(name, "–") for name in names)) for entry, values in entries]
    return table(rows, ("run", *(label(name) for name in names)), numbers=range(1, len(names) + 1)) if rows else ""


def data(run: RunFolder) -> str:
    """What was trained on and what was held out."""
    if not run.split:
        return ""
    sides = {"train": "training", "held_out": "held-out"}
    rows = [(f"{words} images", f"{len(run.split.get(side, [])):,}") for side, words in sides.items()]
    parts = [table([("source and split", run.split.get("description", "–")), *rows], ("data", "value"))]
    for side, words in sides.items():
        names = run.split.get(side, [])
        more = f" (the first {_NAMES_SHOWN}; all are in split.json)" if len(names) > _NAMES_SHOWN else ""
        parts.append(folded(f"Names of the {len(names):,} {words} images{more}", bullets(names[:_NAMES_SHOWN])))
    return "\n".join(parts)


def configuration(run: RunFolder) -> str:
    """All of config.json, section by section."""
    sections = {name: value for name, value in run.config.items() if isinstance(value, Mapping)}
    single = list(flat({name: value for name, value in run.config.items() if name not in sections}))
    parts = [table(single, _SETTING)] if single else []
    return "\n".join([*parts, *(folded(name, table(flat(section), _SETTING)) for name, section in sections.items())])


def reproduce(run: RunFolder) -> str:
    """The command and what it ran on."""
    environment = run.environment
    parts = []
    if "command" in environment:
        parts.append(f"<pre><code>{escape(environment['command'])}</code></pre>")
    parts.append(
        paragraph(
            "Where this folder is, it continues the run; elsewhere it starts anew. "
            f"Data order, augmentation and noise follow from seed {run.setting('seed')} and the image's place alone, "
            "however many processes train. To the last digit only on the same machine and versions:"
        )
    )
    return "\n".join(
        [*parts, table(flat({k: v for k, v in environment.items() if k != "command"}), ("environment", "value"))]
    )


def next_steps(run: RunFolder) -> str:
    """What this run's figures suggest, and the commands that come next."""
    folder = shlex.quote(str(run.path))
    if run.evaluation is None:
        command = run.environment.get("command", f"vaevq train --run-dir {folder}")
        return paragraph("Run the same command again; it continues from the last checkpoint:") + _commands([command])
    commands = [
        "# photos to tokens and back",
        f"vaevq encode PHOTO.jpg --model {folder} -o tokens.safetensors",
        f"vaevq decode tokens.safetensors --model {folder} -o decoded",
        "# measure on other images",
        f"vaevq eval --model {folder} --data FOLDER",
        "# train on your own",
        "vaevq train --data FOLDER",
    ]
    advice = _advice(run)
    return (bullets(advice) if advice else "") + _commands(commands)


def _advice(run: RunFolder) -> list[str]:
    advice, images = [], run.setting("train.images", 0)
    psnr = [row["psnr"] for row in run.rows("held_out") if row.get("psnr") is not None]
    if len(psnr) >= 5 and (gain := psnr[-1] - psnr[-1 - len(psnr) // 5]) > 0.1:
        advice.append(
            f"Held-out PSNR still rose by {gain:.2f} dB over the last fifth of the run: "
            f"train longer, for example train.images={2 * images}."
        )
    statistics = codebook_statistics(run)
    if statistics is not None and statistics.usage_of_ceiling < 0.5:
        advice.append(
            f"Only {statistics.usage:.1%} of the codewords are used: a smaller codebook "
            f"(model.quantizer.codebook_size={statistics.codebook_size // 2}) loses little, and longer training may "
            "bring more of them in."
        )
    return advice


def _commands(lines: list[str]) -> str:
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
