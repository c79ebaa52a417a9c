"""Held-out images are whole groups, the same on every machine, and never trained on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaevq.data.entries import ImageIndex
from vaevq.data.entry import ImageEntry
from vaevq.data.split import check_disjoint, split
from vaevq.errors import UserError


def index_of(names: list[str], folder: str = "") -> ImageIndex:
    return ImageIndex("photos", tuple(ImageEntry(name, None, f"{folder}{name}") for name in names))


def shoots(sizes: list[int]) -> ImageIndex:
    return index_of([f"shoot {chr(97 + i)}-{n}.jpg" for i, size in enumerate(sizes) for n in range(1, size + 1)])


@given(st.lists(st.integers(1, 12), min_size=2, max_size=12), st.floats(0.01, 0.99), st.integers(0, 5))
def test_groups_stay_whole_neither_side_is_empty_and_order_is_kept(sizes: list[int], share: float, seed: int) -> None:
    index = shoots(sizes)
    parts = split(index, share, "shoot", seed)
    assert len(parts.train) > 0
    assert len(parts.held_out) > 0
    assert not {e.group for e in parts.train} & {e.group for e in parts.held_out}
    assert {e.name for e in parts.train} | {e.name for e in parts.held_out} == {e.name for e in index}
    for part in (parts.train, parts.held_out):
        places = [index.entries.index(e) for e in part]
        assert places == sorted(places)


@given(st.integers(2, 60), st.floats(0.01, 0.99))
def test_single_files_give_the_share_to_the_image(count: int, share: float) -> None:
    held_out = split(index_of([f"{i}.jpg" for i in range(count)]), share, "file", 0).held_out
    assert len(held_out) in (1, count - 1) or abs(len(held_out) - share * count) <= 0.5


def test_one_large_group_does_not_push_the_share_far_off() -> None:
    for seed in range(20):
        held_out = split(shoots([40, *[2] * 30]), 0.2, "shoot", seed).held_out
        assert abs(len(held_out) - 20) <= 1


def test_the_split_depends_on_seed_and_names_alone() -> None:
    names = [f"{i}.jpg" for i in range(40)]
    first = split(index_of(names), 0.25, "file", 3).held_out
    assert [e.name for e in first] == [e.name for e in split(index_of(names, "/else/"), 0.25, "file", 3).held_out]
    assert {e.name for e in first} == {e.name for e in split(index_of(names[::-1]), 0.25, "file", 3).held_out}
    assert {e.name for e in first} != {e.name for e in split(index_of(names), 0.25, "file", 4).held_out}


def test_a_known_split_never_changes() -> None:
    held_out = split(index_of([f"{i}.jpg" for i in range(12)]), 0.25, "file", 0).held_out
    assert [e.name for e in held_out] == ["1.jpg", "7.jpg", "8.jpg"]


def test_names_that_are_no_valid_text_are_split_too() -> None:
    names = [f"n\udce9{i}.jpg" for i in range(10)]  # as Python reads the byte E9 of a name
    held_out = split(index_of(names), 0.2, "file", 0).held_out
    assert len(held_out) == 2
    assert {e.name for e in held_out} < set(names)


def test_folders_can_be_the_groups() -> None:
    index = index_of([f"{folder}/{i}.jpg" for folder in "abcd" for i in range(3)])
    parts = split(index, 0.25, "folder", 0)
    assert len({e.name[0] for e in parts.held_out}) == 1
    assert len(parts.held_out) == 3


@pytest.mark.parametrize("by", ["shoot", "folder"])
def test_a_single_group_cannot_be_split_and_the_ways_out_are_named(by: str) -> None:
    with pytest.raises(UserError, match=f"its 2 images are one {by}.*data.held_out, or set data.split_by to file"):
        split(index_of(["desk-1.jpg", "desk-2.jpg"]), 0.5, by, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"its 1 images are one file.*data\.held_out$"):
        split(index_of(["desk.jpg"]), 0.5, "file", 0)


def test_the_same_file_on_both_sides_is_found_under_another_name_too(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    train = index_of(["a.jpg"], f"{tmp_path}/")
    check_disjoint(train, index_of(["b.jpg", "absent.jpg"], f"{tmp_path}/"))
    with pytest.raises(UserError, match=r"1 of 2 held-out images also stand in .* \(the first is link\.jpg\)"):
        check_disjoint(train, index_of(["b.jpg", "link.jpg"], f"{tmp_path}/"))


def test_two_members_of_one_shard_are_not_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "x.tar").touch()
    members = [ImageEntry(f"x.tar/{i}.png", None, str(tmp_path / "x.tar"), 512 * i, 9) for i in range(2)]
    first, second = (ImageIndex("x.tar", (member,)) for member in members)
    check_disjoint(first, second)
    with pytest.raises(UserError, match="1 of 1"):
        check_disjoint(first, first)
