"""What generators learn from: both forms of tokens read, sides that share no image, a stream that starts anywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaevq.data.entries import ImageIndex
from vaevq.data.entry import ImageEntry
from vaevq.data.token_set import TokenSet, read_token_set, token_batches
from vaevq.data.token_shards import ShardPlan, claim_folder, shard_path
from vaevq.data.tokens import TokenFile, write_token_file
from vaevq.data.views import Views
from vaevq.errors import UserError


def token_file(names: list[str], codes: int | None = None, **parts: Any) -> TokenFile:
    """Grids of 2×3 whose values tell them apart."""
    rng = np.random.default_rng(len(names))
    shape = (2, 3) if codes is None else (2, 3, codes)
    whole: dict[str, Any] = {
        "tokens": tuple(rng.integers(0, 300, shape) for _ in names),
        "sizes": ((8, 12),) * len(names),
        "names": tuple(names),
        "codebook_size": 300,
        "downsample_factor": 4,
        "model_digest": "0123456789abcdef",
        "labels": tuple(i % 3 for i in range(len(names))),
    }
    return TokenFile(**(whole | parts))


def token_folder(folder: Path, *files: TokenFile, classes: tuple[str, ...] = ("a", "b", "c", "d")) -> Path:
    """A finished folder of shards with these contents."""
    size = max(len(file.names) for file in files)
    entries = tuple(ImageEntry(name, 0, "") for file in files for name in file.names)
    plan = ShardPlan.of(ImageIndex("images", entries, classes), files[0].model_digest, size, Views())
    claim_folder(folder, plan, force=False)
    for number, file in enumerate(files):
        write_token_file(shard_path(folder, number), file)
    return folder


def names(count: int) -> list[str]:
    return [f"c/{i}{mark}.png" for i in range(count) for mark in ("", "@flip")]


@pytest.mark.parametrize("codes", [None, 1, 2])
def test_a_folder_and_a_file_are_read_alike(tmp_path: Path, codes: int | None) -> None:
    one, two = token_file(names(4), codes), token_file(names(7)[8:], codes)
    folder = token_folder(tmp_path / "tokens", one, two)
    whole = TokenFile(
        one.tokens + two.tokens,
        *(
            one.sizes + two.sizes,
            one.names + two.names,
            300,
            4,
            one.model_digest,
            (one.labels or ()) + (two.labels or ()),
        ),
    )
    write_token_file(tmp_path / "t.safetensors", whole)
    of_folder, of_file = read_token_set(folder), read_token_set(tmp_path / "t.safetensors")
    for found in (of_folder, of_file):
        assert np.array_equal(found.tokens, np.stack(whole.tokens))
        assert found.tokens.dtype == np.uint16, "small in memory"
        assert found.labels is not None
        assert found.labels.tolist() == list(whole.labels or ())
        assert (found.grid, found.codes_per_position, found.size) == ((2, 3), codes or 1, (8, 12))
        assert found.names == tuple(f"c/{i}.png" for i in range(7))
        assert found.images.tolist() == [i // 2 for i in range(14)]
        assert found.unchanged.tolist() == [True, False] * 7
    assert (of_folder.class_count, of_folder.classes) == (4, ("a", "b", "c", "d"))
    assert (of_file.class_count, of_file.classes) == (3, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_digest": "f" * 16}, "was made by model ffff"),
        ({"labels": None}, "some shards have labels and others none"),
        (
            {"sizes": ((8, 12), (7, 12)) + ((8, 12),) * 4},
            "'c/4@flip.png' is of 7×12 pixels, 'c/0.png' of 8×12: a generator takes one size; encode with --resize and",
        ),
    ],
)
def test_shards_of_different_kinds_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = token_folder(tmp_path / "t", token_file(names(4)), token_file(names(7)[8:], **change))
    with pytest.raises(UserError, match=message) as caught:
        read_token_set(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_finished_or_none_of_tokens_is_refused(tmp_path: Path) -> None:
    folder = token_folder(tmp_path / "t", token_file(names(4)), token_file(names(7)[8:]))
    shard_path(folder, 1).unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards are not there, the first is shard-00001\.safetensors; run the"):
        read_token_set(folder)
    with pytest.raises(UserError, match="no folder of tokens"):
        read_token_set(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        read_token_set(tmp_path / "nowhere")


@pytest.fixture
def tokens(tmp_path: Path) -> TokenSet:
    write_token_file(tmp_path / "t", token_file(names(10)))
    return read_token_set(tmp_path / "t")


@settings(max_examples=30)
@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_no_image_stands_on_both_sides_and_views_are_not_measured(share: float, seed: int) -> None:
    numbers = np.repeat(np.arange(10), 2)
    made = TokenSet(
        *(np.zeros((20, 1, 1), np.uint8), None, numbers, tuple(map(str, range(10))), np.array([True, False] * 10)),
        *((4, 4), 300, 4, "", (), "here", None),
    )
    train, held_out = made.split(share, seed)
    assert set(numbers[train]) | set(numbers[held_out]) == set(range(10))
    assert not set(numbers[train]) & set(numbers[held_out])
    assert len(held_out) == min(9, max(1, round(share * 10)))
    assert made.unchanged[held_out].all()


def test_a_single_image_cannot_be_split(tmp_path: Path) -> None:
    write_token_file(tmp_path / "t", token_file(["a.png", "a@flip.png"]))
    with pytest.raises(UserError, match="one image alone"):
        read_token_set(tmp_path / "t").split(0.1, 0)


def test_a_stream_from_the_middle_is_the_tail_and_ranks_share_it(tokens: TokenSet) -> None:
    items = np.array([1, 4, 5, 9, 12])

    def stream(start: int, **ranks: int) -> list[list[int]]:
        batches = token_batches(tokens, items, seed=3, start=start, stop=20, batch_size=4, **ranks)
        return [batch.positions.tolist() for batch in batches]

    whole = list(token_batches(tokens, items, seed=3, start=0, stop=20, batch_size=4))
    tail = list(token_batches(tokens, items, seed=3, start=8, stop=20, batch_size=4))
    assert [b.positions.tolist() for b in whole] == [list(range(p, p + 4)) for p in range(0, 20, 4)]
    for one, other in zip(whole[2:], tail, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.labels, other.labels)
    halves = [stream(0, rank=rank, world_size=2) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == stream(0)
    seen = torch.cat([b.tokens for b in whole]).flatten(1)
    for epoch in range(4):
        shown = {tuple(row) for row in seen[5 * epoch : 5 * epoch + 5].tolist()}
        assert shown == {tuple(row) for row in tokens.tokens[items].reshape(5, -1).tolist()}, "each item once an epoch"
    assert not torch.equal(seen[:5], seen[5:10]), "every epoch in an order of its own"


def test_sets_of_different_tokenizers_or_grids_are_told_apart(tokens: TokenSet, tmp_path: Path) -> None:
    tokens.check_like(tokens)
    named = read_token_set(token_folder(tmp_path / "named", token_file(names(4))))
    tokens.check_like(named)  # a file does not know the names of its classes
    other = read_token_set(token_folder(tmp_path / "other", token_file(names(4)), classes=("x", "y", "z")))
    with pytest.raises(UserError, match="are of different classes: "):
        named.check_like(other)
    write_token_file(tmp_path / "o", token_file(names(2), model_digest="f" * 16))
    with pytest.raises(UserError, match="are of different model_digest: ffff"):
        tokens.check_like(read_token_set(tmp_path / "o"))


def test_slices_of_one_subject_stand_on_one_side_and_shared_subjects_are_refused(tmp_path: Path) -> None:
    slices = [f"s{i // 4}-axial-{i % 4}" for i in range(24)]
    subjects = tuple(name.partition("-")[0] for name in slices)
    found = read_token_set(token_folder(tmp_path / "tokens", token_file(slices, subjects=subjects)))
    train, held_out = found.split(0.2, 0)
    sides = [{subjects[i] for i in side} for side in (train, held_out)]
    assert len(sides[1]) == 1
    assert sides[0].isdisjoint(sides[1])
    assert sides[0] | sides[1] == set(subjects)
    write_token_file(tmp_path / "other", token_file(["s0-coronal-1"], subjects=("s0",)))
    with pytest.raises(UserError, match=r"1 subjects of .* are in .* too, s0 first"):
        found.check_apart_from(read_token_set(tmp_path / "other"))
    with pytest.raises(UserError, match=r"data\.held_out: .* is data\.tokens as well"):
        found.check_apart_from(found)
