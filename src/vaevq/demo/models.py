"""What the page shows: a tokenizer, and where there is one a generator of its tokens."""

from dataclasses import dataclass
from pathlib import Path

import torch

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
    """

    name: str
    tokenizer: Tokenizer
    generator: Generator | None


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
        return Models(model, tokenizer, made)
    if generator is not None:
        raise UserError(f"{model}: a generator, so --generator has no effect: name its tokenizer first, or it alone")
    made = Generator.from_pretrained(model).to(device)
    return Models(model, made.tokenizer.to(device), made)
