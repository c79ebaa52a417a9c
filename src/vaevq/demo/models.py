"""What the page shows: a tokenizer, and where there is one a generator of its tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaevq.config import RunConfig, VolumesConfig, read_json
from vaevq.errors import UserError
from vaevq.generation.generator import Generator
from vaevq.inspection import is_generator
from vaevq.tokenizer import Tokenizer


@dataclass(frozen=True)
class Models:
    """In evaluation mode, on one device.

    Attributes:
        name: what the user called them.
        tokenizer: of the photos.
        generator: decodes with the same tokenizer; None where none was named.
        volumes: how the tokenizer takes volumes; None where it is not for them.
    """

    name: str
    tokenizer: Tokenizer
    generator: Generator | None
    volumes: VolumesConfig | None = None


def load_models(model: str, generator: str | None, device: torch.device) -> Models:
    """Reads them.

    Args:
        model: a run folder, a model folder or a hub name, of a tokenizer or of a generator with its own.
        generator: the same of a generator of the tokenizer's tokens.

    Raises:
        UserError: one of them cannot be read, or they do not belong together.
    """
    folder = Path(model)
    if not any(map(is_generator, (folder, folder / "model"))):
        tokenizer = Tokenizer.from_pretrained(model).to(device)
        made = None if generator is None else Generator.from_pretrained(generator, tokenizer=tokenizer).to(device)
        return Models(model, tokenizer, made, volumes_of(folder, tokenizer))
    if generator is not None:
        raise UserError(f"{model}: a generator, so --generator has no effect: name its tokenizer first, or it alone")
    made = Generator.from_pretrained(model).to(device)
    return Models(model, made.tokenizer.to(device), made)


def volumes_of(folder: Path, tokenizer: Tokenizer) -> VolumesConfig | None:
    """How a tokenizer takes slices of volumes; None where it is not for them.

    A run folder says what it was trained on, and how slices were taken. Of a model alone it is not known: one of three
    channels is taken for photos, another takes volumes by the defaults, several channels from the fourth axis.
    """
    if (folder / "split.json").is_file():
        config = read_json(RunConfig, folder / "config.json").data.volumes
        # Contrasts are chosen where a data set has several; here a file is dropped.
        free = config.model_copy(update={"contrasts": config.contrasts if config.stack == "channels" else None})
        return free if "train_subjects" in _read_split(folder) else None
    channels = tokenizer.config.autoencoder.image_channels
    if channels == 3:
        return None
    return VolumesConfig(fourth="volumes" if channels == 1 else "channels")


def _read_split(folder: Path) -> dict[str, Any]:
    """split.json of a run folder. UserError where it is damaged."""
    path = folder / "split.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: not valid JSON; run the training command again to write it anew")
    return tree
