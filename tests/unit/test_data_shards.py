"""Shards that webdataset wrote are read as webdataset reads them, item for item; damaged ones are refused."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from vaevq.data.images import UnreadableImage
from vaevq.data.index import find_images
from vaevq.errors import UserError


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 3), value).save(file, "PNG")
    return file.getvalue()


def write_shards(folder: Path, count: int = 7, per_shard: int = 3) -> list[dict[str, object]]:
    folder.mkdir(exist_ok=True)
    items = [{"__key__": f"deep/{i:04d}", "png": png(i), "cls": i % 4, "json": {"i": i}} for i in range(count)]
    with webdataset.ShardWriter(str(folder / "train-%03d.tar"), maxcount=per_shard, verbose=0) as writer:
        for item in items:
            writer.write(item)
    return items


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("location", ["", "train-{000..002}.tar"])
def test_shards_hold_what_webdataset_reads_from_them(location: str, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    index = find_images(str(tmp_path / "shards" / location))
    urls = str(tmp_path / "shards" / "train-{000..002}.tar")
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(index) == len(theirs) == 7
    for entry, item in zip(index, theirs, strict=True):
        assert entry.name == f"{Path(item['__url__']).name}/{item['__key__']}.png"
        assert entry.read() == item["png"]
        assert entry.label == int(item["cls"])
    assert index.classes == ("0", "1", "2", "3")


def test_access_is_random_and_decodes(tmp_path: Path) -> None:
    write_shards(tmp_path)
    index = find_images(tmp_path / "train-001.tar")
    np.testing.assert_array_equal(index[2].load(1), np.full((3, 4, 1), 5))
    np.testing.assert_array_equal(index[0].load(1), np.full((3, 4, 1), 3))
    assert index[0].open().read() == png(3)


def test_a_folder_of_images_and_shards_is_a_folder_of_images(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "a.png").write_bytes(png(1))
    assert [e.name for e in find_images(tmp_path)] == ["a.png"]


def test_keys_end_at_the_first_dot_and_links_hidden_files_and_directories_are_no_images(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "x.tar", {"a.left.png": png(1), "a.right.png": png(2), "a.cls": b"3\n", "._a.png": b"mac"}
    )
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    index = find_images(path)
    assert [(e.name, e.label) for e in index] == [("x.tar/a.left.png", 3), ("x.tar/a.right.png", 3)]
    assert len({e.group for e in index}) == 1


def test_names_that_climb_out_of_the_shard_are_tamed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"../../up.png": png(1), "/root.png": png(2), "./here.png": png(3)})
    assert [e.name for e in find_images(path)] == ["x.tar/up.png", "x.tar/root.png", "x.tar/here.png"]


def test_long_names_do_not_shift_the_data(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"{'long' * 60}.png": png(7), "b.png": png(8)})
    assert [e.load(1)[0, 0, 0] for e in find_images(path)] == [7, 8]


def test_images_without_labels_have_none(tmp_path: Path) -> None:
    index = find_images(write_tar(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2), "b.cls": b"0"}))
    assert [e.label for e in index] == [None, 0]
    assert not index.labelled


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_shards_are_refused_with_the_way_out(mode: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(1)}, mode)
    with pytest.raises(UserError, match=r"x\.tar: compressed \(\w+\); unpack it first"):
        find_images(path)


@pytest.mark.parametrize("keep", [100, 512, 600, 1024, 1300, 1536])
def test_a_truncated_shard_is_refused_wherever_it_was_cut(keep: int, tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", {"a.png": png(1), "b.png": png(2)}).read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[:keep])
    with pytest.raises(UserError, match=r"cut\.tar: the tar file is truncated or damaged"):
        find_images(path)


def test_a_shard_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)})
    content = bytearray(path.read_bytes())
    content[1024:1034] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged after byte 1,024"):
        find_images(path)


def test_a_shard_that_becomes_shorter_later_gives_an_unreadable_image(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": png(1)})
    entry = find_images(path)[0]
    path.write_bytes(path.read_bytes()[:530])
    with pytest.raises(UnreadableImage, match=r"x\.tar/a\.png: .* has become shorter"):
        entry.load(1)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("x-{000..003}.tar", r"1 of 4 shards are absent, the first is .*x-003\.tar"),
        ("x-{a..b}.tar", r"\{a\.\.b\} is no range like"),
        ("x-{5..2}.tar", r"\{5\.\.2\} is no range like"),
        ("x-{0..999999999}.tar", "is no range like"),
    ],
)
def test_a_pattern_with_a_mistake_is_refused(pattern: str, complaint: str, tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / f"x-{i:03d}.tar", {"a.png": png(1)})
    with pytest.raises(UserError, match=complaint):
        find_images(str(tmp_path / pattern))


def test_braces_are_combined_and_padded_as_written(tmp_path: Path) -> None:
    for name in ("0-8", "0-9", "0-10", "1-8", "1-9", "1-10"):
        write_tar(tmp_path / f"{name}.tar", {"a.png": png(1)})
    index = find_images(str(tmp_path / "{0..1}-{8..10}.tar"))
    assert [e.name.split(".")[0] for e in index] == ["0-8", "0-9", "0-10", "1-8", "1-9", "1-10"]


def test_shards_without_images_and_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image found in 1 shard$"):
        find_images(write_tar(tmp_path / "x.tar", {"a.json": b"{}"}))
    with pytest.raises(UserError, match=r"y\.tar: a\.cls: a label is a whole number, not 'cat'"):
        find_images(write_tar(tmp_path / "y.tar", {"a.png": png(1), "a.cls": b"cat"}))
