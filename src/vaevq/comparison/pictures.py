"""The same few held-out images through every row's tokenizer: chosen by their place, not by success."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vaevq.comparison.cells import Task
from vaevq.comparison.plan import Plan
from vaevq.comparison.table import Comparison
from vaevq.data.held_out import run_images
from vaevq.errors import UserError
from vaevq.report.examples import Examples, examples
from vaevq.report.pictures import overview, save_picture, shown
from vaevq.tokenizer import Tokenizer

IMAGES = 6
"""How many images are shown, evenly spaced over the held-out ones."""


@dataclass(frozen=True)
class Pictures:
    """What the rows make of the same images.

    Attributes:
        names: of the images.
        originals: of each.
        reconstructions: of each image, by row.
        seed: of the runs that made them.
        absent: rows whose model is not there, which is where the cell was made elsewhere or is missing.
    """

    names: list[str]
    originals: list[Image.Image]
    reconstructions: dict[str, list[Image.Image]]
    seed: int
    absent: list[str]

    def write(self, path: Path) -> None:
        """Writes them as one PNG file: an image a column, a row below the other."""
        made = list(self.reconstructions.values())
        columns = [[original, *(row[i] for row in made)] for i, original in enumerate(self.originals)]
        save_picture(overview(columns, self.names, ["original", *self.reconstructions]), path)


def make_pictures(comparison: Comparison, tasks: Sequence[Task], out: Path) -> Pictures | None:
    """Encodes and decodes the images with each row's kept model, on the CPU; None without any, or without the images.

    Where the images that are found are not those that a cell was measured on, nothing of it is shown.

    Args:
        comparison: whose cells are finished.
        tasks: all cells of the plan.
        out: the folder of the comparison, which holds the models.
    """
    plan: Plan = comparison.plan
    seed = plan.picture_seed
    wanted = {task.row: task for task in tasks if task.seed == seed}
    try:
        config = next(iter(wanted.values())).config
        held_out = run_images(config.data, seed).held_out
    except UserError:
        return None
    made: dict[str, Examples] = {}
    for entry in comparison.entries:
        task = wanted.get(entry.name)
        if task is None or seed not in entry.cells or entry.cells[seed].data.held_out != held_out.digest:
            continue
        # The digest of the weights says whether the model in the folder is the one that was measured.
        tokenizer = _load(out / "runs", task, entry.cells[seed].protocol.get("model_digest"))
        if tokenizer is not None:
            made[entry.name] = examples(tokenizer, held_out, task.config.eval, IMAGES)
    if not made:
        return None
    first = next(iter(made.values()))
    return Pictures(
        names=first.names,
        originals=[shown(*pair) for pair in zip(first.originals, first.looks, strict=True)],
        reconstructions={
            row: [shown(*pair) for pair in zip(found.reconstructions, found.looks, strict=True)]
            for row, found in made.items()
        },
        seed=seed,
        absent=[row.name for row in plan.rows if row.name not in made],
    )


def _load(runs: Path, task: Task, digest: object) -> Tokenizer | None:
    for folder in sorted(runs.glob(f"{task.row}-s{task.seed}-*")):
        if not (folder / "model").is_dir():
            continue
        tokenizer = Tokenizer.from_pretrained(str(folder))
        if tokenizer.digest == digest:
            return tokenizer.eval()
    return None
