"""How figures are declared once, with their format and their meaning, and shown as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from vaevq.metrics.result import FigureRow

SHOWN = 6
"""How many entries of a vector a table shows; JSON has all."""


class Shown(NamedTuple):
    """How a figure is written, with its unit, and what it is; stands in the annotation of a dataclass's field."""

    form: str
    meaning: str


def rows_of(section: Any) -> list[FigureRow]:
    """The figures of a dataclass whose fields are `Annotated[..., Shown(form, meaning)]`, in their order.

    None, a figure that this quantizer does not have, is left out.
    """
    return rows_from(type(section), vars(section))


def rows_from(kind: type, values: Mapping[str, Any]) -> list[FigureRow]:
    """The same of the figures by name, as JSON has them; one that is not there is left out too."""
    rows = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        value = values.get(name)
        if value is not None:
            form, meaning = next(part for part in hint.__metadata__ if isinstance(part, Shown))
            rows.append(FigureRow(name, _text(form, value), meaning))
    return rows


def ratio(part: float, whole: float) -> float | None:
    """`part / whole`; None, which JSON knows, where there is nothing to divide by."""
    return part / whole if whole > 0 else None


def _text(form: str, value: float | Sequence[float]) -> str:
    if not isinstance(value, Sequence):
        return form.format(value)
    more = f" … ({len(value)})" if len(value) > SHOWN else ""
    return ", ".join(form.format(entry) for entry in value[:SHOWN]) + more
