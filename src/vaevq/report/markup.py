"""Pieces of HTML. Every text passes through `escape`: file names may hold anything."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vaevq.config import leaves

MOST_PIXELS = 512
"""The longer side of an embedded picture; a larger one is made smaller, its file stays as it is."""


def escape(text: Any) -> str:
    """Any value as text that is safe in an element and in a quoted attribute."""
    return html.escape(str(text))


def paragraph(text: Any, kind: str = "") -> str:
    """A paragraph of plain text, of class `kind`."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(
    rows: Iterable[Sequence[Any]], header: Sequence[str] = (), numbers: Sequence[int] = (), kind: str = "plain"
) -> str:
    """A table whose first column names its rows.

    Args:
        header: of the columns; none where left out.
        numbers: columns that are aligned to the right.
        kind: its class; of a `stacked` one, the last cells stand below the others on a phone.
    """
    head = ""
    if header:
        cells = "".join(f'<th scope="col"{_aligned(i, numbers)}>{escape(cell)}</th>' for i, cell in enumerate(header))
        head = f"<thead><tr>{cells}</tr></thead>"
    body = []
    for first, *others in rows:
        cells = "".join(f"<td{_aligned(i, numbers)}>{escape(cell)}</td>" for i, cell in enumerate(others, 1))
        body.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return f'<div class="wide"><table class="{kind}">{head}<tbody>{"".join(body)}</tbody></table></div>'


def _aligned(column: int, numbers: Sequence[int]) -> str:
    return ' class="number"' if column in numbers else ""


def folded(summary: str, body: str) -> str:
    """A part that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def figures_grid(charts: Iterable[str]) -> str:
    """Charts beside each other, as many as there is room for."""
    return f'<div class="charts">{"".join(f"<figure>{chart}</figure>" for chart in charts)}</div>'


def bullets(items: Iterable[Any]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def image(path: Path, alt: str, *, smooth: bool = True) -> str:
    """A picture file, embedded as PNG."""
    with Image.open(path) as opened:
        if max(opened.size) > MOST_PIXELS:
            return embedded(opened, alt, smooth=smooth)
        return _embedding(path.read_bytes(), opened.size, alt)


def embedded(drawn: Image.Image, alt: str, *, smooth: bool = True) -> str:
    """A picture, embedded as PNG."""
    size = drawn.size
    if max(size) > MOST_PIXELS:
        scale = MOST_PIXELS / max(size)
        size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        drawn = drawn.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG", optimize=True)
    return _embedding(buffer.getvalue(), size, alt)


def _embedding(data: bytes, size: tuple[int, int], alt: str) -> str:
    kind = ' class="small"' if max(size) < 160 else ""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<img{kind} src="{source}" alt="{escape(alt)}" width="{size[0]}" height="{size[1]}">'


def flat(tree: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The leaves of nested mappings by dotted name, as text for people."""
    return ((name, written(value)) for name, value in leaves(tree))


def written(value: Any) -> str:
    """A JSON value for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, list):
        return ", ".join(written(item) for item in value) or "–"
    return str(value)
