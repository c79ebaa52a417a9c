"""Folders, class folders and list files become the same index every time, and mistakes one clear line."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaevq.data.entries import natural_key
from vaevq.data.entry import shoot_of
from vaevq.data.images import UnreadableImage
from vaevq.data.index import find_images
from vaevq.errors import UserError


def picture(path: Path, colour: tuple[int, int, int] = (10, 20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), colour).save(path)
    return path


def names(location: Path) -> list[str]:
    return [entry.name for entry in find_images(location)]


def test_a_folder_is_searched_at_any_depth_in_natural_order(tmp_path: Path) -> None:
    for name in ("b10.png", "b9.PNG", "a/x/deep.jpg", "A2.bmp", ".hidden.png", ".cache/c.png", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).touch()
        else:
            picture(tmp_path / name)
    assert names(tmp_path) == ["a/x/deep.jpg", "A2.bmp", "b9.PNG", "b10.png"]


def test_the_order_and_the_digest_do_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for name in ("one/b.png", "two/a.png"):
        picture(tmp_path / "first" / name)
    for name in ("two/a.png", "one/b.png"):
        picture(tmp_path / "second" / name)
    first, second = find_images(tmp_path / "first"), find_images(tmp_path / "second")
    assert [e.name for e in first] == [e.name for e in second]
    assert first.digest == second.digest
    assert len(first.digest) == 16
    picture(tmp_path / "second" / "two" / "c.png")
    assert find_images(tmp_path / "second").digest != first.digest


def test_the_first_sub_folder_is_the_class_where_all_images_lie_in_one(tmp_path: Path) -> None:
    for name in ("class10/a.png", "class2/b.png", "class2/more/c.png"):
        picture(tmp_path / name)
    index = find_images(tmp_path)
    assert index.classes == ("class2", "class10")
    assert [(e.name, e.label) for e in index] == [("class2/b.png", 0), ("class2/more/c.png", 0), ("class10/a.png", 1)]
    assert index.labelled
    picture(tmp_path / "loose.png")
    index = find_images(tmp_path)
    assert index.classes == ()
    assert {e.label for e in index} == {None}
    assert not index.labelled


def test_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    assert names(tmp_path / "data") == ["link/a.png"]


def test_an_entry_reads_loads_and_travels_to_another_process(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png")
    entry = pickle.loads(pickle.dumps(find_images(tmp_path)))[0]
    assert entry.read() == file.read_bytes()
    assert entry.open().read() == file.read_bytes()
    np.testing.assert_array_equal(entry.load(3), np.broadcast_to(np.uint8([10, 20, 30]), (3, 4, 3)))


def test_a_file_that_goes_missing_is_an_unreadable_image_by_its_name(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png")
    entry = find_images(tmp_path)[0]
    file.unlink()
    with pytest.raises(UnreadableImage, match=r"^a\.png: no such file or directory$"):
        entry.load(3)


def test_one_image_is_an_index_of_one(tmp_path: Path) -> None:
    index = find_images(picture(tmp_path / "a.png"))
    assert [e.name for e in index] == ["a.png"]


def test_a_slice_and_a_subset_keep_the_classes(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/b.png", "y/c.png"):
        picture(tmp_path / name)
    index = find_images(tmp_path)
    assert [e.name for e in index[1:]] == ["y/b.png", "y/c.png"]
    assert [e.name for e in index.subset([2, 0])] == ["y/c.png", "x/a.png"]
    assert index[1:].classes == index.subset([0]).classes == ("x", "y")


def test_a_list_file_names_images_from_its_own_folder(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "b.png")
    picture(tmp_path / "a #1.png")
    listed = tmp_path / "list.txt"
    listed.write_text("\ufeff# mine\nphotos/b.png\n\na #1.png\n", encoding="utf-8")
    index = find_images(listed)
    assert [e.name for e in index] == ["photos/b.png", "a #1.png"]
    assert index.classes == ()
    assert all(e.load(3).shape == (3, 4, 3) for e in index)


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [(["2", "0"], [2, 0], ("0", "1", "2")), (["dog", "cat"], [1, 0], ("cat", "dog"))],
)
def test_a_list_file_gives_labels(
    labels: list[str], numbers: list[int], classes: tuple[str, ...], tmp_path: Path
) -> None:
    picture(tmp_path / "a.png")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"a.png\t{label}\n" for label in labels))
    index = find_images(listed)
    assert [e.label for e in index] == numbers
    assert index.classes == classes


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"# nothing\n", "names no image"),
        (b"a.png\t1\na.png\n", "line 2: either every line has a tab and a label, or none has"),
        (b"a.png\na.png\t1\n", "line 2: either every line has a tab and a label, or none has"),
        (b"b.png\n", "b.png: no such file in"),
        (b"\xff\xfe\x00", "no UTF-8 text"),
    ],
)
def test_a_list_file_with_a_mistake_is_refused(content: bytes, complaint: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    listed = tmp_path / "list.txt"
    listed.write_bytes(content)
    with pytest.raises(UserError) as caught:
        find_images(listed)
    assert str(caught.value).startswith(str(listed))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_an_empty_one_and_another_file_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no image found \(files that end in .*\.jpg .* are looked for\)"):
        find_images(tmp_path)
    other = tmp_path / "archive.zip"
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="compressed"):
        find_images(other)
    other = tmp_path / "model.bin"
    other.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(UserError, match=r"model\.bin: neither a folder, an image, a list"):
        find_images(other)


@pytest.mark.parametrize(
    ("name", "shoot"),
    [
        ("desk.jpg", "desk"),
        ("desk-2.jpg", "desk"),
        ("desk-12.jpg", "desk"),
        ("desk (3).jpg", "desk"),
        ("a/desk-2.jpg", "a/desk"),
        ("desk-2-3.jpg", "desk-2"),
        ("desk-100.jpg", "desk-100"),
        ("v1.5-2.jpg", "v1.5"),
        ("IMG_0001.jpg", "IMG_0001"),
        ("DSC-0412.jpg", "DSC-0412"),
        ("2024-05-01.jpg", "2024-05-01"),
        ("12003.jpg", "12003"),
        ("-2.jpg", "-2"),
        ("train-00.tar/some/desk-2.left.jpg", "train-00.tar/some/desk"),
    ],
)
def test_the_shoot_of_a_file(name: str, shoot: str) -> None:
    assert shoot_of(name) == shoot


@given(st.lists(st.text(alphabet="aB10²/.", min_size=1, max_size=6)))
def test_natural_order_is_a_total_order_of_names(items: list[str]) -> None:
    backwards = items[::-1]
    assert sorted(items, key=natural_key) == sorted(backwards, key=natural_key)
    assert len({natural_key(item) for item in items}) == len(set(items))
