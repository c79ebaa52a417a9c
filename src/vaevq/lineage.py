"""Which earlier models a model comes from, and what their tokens are called in its own codebook.

Growth appends indices, so an old index stays what it was; a shrink has a map. Maps are kept once each, in their order,
and an ancestor says how many of them were behind it: its own map is the rest, one after another.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from vaevq.errors import UserError
from vaevq.files import write_text

FORMAT = "vaevq-lineage"
FORMAT_VERSION = 1
LINEAGE_FILE = "lineage.json"


@dataclass(frozen=True)
class Ancestor:
    """An earlier model that was saved.

    Attributes:
        digest: `Tokenizer.digest`.
        codebook_size: its K.
        shrinks: how many shrinks were behind it.
    """

    digest: str
    codebook_size: int
    shrinks: int


@dataclass(frozen=True)
class Lineage:
    """The saved states that a model was trained on from, of its run and of what that run started from.

    Attributes:
        shrinks: of each shrink of the codebook the new index of every old one, the earliest first.
        ancestors: the earliest first.
    """

    shrinks: tuple[tuple[int, ...], ...] = ()
    ancestors: tuple[Ancestor, ...] = ()

    def after_saving(self, digest: str, codebook_size: int) -> Self:
        """Of what follows on a model that has just been saved."""
        if self.ancestors and self.ancestors[-1].digest == digest:
            return self
        ancestor = Ancestor(digest, codebook_size, len(self.shrinks))
        return type(self)(self.shrinks, (*self.ancestors, ancestor))

    def after_shrinking(self, target: tuple[int, ...]) -> Self:
        """After a shrink with this map. What nobody was saved before is not kept."""
        return type(self)((*self.shrinks, target), self.ancestors) if self.ancestors else self

    def ancestor(self, digest: str) -> Ancestor | None:
        """The earlier model of this digest; the last where it was saved more than once."""
        return next((found for found in reversed(self.ancestors) if found.digest == digest), None)

    def map_from(self, ancestor: Ancestor) -> npt.NDArray[np.int64]:
        """The present index of each of its codewords, int64 K."""
        indices = np.arange(ancestor.codebook_size, dtype=np.int64)
        for target in self.shrinks[ancestor.shrinks :]:
            indices = np.asarray(target, dtype=np.int64)[indices]
        return indices

    def to_json(self) -> dict[str, Any]:
        """Plain data, of lineage.json and of checkpoints."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "ancestors": [dict(vars(ancestor)) for ancestor in self.ancestors],
            "shrinks": [list(target) for target in self.shrinks],
        }

    @classmethod
    def from_json(cls, tree: Any, codebook_size: int, source: str) -> Self:
        """What `to_json` gave.

        Args:
            tree: plain data.
            codebook_size: K of the model that it belongs to.
            source: what messages call it.

        Raises:
            UserError: it is not of this format or does not fit together.
        """
        if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
            raise UserError(f"{source}: no lineage of a vaevq model")
        if tree.get("format_version") != FORMAT_VERSION:
            raise UserError(f"{source}: format version {tree.get('format_version')}, this vaevq reads {FORMAT_VERSION}")
        try:
            ancestors = [(str(a["digest"]), int(a["codebook_size"]), int(a["shrinks"])) for a in tree["ancestors"]]
            found = cls(
                tuple(tuple(map(int, target)) for target in tree["shrinks"]), tuple(Ancestor(*a) for a in ancestors)
            )
            for ancestor in found.ancestors:
                indices = found.map_from(ancestor)
                if not 0 <= ancestor.shrinks <= len(found.shrinks) or indices.min() < 0:
                    raise ValueError
                if indices.max() >= codebook_size:
                    raise ValueError
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"{source}: damaged: its maps do not lead into a codebook of {codebook_size}") from None
        return found

    def write(self, folder: Path) -> None:
        """Writes lineage.json into a model folder; a model without ancestors has none."""
        if self.ancestors:
            write_text(folder / LINEAGE_FILE, json.dumps(self.to_json()) + "\n")
        else:
            (folder / LINEAGE_FILE).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path, codebook_size: int) -> Self:
        """Of a model folder; without ancestors where there is no file. UserError where it is damaged."""
        path = folder / LINEAGE_FILE
        if not path.is_file():
            return cls()
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{path}: not valid JSON") from None
        return cls.from_json(tree, codebook_size, str(path))
