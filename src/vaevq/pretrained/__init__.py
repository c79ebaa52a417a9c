"""The tokenizers in the box: run folders that come with the package and are found by name, without a network."""

from pathlib import Path
from typing import Final

DEFAULT: Final = "photos-f8"
"""What verbs take where no model is named: general photos, f = 8, K = 16,384 (docs/photos-f8.md)."""

_BOX = Path(__file__).parent


def packaged(name: str) -> Path | None:
    """The model folder of a tokenizer in the box, or None where none has the name."""
    return _BOX / name / "model" if name.rstrip("/") in names() else None


def names() -> tuple[str, ...]:
    """The tokenizers in the box, by name."""
    return tuple(sorted(folder.name for folder in _BOX.iterdir() if (folder / "model").is_dir()))
