"""Entries in arrays give back what went in, and a selection shares their texts."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from vaevq.data.entry import ImageEntry
from vaevq.data.packed import PackedEntries

NAMES = st.binary(min_size=1, max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))


@st.composite
def entries(draw: st.DrawFn) -> ImageEntry:
    name = draw(NAMES)
    file = draw(st.one_of(NAMES, st.sampled_from(["/photos/", "shards/0.tar"]).map(lambda head: head + name)))
    return ImageEntry(
        name=name,
        label=draw(st.none() | st.integers(0, 10**6)),
        file=file,
        offset=draw(st.integers(0, 2**50)),
        size=draw(st.none() | st.integers(0, 2**50)),
    )


@given(st.lists(entries(), max_size=8), st.data())
def test_packed_entries_are_those_that_went_in(given_entries: list[ImageEntry], data: st.DataObject) -> None:
    packed = PackedEntries.of(given_entries)
    assert list(packed) == given_entries
    assert [packed[i] for i in range(-len(given_entries), 0)] == given_entries
    assert list(pickle.loads(pickle.dumps(packed))) == given_entries
    start, stop = data.draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
    assert list(packed[start:stop]) == given_entries[start:stop]
    chosen = data.draw(st.lists(st.sampled_from(range(len(given_entries))))) if given_entries else []
    assert list(packed.take(chosen)) == [given_entries[i] for i in chosen]


def test_the_folder_of_many_files_is_kept_once_and_a_selection_copies_no_text() -> None:
    names = [f"n{i % 10}/{i}.jpg" for i in range(1000)]
    packed = PackedEntries.of([ImageEntry(name, None, f"/data/imagenet/train/{name}") for name in names])
    assert packed.heads.data == b"/data/imagenet/train/"
    assert packed.names.data == "".join(names).encode()
    assert packed[::2].take([3, 1]).names.data is packed.names.data
