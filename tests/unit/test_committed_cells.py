"""The cells that are committed stand: the tables of the documents can be made of them by the present code."""

from pathlib import Path

import pytest

from vaevq.comparison import Sweep, read_plan
from vaevq.comparison.cells import Cell

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
HAVE_CELLS = [plan for plan in EXPERIMENTS.glob("*.yaml") if (EXPERIMENTS / plan.stem / "cells").is_dir()]
PLANS = sorted(plan for plan in HAVE_CELLS if not plan.with_suffix(".py").exists())  # a script's cells are its own


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_every_committed_cell_stands_for_a_row_of_its_plan(plan: Path) -> None:
    tasks = Sweep(read_plan(plan), EXPERIMENTS / plan.stem, need_data=False).tasks
    for path in sorted((EXPERIMENTS / plan.stem / "cells").glob("*.json")):
        cell = Cell.read(path)
        of_its_place = [task for task in tasks if (task.row, task.seed) == (cell.row, cell.seed)]
        assert of_its_place, f"{path.name}: {plan.name} has no such row and seed; delete the cell"
        (task,) = of_its_place
        kind = task.config.model.quantizer.kind
        assert cell.stands_for(task), (
            f"{path.name}: made by {cell.code}, and the code of {kind} is {task.code} now, or an option of the row has "
            "changed. Where golden traces are as they were, and a cell that is trained anew has the same figures, put "
            "both digests into comparison/same_numbers.json; else train the cells anew"
        )


def test_there_are_committed_cells() -> None:
    assert PLANS
