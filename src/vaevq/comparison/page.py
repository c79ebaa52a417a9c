"""The comparison as one HTML file that needs no other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaevq.comparison.charts import Points, band_chart, bands, point_chart, points
from vaevq.comparison.diagnostics import COLUMNS, means, table_row
from vaevq.comparison.interval_charts import difference_charts, figure_charts
from vaevq.comparison.pictures import Pictures
from vaevq.comparison.statistics import CONFIDENCE
from vaevq.comparison.table import Comparison, Entry, Group
from vaevq.comparison.text import (
    CODEBOOK_COLUMNS,
    QUERIES,
    best_marked,
    codebook_words,
    continuous_rows,
    difference_header,
    difference_rows,
    group_title,
    heading,
    notes,
    quality_figures,
    seeds,
)
from vaevq.config import leaves
from vaevq.files import write_text
from vaevq.report.labels import label, unit
from vaevq.report.markup import bullets, embedded, escape, figures_grid, flat, folded, paragraph, table
from vaevq.report.page import whole_page

_SETTING, _PROTOCOL = ("setting", "value"), ("protocol", "value")


def write_page(comparison: Comparison, pictures: Pictures | None, command: str, path: Path) -> None:
    """Writes the page.

    Args:
        comparison: the table.
        pictures: of the rows that have any.
        command: what made it, to be shown.
        path: of the HTML file.
    """
    sections = (
        ("table", "Table", _table(comparison)),
        ("differences", "Differences", _differences(comparison)),
        ("codebook", "Codebook", _codebook(comparison)),
        ("why", "Why", _why(comparison)),
        ("curves", "Curves", _curves(comparison)),
        ("pictures", "Pictures", _pictures(pictures)),
        ("budget", "What was compared", _budget(comparison)),
        ("protocol", "Protocol", _protocol(comparison)),
        ("reproduce", "How to reproduce", _reproduce(comparison, command)),
    )
    title = f"Comparison: {comparison.plan.path.stem}"
    write_text(path, whole_page(title, _head(comparison), sections))


def _head(comparison: Comparison) -> str:
    config, rows = comparison.config, comparison.plan.rows
    asked = sum(len(row.configs) for row in rows)
    seen = (
        f"{len(rows)} rows, {len(comparison.cells)} of {asked} runs. Each saw {config.train.images:,} images in crops "
        f"of {config.data.image_size}×{config.data.image_size} pixels, {config.train.batch_size} a step; runs of one "
        "seed start from the same networks and see the same images in the same order."
    )
    parts = ["<header>", f"<h1>Comparison: {escape(comparison.plan.path.stem)}</h1>", paragraph(seen, "muted")]
    parts += [paragraph(note, "note") for note in notes(comparison)]
    return "\n".join([*parts, "</header>"])


def _table(comparison: Comparison) -> str:
    names = quality_figures(comparison)
    parts = [
        paragraph(
            f"Mean and {CONFIDENCE:.0%} interval (Student's t) over seeds, of held-out images. Rows are ranked among "
            f"those of equal rate alone, by {label(names[0]) if names else 'nothing yet'}; of each figure the best "
            "mean is marked. The best mean is no finding: the differences below say what is decided."
        )
    ]
    for group in comparison.groups:
        if len(comparison.groups) > 1:
            parts.append(f"<h3>{escape(group_title(group))}</h3>")
        rows = []
        for place, entry in enumerate(group.entries, start=1):
            marked = (best_marked(group, entry, name, "★ {}") for name in names)
            rows.append((entry.name, _rank(place, group, entry), seeds(entry), *marked))
            rows += [(name, "–", *rest) for name, *rest in continuous_rows(entry, names)]
        parts.append(table(rows, ("row", "rank", "seeds", *map(heading, names)), numbers=range(1, len(names) + 3)))
    if charts := figure_charts(comparison):
        said = (
            f"Bars are the {CONFIDENCE:.0%} intervals of the means, small dots the seeds; a row of one seed has no bar."
        )
        parts += [paragraph(said, "muted"), figures_grid(charts)]
    return "\n".join(parts)


def _rank(place: int, group: Group, entry: Entry) -> str:
    return str(place) if entry.cells and group.common_seeds else "–"


def _differences(comparison: Comparison) -> str:
    rows, header = difference_rows(comparison), difference_header(comparison)
    if not rows:
        return ""
    reference = comparison.plan.reference
    said = paragraph(
        f"Each row less {reference}, seed by seed, over the seeds that both have, with the interval of the mean. "
        f"“better” and “worse” than {reference} stand where the interval excludes 0. Rows of another rate are left "
        "out, and nothing is corrected for the number of comparisons."
    )
    charts = figures_grid(difference_charts(comparison))
    return said + table(rows, ("row", *header[1:]), numbers=range(1, len(header))) + charts


def _codebook(comparison: Comparison) -> str:
    names = [name for name in CODEBOOK_COLUMNS if name in comparison.figures]
    if not names:
        return ""
    rows = [
        (
            entry.name,
            codebook_words(entry.codebook_size, entry.codes_per_position),
            *(best_marked(group, entry, name, "★ {}") for name in names),
        )
        for group in comparison.groups
        for entry in group.entries
    ]
    parts = [
        paragraph(
            "Which codewords the held-out images use, encoded deterministically. The ceiling is what a perfectly "
            "uniform tokenizer would show on so many tokens (T/K a codeword); of several codes a position each is "
            "a token."
        ),
        table(rows, ("row", "K", *map(heading, names)), numbers=range(1, len(names) + 2)),
    ]
    if any(name in QUERIES for name in names):
        sampled = [
            r.name for r in comparison.plan.rows if getattr(r.config.model.quantizer, "quantize", "") == "sample"
        ]
        whose = (
            f" In {', '.join(sampled)} these are sampled latents: noise alone lights up codewords." if sampled else ""
        )
        parts.append(
            paragraph(
                "“Training queries” are what training itself quantized in its last log interval, which is no measure "
                f"of the codebook's use.{whose}",
                "muted",
            )
        )
    return "\n".join(parts)


def _why(comparison: Comparison) -> str:
    found = {entry.name: means(entry.cells.values()) for group in comparison.groups for entry in group.entries}
    if not any(found.values()):
        return ""
    rows = [(name, *table_row(values)) for name, values in found.items()]
    said = (
        "Diagnostics of each run at its end, means over seeds, of at most "
        f"{comparison.config.train.evaluate_images:,} held-out images. The Gaussian bound is what log₂K bits leave of "
        "the variance of Gaussian means; changed tokens are against the checkpoint before the last. What is healthy "
        "is in docs/diagnostics.md; none of it ranks the rows."
    )
    header = ("row", *(column.heading for column in COLUMNS))
    return paragraph(said) + table(rows, header, numbers=range(1, len(header)))


def _curves(comparison: Comparison) -> str:
    rows = [row.name for row in comparison.plan.rows]
    charts = []
    for name in ("psnr", "usage"):
        if drawn := bands(comparison, name):
            charts.append(band_chart(f"{label(name)}, held-out", unit(name), drawn, rows))
    if drawn_points := psnr_against_perplexity(comparison):
        charts.append(point_chart("PSNR against perplexity", "perplexity", "PSNR, dB", drawn_points, rows))
    if len(comparison.groups) > 1 and (at_rate := points(comparison, lambda e, _: e.bits_per_pixel, "psnr")):
        charts.append(point_chart("PSNR against rate", "bits a pixel", "PSNR, dB", at_rate, rows))
    if not charts:
        return ""
    few = comparison.config.train.evaluate_images
    said = (
        "Lines are means over the seeds that all rows have, bands reach from the least to the greatest. On the way "
        f"{few:,} held-out images are measured at most; a point is a run at its end, on all of them."
    )
    return paragraph(said) + figures_grid(charts)


def psnr_against_perplexity(comparison: Comparison) -> list[Points]:
    """The points of that plot, one a cell."""
    return points(comparison, lambda entry, seed: entry.values("perplexity").get(seed), "psnr")


def _pictures(pictures: Pictures | None) -> str:
    if pictures is None:
        return paragraph(
            "No models or images are here to make pictures with: cells alone have none. Runs keep the models of one "
            "seed.",
            "muted",
        )
    parts = [
        paragraph(
            f"The same held-out images, evenly spaced over all, through the models of seed {pictures.seed}: chosen by "
            "their place, not by success."
        )
    ]
    if pictures.absent:
        parts.append(paragraph(f"No model is here of: {', '.join(pictures.absent)}.", "muted"))
    for i, name in enumerate(pictures.names):
        images = {"original": pictures.originals[i]}
        images |= {row: found[i] for row, found in pictures.reconstructions.items()}
        cells = "".join(
            f"<div>{embedded(image, f'{what} of {name}')}<span>{escape(what)}</span></div>"
            for what, image in images.items()
        )
        parts.append(f'<figure class="picture"><div>{cells}</div><figcaption>{escape(name)}</figcaption></figure>')
    return "\n".join(parts)


def _budget(comparison: Comparison) -> str:
    plan, config = comparison.plan, comparison.config
    # What lies where is of this machine.
    budget = {"data": config.data.model_dump(mode="json", exclude={"train", "held_out", "workers", "cache_mib"})}
    budget["train"] = config.train.model_dump(mode="json", include={"images", "batch_size"})
    rows = [(row.name, _given(row.given) or "–", ", ".join(map(str, row.configs))) for row in plan.rows]
    return "\n".join(
        [
            paragraph(
                f"All rows are laid on the recipe {plan.base}, and on what the plan sets for all: "
                f"{_given(plan.shared) or 'nothing'}. The reference is {plan.reference}."
            ),
            table(rows, ("row", "what it sets itself", "seeds")),
            folded("Images and their preparation", table(flat(budget), _SETTING)),
            *(
                folded(
                    f"Configuration of {row.name}",
                    table(flat(row.config.model_dump(mode="json", exclude={"data"})), _SETTING),
                )
                for row in plan.rows
            ),
        ]
    )


def _given(tree: Mapping[str, Any]) -> str:
    places = ("data.train", "data.held_out")
    return ", ".join(f"{name}={value}" for name, value in leaves(tree) if name not in places)


def _protocol(comparison: Comparison) -> str:
    equal, unequal = comparison.protocol()
    if not equal:
        return ""
    by_seed = {cell.seed: cell for cell in comparison.cells}
    images = [
        (f"seed {seed}", f"{cell.protocol.get('images', 0):,}", cell.protocol.get("data_digest", "–"))
        for seed, cell in sorted(by_seed.items())
    ]
    parts = [
        table(flat(equal), _PROTOCOL),
        table(images, ("held out by", "images", "digest of their names"), numbers=(1,)),
    ]
    if unequal:
        parts.append(paragraph(f"Not equal in all cells: {', '.join(unequal)}.", "note"))
    return "\n".join(parts)


def _reproduce(comparison: Comparison, command: str) -> str:
    cells = [
        (
            cell.row,
            str(cell.seed),
            f"{cell.seconds / 60:.1f}",
            str(cell.environment.get("commit") or "–"),
            cell.code,
            cell.environment.get("device", "–"),
        )
        for cell in comparison.cells
    ]
    header = ("row", "seed", "minutes", "commit", "code", "device")
    return "\n".join(
        [
            f"<pre><code>{escape(command)}</code></pre>",
            paragraph("It trains what is missing and leaves what stands; delete a cell's file to have it made anew."),
            folded("Cells", table(cells, header, numbers=(1, 2)) if cells else bullets(["none yet"])),
        ]
    )
