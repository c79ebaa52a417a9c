"""VAEVQ: discrete visual tokenizers that use their whole codebook.

`vaevq.Tokenizer` is imported on first use, so that the command answers before torch is loaded.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vaevq.errors import UserError

if TYPE_CHECKING:
    from vaevq.tokenizer import Tokenizer

__version__ = version("vaevq")
__all__ = ["Tokenizer", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":
        from vaevq.tokenizer import Tokenizer

        return Tokenizer
    raise AttributeError(f"module 'vaevq' has no attribute '{name}'")
