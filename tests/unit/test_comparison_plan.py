"""A plan becomes runs, and every mistake in it is one line that names the row and the field."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from vaevq.comparison import Plan, read_plan
from vaevq.config import merged
from vaevq.errors import UserError

PLAN: dict[str, Any] = {
    "base": "quickstart",
    "set": {"train": {"images": 800}},
    "reference": "simvq",
    "seeds": [0, 1],
    "rows": {
        "vaevq": None,
        "simvq": {"model": {"quantizer": {"kind": "simvq"}}},
        "vq": {"seeds": [1, 2], "model": {"quantizer": {"kind": "vq", "codebook_size": 64}}},
    },
}


def plan(folder: Path, **changes: Any) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(merged(PLAN, changes), sort_keys=False))
    return read_plan(path)


def mistake(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan(folder, **changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder / "plan.yaml"))
    return str(caught.value)


def test_a_row_is_laid_on_the_base_for_each_of_its_seeds(tmp_path: Path) -> None:
    vaevq, simvq, vq = plan(tmp_path).rows
    assert [list(row.configs) for row in (vaevq, simvq, vq)] == [[0, 1], [0, 1], [1, 2]]
    assert all(config.seed == seed for row in (vaevq, simvq, vq) for seed, config in row.configs.items())
    assert all(row.config.train.images == 800 and row.config.train.batch_size == 16 for row in (vaevq, simvq, vq))
    assert (vaevq.config.model.quantizer.codebook_size, vq.config.model.quantizer.codebook_size) == (1024, 64)
    assert vq.config.model.quantizer.code_dim == vaevq.config.model.quantizer.code_dim == 8


def test_a_quantizer_without_a_continuous_path_decodes_none_unless_it_says_so(tmp_path: Path) -> None:
    made = plan(tmp_path, set={"loss": {"continuous_path": 0.3}})
    assert [row.config.loss.continuous_path for row in made.rows] == [0.3, 0, 0]
    text = mistake(tmp_path, rows={"vq": {"loss": {"continuous_path": 0.1}}})
    assert "row vq: loss.continuous_path must be 0" in text


def test_a_row_of_another_quantizer_takes_the_codebook_of_the_base_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {"variant": "paper", "seed": 7, "model": {"quantizer": {"rcs_weight": 2.0, "codebook_size": 32}}}
        )
    )
    vaevq, simvq, _ = plan(tmp_path, base="mine.yaml").rows
    assert (vaevq.config.model.quantizer.codebook_size, simvq.config.model.quantizer.codebook_size) == (32, 32)
    assert vaevq.config.model.quantizer.model_dump()["rcs_weight"] == 2.0
    assert simvq.config.train.batch_size == vaevq.config.train.batch_size == 32  # the variant's
    assert simvq.config.loss.pixel_reduction == "image"


def test_every_mistake_in_the_rows_is_said_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    rows = {
        "vaevq": {"model": {"quantizer": {"rcs_wieght": 1}}},
        "vq": {"seeds": [1, 1], "train": {"imagse": 1}},
        "simvq": {"train": {"learning_rate": "fast"}},
    }
    text = mistake(tmp_path, rows=rows)
    assert "row vaevq: model.quantizer.rcs_wieght: unknown option (did you mean 'rcs_weight'?)" in text
    assert "row vq: seeds: each is named once" in text
    assert "row simvq: train.learning_rate: input should be a valid number" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refrence": "vq"}, r"refrence: unknown option (did you mean 'reference'?)"),
        ({"reference": "simqv"}, "no row is named 'simqv' (did you mean 'simvq'?)"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [-1]}, "seeds.0: "),
        ({"rows": {"a/b": None}}, "not 'a/b'"),
        ({"set": {"seed": 3}}, "base and set: seed: name it in seeds"),
        ({"set": {"trian": {}}}, "base and set: trian: unknown option (did you mean 'train'?)"),
        ({"base": "quickstrat"}, None),
        ({"rows": {"vq": {"train": {"images": 900}}}}, "row vq: train.images is 900, and 800 in row simvq"),
        ({"rows": {"vq": {"train": {"batch_size": 4}}}}, "train.batch_size is 4"),
        ({"rows": {"vq": {"data": {"image_size": 32}}}}, "data.image_size is 32"),
        ({"rows": {"vq": {"eval": {"resize": 64}}}}, "eval.resize is 64"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, changes: dict[str, Any], words: str | None) -> None:
    if words is None:
        with pytest.raises(UserError, match=r"no recipe named 'quickstrat' .did you mean 'quickstart'"):
            plan(tmp_path, **changes)
    else:
        assert words in mistake(tmp_path, **changes)


def test_what_changes_no_result_may_differ_between_rows(tmp_path: Path) -> None:
    plan(tmp_path, rows={"vq": {"data": {"workers": 2}, "eval": {"batch_size": 2}, "train": {"learning_rate": 1e-4}}})


def test_no_file_and_a_row_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such comparison file"):
        read_plan(tmp_path / "none.yaml")
    made = plan(tmp_path)
    assert made.chosen("vq, vaevq") == ["vaevq", "vq"]
    with pytest.raises(UserError, match=r"--rows: .* has no row 'simqv' \(did you mean 'simvq'"):
        made.chosen("simqv")


def test_pictures_are_of_the_lowest_seed_that_all_rows_have(tmp_path: Path) -> None:
    assert plan(tmp_path).picture_seed == 1
    assert plan(tmp_path, rows={"vq": {"seeds": [5]}}).picture_seed == 0  # then the reference's


def test_data_of_the_command_is_laid_on_everything(tmp_path: Path) -> None:
    plan(tmp_path)
    made = read_plan(tmp_path / "plan.yaml", data="mine", held_out="others")
    assert {(row.config.data.train, row.config.data.held_out) for row in made.rows} == {("mine", "others")}
