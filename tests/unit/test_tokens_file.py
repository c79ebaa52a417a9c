"""The token file: round trips of any shape, and one clear line for whatever is wrong with one."""

import json
import pickle
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vaevq.data.tokens import TokenFile, _checksum, read_token_file, write_token_file
from vaevq.errors import UserError


def example(codebook_size: int = 300, labels: tuple[int, ...] | None = (2, 0, 2)) -> TokenFile:
    rng = np.random.default_rng(0)
    sizes = ((16, 24), (17, 24), (1, 8))
    return TokenFile(
        tokens=tuple(rng.integers(0, codebook_size, (-(-h // 8), -(-w // 8))) for h, w in sizes),
        sizes=sizes,
        names=("a.jpg", "b/ü.png", "c\udcff.png"),
        codebook_size=codebook_size,
        downsample_factor=8,
        model_digest="0123456789abcdef",
        labels=labels,
    )


def content(file: TokenFile) -> tuple[Any, ...]:
    """Everything in a token file, comparable."""
    grids = [(grid.shape, grid.dtype, grid.tolist()) for grid in file.tokens]
    parts = (file.sizes, file.names, file.codebook_size, file.downsample_factor, file.model_digest, file.labels)
    parts += (file.codebooks,)
    return (grids, *parts)


def rewritten(path: Path, tensors: dict[str, Any] | None = None, **metadata: str | None) -> None:
    """Changes a token file as a careless program would, with a checksum that fits."""
    old = load_file(path)
    with safe_open(path, framework="np") as opened:
        stated = dict(opened.metadata())
    changed = {name: value for name, value in (stated | metadata).items() if value is not None}
    arrays = {name: value for name, value in (old | (tensors or {})).items() if value is not None}
    if metadata.get("checksum", "") == "":
        changed["checksum"] = _checksum(changed, arrays)
    save_file(arrays, path, changed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_token_file(tmp_path / "tokens.safetensors", example())
    return tmp_path / "tokens.safetensors"


@st.composite
def token_files(draw: st.DrawFn) -> TokenFile:
    size = draw(st.sampled_from([2, 3, 255, 256, 257, 65_535, 65_536, 65_537, 2**31]))
    factor = draw(st.sampled_from([1, 4, 8, 16]))
    codes = draw(st.sampled_from([None, 1, 3]))
    side = st.integers(1, 3 * factor)
    sizes = draw(st.lists(st.tuples(side, side), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = [(-(-h // factor), -(-w // factor)) + ((codes,) if codes else ()) for h, w in sizes]
    tokens = [rng.integers(0, size, shape) for shape in shapes]
    tokens[-1].flat[-1] = size - 1  # the largest one has to survive
    names = draw(st.lists(st.text(max_size=8), min_size=len(sizes), max_size=len(sizes)))
    labels = draw(st.none() | st.lists(st.integers(0, 10**6), min_size=len(sizes), max_size=len(sizes)))
    digest = draw(st.text("0123456789abcdef", min_size=16, max_size=16))
    return TokenFile(
        *(tuple(tokens), tuple(sizes), tuple(names), size, factor, digest),
        labels=None if labels is None else tuple(labels),
        codebooks=draw(st.sampled_from([1, codes or 1])),
    )


@settings(max_examples=120, deadline=None)
@given(token_files())
def test_round_trip(file: TokenFile) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "tokens.safetensors"
        write_token_file(path, file)
        assert content(read_token_file(path)) == content(file)
        assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing is left aside"


@pytest.mark.parametrize(
    ("codebook_size", "dtype"),
    [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "int32")],
)
def test_tokens_take_the_smallest_type_that_holds_the_codebook(tmp_path: Path, codebook_size: int, dtype: str) -> None:
    write_token_file(tmp_path / "t", example(codebook_size))
    assert load_file(tmp_path / "t")["tokens"].dtype == dtype
    assert read_token_file(tmp_path / "t").tokens[0].dtype == np.int64


def test_a_file_is_overwritten_by_force_alone(path: Path) -> None:
    before = path.read_bytes()
    other = example(codebook_size=400, labels=None)
    with pytest.raises(UserError, match=r"tokens\.safetensors already there; --force overwrites"):
        write_token_file(path, other)
    assert path.read_bytes() == before
    write_token_file(path, other, force=True)
    assert content(read_token_file(path)) == content(other)


def test_a_folder_that_is_a_file_is_the_users_mistake(path: Path) -> None:
    with pytest.raises(UserError, match="cannot be made a folder"):
        write_token_file(path / "below.safetensors", example())


def test_another_model_is_refused_and_both_are_named(path: Path) -> None:
    file = read_token_file(path)
    file.check_model("0123456789abcdef", 300)
    for digest, size in (("feedfeedfeedfeed", 300), ("0123456789abcdef", 512)):
        expected = (
            rf"tokens\.safetensors was made by model 0123456789abcdef \(K = 300\), this model is {digest} \(K = {size}"
        )
        with pytest.raises(UserError, match=expected):
            file.check_model(digest, size)


def test_files_of_other_kinds_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(UserError, match=r"t\.safetensors: no such file"):
        read_token_file(path)
    for foreign in (pickle.dumps({"tokens": [1, 2, 3]}), b"", b"\x00" * 64, b"\xff" * 64):
        path.write_bytes(foreign)
        with pytest.raises(UserError, match=r"t\.safetensors: not a safetensors file, or cut short"):
            read_token_file(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(UserError, match="a safetensors file, but not a vaevq token file"):
        read_token_file(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"t\.safetensors: "):
        read_token_file(path)


int32 = np.int32
DAMAGES: dict[str, tuple[dict[str, Any], dict[str, str | None], str]] = {
    "version": ({}, {"format_version": "3"}, "token format version 3, this vaevq reads versions 1 and 2"),
    "no digest": ({}, {"model_digest": None}, "its metadata should hold"),
    "checksum": ({}, {"checksum": "00"}, "its checksum does not match"),
    "codebook size": ({}, {"codebook_size": "-5"}, "its codebook_size is '-5', not a number"),
    "codebook size of one": ({}, {"codebook_size": "1"}, "codebook size 1 .* no model's"),
    "codebook too small": ({}, {"codebook_size": "100"}, "token [0-9]+ is outside the codebook of 100"),
    "factor": ({}, {"downsample_factor": "4"}, "'a.jpg': a grid of 2×3 tokens does not fit .* 16×24 pixels"),
    "factor of zero": ({}, {"downsample_factor": "0"}, "downsampling factor 0"),
    "codes": ({}, {"codes_per_position": "2"}, "codes_per_position is 2"),
    "codebooks": ({}, {"codebooks": "2"}, "2 codebooks for 1 codes a position"),
    "codebooks are no number": ({}, {"codebooks": "many"}, "codebooks"),
    "names": ({}, {"names": '["a"]'}, "1 names for the tokens of 3 images"),
    "names are no list": ({}, {"names": "{"}, "names are no JSON list of strings"),
    "names are numbers": ({}, {"names": "[1, 2, 3]"}, "names are no JSON list of strings"),
    "names are deep": ({}, {"names": "[" * 100_000}, "names are no JSON list of strings"),
    "float tokens": ({"tokens": np.zeros(14, np.float32)}, {}, "'tokens' is of type F32"),
    "negative tokens": ({"tokens": np.full(16, -1, int32)}, {}, "token -1 is outside the codebook"),
    "too few tokens": ({"tokens": np.zeros(15, np.uint16)}, {}, "grids do not add up to its 15 tokens"),
    "tokens in a square": ({"tokens": np.zeros((4, 4), np.uint16)}, {}, r"shapes of tokens, grids and sizes"),
    "negative grids": ({"grids": -np.array([[2, 3], [3, 3], [1, 1]], int32)}, {}, "grids do not add up"),
    "huge grids": ({"grids": np.full((3, 2), 2**31 - 1, int32)}, {}, "grids do not add up"),
    "no grids": ({"grids": np.zeros((0, 2), int32)}, {}, "shapes of tokens, grids and sizes"),
    "grids of one side": ({"grids": np.ones((3, 1), int32)}, {}, "shapes of tokens, grids and sizes"),
    "sizes": ({"sizes": np.array([[16, 24], [16, 24], [1, 8]], int32)}, {}, r"'b/ü\.png': a grid of 3×3"),
    "sizes of zero": ({"sizes": np.zeros((3, 2), int32)}, {}, "does not fit an image of 0×0"),
    "labels": ({"labels": np.zeros(2, np.int64)}, {}, "2 labels for the tokens of 3 images"),
    "labels in a square": ({"labels": np.zeros((3, 1), np.int64)}, {}, r"labels are of shape \(3, 1\)"),
    "a tensor too many": ({"extra": np.zeros(2)}, {}, "it holds the tensors extra, grids"),
    "a tensor too few": ({"sizes": None}, {}, "it holds the tensors grids, labels, tokens"),
    "nothing": (
        {
            "tokens": np.zeros(0, np.uint8),
            "grids": np.zeros((0, 2), int32),
            "sizes": np.zeros((0, 2), int32),
            "labels": None,
        },
        {"names": "[]"},
        "its 0 grids do not add up to its 0 tokens",
    ),
    "grids whose product wraps around": (
        {"grids": np.full((3, 3), 2**22, int32)},
        {},
        "grids do not add up",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_part_is_named_in_one_line(path: Path, damage: str) -> None:
    tensors, metadata, expected = DAMAGES[damage]
    rewritten(path, tensors, **metadata)
    with pytest.raises(UserError, match=expected) as caught:
        read_token_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_the_rewriting_of_these_tests_alone_does_no_damage(path: Path) -> None:
    rewritten(path)
    assert content(read_token_file(path)) == content(example())


def test_flipped_bytes_and_truncations_are_noticed(path: Path) -> None:
    whole, expected = path.read_bytes(), content(example())
    rng = random.Random(0)
    flips = [(rng.randrange(len(whole)), rng.randrange(1, 256)) for _ in range(300)]
    damaged = [whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :] for at, bits in flips]
    damaged += [whole[:length] for length in rng.sample(range(len(whole)), 100)]
    damaged += [whole + b"\0", whole * 2]
    noticed = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            read = read_token_file(path)
        except UserError:
            noticed += 1
        else:
            assert content(read) == expected
    assert noticed > 0.9 * len(damaged)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"names": ("a", "b")}, "2 names for the tokens of 3 images"),
        ({"labels": (1,)}, "1 labels for the tokens of 3 images"),
        ({"codebook_size": 5}, "outside the codebook of 5"),
        ({"sizes": ((16, 24), (17, 24), (9, 8))}, "does not fit an image of 9×8 pixels"),
        ({"tokens": (), "sizes": (), "names": (), "labels": None}, "at least one image"),
        ({"tokens": tuple(grid.astype(float) for grid in example().tokens)}, "tokens are integers"),
        ({"tokens": tuple(np.stack([grid] * n, -1) for n, grid in enumerate(example().tokens, 1))}, "does not fit"),
    ],
)
def test_parts_that_do_not_fit_make_no_token_file(change: dict[str, Any], expected: str) -> None:
    parts = {name: getattr(example(), name) for name in TokenFile.__dataclass_fields__}
    with pytest.raises(UserError, match=expected):
        TokenFile(**(parts | change))


def test_the_documented_checksum_can_be_computed_without_this_package(path: Path) -> None:
    import hashlib

    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__")
    stated = metadata.pop("checksum")
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    types = {"U16": "uint16", "I32": "int32", "I64": "int64"}
    for name, part in sorted(header.items()):
        digest.update((name + types[part["dtype"]] + json.dumps(part["shape"])).encode())
        start, stop = part["data_offsets"]
        digest.update(raw[8 + length + start : 8 + length + stop])
    assert digest.hexdigest() == stated
