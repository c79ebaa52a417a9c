"""Files are written whole or not at all, whatever goes wrong, and nothing is left lying about."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runs import files_below
from vaevq.errors import UserError
from vaevq.files import remove_leftovers, require_absent, write_text, written_aside
from vaevq.interop.checkpoints import read_tensors
from vaevq.nn.weights import read_state_dict
from vaevq.training.checkpoint import load_checkpoint


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert aside.parent == path.parent, "a rename is whole only within one file system"
    assert path.read_text() == "new"
    assert files_below(tmp_path) == {"a.txt"}


def test_what_is_no_text_in_the_name_of_a_file_is_written_as_an_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "café n\udce9.png")
    assert (tmp_path / "page.html").read_bytes() == "café ".encode() + rb"n\udce9.png"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_after_an_error_the_old_file_stands_and_nothing_is_left(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    expected = UserError if isinstance(error, OSError) else type(error)

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(expected) as caught:
        fail()
    assert path.read_text() == "old"
    assert files_below(tmp_path) == {"a.txt"}
    if expected is UserError:
        assert str(caught.value) == f"{path}: could not be written (No space left on device); nothing was changed"


@pytest.mark.parametrize("name", ["file/below", "no/such/folder", "n" * 300])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written") as caught:
        write_text(tmp_path / name, "text")
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == {"file"}


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        write_text(tmp_path / "folder", "text")
    assert (tmp_path / "folder").is_dir()
    assert files_below(tmp_path) == set()


def test_text_is_utf_8_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("io.text_encoding", lambda encoding, stacklevel=2: encoding or "latin-1")
    write_text(tmp_path / "a.txt", "λ 8×8")
    assert (tmp_path / "a.txt").read_bytes() == "λ 8×8".encode()


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    kept = {"a.txt", ".hidden", "checkpoints/16.pt", "b.part"}
    for name in [*kept, ".a.txt.123.part", "checkpoints/.16.pt.77.part"]:
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert files_below(tmp_path) == kept
    remove_leftovers(tmp_path / "no such folder")


def test_overwriting_takes_force(tmp_path: Path) -> None:
    there = [tmp_path / name for name in "abc"]
    require_absent(there, force=False)
    for path in there[1:]:
        path.write_text("")
    with pytest.raises(UserError) as caught:
        require_absent(there, force=False)
    assert str(caught.value) == f"{there[1]} and 1 more already there; --force overwrites"
    require_absent(there, force=True)


@pytest.mark.parametrize("read", [load_checkpoint, read_state_dict, read_tensors])
def test_weights_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """torch unpacks compressed members, which torch.save never writes: a small file could fill the memory."""
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    read(tmp_path / "a.pt")
    assert torch.load(tmp_path / "b.pt")["weight"].shape == (1000,)
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "b.pt")
