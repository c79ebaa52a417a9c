"""What people expect of a command: completion, quiet, colours on a terminal alone."""

import inspect
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from runs import vaevq
from vaevq.cli import GENERATE_VERBS, VERBS
from vaevq.completion import options
from vaevq.config import recipe_names
from vaevq.training.display import can_redraw

EVERY = {**VERBS, **{f"generate {name}": verb for name, verb in GENERATE_VERBS.items()}}


def completed(line: str, cwd: Path) -> set[str]:
    """What bash offers for the last word of a line, which may be empty."""
    words = line.split(" ")
    listed = " ".join(f"'{word}'" for word in words)
    asked = f"{vaevq('completion', 'bash').out}\nCOMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _vaevq\n"
    asked += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "--norc", "-c", asked], cwd=cwd, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_verbs_options_recipes_and_files(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert completed("vaevq ", tmp_path) == set(VERBS)
    assert completed("vaevq en", tmp_path) == {"encode"}
    assert completed("vaevq generate ", tmp_path) == set(GENERATE_VERBS)
    assert completed("vaevq generate sample --gui", tmp_path) == {"--guidance"}
    assert {"--output", "-o", "--model", "-m", "--crops", "--help"} <= completed("vaevq encode -", tmp_path)
    assert completed("vaevq train ", tmp_path) == {*recipe_names(), "photos"}
    assert completed("vaevq train --data ph", tmp_path) == {"photos"}
    assert completed("vaevq train --dry-run ph", tmp_path) == {"photos-f8", "photos"}, "a flag has no value"
    assert completed("vaevq encode a.jpg -m ph", tmp_path) == {"photos-f8", "photos"}
    assert completed("vaevq completion z", tmp_path) == {"zsh"}


def test_zsh_gets_the_same_through_its_own_bridge() -> None:
    bash, zsh = (vaevq("completion", shell).out for shell in ("bash", "zsh"))
    assert "bashcompinit\n_vaevq()" in zsh
    assert zsh.partition("_vaevq()")[2] == bash.partition("_vaevq()")[2]
    if found := shutil.which("zsh"):
        subprocess.run([found, "-n"], input=zsh, text=True, check=True)


@pytest.mark.parametrize("verb", [verb for verb in EVERY if verb != "generate"])
def test_completion_offers_the_options_that_help_has(verb: str) -> None:
    shown = re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", vaevq(*verb.split(), "--help").out.partition("options")[2])
    offered = set(options(EVERY[verb]))
    assert offered <= set(shown), "each exists"
    listed = re.findall(r"^\W+?(?:-[a-z], )?(--[a-z][a-z-]*)", vaevq(*verb.split(), "--help").out, re.MULTILINE)
    assert set(listed) - {"--help"} <= offered


def test_every_verb_that_shows_progress_can_be_quiet() -> None:
    shows = {"train", "eval", "encode", "decode", "compare", *(f"generate {name}" for name in GENERATE_VERBS)}
    quiet = {name for name, verb in EVERY.items() if "quiet" in inspect.signature(verb).parameters}
    assert quiet == shows


def on_terminal(*words: object, cwd: Path, **variables: str) -> str:
    """What the command writes to a terminal, on standard output and error."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "vaevq", *map(str, words)],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "100", **variables},
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so where the other end is closed
            break
        if not part:
            break
        found += part
    process.wait()
    os.close(ours)
    return found.decode(errors="replace")


COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-9](;|m)|\x1b\[[0-9;]*38;")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_progress_is_coloured_on_a_terminal_and_not_where_no_color_is_set(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    words = ("encode", photos, "-m", finished, "--device", "cpu", "-o")
    coloured = on_terminal(*words, "a.safetensors", cwd=tmp_path)
    assert "encoding" in coloured
    assert COLOUR.search(coloured)
    plain = on_terminal(*words, "b.safetensors", cwd=tmp_path, NO_COLOR="1")
    assert "encoding" in plain
    assert not COLOUR.search(plain)
    quiet = on_terminal(*words, "c.safetensors", "--quiet", cwd=tmp_path)
    assert "encoding" not in quiet
    assert "12 images" in quiet


def test_in_a_file_there_are_no_escapes_and_in_a_notebook_lines_are_not_redrawn(finished: Path) -> None:
    assert "\x1b" not in vaevq("inspect", finished).out
    assert not can_redraw(Console(file=io.StringIO(), force_jupyter=True))
