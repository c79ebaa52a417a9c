"""What a user did wrong, said in one line. The command prints it and exits with 2; a library caller can catch it."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """Bad input: the message is one line that names the file, field or option at fault and how to mend it."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def refuse(file: Path, reason: str) -> NoReturn:
    """Raises the UserError of a file that cannot be taken."""
    raise UserError(f"{file}: {reason}")
