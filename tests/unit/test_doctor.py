"""`vaevq doctor`: what it finds, and what its exit code says."""

import json
from pathlib import Path

import pytest

from runs import vaevq
from vaevq import Tokenizer, __version__
from vaevq.data.sources import SOURCES, source_folder


def test_where_everything_works_it_ends_with_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))
    folder = source_folder("lpips-weights")
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"12345")
    (folder / "manifest.json").write_text(json.dumps({"files": {"weights": 5}}))
    outcome = vaevq("doctor", "--device", "cpu", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    said = json.loads(outcome.out)
    found = {(finding["section"], finding["name"]): finding["value"] for finding in said["findings"]}
    assert said["ok"]
    assert found["versions", "vaevq"] == __version__
    assert ("versions", "torch") in found
    assert ("extra export", "onnx") in found
    assert found["cache", "folder"].startswith(f"{tmp_path / 'cache'}, 0.0 MB")
    assert found["cache", "lpips-weights"] == f"there, in {folder}"
    assert found["cache", "quickstart-photos"] == "not fetched yet, 26 MB"
    assert {name for section, name in found if section == "cache"} == {"folder", *SOURCES}
    assert [name for section, name in found if section == "self-test"] == [
        "train",
        "save and load",
        "encode and decode",
    ]
    table = vaevq("doctor", "--device", "cpu")
    assert table.code == 0
    assert table.out.endswith("everything works\n")


def test_what_is_broken_is_named_and_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(Tokenizer, "encode", lambda self, images: images.new_zeros(4, 8, 8).long())
    outcome = vaevq("doctor", "--device", "cpu", "--json")
    assert outcome.code == 1
    assert not json.loads(outcome.out)["ok"]
    cache, test = outcome.err.splitlines()
    assert cache.startswith("broken: cache, folder: ")
    assert cache.endswith("cannot be written; set VAEVQ_CACHE")
    assert test.startswith("broken: self-test, encode and decode: RuntimeError: decoded tokens differ")


def test_a_device_that_is_not_there_is_broken() -> None:
    outcome = vaevq("doctor", "--device", "cuda:77")
    assert outcome.code == 1
    assert outcome.err.startswith("broken: self-test, device: device 'cuda:77' is not available here")
    assert "everything works" not in outcome.out
