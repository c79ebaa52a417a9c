"""Many entries in a few arrays: a million Python objects take three times as much, and a forked worker that only looks
at them comes to hold a copy of its own, since looking counts references.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from vaevq.data.entry import ImageEntry

Integers = npt.NDArray[np.int64]
_NONE = -1
_AT_ONCE = 4096


@dataclass(frozen=True)
class _Texts:
    """Texts end to end; `starts` and `ends` of each, so that a selection shares them all."""

    data: bytes
    starts: Integers
    ends: Integers

    @classmethod
    def of(cls, texts: Iterable[str]) -> "_Texts":
        data, ends = bytearray(), [0]
        for text in texts:
            data += text.encode("utf-8", "surrogatepass")
            ends.append(len(data))
        bounds = np.array(ends, np.int64)
        return cls(bytes(data), bounds[:-1], bounds[1:])

    def __iter__(self) -> Iterator[str]:
        bounds = zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return (self.data[start:end].decode("utf-8", "surrogatepass") for start, end in bounds)

    def take(self, at: Any) -> "_Texts":
        return replace(self, starts=self.starts[at], ends=self.ends[at])


@dataclass(frozen=True, eq=False)
class PackedEntries(Sequence[ImageEntry]):
    """Entries of images, made anew each time that one is looked at.

    Most files end in their name, and what is before it is the same for all of a folder: it is kept once.
    """

    names: _Texts
    heads: _Texts
    head_of: Integers
    ends_in_name: npt.NDArray[np.bool_]
    labels: Integers
    offsets: Integers
    sizes: Integers

    @classmethod
    def of(cls, entries: Sequence[ImageEntry]) -> "PackedEntries":
        """Packs entries; those of a subclass would lose what they know besides."""
        heads: dict[str, int] = {}
        ends_in_name = np.array([entry.file.endswith(entry.name) for entry in entries], bool)
        head_of = [
            heads.setdefault(entry.file.removesuffix(entry.name) if joined else entry.file, len(heads))
            for entry, joined in zip(entries, ends_in_name, strict=True)
        ]
        return cls(
            names=_Texts.of(entry.name for entry in entries),
            heads=_Texts.of(heads),
            head_of=np.array(head_of, np.int64),
            ends_in_name=ends_in_name,
            labels=_integers(entry.label for entry in entries),
            offsets=_integers(entry.offset for entry in entries),
            sizes=_integers(entry.size for entry in entries),
        )

    def __len__(self) -> int:
        return len(self.head_of)

    def __iter__(self) -> Iterator[ImageEntry]:
        for start in range(0, len(self), _AT_ONCE):
            part = self[start : start + _AT_ONCE]
            heads = part.heads.take(part.head_of)
            columns = (part.ends_in_name, part.labels, part.offsets, part.sizes)
            rows = zip(part.names, heads, *(column.tolist() for column in columns), strict=True)
            for name, head, joined, label, offset, size in rows:
                yield ImageEntry(name, _or_none(label), head + name if joined else head, offset, _or_none(size))

    @overload
    def __getitem__(self, at: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, at: slice) -> "PackedEntries": ...
    def __getitem__(self, at: int | slice) -> "ImageEntry | PackedEntries":
        if isinstance(at, slice):
            return self.take(at)
        return next(iter(self.take([range(len(self))[at]])))

    def take(self, at: Any) -> "PackedEntries":
        """Those at a slice, or at an array of positions, in that order; their texts stay where they are."""
        rest = ("head_of", "ends_in_name", "labels", "offsets", "sizes")
        return replace(self, names=self.names.take(at), **{name: getattr(self, name)[at] for name in rest})


def _integers(values: Iterable[int | None]) -> Integers:
    return np.array([_NONE if value is None else value for value in values], np.int64)


def _or_none(value: int) -> int | None:
    return None if value == _NONE else value
