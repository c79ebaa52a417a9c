"""Unpacked voxels stay below a limit: the longest unused of other locations go, what cannot fit is refused first."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from vaevq.data.index import VolumeOptions, find_images
from vaevq.data.volumes import cache as cache_module
from vaevq.errors import UserError
from volumes import ball, write_volume

ONE = 10 * 10 * 8 * 2
"""Bytes of voxels of one of the files here; a header of 128 comes to what is kept."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))
    cache_module._mapped.cache_clear()
    return tmp_path / "cache" / "volumes"


def limited(monkeypatch: pytest.MonkeyPatch, volumes: float) -> None:
    """The limit, as so many files with their headers."""
    monkeypatch.setenv("VAEVQ_VOLUME_CACHE_GB", str(volumes * (ONE + 128) / 1e9))


def located(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write_volume(folder / f"{name}.nii.gz", ball((10, 10, 8), seed))
    return folder


def kept(cache: Path) -> set[Path]:
    return set(cache.glob("*.npy"))


def test_the_longest_unused_of_other_locations_goes_and_comes_back(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 2)
    one, two, three = (located(tmp_path / name, name) for name in ("one", "two", "three"))
    first = find_images(one)
    (of_one,) = kept(cache)
    find_images(two)
    (of_two,) = kept(cache) - {of_one}
    assert len(kept(cache)) == 2, "both fit"
    os.utime(of_one, ns=(1, of_one.stat().st_mtime_ns))
    os.utime(of_two, ns=(2, of_two.stat().st_mtime_ns))
    (cache / ".begun.npy.1.part").write_bytes(b"of a killed process")
    os.utime(cache / ".begun.npy.1.part", (1, 1))
    find_images(one)  # used again, and so the newest
    find_images(three)
    assert of_one in kept(cache)
    assert of_two not in kept(cache)
    assert len(kept(cache)) == 2
    assert not list(cache.glob(".*.part"))
    before = first[2].load(1)
    find_images(two)
    assert of_one not in kept(cache), "three was used after it"
    cache_module._mapped.cache_clear()
    assert (first[2].load(1) == before).all(), "a slice of what was deleted is unpacked again"


def test_what_is_more_than_the_limit_or_the_disk_is_refused_before_it_is_unpacked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = located(tmp_path / "other", "other")
    find_images(other)
    stood = kept(cache)
    many = located(tmp_path / "many", "a", "b", "c")
    limited(monkeypatch, 2)
    with pytest.raises(UserError, match=r"many: its unpacked voxels are .* GB, and the cache may take .* GB: raise"):
        find_images(many)
    limited(monkeypatch, 9)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, ONE))
    with pytest.raises(UserError, match=r"many: .* GB of voxels have to be unpacked, and .* free: set VAEVQ_CACHE"):
        find_images(many)
    assert kept(cache) == stood, "nothing was deleted or unpacked for it"
    assert find_images(many, VolumeOptions(cached=False)), "without the cache there is no limit"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, ONE * 2 + 200))
    for entry in find_images(many):
        entry.load(1)
    assert len(kept(cache)) == 3, "what is of others makes room on a full disk"
    assert not stood & kept(cache)


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_VOLUME_CACHE_GB", text)
    with pytest.raises(UserError, match=f"VAEVQ_VOLUME_CACHE_GB is '{text}' in the environment: gigabytes are wanted"):
        find_images(located(tmp_path / "x", "x"))
