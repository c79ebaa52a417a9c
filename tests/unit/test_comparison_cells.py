"""When a cell stands: what it was made of, and what of that has changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vaevq
from runs import small_run
from vaevq.comparison import code
from vaevq.comparison.cells import (
    MOST_COUNTS,
    TRAIN_ROWS,
    Cell,
    DataDigests,
    Task,
    configuration,
    digest,
    falling,
    find_cell,
    thinned,
)
from vaevq.comparison.code import code_digest, same_numbers
from vaevq.config import QUANTIZERS, DataConfig, RunConfig
from vaevq.errors import UserError

DATA = DataDigests("aa", "bb")


def task(config: RunConfig, code: str = "code", data: DataDigests | None = DATA) -> Task:
    return Task("row", 3, config, data, code)


def cell(config: RunConfig, code: str = "code", **fields: Any) -> Cell:
    return Cell("row", 3, digest(config, DATA, code), code, DATA, configuration(config), **fields)


def lengthened(package: Path, module: str) -> None:
    with (package / module).open("a") as file:
        file.write("\nFURTHER = 3\n")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return small_run(Path("photos"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's sources."""
    source = Path(vaevq.__file__).parent
    return Path(shutil.copytree(source, tmp_path / "vaevq", ignore=shutil.ignore_patterns("__pycache__")))


def edited(package: Path, module: str, old: str, new: str) -> None:
    path = package / module
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_changed_number_in_the_code_changes_its_digest(package: Path) -> None:
    before = code_digest("vaevq", package)
    assert before == code_digest("vaevq")
    edited(package, "metrics/image.py", "255", "256")
    after = code_digest("vaevq", package)
    assert after != before
    lengthened(package, "seeding.py")
    assert code_digest("vaevq", package) != after


def test_comments_docstrings_and_layout_do_not(package: Path) -> None:
    before = code_digest("vaevq", package)
    for path in package.rglob("*.py"):
        path.write_text(f'"""Another docstring."""\n\n\n# A comment.\n{path.read_text()}\n')
    edited(package, "training/tokenizer_step.py", '"""One optimizer step', '"""An optimizer step')
    assert code_digest("vaevq", package) == before


def test_a_change_in_another_quantizer_does_not_either(package: Path) -> None:
    before = {kind: code_digest(kind, package) for kind in QUANTIZERS}
    assert len(set(before.values())) == len(QUANTIZERS)
    lengthened(package, "quantization/baselines/ema.py")
    after = {kind: code_digest(kind, package) for kind in QUANTIZERS}
    assert {kind for kind in QUANTIZERS if after[kind] != before[kind]} == {"vq_ema"}
    # What a baseline is built on counts as its own.
    lengthened(package, "quantization/baselines/vq.py")
    last = {kind: code_digest(kind, package) for kind in QUANTIZERS}
    others = {*("vaevq", "gaussian", "fsq", "lfq", "bsq", "residual")}
    assert {kind for kind in QUANTIZERS if last[kind] == after[kind]} == others


def test_options_messages_and_pages_are_no_numeric_code(package: Path) -> None:
    before = code_digest("vaevq", package)
    for module in (
        "config/run.py",
        "files.py",
        "report/plots.py",
        "training/display.py",
        "comparison/run.py",
        "cli/train.py",
    ):
        lengthened(package, module)
    assert code_digest("vaevq", package) == before


def test_code_that_is_known_to_give_the_same_numbers_is_as_good(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = (code._Group(frozenset({"code", "newer"}), True), code._Group(frozenset({"code", "changed"}), False))
    monkeypatch.setattr(code, "_groups", lambda: groups)
    assert same_numbers("unheard", "unheard", config)
    assert not same_numbers("code", "older", config)
    made = cell(config)
    assert made.stands_for(task(config, code="newer"))
    assert not made.stands_for(task(config, code="older"))
    # The small run's steps have 4 × 64 tokens, and its codebook is revived.
    tokens, quantizer = 4 * 8 * 8, {"codebook_size": 16}
    assert tokens == config.train.batch_size * (config.data.image_size // 2) ** 2
    for changes, same in (
        (quantizer, False),
        ({"codebook_size": tokens}, True),
        ({**quantizer, "revive_below": 0}, True),
        ({**quantizer, "codebook": "embedding"}, True),
    ):
        other = small_run(Path("photos"), model={"quantizer": changes})
        assert same_numbers("code", "changed", other) == same, changes


def test_a_cell_stands_for_what_it_was_made_of(config: RunConfig) -> None:
    made = cell(config)
    assert made.stands_for(task(config))
    others = [
        task(small_run(Path("photos"), train={"images": 24})),
        task(small_run(Path("photos"), seed=4)),
        task(small_run(Path("photos"), model={"quantizer": {"kind": "vq"}}, loss={"continuous_path": 0})),
        task(config, data=DataDigests("aa", "cc")),
        task(config, code="other"),
    ]
    assert not any(made.stands_for(other) for other in others)
    assert made.stands_for(task(config, code="other"), any_code=True)
    assert made.stands_for(task(config, data=None))


def test_where_images_lie_and_what_is_logged_changes_nothing(config: RunConfig) -> None:
    other = small_run(
        Path("elsewhere"),
        data={"workers": 3, "cache_mib": 1},
        train={"device": "cuda", "log_every": 1, "evaluate_every": 1, "evaluate_images": 2},
    )
    assert digest(other, DATA, "code") == digest(config, DATA, "code")
    assert cell(config).stands_for(task(other))
    assert "photos" not in json.dumps(configuration(config))


def test_a_changed_default_is_noticed_and_a_new_option_takes_nothing_away(config: RunConfig) -> None:
    made = cell(config)
    stored = json.loads(json.dumps(made.configuration))
    stored["train"]["ema_decay"] = 0.25  # what the default was when the cell was made
    assert not replace(made, configuration=stored).stands_for(task(config))
    stored = json.loads(json.dumps(made.configuration))
    del stored["train"]["ema_decay"]  # before it was an option
    stored["loss"]["gone"] = 1  # one that is no more
    assert config.adapt.by == "none"
    stored["adapt"]["gain"] = 0.5  # one that has no effect
    assert replace(made, configuration=stored).stands_for(task(config))


def test_a_cell_is_read_as_it_was_written_with_six_digits(config: RunConfig, tmp_path: Path) -> None:
    curves = [{"images_seen": 4, "split": "held_out", "psnr": 12.3456789}]
    made = cell(config, figures={"psnr": 20.123456789, "usage": 0.5}, histogram=[3, 1], curves=curves, seconds=1.0)
    path = tmp_path / "cells" / "row-s3-00000000.json"
    made.write(path)
    read = Cell.read(path)
    assert read.figures == {"psnr": 20.1235, "usage": 0.5}
    assert read.curves == [{"images_seen": 4, "split": "held_out", "psnr": 12.3457}]
    assert (read.digest, read.data, read.histogram) == (made.digest, DATA, [3, 1])
    assert read.configuration == made.configuration
    assert find_cell(path.parent, task(config)) == read
    assert find_cell(path.parent, task(config, code="other")) is None


def test_of_several_cells_the_one_of_this_code_is_taken(config: RunConfig, tmp_path: Path) -> None:
    cell(config, code="old", figures={"psnr": 1.0}).write(tmp_path / "row-s3-1.json")
    cell(config, failure="it broke").write(tmp_path / "row-s3-2.json")
    cell(config, figures={"psnr": 2.0}).write(tmp_path / "row-s3-0.json")
    for any_code in (False, True):
        found = find_cell(tmp_path, task(config), any_code=any_code)
        assert found is not None
        assert found.figures == {"psnr": 2.0}


def test_a_damaged_cell_is_one_line(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "row-s3-0.json").write_text('{"row": 1')
    with pytest.raises(UserError, match=r"row-s3-0\.json: no cell of vaevq compare; delete it"):
        find_cell(tmp_path, task(config))


def test_counts_and_logs_are_kept_small() -> None:
    assert falling([1, 5, 0]) == [5, 1, 0]
    many = falling(list(range(3 * MOST_COUNTS)))
    assert (len(many), many[0], many[-1]) == (MOST_COUNTS, 3 * MOST_COUNTS - 1, 0)
    rows = [{"images_seen": i, "split": "train" if i % 2 else "held_out"} for i in range(100)]
    kept = thinned(rows)
    assert sum(row["split"] == "held_out" for row in kept) == 50
    assert sum(row["split"] == "train" for row in kept) == TRAIN_ROWS
    assert kept[-1] == rows[-1]
    assert thinned(rows[:3]) == rows[:3]


def test_a_digest_is_the_same_whether_a_section_names_images_or_nothing(config: RunConfig) -> None:
    named = config.model_copy(update={"data": DataConfig(train="somewhere", held_out="elsewhere")})
    unnamed = config.model_copy(update={"data": DataConfig()})
    images = DataDigests("train", "held out")
    assert digest(named, images, "code") == digest(unnamed, images, "code")
    cut = config.model_copy(update={"data": DataConfig(image_size=2 * DataConfig().image_size)})
    assert digest(cut, images, "code") != digest(unnamed, images, "code")
