"""What every section of the configuration is, and nested mappings laid on one another."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Reduction = Literal["element", "position", "image"]
"""How a loss becomes a number: the mean over all elements; the sum over channels and mean over positions; the sum
over everything but the batch."""


class Section(BaseModel):
    """A frozen section of the configuration that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with every leaf of `over` laid on top; neither is changed."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def sized(given: Any, sizes: Mapping[Any, Mapping[str, Any]]) -> Any:
    """What was given laid on top of the options that its `size`, if it names one of `sizes`, stands for."""
    size = given.get("size") if isinstance(given, Mapping) else None
    return merged(sizes[size], given) if isinstance(size, str) and size in sizes else given


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted name."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def dig(tree: Any, dotted: str) -> Any:
    """What stands in a tree of mappings and sections under a dotted name; None where there is nothing."""
    for key in dotted.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else getattr(tree, key, None)
    return tree


def check_accumulation(batch_size: int, accumulation: int) -> None:
    """ValueError where a batch does not fall into so many equal micro-batches."""
    if batch_size % accumulation:
        raise ValueError(f"batch_size {batch_size} is no multiple of accumulation {accumulation}")
