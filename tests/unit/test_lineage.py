"""Ancestors and the maps from their indices."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaevq.codec.images import fitting
from vaevq.config import TokenizerConfig
from vaevq.data.tokens import TokenFile
from vaevq.errors import UserError
from vaevq.lineage import LINEAGE_FILE, Lineage
from vaevq.tokenizer import Tokenizer


@st.composite
def histories(draw: st.DrawFn) -> tuple[Lineage, list[tuple[str, int, list[int]]], int]:
    """A lineage, what each of its ancestors' indices has become, kept by hand, and K now."""
    size, lineage, kept = draw(st.integers(2, 12)), Lineage(), list[tuple[str, int, list[int]]]()
    for number in range(draw(st.integers(1, 8))):
        match draw(st.sampled_from(["save", "grow", "shrink"])):
            case "save":
                lineage = lineage.after_saving(f"model{number}", size)
                kept.append((f"model{number}", size, list(range(size))))
            case "grow":
                size += draw(st.integers(1, 5))
            case "shrink" if size > 2:
                fewer = draw(st.integers(1, size - 1))
                target = draw(st.lists(st.integers(0, fewer - 1), min_size=size, max_size=size))
                lineage, size = lineage.after_shrinking(tuple(target)), fewer
                kept = [(name, was, [target[index] for index in indices]) for name, was, indices in kept]
    return lineage, kept, size


@settings(deadline=None)
@given(histories())
def test_maps_are_those_of_every_step_one_after_another(
    history: tuple[Lineage, list[tuple[str, int, list[int]]], int],
) -> None:
    lineage, kept, size = history
    lineage = Lineage.from_json(json.loads(json.dumps(lineage.to_json())), size, "file")
    for digest, was, indices in kept:
        ancestor = lineage.ancestor(digest)
        assert ancestor is not None
        assert ancestor.codebook_size == was
        assert lineage.map_from(ancestor).tolist() == indices
    assert lineage.ancestor("stranger") is None


def test_a_shrink_that_no_saved_model_has_seen_is_not_kept() -> None:
    assert Lineage().after_shrinking((0, 0)) == Lineage()
    saved = Lineage().after_saving("a", 2)
    assert saved.after_saving("a", 2) == saved
    assert saved.after_shrinking((0, 0)).shrinks == ((0, 0),)


def test_a_model_without_ancestors_has_no_file(tmp_path: Path) -> None:
    Lineage().after_saving("a", 2).write(tmp_path)
    assert (tmp_path / LINEAGE_FILE).is_file()
    Lineage().write(tmp_path)
    assert not (tmp_path / LINEAGE_FILE).exists()
    assert Lineage.read(tmp_path, 2) == Lineage()


GOOD: dict[str, Any] = Lineage().after_saving("a", 3).after_shrinking((0, 1, 1)).to_json()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "else"}, "no lineage of a vaevq model"),
        ({"format_version": 2}, "format version 2, this vaevq reads 1"),
        ({"shrinks": [[0, 1, 7]]}, "its maps do not lead into a codebook of 2"),
        ({"shrinks": [[0]]}, "its maps do not lead into"),
        ({"shrinks": [[0, -1, 1]]}, "its maps do not lead into"),
        ({"shrinks": "abc"}, "its maps do not lead into"),
        ({"ancestors": [{"digest": "a", "codebook_size": 3, "shrinks": -1}]}, "its maps do not lead into"),
        ({"ancestors": [{"digest": "a", "codebook_size": 3, "shrinks": 2}]}, "its maps do not lead into"),
        ({"ancestors": [{"digest": "a"}]}, "its maps do not lead into"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    (tmp_path / LINEAGE_FILE).write_text(json.dumps(GOOD | changed))
    with pytest.raises(UserError, match=LINEAGE_FILE) as caught:
        Lineage.read(tmp_path, 2)
    assert message in str(caught.value)
    (tmp_path / LINEAGE_FILE).write_text(json.dumps(GOOD))
    assert np.array_equal(Lineage.read(tmp_path, 2).map_from(Lineage.read(tmp_path, 2).ancestors[0]), [0, 1, 1])


def test_no_remap_is_offered_for_tokens_of_another_number_of_codes() -> None:
    network = {"base_width": 8, "multipliers": [1, 1], "blocks": 1}
    quantizer = {"kind": "movq", "codebook_size": 16, "code_dim": 4, "codes_per_position": 2}
    tokenizer = Tokenizer(TokenizerConfig.model_validate({"autoencoder": network, "quantizer": quantizer}))
    tokenizer.lineage = Lineage().after_saving("ancestor", 16)
    f = tokenizer.downsample_factor
    one, two = (
        TokenFile((np.zeros(shape, np.int64),), ((f, f),), ("a",), 16, f, "ancestor") for shape in ((1, 1), (1, 1, 2))
    )
    with pytest.raises(UserError, match="--remap"):
        fitting(tokenizer, two)
    for remap in (False, True):
        with pytest.raises(UserError, match="decode it with the model that made it"):
            fitting(tokenizer, one, remap=remap)
