"""The table of made-up cells: who is ranked with whom, what is paired, and what is said beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pages import Page
from runs import small_tree
from vaevq.comparison import read_plan
from vaevq.comparison.cells import Cell, DataDigests, Task, configuration, digest, tasks
from vaevq.comparison.charts import bands
from vaevq.comparison.diagnostics import compact, table_row
from vaevq.comparison.page import write_page
from vaevq.comparison.table import Comparison, make_comparison
from vaevq.comparison.text import markdown, notes
from vaevq.config import merged

# PSNR by row and seed; `small` and `tiny` have other codebooks.
PSNR = {
    "ours": {0: 20.0, 1: 22.0, 2: 24.5},
    "plain": {0: 19.0, 1: 21.0, 2: 23.0},
    "few": {2: 30.0},
    "small": {0: 40.0, 1: 41.0, 2: 42.0},
}


@pytest.fixture
def made(photos: Path, tmp_path: Path) -> list[Task]:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(small_tree(photos)))
    plan = {
        "base": "base.yaml",
        "reference": "plain",
        "rows": {
            "ours": {},
            "plain": {"model": {"quantizer": {"kind": "vq"}}},
            "few": {"model": {"quantizer": {"kind": "simvq"}}},
            "small": {"model": {"quantizer": {"codebook_size": 256}}},
        },
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    wanted = tasks(read_plan(tmp_path / "plan.yaml"))
    for task in wanted:
        psnr = PSNR[task.row].get(task.seed)
        if psnr is not None:
            write(tmp_path, task, figures={"psnr": psnr, "lpips_alexnet": 1 / psnr, **codebook(task)})
    return wanted


def codebook(task: Task) -> dict[str, float]:
    return {"usage": 0.5, "usage_ceiling": 0.9, "perplexity": 7.0 + task.seed, "tokens_per_codeword": 12.0}


def write(folder: Path, task: Task, **fields: Any) -> None:
    assert task.data is not None
    size = task.config.model.quantizer.codebook_size
    protocol = {"tokens": 512, "images": 2, "codebook_size": size, "crop": "centre", "model_digest": task.name}
    log = [{"images_seen": 20, "split": "train", "codebook/usage_training_queries": 0.99}]
    fields = {"protocol": protocol, "curves": log, **fields}
    made_of = digest(task.config, task.data, task.code)
    made = Cell(task.row, task.seed, made_of, task.code, task.data, configuration(task.config), **fields)
    made.write(folder / "cells" / f"{task.name}.json")


def compared(folder: Path, wanted: list[Task], **options: Any) -> Comparison:
    return make_comparison(read_plan(folder / "plan.yaml"), wanted, folder / "cells", **options)


def test_rows_are_ranked_among_equal_rates_alone(tmp_path: Path, made: list[Task]) -> None:
    table = compared(tmp_path, made)
    assert [group.bits_per_pixel for group in table.groups] == [1.0, 2.0]  # log₂16 and log₂256 over 2×2 pixels
    assert {entry.name for entry in table.groups[0].entries} == {"ours", "plain", "few"}
    assert [group.best("psnr") for group in table.groups] == ["few", None]  # alone, `small` is best of nothing
    assert [group.best("tokens_per_codeword") for group in table.groups] == [None, None]


def test_a_row_whose_size_is_found_has_the_mean_rate_of_its_cells(tmp_path: Path, made: list[Task]) -> None:
    path = tmp_path / "plan.yaml"
    tree = yaml.safe_load(path.read_text())
    found = {"adapt": {"by": "usage", "every": 4, "start": 0}, "seeds": [0, 1]}
    path.write_text(yaml.safe_dump(merged(tree, {"rows": {"found": found}}), sort_keys=False))
    wanted = tasks(read_plan(path))
    assert compared(tmp_path, wanted).entries[-1].codebook_size == 16, "before it has run, where it begins"
    for task, size in zip([task for task in wanted if task.row == "found"], (64, 256), strict=True):
        figures = {"psnr": 25.0, **codebook(task)}
        write(tmp_path, task, figures=figures, protocol={"tokens": 512, "images": 2, "codebook_size": size})
    table = compared(tmp_path, wanted)
    assert [group.bits_per_pixel for group in table.groups] == [1.0, 1.75, 2.0]
    assert [entry.name for entry in table.groups[1].entries] == ["found"]
    assert table.entries[-1].codebook_size == 128
    assert table.entries[-1].differences == {}


def test_ranks_are_over_the_seeds_that_all_have(tmp_path: Path, made: list[Task]) -> None:
    next(path for path in (tmp_path / "cells").glob("few-*")).unlink()
    (group, _) = compared(tmp_path, made).groups
    assert [entry.name for entry in group.entries] == ["ours", "plain", "few"]
    # Without the hardest images of seed 0 `plain` has the higher mean, and is still not the better one.
    next(path for path in (tmp_path / "cells").glob("plain-s0-*")).unlink()
    next(path for path in (tmp_path / "cells").glob("plain-s1-*")).unlink()
    table = compared(tmp_path, made)
    (group, _) = table.groups
    assert group.common_seeds == (2,)
    assert group.entries[0].estimates["psnr"].mean < group.entries[1].estimates["psnr"].mean
    assert group.best("psnr") == "ours"
    assert any("over those that all have (2)" in note for note in notes(table))


def test_differences_are_paired_with_the_reference_of_the_same_rate(tmp_path: Path, made: list[Task]) -> None:
    ours, plain, few, small = compared(tmp_path, made).entries
    difference = ours.differences["psnr"]
    assert difference.seeds == (0, 1, 2)
    assert difference.estimate.mean == pytest.approx(3.5 / 3, rel=1e-5)
    assert difference.verdict == "better"
    assert few.differences["psnr"].seeds == (2,)
    assert few.differences["psnr"].verdict == "open"
    assert plain.differences == small.differences == {}


def test_what_is_missing_failed_or_thin_is_said(tmp_path: Path, made: list[Task]) -> None:
    write(
        tmp_path, next(task for task in made if (task.row, task.seed) == ("few", 0)), failure="the loss is not finite"
    )
    table = compared(tmp_path, made)
    few = table.entries[2]
    assert (few.failed, few.missing, few.seeds) == ({0: "the loss is not finite"}, (1,), (2,))
    said = " | ".join(notes(table))
    for part in ("few, seed 0 failed: the loss is not finite", "few: not run yet: seed 1", "T/K is 12.0", "one seed"):
        assert part in said


def test_cells_of_other_code_are_taken_where_asked_and_named(tmp_path: Path, made: list[Task]) -> None:
    now = [replace(task, code="present") if task.row == "ours" else task for task in made]
    assert compared(tmp_path, now).entries[0].missing == (0, 1, 2)
    table = compared(tmp_path, now, any_code=True)
    assert table.entries[0].seeds == (0, 1, 2)
    assert table.other_code == ("ours, seed 0", "ours, seed 1", "ours, seed 2")
    assert "made by other numeric code than this version's: ours, seed 0" in " | ".join(notes(table))


def test_a_protocol_that_is_not_equal_is_said(tmp_path: Path, made: list[Task]) -> None:
    protocol = {"tokens": 512, "images": 2, "codebook_size": 16, "crop": "none"}
    write(tmp_path, made[0], protocol=protocol, figures={"psnr": 20.0, **codebook(made[0])})
    table = compared(tmp_path, made)
    assert table.protocol()[1] == ["crop"]
    assert "not all cells were measured alike: crop differ" in " | ".join(notes(table))


def test_the_markdown_table_has_usage_with_its_ceiling_and_marks_the_best(tmp_path: Path, made: list[Task]) -> None:
    text = markdown(compared(tmp_path, made))
    lines = text.splitlines()
    header, row = (next(line for line in lines if line.startswith(start)) for start in ("|  | seeds", "| ours |"))
    assert [cell.strip() for cell in header.split("|")[2:-1]] == [
        *("seeds", "PSNR (dB) ↑", "LPIPS (AlexNet) ↓"),
        *("rate an image (bits)", "codebook usage ↑", "usage ceiling", "perplexity ↑", "tokens a codeword (T/K)"),
    ]
    assert "22.17 ± 5.60" in row
    assert "**30.00**" in text
    assert "+1.17 ± 0.72, better" in text
    assert "99.00%" not in text  # of training queries, which the page alone shows


def test_the_table_for_programs_holds_every_value(tmp_path: Path, made: list[Task]) -> None:
    tree = compared(tmp_path, made).to_json()
    ours = next(row for row in tree["groups"][0]["rows"] if row["row"] == "ours")
    assert ours["figures"]["psnr"]["by_seed"] == {"0": 20.0, "1": 22.0, "2": 24.5}
    assert ours["figures"]["usage_training_queries"]["mean"] == pytest.approx(0.99)
    assert ours["figures"]["tokens_per_image"]["mean"] == 256
    assert ours["figures"]["bits_per_image"]["mean"] == 256 * 4  # log₂16 a token
    assert ours["difference_to_reference"]["psnr"]["verdict"] == "better"


def test_the_page_draws_every_figure_and_difference_with_its_interval(tmp_path: Path, made: list[Task]) -> None:
    write_page(compared(tmp_path, made), None, "vaevq compare", tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    page.assert_self_contained()
    labels = [svg["aria-label"] or "" for svg in page.all("svg")]
    psnr = next(label for label in labels if label.startswith("PSNR, higher is better. Means and 95% intervals"))
    for words in ("ours, 1 bpp 22.17 ± 5.60", "plain, 1 bpp 21.00 ± 4.97", "few, 1 bpp 30.00;", "small, 2 bpp 41.00"):
        assert words in psnr
    difference = next(label for label in labels if label.startswith("PSNR, less plain, higher is better"))
    assert "ours 1.17 ± 0.72" in difference
    assert "small" not in difference, "another rate has no difference"
    assert any(label.startswith("codebook usage, less plain") for label in labels)
    assert len(page.all("table")) == len(page.all("thead"))


def test_curves_are_over_the_seeds_that_all_rows_have(tmp_path: Path, made: list[Task]) -> None:
    for task in made:
        if task.row != "few" or task.seed == 2:
            log = [{"images_seen": 8, "split": "held_out", "psnr": 20.0 + 10 * task.seed, "usage": 0.25}]
            write(tmp_path, task, figures={"psnr": PSNR[task.row][task.seed], **codebook(task)}, curves=log)
    table = compared(tmp_path, made)
    assert {(band.label, *band.images_seen, *band.mean, *band.high) for band in bands(table, "psnr")} == {
        (row, 8, 40.0, 40.0) for row in PSNR
    }
    assert {band.mean[0] for band in bands(table, "usage")} == {25.0}  # percent
    for path in (tmp_path / "cells").glob("few-*"):
        path.unlink()
    assert {(*band.low, *band.mean, *band.high) for band in bands(compared(tmp_path, made), "psnr")} == {(20, 30, 40)}


def test_seeds_are_begun_one_after_another(made: list[Task]) -> None:
    assert [task.seed for task in made] == sorted(task.seed for task in made)
    assert made[0].data is not None
    assert made[0].data == made[1].data != made[-1].data
    assert isinstance(made[0].data, DataDigests)


def test_diagnostics_are_means_over_the_seeds_that_have_them(made: list[Task], tmp_path: Path) -> None:
    for task in made:
        if task.row == "ours" and task.seed < 2:
            kept = compact(
                {
                    "model_digest": "abc",
                    "images": 2,
                    "latents": {"mean_dimension": 2.0 + task.seed, "mean_eigenvalues": [1.0] * 17},
                    "distortion": {"quantization_error_share": None},
                    "stability": None,
                    "gradients": [{"term": "total", "rms": 0.5, "share": 1.0, "along": 1.0}],
                }
            )
            assert kept == {
                "images": 2,
                "latents": {"mean_dimension": 2.0 + task.seed},
                "distortion": {},
                "gradients": {"total": 0.5},
            }
            write(tmp_path, task, figures={"psnr": 20.0, **codebook(task)}, diagnostics=kept)
    comparison = make_comparison(read_plan(tmp_path / "plan.yaml"), made, tmp_path / "cells")
    (group,) = [group for group in comparison.to_json()["groups"] if len(group["rows"]) > 1]
    found = {row["row"]: row["diagnostics"] for row in group["rows"]}
    assert found == {"ours": {"mean_dimension": 2.5}, "plain": {}, "few": {}}
    assert table_row(found["ours"]) == ["2.50", *["–"] * 10]
    write_page(comparison, None, "vaevq compare", tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    assert "ours 2.50 – –" in text
    assert "plain – – –" in text


def test_without_any_diagnosis_the_page_says_nothing_of_why(made: list[Task], tmp_path: Path) -> None:
    comparison = make_comparison(read_plan(tmp_path / "plan.yaml"), made, tmp_path / "cells")
    write_page(comparison, None, "vaevq compare", tmp_path / "report.html")
    assert "effective dimension" not in (tmp_path / "report.html").read_text()
