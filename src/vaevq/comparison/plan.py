"""What is compared with what: a YAML of rows, each laid on one recipe, under one budget in images seen."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from vaevq.config import (
    RunConfig,
    Section,
    laid,
    leaves,
    merged,
    read_yaml,
    recipe_tree,
    spelled_out,
    validate,
    without_effect,
)
from vaevq.config.continuation import CHANGES_NO_RESULT
from vaevq.errors import UserError, nearest_name

Seeds = tuple[Annotated[int, Field(ge=0)], ...]

_EQUAL = ("data.", "eval.", "train.images", "train.batch_size")
# But for what changes no result, and figures that stand apart.
_FREE = {f"{section}.{name}" for section, names in CHANGES_NO_RESULT.items() for name in names} | {"eval.soft"}


class PlanFile(Section):
    """The file as it is written. Rows are validated one by one, as configurations of runs."""

    base: str = "quickstart"  # a recipe's name, or a YAML file beside this one
    set: dict[str, Any] = Field(default_factory=dict)  # laid on the base for all rows
    reference: str  # the row that the others are paired with
    seeds: Seeds = Field(default=(0, 1, 2), min_length=1)
    rows: dict[str, dict[str, Any] | None] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.rows:
            # A row's name is part of the names of files.
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", name):
                raise ValueError(f"a row is named with letters, digits, dots and dashes, not '{name}'")
        if self.reference not in self.rows:
            raise ValueError(f"reference: no row is named '{self.reference}'{nearest_name(self.reference, self.rows)}")
        return self


class RowSeeds(Section):
    """The part of a row that is no setting of a run."""

    seeds: Seeds = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each is named once")
        return self


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the row.
        given: what the plan sets for it beyond what it sets for all.
        configs: its runs by seed.
    """

    name: str
    given: Mapping[str, Any]
    configs: Mapping[int, RunConfig]

    @property
    def config(self) -> RunConfig:
        """The run of its first seed."""
        return next(iter(self.configs.values()))


@dataclass(frozen=True)
class Plan:
    """A comparison that is valid as a whole: all rows see and are measured on the same.

    Attributes:
        path: the file.
        base: the recipe that rows are laid on.
        shared: what is set for all rows.
        reference: the row that others are paired with.
        rows: in the order of the file.
    """

    path: Path
    base: str
    shared: Mapping[str, Any]
    reference: str
    rows: tuple[Row, ...]

    @property
    def picture_seed(self) -> int:
        """The seed whose reconstructions are shown: the lowest that all rows have, or the reference's."""
        common = set.intersection(*(set(row.configs) for row in self.rows))
        return min(common or next(row for row in self.rows if row.name == self.reference).configs)

    def chosen(self, names: str | None) -> list[str]:
        """The rows that a list `a,b` names; all where it is None.

        Raises:
            UserError: one is no row.
        """
        known = [row.name for row in self.rows]
        if names is None:
            return known
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        for name in wanted:
            if name not in known:
                hint = nearest_name(name, known)
                raise UserError(f"--rows: {self.path} has no row '{name}'{hint}: {', '.join(known)}")
        return [name for name in known if name in wanted]


def read_plan(path: Path, *, data: str | None = None, held_out: str | None = None) -> Plan:
    """Reads a plan.

    Args:
        path: the YAML file.
        data, held_out: locations of images that are laid on top of everything.

    Raises:
        UserError: no such file, or mistakes in it: all that are of one kind in one message, each with the row and
            field at fault; rows whose figures could not stand beside each other.
    """
    file = validate(PlanFile, read_yaml(path, "comparison"), str(path))
    base = _base(file.base, path)
    locations = {"data": {k: v for k, v in (("train", data), ("held_out", held_out)) if v is not None}}
    # A mistake in what all rows share is said once, not in each.
    shared = laid(base, file.set)
    on_all = _run_config(shared, file.seeds[0], f"{path}: base and set")
    ground = merged(shared, locations)
    rows, mistakes = [], []
    for name, tree in file.rows.items():
        try:
            rows.append(_row(name, tree or {}, file.seeds, ground))
        except UserError as error:
            mistakes.append(str(error))
    # What is set for all may be for some: it is in vain where no row shows it.
    configs = (*(row.config for row in rows), on_all)
    mistakes = [*(f"set: {vain}" for vain in without_effect(file.set, *configs)), *mistakes]
    if mistakes:
        raise UserError(f"{path}: {'; '.join(mistakes)}")
    plan = Plan(path, file.base, file.set, file.reference, tuple(rows))
    _check_agreement(plan)
    return plan


def _base(name: str, path: Path) -> dict[str, Any]:
    """The recipe as plain data, its variant spelled out: a row of another quantizer takes the rest of it."""
    tree = recipe_tree(name, beside=path.parent)
    tree.pop("seed", None)
    return spelled_out(tree)


def _row(name: str, tree: Mapping[str, Any], seeds: Seeds, ground: Mapping[str, Any]) -> Row:
    given = {key: value for key, value in tree.items() if key != "seeds"}
    own = validate(RowSeeds, {"seeds": tree.get("seeds", list(seeds))}, f"row {name}").seeds
    tree = laid(ground, given)
    row = Row(name, given, {seed: _run_config(tree, seed, f"row {name}") for seed in own})
    if in_vain := without_effect(given, row.config):
        raise UserError(f"row {name}: {'; '.join(in_vain)}")
    return row


def _run_config(tree: Mapping[str, Any], seed: int, where: str) -> RunConfig:
    if "seed" in tree:
        raise UserError(f"{where}: seed: name it in seeds, which a row may have as well")
    return validate(RunConfig, {**tree, "seed": seed}, where)


def _check_agreement(plan: Plan) -> None:
    """Every row sees as many images, prepared alike, and is measured on the same."""
    reference = next(row for row in plan.rows if row.name == plan.reference)
    theirs, mistakes = _budget(reference.config), []
    for row in plan.rows:
        ours = _budget(row.config)
        for name in {**theirs, **ours}:  # sections at their default are left out
            if ours.get(name) != theirs.get(name):
                one, other = ours.get(name, "as by default"), theirs.get(name, "as by default")
                mistakes.append(f"row {row.name}: {name} is {one!r}, and {other!r} in row {reference.name}")
    if mistakes:
        raise UserError(
            f"{plan.path}: {'; '.join(mistakes)}; figures stand beside each other only where these are equal: "
            "set them for all rows in set"
        )


def _budget(config: RunConfig) -> dict[str, Any]:
    return {
        name: value
        for name, value in leaves(config.model_dump(mode="json"))
        if name.startswith(_EQUAL) and name not in _FREE
    }
