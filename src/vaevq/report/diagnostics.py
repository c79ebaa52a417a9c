"""The report's section of why a quantizer does well or badly: what was logged on the way, and diagnosis.json."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vaevq.diagnostics.claims import AlignmentFigures, OverfittingFigures, SmoothnessFigures, StabilityFigures
from vaevq.diagnostics.distortion import DistortionFigures
from vaevq.diagnostics.figures import rows_from
from vaevq.diagnostics.hubs import HubFigures
from vaevq.diagnostics.latents import LatentFigures
from vaevq.report.diagnostic_plots import Spread, by_dimension_chart, rate_distortion_chart, spread_chart, terms_chart
from vaevq.report.markup import escape, figures_grid, folded, paragraph, table
from vaevq.report.plots import line_chart
from vaevq.report.run_folder import RunFolder
from vaevq.report.training_curves import in_words, logged_line

_CLAIMS: Mapping[str, type] = {
    "smoothness": SmoothnessFigures,
    "stability": StabilityFigures,
    "alignment": AlignmentFigures,
    "overfitting": OverfittingFigures,
}


class _Curve(NamedTuple):
    """A chart over training: its title, its unit, and its lines by name in the log."""

    title: str
    unit: str
    lines: Mapping[str, str]


_CURVES = (
    _Curve("Effective dimension", "dimensions", {"mean_dimension": "means", "codebook_dimension": "codebook"}),
    _Curve(
        "Quantization error of the means",
        "% of their variance",
        {"quantization_error_share": "this quantizer", "reference_share": "Gaussian bound"},
    ),
    _Curve("Distance of the codebook", "W₂²", {"w2_codebook_means": "to the means", "w2_codebook_prior": "to N(0, I)"}),
    _Curve(
        "Posterior variance, all dimensions", "Σ E[σ²], latent units²", {"posterior_variance_sum": "posterior variance"}
    ),
    _Curve("KL to the prior", "nats a position", {"posterior_kl_sum": "KL"}),
    _Curve("Changed tokens", "% since the point before", {"changed_tokens": "changed tokens"}),
    _Curve("Codeword drift", "of the codewords' RMS", {"codeword_drift": "codeword drift"}),
)


def diagnostics(run: RunFolder) -> str:
    """All that there is; empty for a run that has measured nothing of it."""
    parts = [part for make in (_logged, _latents, _hubs, _claims, _gradients) if (part := make(run))]
    return "\n".join([paragraph(_INTRODUCTION, "muted"), *parts]) if parts else ""


_INTRODUCTION = (
    "Measured on held-out images, encoded deterministically, with the averaged weights; gradients on a few training "
    "images. What is healthy and what is ill is in docs/diagnostics.md."
)


def _logged(run: RunFolder) -> str:
    rows, charts = run.rows("diagnostics"), list[str]()
    known = {name for row in rows for name in row}
    if "sigma_median" in known:
        charts.append(_deviations(rows))
    for title, unit, lines in _CURVES:
        drawn = [logged_line(words, rows, name) for name, words in lines.items() if name in known]
        if drawn:
            said = " ".join(f"{line.label}: {in_words(line, unit)}" for line in drawn)
            charts.append(line_chart(title, unit, drawn, said))
    return f"<h3>While it trained</h3>\n{figures_grid(charts)}" if charts else ""


def _deviations(rows: Sequence[dict[str, Any]]) -> str:
    """σ over training."""
    low, median, high, mean = (
        logged_line(words, rows, f"sigma_{name}")
        for name, words in (("q05", "5 %"), ("median", "median"), ("q95", "5 to 95 %"), ("mean", "mean"))
    )
    ends = f"From {low.values[-1]:.3g} (5 %) to {high.values[-1]:.3g} (95 %) at the end." if low.values else ""
    said = f"Median: {in_words(median, '')} {ends}"
    return spread_chart("Posterior deviation σ", "σ, latent units", Spread(low, median, high, mean), said)


def _latents(run: RunFolder) -> str:
    latents, distortion = run.diagnosis.get("latents") or {}, run.diagnosis.get("distortion") or {}
    charts = list(_spectra(latents))
    spectrum, share = latents.get("mean_eigenvalues"), distortion.get("quantization_error_share")
    size, codes = run.codebook_size, run.setting("model.quantizer.codes_per_position", 1)
    if spectrum and share and size:
        charts.append(rate_distortion_chart(spectrum, codes * math.log2(size), share, distortion.get("token_bits")))
    rows = [*rows_from(LatentFigures, latents), *rows_from(DistortionFigures, distortion)]
    if not rows:
        return ""
    said = (
        f"At the end, of {run.diagnosis.get('images', 0):,} held-out images. The means are what is quantized at "
        "inference, the samples what training quantizes; a codebook serves the means where its spectrum is like theirs."
    )
    body = table(rows, ("figure", "value", "what it is"), numbers=(1,), kind="stacked")
    return (
        f"<h3>Latents and codebook</h3>\n{paragraph(said)}{figures_grid(charts)}{folded('All of these figures', body)}"
    )


def _spectra(latents: Mapping[str, Any]) -> Iterator[str]:
    eigenvalues = {
        words: latents[name]
        for name, words in (
            ("mean_eigenvalues", "means"),
            ("sample_eigenvalues", "samples"),
            ("codebook_eigenvalues", "codebook"),
        )
        if latents.get(name)
    }
    if eigenvalues:
        yield by_dimension_chart("Eigenvalues of the covariances", "λ", eigenvalues, "the largest first")
    for name, title, unit in (
        ("posterior_variance", "Posterior variance by dimension", "E[σ²]"),
        ("posterior_kl", "KL to the prior by dimension", "nats a position"),
    ):
        if latents.get(name):
            yield by_dimension_chart(title, unit, {title.split(" by ")[0]: latents[name]}, "dimension")


def _hubs(run: RunFolder) -> str:
    rows = rows_from(HubFigures, run.diagnosis.get("hubs") or {})
    if not rows:
        return ""
    said = (
        "N₁₀ of a codeword counts the latents that have it among their ten nearest codewords: it tells a dead codeword "
        "that lies among the latents and loses to a hub from one that lies off them."
    )
    header = ("figure", "value", "what it is")
    return f"<h3>Hubs</h3>\n{paragraph(said)}{table(rows, header, numbers=(1,), kind='stacked')}"


def _claims(run: RunFolder) -> str:
    rows = [
        (row.name, claim, row.value, row.meaning)
        for claim, kind in _CLAIMS.items()
        for row in rows_from(kind, run.diagnosis.get(claim) or {})
    ]
    if not rows:
        return ""
    said = (
        f"What the paper claims of a variational tokenizer, measured on {run.diagnosis.get('probed', 0):,} held-out "
        "images: a smooth latent space, stable tokens (against the checkpoint before the last), quantized latents "
        "aligned with continuous ones, and no overfitting to noise."
    )
    header = ("figure", "claim", "value", "what it is")
    return f"<h3>The four claims</h3>\n{paragraph(said)}{table(rows, header, numbers=(2,), kind='stacked')}"


def _gradients(run: RunFolder) -> str:
    """Over training beside those at the end."""
    logged = run.rows("diagnostics")
    names = dict.fromkeys(name for row in logged for name in row if name.startswith("gradient/"))
    rows = [
        (row["term"], f"{row['rms']:.3g}", f"{row['share']:.1%}", _cosine(row.get("along")))
        for row in run.diagnosis.get("gradients") or []
        if row.get("rms") is not None and row.get("share") is not None
    ]
    parts = []
    if names:
        lines = [logged_line(name.removeprefix("gradient/"), logged, name) for name in names]
        parts.append(f"<figure>{terms_chart('Gradient of each term', 'RMS', lines)}</figure>")
    if rows:
        parts.append(table(rows, ("at the end", "RMS", "share", "cosine"), numbers=(1, 2, 3)))
    if not parts:
        return ""
    said = (
        "Each loss term times its weight, differentiated by the encoder's output: which of them moves the encoder. "
        "Share and cosine are to the gradient of the whole loss; terms that oppose each other have shares that sum to "
        "more than 100 %."
    )
    heading = escape("Gradients at the encoder's output")
    return f'<h3>{heading}</h3>\n{paragraph(said)}<div class="codebook">{"".join(parts)}</div>'


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"
