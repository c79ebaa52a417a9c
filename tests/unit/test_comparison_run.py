"""A comparison from end to end: trained in pieces, on one process and on two, with a cell that fails, and its page."""

import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pages import Page
from runs import Outcome, small_tree, start_vaevq, vaevq
from vaevq.comparison import Sweep, pictures, read_plan
from vaevq.comparison.cells import Cell, digest
from vaevq.comparison.table import make_comparison
from vaevq.config import merged
from vaevq.data.held_out import run_images
from vaevq.data.index import find_images
from vaevq.tokenizer import Tokenizer

ROWS: dict[str, Any] = {
    "ours": None,
    "simvq": {"model": {"quantizer": {"kind": "simvq"}}},
    "wide": {"seeds": [0], "model": {"quantizer": {"codebook_size": 64}}},
    # Diverges in its first step, which the first evaluation on the way notices.
    "wild": {"seeds": [0], "model": {"quantizer": {"kind": "vq"}}, "train": {"learning_rate": 1e30}},
}

WHY = "astronaut-0.png: the reconstruction is not finite"


def written_plan(folder: Path, photos: Path, **changes: Any) -> Path:
    base = small_tree(photos, train={"images": 16, "evaluate_every": 4})
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    plan = merged({"base": "base.yaml", "reference": "simvq", "seeds": [0, 1], "rows": ROWS}, changes)
    path = folder / "tried.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


def compare(plan: Path, out: Path, *words: object) -> Outcome:
    outcome = vaevq("compare", plan, "--out", out, *words)
    assert outcome.code == 0, outcome.err
    return outcome


def cells(out: Path) -> dict[str, Cell]:
    """The cells of a folder by row and seed, without what differs from one run to the next."""
    read = [Cell.read(path) for path in sorted((out / "cells").iterdir())]
    timed = {"seconds", "images_per_second"}
    return {
        f"{cell.row}-{cell.seed}": replace(
            cell,
            seconds=0,
            environment={},
            curves=[{name: value for name, value in row.items() if name not in timed} for row in cell.curves],
        )
        for cell in read
    }


def states(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}


@pytest.fixture(scope="module")
def plan(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_plan(tmp_path_factory.mktemp("plan"), photos)


@pytest.fixture(scope="module")
def done(plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of which one row was compared first, and then the rest."""
    out = tmp_path_factory.mktemp("compared")
    first = compare(plan, out, "--rows", "ours")
    assert "0 cells stand, 2 to train" in first.err
    assert "note: simvq: not run yet: seed 0, 1" in first.out
    before = states(out)
    second = compare(plan, out)
    assert "2 cells stand, 4 to train" in second.err
    assert f"wild, seed 0: failed: {WHY}" in second.err
    assert all(states(out)[path] == when for path, when in before.items())
    return out


@pytest.fixture(scope="module")
def page(done: Path) -> Page:
    return Page((done / "report.html").read_text())


def test_a_cell_holds_the_figures_and_the_way_there(done: Path) -> None:
    made = cells(done)
    assert made.keys() == {"ours-0", "ours-1", "simvq-0", "simvq-1", "wide-0", "wild-0"}
    cell = made["ours-0"]
    assert {"psnr", "ssim", "usage", "perplexity"} <= cell.figures.keys()
    assert sum(cell.histogram) == cell.protocol["tokens"]
    assert list(cell.histogram) == sorted(cell.histogram, reverse=True)
    assert [row["images_seen"] for row in cell.curves if row["split"] == "held_out"] == [4, 8, 12, 16]
    assert cell.curves[-1]["images_seen"] == 16
    assert cell.diagnostics["latents"].keys() >= {"mean_dimension", "codebook_dimension", "posterior_variance"}
    assert cell.diagnostics["gradients"]["total"] > 0
    assert made["wild-0"].diagnostics == {}
    assert all(path.stat().st_size < 8000 for path in (done / "cells").iterdir())
    texts = [path.read_text() for path in (done / "cells").iterdir()]
    assert not any(str(Path.home() / "") in text or "/tmp" in text for text in texts)


def test_a_cell_that_fails_says_why_and_is_tried_again(done: Path, plan: Path) -> None:
    cell = cells(done)["wild-0"]
    assert cell.figures == {}
    assert cell.failure.startswith(WHY)
    again = compare(plan, done)
    assert "5 cells stand, 1 to train" in again.err
    assert f"note: wild, seed 0 failed: {WHY}" in again.out


def test_of_finished_runs_the_models_of_one_seed_are_kept(done: Path) -> None:
    folders = {path.name.rpartition("-")[0]: path for path in (done / "runs").iterdir()}
    assert folders.keys() == {"ours-s0", "simvq-s0", "wide-s0", "wild-s0"}
    assert {path.name for path in folders["ours-s0"].iterdir()} == {"model", "config.json", "split.json", "eval.json"}
    assert vaevq("inspect", folders["ours-s0"]).code == 0


def test_a_changed_row_is_made_anew_and_the_others_stand(done: Path, plan: Path, photos: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    before = states(out)
    changed = written_plan(tmp_path, photos, rows={"wide": {"train": {"learning_rate": 1e-3}}})
    assert "1 cells stand, 0 to train" in compare(plan, out, "--rows", "wide").err
    assert "0 cells stand, 1 to train" in compare(changed, out, "--rows", "wide").err
    assert len(states(out)) == len(before) + 1
    assert all(states(out)[path] == when for path, when in before.items())


def test_two_processes_give_the_cells_of_one(done: Path, plan: Path, tmp_path: Path) -> None:
    outcome = compare(plan, tmp_path, "--processes", 2)
    assert outcome.err.count("PSNR") == 5
    assert "wild, seed 0: failed" in outcome.err
    assert cells(tmp_path) == cells(done)


def test_a_sweep_that_is_stopped_keeps_what_stands_and_goes_on(done: Path, plan: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = start_vaevq("compare", plan, "--out", tmp_path / "out", log=log)
    while len(list((tmp_path / "out" / "cells").glob("*.json"))) < 2:
        assert process.is_alive(), log.read_text()
        time.sleep(0.005)
    assert process.pid
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130, log.read_text()
    assert "cells done; run the same command again to go on" in log.read_text()
    assert not list((tmp_path / "out" / "cells").glob(".*"))
    compare(plan, tmp_path / "out")
    assert cells(tmp_path / "out") == cells(done)


def test_all_of_the_runs_is_kept_where_asked(plan: Path, tmp_path: Path) -> None:
    compare(plan, tmp_path, "--rows", "wide", "--keep-runs")
    (folder,) = (tmp_path / "runs").iterdir()
    assert {"metrics.jsonl", "checkpoints", "model"} <= {path.name for path in folder.iterdir()}


def test_a_run_that_a_changed_default_stops_from_going_on_begins_anew(plan: Path, tmp_path: Path) -> None:
    compare(plan, tmp_path, "--rows", "wide", "--keep-runs")
    (folder,) = (tmp_path / "runs").iterdir()
    (cell,) = (tmp_path / "cells").iterdir()
    before = cells(tmp_path)
    cell.unlink()
    config = json.loads((folder / "config.json").read_text())
    config["loss"]["lecam_weight"] = 0.25
    (folder / "config.json").write_text(json.dumps(config))
    compare(plan, tmp_path, "--rows", "wide")
    assert cells(tmp_path) == before


def test_the_page_needs_no_other_file(page: Page) -> None:
    page.assert_self_contained()
    style = page.source[: page.source.index("</style>")]
    assert all(f"{variable}:" in style for variable in set(re.findall(r"var\((--\w+)\)", page.source)))


def test_the_page_shows_every_row_with_what_was_compared(page: Page) -> None:
    for part in (
        *("Each saw 16 images", "4 rows, 5 of 6 runs", "1 bits a pixel (f = 2, K = 16)", "1.5 bits a pixel"),
        *(f"wild, seed 0 failed: {WHY}", "The reference is simvq", "Each row less simvq"),
        *("model.quantizer.kind=simvq", "encoding mean quantized (deterministic)", "codebook usage, training queries"),
        *(
            "In ours, wide these are sampled latents",
            "tokens a codeword (T/K)",
            "usage ceiling",
            "chosen by their place",
        ),
        *("vaevq compare", "No model is here of: wild."),
    ):
        assert part in page.text, part
    for row in ROWS:
        assert page.words.count(row) >= 3, row


def test_the_page_has_the_plots_and_every_row_in_its_pictures(page: Page, plan: Path) -> None:
    charts = [attributes["aria-label"] or "" for attributes in page.all("svg")]
    for start in ("PSNR, held-out. At 16", "codebook usage, held-out", "PSNR against perplexity", "PSNR against rate"):
        assert any(label.startswith(start) for label in charts), start
    assert all(row in charts[0] for row in ("ours", "simvq", "wide"))
    alts = [attributes["alt"] or "" for attributes in page.all("img")]
    held_out = {alt.partition(" of ")[2] for alt in alts}
    assert {alt.partition(" of ")[0] for alt in alts} == {"original", "ours", "simvq", "wide"}
    assert len(alts) == 4 * len(held_out)


def test_the_pictures_are_what_the_kept_models_make_of_the_images(done: Path, photos: Path) -> None:
    (folder,) = (done / "runs").glob("ours-s0-*")
    held_out = json.loads((folder / "split.json").read_text())["held_out"]
    assert set(held_out) < {entry.name for entry in find_images(str(photos))}
    assert Tokenizer.from_pretrained(str(folder)).digest == cells(done)["ours-0"].protocol["model_digest"]
    with Image.open(done / "reconstructions.png") as sheet, Image.open(done / "psnr_perplexity.png") as plot:
        assert sheet.height > 4 * 128
        assert sheet.width > len(held_out) * 128
        assert plot.size == (900, 600)


def test_other_images_than_those_measured_are_not_shown(
    done: Path, plan: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that names no images finds the quick start's, whatever its cells were measured on."""
    for name in ("astronaut-0.png", "coffee-0.png"):
        shutil.copy(photos / name, tmp_path)
    sweep = Sweep(read_plan(plan), done)
    table = make_comparison(sweep.plan, sweep.tasks, done / "cells")
    assert pictures.make_pictures(table, sweep.tasks, done) is not None
    others = run_images(sweep.tasks[0].config.data.model_copy(update={"train": str(tmp_path)}), 0)
    monkeypatch.setattr(pictures, "run_images", lambda *_: others)
    assert pictures.make_pictures(table, sweep.tasks, done) is None


def test_a_page_of_cells_alone_needs_neither_models_nor_images(done: Path, plan: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "cells", tmp_path / "out" / "cells")
    (tmp_path / "tried.yaml").write_text(plan.read_text())
    base = yaml.safe_load((plan.parent / "base.yaml").read_text())
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(merged(base, {"data": {"train": "gone"}})))
    outcome = compare(tmp_path / "tried.yaml", tmp_path / "out", "--table-only", "--json")
    tree = json.loads(outcome.out)
    assert [row["seeds"] for group in tree["groups"] for row in group["rows"]] == [[0, 1], [0, 1], [], [0]]
    assert tree == json.loads((tmp_path / "out" / "table.json").read_text())
    assert "No models or images are here" in Page((tmp_path / "out" / "report.html").read_text()).text
    assert not (tmp_path / "out" / "runs").exists()
    missing = vaevq("compare", tmp_path / "tried.yaml", "--out", tmp_path / "out")
    assert (missing.code, missing.err) == (2, "vaevq: error: gone: no such file or folder\n")


def test_cells_of_other_code_are_told_of_and_taken_where_asked(done: Path, plan: Path, tmp_path: Path) -> None:
    sweep = Sweep(read_plan(plan), tmp_path)
    for task in sweep.tasks:
        (path,) = (done / "cells").glob(f"{task.row}-s{task.seed}-*")
        cell = replace(Cell.read(path), code="before")
        assert task.data is not None
        replace(cell, digest=digest(task.config, task.data, "before")).write(tmp_path / "cells" / path.name)
    told = compare(plan, tmp_path, "--table-only")
    assert "5 more cells were made by other numeric code; --any-code takes them" in told.out
    assert "ours: not run yet: seed 0, 1" in told.out
    taken = compare(plan, tmp_path, "--table-only", "--any-code")
    assert "made by other numeric code than this version's: ours, seed 0;" in taken.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "oars"], "has no row 'oars' (did you mean 'ours'?)"),
        (["--processes", "0"], "--processes 0: at least 1"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(plan: Path, tmp_path: Path, words: list[str], message: str) -> None:
    outcome = vaevq("compare", plan, "--out", tmp_path, *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("vaevq: error:") == 1


def test_under_torchrun_it_is_refused(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    outcome = vaevq("compare", plan, "--out", tmp_path)
    assert outcome.code == 2
    assert "call it without torchrun" in outcome.err


def test_comparisons_lie_beside_each_other(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert vaevq("compare", plan, "--table-only").code == 0
    assert (tmp_path / "runs" / "tried" / "report.html").exists()
    (tmp_path / "experiments").mkdir()
    assert vaevq("compare", plan, "--table-only").code == 0
    assert (tmp_path / "experiments" / "tried" / "table.md").exists()
