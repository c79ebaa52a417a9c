"""A cell of the comparison: one row at one seed, as a small JSON file that says what it was made of."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from vaevq.comparison.code import code_digest, same_numbers
from vaevq.comparison.plan import Plan
from vaevq.config import RunConfig, idle, leaves
from vaevq.config.continuation import CHANGES_NO_RESULT
from vaevq.data.held_out import run_images
from vaevq.errors import UserError
from vaevq.files import make_folder, write_text
from vaevq.tokenizer import Tokenizer

# Where images or a model lie is not which they are: they have digests of their own. The variant is spelled out.
_NOT_OF_THE_RESULT: dict[str, Any] = {
    "variant": True,
    "data": CHANGES_NO_RESULT["data"] | {"train", "held_out"},
    "train": CHANGES_NO_RESULT["train"] | {"init_from"},
    "eval": CHANGES_NO_RESULT["eval"],
}

MOST_COUNTS = 4096
"""A larger codebook's counts are kept at so many evenly spaced places of their order."""

TRAIN_ROWS = 8
"""How many rows of the training log a cell keeps, evenly spaced, the last one always."""


@dataclass(frozen=True)
class DataDigests:
    """Digests of the names of the images of both sides."""

    train: str
    held_out: str


@dataclass(frozen=True)
class Task:
    """A cell that a plan asks for.

    Attributes:
        row, seed: its place.
        config: the run.
        data: which images; None where they could not be looked at.
        code: the digest of the numeric code as it is now.
    """

    row: str
    seed: int
    config: RunConfig
    data: DataDigests | None
    code: str

    @property
    def name(self) -> str:
        """Of the cell's file and its run folder."""
        assert self.data is not None
        return f"{self.row}-s{self.seed}-{digest(self.config, self.data, self.code)[:8]}"


@dataclass(frozen=True)
class Cell:
    """What is kept of a run.

    Attributes:
        row, seed: its place in the table.
        digest: of all that the figures depend on, see `digest`.
        code: of the numeric code.
        data: of the names of the images.
        configuration: every option that the figures depend on.
        failure: why there are no figures, in one line; empty where there are.
        figures, protocol: of the held-out images, as `vaevq eval` gives them.
        continuous: figures of the soft latent, where `eval.soft` asked for them.
        histogram: how often each codeword occurs, in falling order (see `MOST_COUNTS`).
        curves: rows of metrics.jsonl: all of the held-out images, and a few of training.
        environment: versions, device, commit.
        seconds: what training took, with its evaluations on the way, over all sittings.
        diagnostics: of diagnosis.json by section, see `comparison.diagnostics`; empty where there is none.
    """

    row: str
    seed: int
    digest: str
    code: str
    data: DataDigests
    configuration: Mapping[str, Any]
    failure: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    histogram: Sequence[int] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    continuous: Mapping[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the cell, a line a field, figures with six significant digits."""
        rounded = {"figures", "continuous", "curves", "diagnostics", "seconds"}
        tree = {name: _rounded(value) if name in rounded else value for name, value in asdict(self).items()}
        lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in tree.items()]
        make_folder(path.parent)
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a cell. Fields that this version does not know are passed over.

        Raises:
            UserError: the file is no cell.
        """
        way_out = "delete it, and the same command makes it anew"
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            known = {name: tree[name] for name in cls.__dataclass_fields__ if name in tree}
            return cls(**{**known, "data": DataDigests(**tree["data"])})
        except OSError as error:
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}: no cell of vaevq compare; {way_out}") from None

    def stands_for(self, task: Task, *, any_code: bool = False) -> bool:
        """Whether this is the result of the task.

        The digest has to be equal, and every option that the cell was made with and that still exists has to have
        the value that it has now, unless it has no effect: a changed default is noticed, an option that is new takes no
        cell away.
        Code that is known to give the same numbers is as good; `any_code` accepts what any other has made. Data that
        cannot be looked at is taken as the cell's.
        """
        if not (any_code or same_numbers(self.code, task.code, task.config)):
            return False
        if self.digest != digest(task.config, task.data or self.data, self.code):
            return False
        present = dict(leaves(configuration(task.config)))
        told = present.keys() - idle(task.config).keys()
        return all(present[name] == value for name, value in leaves(self.configuration) if name in told)


def tasks(plan: Plan, *, need_data: bool = True) -> list[Task]:
    """The cells that a plan asks for, seed by seed, so that a sweep that is stopped early has pairs.

    Args:
        need_data: False, where the images are only looked at to make sure that cells are of them.

    Raises:
        UserError: the images are not there, and they are needed.
    """
    seeds = list(dict.fromkeys(seed for row in plan.rows for seed in row.configs))
    code = {kind: code_digest(kind) for kind in {row.config.model.quantizer.kind for row in plan.rows}}
    made = []
    for seed in seeds:
        rows = [row for row in plan.rows if seed in row.configs]
        data = _data_digests(rows[0].configs[seed], need_data)
        for row in rows:
            config = row.configs[seed]
            made.append(Task(row.name, seed, config, data, code[config.model.quantizer.kind]))
    return made


def _data_digests(config: RunConfig, need_data: bool) -> DataDigests | None:
    if not need_data and config.data.train is None:
        return None  # the cells may be of images that --data named, and not of the quick start's
    try:
        images = run_images(config.data, config.seed)
    except UserError:
        if need_data:
            raise
        return None
    return DataDigests(images.train.digest, images.held_out.digest)


def find_cell(folder: Path, task: Task, *, any_code: bool = False) -> Cell | None:
    """The cell of a task among the files of `folder`, finished or failed; None where there is none.

    Raises:
        UserError: a file is damaged.
    """
    paths = folder.glob(f"{task.row}-s{task.seed}-*.json")
    read = [Cell.read(path) for path in sorted(paths, key=lambda path: (path.stat().st_mtime, path.name))]
    found = [cell for cell in read if cell.row == task.row and cell.stands_for(task, any_code=any_code)]
    # Of several, one by code of the present numbers, then one that has figures, then the newest.
    return max(
        found,
        key=lambda cell: (same_numbers(cell.code, task.code, task.config), not cell.failure, read.index(cell)),
        default=None,
    )


def configuration(config: RunConfig) -> dict[str, Any]:
    """Every option that figures depend on, as JSON data."""
    return config.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT)


def digest(config: RunConfig, data: DataDigests, code: str) -> str:
    """64 hexadecimal digits of what was set otherwise than by default, the images' names, the numeric code, and the
    model whose weights the run starts from."""
    tree = config.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT, exclude_defaults=True)
    # A section that sets nothing but where images lie is there and empty: it is so where nothing at all is set.
    tree.setdefault("data", {})
    # Each kind is the default of its own section.
    start = [] if config.train.init_from is None else [_model_digest(config.train.init_from)]
    facts = [config.model.quantizer.kind, tree, asdict(data), code, *start]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def _model_digest(location: str) -> str:
    return Tokenizer.from_pretrained(location).digest


def falling(counts: Sequence[int]) -> list[int]:
    """Counts in falling order; of more than `MOST_COUNTS`, those at evenly spaced places, the ends included."""
    ordered = sorted(counts, reverse=True)
    if len(ordered) <= MOST_COUNTS:
        return ordered
    return [ordered[i * (len(ordered) - 1) // (MOST_COUNTS - 1)] for i in range(MOST_COUNTS)]


def thinned(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a training log that a cell keeps."""
    train = [i for i, row in enumerate(metrics) if row["split"] == "train"]
    count = min(TRAIN_ROWS, len(train))
    few = {train[(i + 1) * len(train) // count - 1] for i in range(count)}
    return [row for i, row in enumerate(metrics) if row["split"] == "held_out" or i in few]


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else None
        case Mapping():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case _:
            return value
