"""A comparison from its plan to its files: what stands, what is missing, and what is written of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vaevq.comparison.cells import Task, find_cell, tasks
from vaevq.comparison.charts import point_picture
from vaevq.comparison.page import psnr_against_perplexity, write_page
from vaevq.comparison.pictures import make_pictures
from vaevq.comparison.plan import Plan
from vaevq.comparison.run import Keeping, Say, run_cells
from vaevq.comparison.table import Comparison, make_comparison, write_json
from vaevq.comparison.text import markdown
from vaevq.files import make_folder, write_text


@dataclass(frozen=True)
class Sweep:
    """A plan and the folder that its cells, runs and tables lie in.

    Attributes:
        plan: what is compared.
        out: the folder: cells/, runs/, report.html, table.json, table.md and two pictures.
        any_code: takes cells that other numeric code has made.
        need_data: False, where cells are taken as they are if the images are not there to be looked at.
    """

    plan: Plan
    out: Path
    any_code: bool = False
    need_data: bool = True

    @cached_property
    def tasks(self) -> list[Task]:
        """The cells that the plan asks for.

        Raises:
            UserError: the images are not there, and they are needed.
        """
        return tasks(self.plan, need_data=self.need_data)

    def missing(self, rows: Sequence[str]) -> list[Task]:
        """The cells of these rows that have no figures yet; one that failed is tried again."""
        wanted = [task for task in self.tasks if task.row in rows]
        return [task for task in wanted if not self._stands(task, any_code=self.any_code)]

    def of_other_code(self) -> list[Task]:
        """The cells that would stand if it did not matter which numeric code made them."""
        lacking = [task for task in self.tasks if not self._stands(task, any_code=False)]
        return [task for task in lacking if self._stands(task, any_code=True)]

    def run(
        self, rows: Sequence[str], say: Say, *, processes: int = 1, keep_runs: bool = False, quiet: bool = False
    ) -> None:
        """Trains what is missing of these rows; see `vaevq.comparison.run.run_cells`."""
        missing = self.missing(rows)
        standing = sum(task.row in rows for task in self.tasks) - len(missing)
        say(f"{standing} cells stand, {len(missing)} to train")
        keeping = Keeping(everything=keep_runs, picture_seed=self.plan.picture_seed)
        run_cells(missing, self.out, keeping, say, processes=processes, quiet=quiet)

    def write(self, command: str) -> Comparison:
        """Writes report.html, table.json, table.md and the pictures of what stands.

        Args:
            command: what made it, for the page.

        Raises:
            UserError: a cell is damaged, or a file cannot be written.
        """
        comparison = make_comparison(self.plan, self.tasks, self.out / "cells", any_code=self.any_code)
        make_folder(self.out)
        pictures = make_pictures(comparison, self.tasks, self.out)
        write_json(comparison, self.out / "table.json")
        write_text(self.out / "table.md", markdown(comparison))
        if pictures is not None:
            pictures.write(self.out / "reconstructions.png")
        if drawn := psnr_against_perplexity(comparison):
            rows = [row.name for row in self.plan.rows]
            path = self.out / "psnr_perplexity.png"
            point_picture("PSNR against perplexity", "perplexity", "PSNR, dB", drawn, rows, path)
        write_page(comparison, pictures, command, self.out / "report.html")
        return comparison

    def _stands(self, task: Task, *, any_code: bool) -> bool:
        cell = find_cell(self.out / "cells", task, any_code=any_code)
        return cell is not None and not cell.failure


def default_folder(plan: Path) -> Path:
    """Where a comparison lies if nothing is said: beside others, by the plan's name."""
    return Path("experiments" if Path("experiments").is_dir() else "runs") / plan.stem
