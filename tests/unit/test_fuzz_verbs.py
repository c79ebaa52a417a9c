"""Whole verbs on damaged files: each ends well or with one line, and what it writes is whole or not there."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from damage import contents, damage
from generators import write_generator
from runs import Outcome, files_below, vaevq
from vaevq.data.tokens import read_token_file
from volumes import write_brats

CASES = 12


@dataclass(frozen=True)
class Verb:
    """A verb that reads the folder `given` and writes below the folder `new`.

    Attributes:
        make: writes sound files, given a finished run and its token file.
        words: of the command line, given both folders and the run.
    """

    make: Callable[[Path, Path, Path], object]
    words: Callable[[Path, Path, Path], tuple[object, ...]]


def make_images(folder: Path, run: Path, tokens: Path) -> None:
    ramp = np.linspace(0, 255, 24 * 20 * 3).reshape(24, 20, 3).astype(np.uint8)
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.fromarray(ramp).save(folder / name)


def make_volume(folder: Path, run: Path, tokens: Path) -> None:
    write_brats(folder, patients=1, shape=(9, 8, 7))


def make_model(folder: Path, run: Path, tokens: Path) -> None:
    shutil.copytree(run / "model", folder / "model")


VERBS: dict[str, Verb] = {
    "encode": Verb(
        make_images, lambda given, new, run: ("encode", given, "--model", run, "-o", new / "tokens.safetensors")
    ),
    "encode to shards": Verb(
        make_images,
        lambda given, new, run: (
            "encode",
            given,
            "--model",
            run,
            "-o",
            new / "tokens",
            "--shard-size",
            2,
            "--crop",
            16,
        ),
    ),
    "encode a volume": Verb(
        make_volume,
        lambda given, new, run: (
            *("encode", given, "--model", run, "-o", new / "tokens.safetensors"),
            *("--volumes", "size=null", "--volumes", "stack=channels", "--volumes", "contrasts=[t1c,t1n,t2f]"),
        ),
    ),
    "decode": Verb(
        lambda folder, run, tokens: shutil.copy(tokens, folder / "t.safetensors"),
        lambda given, new, run: ("decode", given / "t.safetensors", "--model", run, "-o", new / "decoded"),
    ),
    "decode with a damaged model": Verb(
        lambda folder, run, tokens: (make_model(folder, run, tokens), shutil.copy(tokens, folder / "t.safetensors")),
        lambda given, new, run: ("decode", given / "t.safetensors", "--model", given / "model", "-o", new / "decoded"),
    ),
    "eval": Verb(
        make_images,
        lambda given, new, run: (
            *("eval", "--model", run, "--data", given, "-o", new / "eval.json", "--quiet"),
            *("metrics=[psnr]", "resize=16", "crop=16"),
        ),
    ),
    "export": Verb(
        make_model, lambda given, new, run: ("export", given / "model", "-o", new / "out", "--format", "safetensors")
    ),
    "sample": Verb(
        lambda folder, run, tokens: write_generator(run, folder / "g"),
        lambda given, new, run: ("generate", "sample", given / "g", "--count", 1, "-o", new / "samples"),
    ),
}


def held_to(outcome: Outcome, case: str) -> bool:
    """Whether a verb ended well; where it did not, in one line on standard error and with exit code 2."""
    assert "Traceback" not in outcome.err + outcome.out, f"{case}: {outcome.err}"
    if outcome.code == 0:
        return True
    assert outcome.code == 2, f"{case}: {outcome}"
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("vaevq: error: "), f"{case}: {outcome.err}"
    return False


def check_whole(new: Path, case: str) -> None:
    """Every file that was written can be read."""
    for name in files_below(new):
        path = new / name
        assert not path.name.startswith("."), f"{case}: {name} was left behind"
        match path.suffix:
            case ".png":
                with Image.open(path) as image:
                    image.load()
            case ".safetensors" if path.name != "model.safetensors":
                read_token_file(path)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_on_damaged_files_leaves_nothing_half_done(
    name: str, finished: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEVQ_CACHE", str(tmp_path / "cache"))
    verb, given = VERBS[name], tmp_path / "given"
    given.mkdir()
    verb.make(given, finished, tokens)
    sound, ended, told = contents(given), list[bool](), 0
    for number in range(-1, CASES):  # the first is sound
        new = tmp_path / f"new {number}"
        new.mkdir()
        chance, case = random.Random(f"{name} {number}"), f"{name} {number}"
        if number >= 0:
            damage(given, chance)
        before = contents(given)
        outcome = vaevq(*verb.words(given, new, finished))
        ended.append(held_to(outcome, case))
        told += not ended[-1] or any(word in outcome.err + outcome.out for word in ("skipped", "unreadable"))
        assert contents(given) == before, f"{case}: what it reads has changed"
        check_whole(new, case)
        if not ended[-1]:
            assert not [path for path in files_below(new) if Path(path).name.startswith("tokens.safe")], case
        for file, content in sound.items():
            (given / file).write_bytes(content)
    assert ended[0], "the sound one is taken"
    assert told, "some are refused, or skipped and named"
