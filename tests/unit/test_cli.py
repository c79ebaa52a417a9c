"""The command as its user meets it: every verb after the one before, help, progress; test_cli_mistakes has the rest."""

import contextlib
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runs import ADVERSARIAL, Outcome, files_below, small_recipe, small_run, vaevq, vaevq_process
from vaevq import __version__
from vaevq.arguments import FLAGS, words_first
from vaevq.cli import GENERATE_VERBS, VERBS, main
from vaevq.config import RunConfig
from vaevq.data.tokens import read_token_file
from vaevq.training import estimate
from vaevq.training.engine import Engine


def test_interrupted_a_verb_ends_with_130_and_says_nothing(
    finished: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vaevq.codec.images.save_png", interrupted)
    outcome = vaevq("decode", tokens, "--model", finished, "-o", tmp_path / "decoded")
    assert outcome == Outcome(130, "", "")
    assert files_below(tmp_path) == set()


def test_a_terminal_that_holds_ascii_alone_gets_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    outcome = vaevq_process("eval", "--help", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Fr\\xe9chet distance" in outcome.out


def test_a_name_that_steers_the_terminal_is_escaped() -> None:
    assert vaevq("inspect", "a\x1b[2Jb").err == "vaevq: error: a\\x1b[2Jb: no such file or folder\n"


def test_the_version_is_one_line() -> None:
    assert vaevq("--version") == Outcome(0, f"vaevq {__version__}\n", "")


def test_help_names_every_verb_with_one_sentence() -> None:
    outcome = vaevq("--help")
    assert (outcome.code, outcome.err) == (0, "")
    told = " ".join(outcome.out.replace("│", " ").split())
    for verb, function in VERBS.items():
        assert f"{verb} {(function.__doc__ or '').partition(chr(10))[0]}" in told
    assert "For example" not in told


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_examples_and_says_nothing_of_python(verb: str) -> None:
    outcome = vaevq(verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"For example:\n\n  vaevq {verb}" in outcome.out.replace("\n\n\n", "\n\n")
    assert "{None}" not in outcome.out
    assert "--no-" not in outcome.out


def test_the_flags_that_take_no_value_are_those_of_the_verbs() -> None:
    """`words_first` would take the word after any other one for its value."""
    flags = {"-h", "--help"}
    for verb in (*([name] for name in VERBS), *(["generate", name] for name in GENERATE_VERBS)):
        found = re.findall(r"^\W+(--[a-z-]+)(?:  |$)", vaevq(*verb, "--help").out, re.MULTILINE)
        flags |= set(found)
    assert flags == FLAGS


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("train --data x paper a.b=1 --quiet", "train paper a.b=1 --data x --quiet"),
        ("train --quiet paper --seed -1 a=b", "train paper a=b --quiet --seed -1"),
        ("train --data=x paper", "train paper --data=x"),
        ("train --data x=1 y=2", "train y=2 --data x=1"),
        ("encode a.png -m m b.png -o t c.png", "encode a.png b.png c.png -m m -o t"),
        ("decode -m m --force t -o x", "decode t -m m --force -o x"),
        ("report run --against a b", "report run --against a b"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_words_may_stand_behind_options(given: str, parsed: str) -> None:
    assert words_first(given.split()) == parsed.split()


def test_every_verb_after_the_one_before(photos: Path, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", small_recipe(tmp_path, photos)
    trained = vaevq("train", "--run-dir", run, recipe, "--quiet", "train.images=8")
    assert (trained.code, trained.err) == (0, "")
    assert f"report        {run / 'report.html'}\n" in trained.out
    assert "on 2 held-out images" in trained.out

    measured = vaevq("eval", "--model", run, "--json", "-o", tmp_path / "new" / "eval.json")
    assert (measured.code, measured.err) == (0, "")
    result = json.loads(measured.out)
    assert result == json.loads((tmp_path / "new" / "eval.json").read_text())
    assert result["figures"] == json.loads((run / "eval.json").read_text())["figures"]
    table = vaevq("eval", "--model", run, "metrics=[psnr]")
    assert table.code == 0
    assert f"{result['figures']['psnr']:.2f} dB" in table.out

    pictures = [photos / "cat-0.png", photos / "coffee-3.png"]
    encoded = vaevq("encode", pictures[0], "-m", run, "-o", tmp_path / "new" / "t.safetensors", pictures[1])
    assert (encoded.code, encoded.err) == (0, "")
    sizes = [Image.open(picture).size for picture in pictures]
    assert len(set(sizes)) == 2
    count = sum((width // 2) * (height // 2) for width, height in sizes)
    assert encoded.out.startswith(f"2 images, {count} tokens, ")

    decoded = vaevq("decode", tmp_path / "new" / "t.safetensors", "-m", run, "-o", tmp_path / "decoded")
    assert decoded == Outcome(0, f"2 images: {tmp_path / 'decoded'}/\n", "")
    assert files_below(tmp_path / "decoded") == {"cat-0.png", "coffee-3.png"}
    assert [Image.open(tmp_path / "decoded" / picture.name).size for picture in pictures] == sizes

    for path in (run, tmp_path / "new" / "t.safetensors"):
        shown = vaevq("inspect", path, "--json")
        assert (shown.code, shown.err) == (0, "")
        rows = json.loads(shown.out)
        assert max(len(value) for value in rows.values() if isinstance(value, list)) <= 11
        table = vaevq("inspect", path)
        assert table.code == 0
        assert rows["counts, log scale"] in table.out
        assert "dead codewords" in table.out
        assert re.search(r"evaluated\W+yes" if path == run else r"labels\W+no", table.out)
        assert "[" not in table.out, "lists are written for people"

    (run / "report.html").unlink()
    reported = vaevq("report", run)
    assert reported == Outcome(0, f"{run / 'report.html'}\n", "")
    assert (run / "report.html").stat().st_size > 10_000


def test_a_dry_run_measures_steps_of_the_whole_objective(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[RunConfig] = []

    class Noting(estimate.TokenizerTrainer):
        def __init__(self, config: RunConfig, place: Engine) -> None:
            measured.append(config)
            super().__init__(config, place)

    monkeypatch.setattr(estimate, "TokenizerTrainer", Noting)
    estimate.estimate(small_run(photos, loss=ADVERSARIAL))
    (config,) = measured
    assert (config.loss.adversarial_start, config.model.quantizer.quantize_from) == (0, 0)


def test_a_dry_run_says_what_would_be_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, photos)
    outcome = vaevq("train", recipe, "--dry-run", "--run-dir", tmp_path / "run")
    assert (outcome.code, outcome.err) == (0, "")
    assert "time a step" in outcome.out
    assert files_below(tmp_path) == {recipe.name}


@pytest.mark.parametrize("words", [["--dry-run"], []], ids=["dry run", "run"])
@pytest.mark.parametrize(
    "metrics", [{"metrics": ["lpips"], "lpips_weights": "gone"}, {"metrics": ["frechet"], "feature_weights": "gone"}]
)
def test_what_the_end_of_a_run_will_want_is_looked_for_first_by_a_dry_run_too(
    photos: Path, tmp_path: Path, words: list[str], metrics: dict[str, Any]
) -> None:
    recipe = small_recipe(tmp_path, photos, eval=metrics)
    outcome = vaevq("train", recipe, "--run-dir", tmp_path / "run", *words)
    assert outcome.code == 2
    assert re.fullmatch(r"vaevq: error: .*gone.*\n", outcome.err)
    assert files_below(tmp_path) == {recipe.name}


def test_what_encode_skips_is_told_on_standard_error(finished: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "cat-1.png").write_text("no image")
    outcome = vaevq("encode", tmp_path / "photos", "--model", finished, "-o", tmp_path / "t.safetensors")
    assert outcome.code == 0
    assert outcome.err == "skipped cat-1.png: not an image, or of an unknown format\n"
    assert outcome.out.startswith("11 images, ")
    assert "cat-1.png" not in read_token_file(tmp_path / "t.safetensors").names


class Screen(io.StringIO):
    """A terminal, to all who ask."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("verb", "shown"), [("eval", "measuring"), ("eval --json", ""), ("encode", "encoding"), ("decode", "decoding")]
)
def test_a_terminal_shows_progress_and_standard_output_has_none_of_it(
    finished: Path, photos: Path, tokens: Path, tmp_path: Path, verb: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {
        "eval": ("eval", "--model", finished),
        "eval --json": ("eval", "--model", finished, "--json"),
        "encode": ("encode", photos, "--model", finished, "-o", tmp_path / "t.safetensors"),
        "decode": ("decode", tokens, "--model", finished, "-o", tmp_path / "decoded"),
    }[verb]
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["vaevq", *map(str, words)])
    screen, out = Screen(), io.StringIO()
    with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(out):
        main()
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    count = 2 if verb == "eval" else 12
    assert re.search(rf"{shown} +━+ +{count}/{count} images", drawn) if shown else drawn == ""
    assert "\x1b" not in out.getvalue()
    if verb == "eval --json":
        json.loads(out.getvalue())
