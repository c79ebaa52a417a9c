"""The report's sections of pictures: examples chosen by their place, and the best and worst of all held-out images."""

from collections.abc import Sequence
from pathlib import Path

from vaevq.metrics.result import figure_row
from vaevq.report.labels import label
from vaevq.report.markup import escape, image, paragraph
from vaevq.report.pictures import ERROR_WHITE, PARTS, Picture
from vaevq.report.run_folder import RunFolder

_LABELS = ("original", "reconstruction", "token map", "error")


def pictures(run: RunFolder) -> str:
    """Originals beside reconstructions, with token and error maps."""
    if not run.pictures:
        return paragraph("No pictures are in this run folder.", "muted")
    channels, codes = run.setting("model.autoencoder.image_channels"), run.codes_per_position
    of_volumes = any(picture.caption for picture in run.pictures)
    side_by_side = channels in (2, 4) or (of_volumes and channels == 3)
    said = (
        "Held-out images, evenly spaced over all and chosen by their place alone: what goes in, what comes back from "
        "the tokens alone, the tokens, and where it differs. "
        "A token's colour only tells it from others; it is the same in all token maps."
        + (f" They show the first of the {codes} tokens of each position." if codes > 1 else "")
        + (" The channels stand side by side, each as grey." if side_by_side else "")
        + (" Letters name the patient's sides; a pixel is as high as it is wide." if of_volumes else "")
    )
    scale = f'<p class="muted">Error, mean over channels: 0<span class="scale"></span>{ERROR_WHITE} or more of 255.</p>'
    return "\n".join([paragraph(said), scale, *_figures(run.path / "images", run.pictures)])


def extremes(run: RunFolder) -> str:
    """The worst and the best held-out images, each with its figures; empty where none are kept."""
    evaluation = run.evaluation
    if evaluation is None or not any(run.extremes.values()):
        return ""
    ranked_by = next(name for name in (evaluation.worst or evaluation.best)[0] if name != "name")
    parts = [
        paragraph(
            f"Of all {evaluation.images:,} held-out images those with the worst and the best {label(ranked_by)}. A "
            "mean hides what fails: look here for what the tokenizer cannot do."
        )
    ]
    for end, listed in (("worst", evaluation.worst), ("best", evaluation.best)):
        found = {picture.name: picture for picture in run.extremes.get(end, ())}
        ranked = [row for row in listed if row["name"] in found]
        if ranked:
            figures = [" · ".join(_figure(name, row[name]) for name in row if name != "name") for row in ranked]
            shown = _figures(run.path / "images" / end, [found[row["name"]] for row in ranked], figures)
            parts += [f"<h3>The {end}</h3>", *shown]
    return "\n".join(parts)


def _figure(name: str, value: float) -> str:
    return f"{label(name)} {figure_row(name, value).value}"


def _figures(folder: Path, found: Sequence[Picture], measured: Sequence[str] = ()) -> list[str]:
    """Each picture with its caption; `measured` says what was measured of it, instead of its PSNR here."""
    parts = []
    for i, picture in enumerate(found):
        cells = []
        for part, what in zip(PARTS, _LABELS, strict=True):
            alt = f"{what} of {picture.name}"
            cells.append(
                f"<div>{image(folder / f'{picture.stem}_{part}.png', alt, smooth=part != 'tokens')}"
                f"<span>{what}</span></div>"
            )
        psnr = "equal" if picture.psnr is None else f"{picture.psnr:.2f} dB"
        codes = picture.codes_per_position
        several = f"×{codes} tokens, of the first " if codes > 1 else " tokens, "
        words = [
            picture.name,
            f"{picture.width}×{picture.height} pixels",
            f"{picture.grid[1]}×{picture.grid[0]}{several}{picture.distinct_tokens:,} different",
            measured[i] if measured else f"PSNR {psnr}",
            *([picture.caption] if picture.caption else []),
        ]
        caption = escape(" · ".join(words))
        parts.append(f'<figure class="picture"><div>{"".join(cells)}</div><figcaption>{caption}</figcaption></figure>')
    return parts
