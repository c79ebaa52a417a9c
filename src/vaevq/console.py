"""What the command prints: lines and tables on standard output, progress and mistakes on standard error."""

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from vaevq.training.display import can_redraw, printable

# Names of files and options are shown as they are: nothing in them is markup.
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
_out = Console(**_PLAIN)
_err = Console(stderr=True, **_PLAIN)


MOST_COLUMNS = 10_000
"""Wider than any table."""


class Reached(Protocol):
    """Told how many images are done, and by some how many there are."""

    def __call__(self, done: int, total: int | None = None, /) -> None: ...


def escape_what_cannot_be_written() -> None:
    """Characters that standard output and error cannot hold come as escapes: a file's name may be no valid text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A line that is not broken at the terminal's width, so that it can be copied."""
    _out.print(text, soft_wrap=True)


def counted(count: int, what: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def warn(text: str) -> None:
    """A line on standard error, whatever the name of a file in it holds."""
    _err.print(printable(text), soft_wrap=True)


def say_evaluation(rows: Iterable[tuple[str, str, str]], notes: Iterable[str]) -> None:
    """A table of figures with what they are, and what has to be known before one is quoted."""
    table = Table("figure", "value", "what it is", title="held-out images", title_justify="left")
    for name, value, meaning in rows:
        table.add_row(name, value, meaning)
    _out.print(table)
    for note in notes:
        say(f"note: {note}")


def say_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column names its rows and whose others are numbers.

    No value is cut short: in a terminal that is too narrow the table is turned where that is narrower, so that there
    is a column a row, and values are broken where that does not do; in a file or a pipe there is no width to keep to.
    """
    table = _table(title, header, rows)
    width = _width(table)
    if width <= _out.width:
        _out.print(table)
    elif _out.is_terminal:
        names, *columns = zip(header, *rows, strict=True)
        turned = _table(title, names, columns)
        _out.print(min(table, turned, key=_width))
    else:
        Console(width=width, **_PLAIN).print(table)


def _width(table: Table) -> int:
    """Of a table that has all the room it could take."""
    return _out.measure(table, options=_out.options.update(max_width=MOST_COLUMNS)).maximum


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(header):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def say_rows(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """A table of names and values; values are JSON data."""
    table = Table(title=printable(title), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, printable(_cell(value)))
    _out.print(table)


@contextlib.contextmanager
def progress(what: str, total: int, *, quiet: bool = False) -> Iterator[Reached]:
    """A bar that moves while images are worked on, and is gone afterwards; nothing where there is no terminal.

    Args:
        what: is done with the images.
        total: how many there are.
        quiet: shows nothing.
    """
    console = Console(stderr=True)
    if quiet or not can_redraw(console):
        yield lambda done, total=None, /: None
        return
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "images", TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total=None, /: bar.update(task, completed=done, total=total)


def _cell(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "not known"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.5g}"
        case list():
            return ", ".join(map(_cell, value)) or "none"
        case _:
            return str(value)
