"""Checkpoints are written whole, kept as many as asked, and read without running anything."""

import pickle
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from runs import files_below
from vaevq.errors import UserError
from vaevq.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint


def state(value: float) -> dict[str, Any]:
    return {"images_seen": int(value), "tokenizer": {"weight": torch.full((100,), float(value))}}


def saved(folder: Path, *values: int, keep: int = 2) -> Path:
    for value in values:
        path = save_checkpoint(folder, value, state(value), keep)
    return path


def refusal(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "weights_only" not in message, "no advice to run what a file holds"
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    saved(tmp_path, 900, 1000, 20000, 100000, keep=keep)
    names = ["000000000900.pt", "000000001000.pt", "000000020000.pt", "000000100000.pt"]
    assert [path.name for path in checkpoints(tmp_path)] == names[-keep:]
    assert files_below(tmp_path) == set(names[-keep:])


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path, 16))
    assert loaded["images_seen"] == 16
    assert torch.equal(loaded["tokenizer"]["weight"], torch.full((100,), 16.0))


def test_what_was_on_another_device_comes_back_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_state_dict` leaves Adam's step counts where they are: on a GPU each would be waited for."""
    asked: list[object] = []
    original = torch.load

    def load(*given: Any, map_location: object, **options: Any) -> Any:
        asked.append(map_location)
        return original(*given, map_location=map_location, **options)

    monkeypatch.setattr(torch, "load", load)
    load_checkpoint(saved(tmp_path, 16))
    assert asked == ["cpu"]


def test_files_of_other_names_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    others = {"best.pt", "16.pt", ".000000000099.pt.12.part", "000000000099.pt.old"}
    for name in others:
        (tmp_path / name).write_text("")
    saved(tmp_path, 1, 2, keep=1)
    assert files_below(tmp_path) == {*others, "000000000002.pt"}
    assert checkpoints(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), UserError),
        (RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0\nframe #0"), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_while_writing_leaves_the_old_ones_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    saved(tmp_path, 1, 2)
    before = {path.name: path.read_bytes() for path in checkpoints(tmp_path)}

    def half(value: Any, file: BinaryIO) -> None:
        file.write(b"PK half a file")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(raised) as caught:
        save_checkpoint(tmp_path, 3, state(3), keep=1)
    assert {path.name: path.read_bytes() for path in checkpoints(tmp_path)} == before
    assert files_below(tmp_path) == set(before)
    if raised is UserError:
        assert "000000000003.pt: could not be written" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused_at_any_length(tmp_path: Path) -> None:
    path = saved(tmp_path, 16)
    whole = path.read_bytes()
    for length in {0, 1, 10, *range(50, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert refusal(path) == "truncated, damaged, or no checkpoint; delete it to start again"


def test_a_changed_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, 16)
    content = bytearray(path.read_bytes())
    at = content.index(torch.full((100,), 16.0).numpy().tobytes()) + 123
    content[at] ^= 1
    path.write_bytes(content)
    assert refusal(path).startswith("truncated, damaged, or no checkpoint")


def test_the_way_out_names_the_checkpoint_before(tmp_path: Path) -> None:
    path = saved(tmp_path, 8, 16)
    path.write_bytes(path.read_bytes()[:500])
    assert refusal(path).endswith("; delete it to resume from 000000000008.pt")
    elsewhere = path.rename(tmp_path / "mine.pt")
    assert refusal(elsewhere) == "truncated, damaged, or no checkpoint"


class Evil:
    """A pickle of it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil was here"),)


@pytest.mark.parametrize("how", ["pickle", "torch", "legacy"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "000000000016.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"tokenizer": Evil()}, path, _use_new_zipfile_serialization=how == "torch")
    assert "checkpoint" in refusal(path) or "more than tensors and plain values" in refusal(path)
    assert files_below(tmp_path) == {path.name}


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text"])
def test_something_else_that_torch_can_load_is_no_checkpoint(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "000000000016.pt"
    torch.save(content, path)
    assert refusal(path).startswith("truncated, damaged, or no checkpoint")


def test_an_absent_checkpoint_is_called_absent(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pt") == "no such file"
    assert refusal(tmp_path) == "no such file"


def test_too_little_memory_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    path = saved(tmp_path, 16)
    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_checkpoint(path)
