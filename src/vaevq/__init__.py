"""VAEVQ: discrete visual tokenizers that use their whole codebook.

`vaevq.Tokenizer` and `vaevq.Generator` are imported on first use, so that the command answers before torch is loaded.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vaevq.errors import UserError

if TYPE_CHECKING:
    from vaevq.generation.generator import Generator
    from vaevq.interop.diffusers import DiffusersTokenizer
    from vaevq.tokenizer import Tokenizer

__version__ = version("vaevq")
__all__ = ["DiffusersTokenizer", "Generator", "Tokenizer", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":
        from vaevq.tokenizer import Tokenizer

        return Tokenizer
    if name == "Generator":
        from vaevq.generation.generator import Generator

        return Generator
    if name == "DiffusersTokenizer":  # diffusers looks here for the class of a saved pipeline's part
        from vaevq.interop.diffusers import DiffusersTokenizer

        return DiffusersTokenizer
    raise AttributeError(f"module 'vaevq' has no attribute '{name}'")
