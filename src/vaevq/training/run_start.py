"""How a run begins in its folder: it continues what is its own, and writes what it is before its first step."""

import json
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from vaevq.config import GeneratorRunConfig, RunConfig, leaves, read_json
from vaevq.config.continuation import CHANGES_NO_RESULT
from vaevq.errors import UserError
from vaevq.files import remove_leftovers, write_json
from vaevq.training.checkpoint import checkpoints, load_checkpoint
from vaevq.training.engine import Engine
from vaevq.training.environment import environment
from vaevq.training.tracking import Tracker

AnyRun = RunConfig | GeneratorRunConfig


class Continued(Protocol):
    """What can go on from a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state."""


def results_depend_on(config: AnyRun) -> dict[str, Any]:
    """A configuration as dotted keys, without what may change in a continuation."""
    return dict(leaves(config.model_dump(mode="json", exclude=CHANGES_NO_RESULT)))


def resume(
    trainer: Continued,
    config: AnyRun,
    run_dir: Path,
    follow: Collection[str] = (),
    data_file: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Continues from the newest checkpoint of the folder, if it has one and it is this run's.

    Args:
        config: of the run.
        follow: options that follow from others: a message names those others.
        data_file, data: what `claim` has written of the run's data, where a run must go on with the same.

    Raises:
        UserError: the folder holds a run of another configuration or other data, or no checkpoint of this one.
    """
    saved = checkpoints(run_dir / "checkpoints")
    if not saved:  # then nothing is lost where another configuration takes the folder
        return
    config_file = run_dir / "config.json"
    if config_file.exists():
        stands, given = results_depend_on(read_json(type(config), config_file)), results_depend_on(config)
        changed = sorted(key for key in stands | given if stands.get(key) != given.get(key))
        if changed:
            # What follows from another option that has changed is not what to tell of.
            changed = [key for key in changed if key not in follow] or changed
            key = changed[0]
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UserError(
                f"{run_dir} holds a run with another configuration ({key}: {stands.get(key)!r} there, "
                f"{given.get(key)!r} here{more}); name another folder with --run-dir"
            )
    if data_file and data:
        _check_data(run_dir / data_file, data)
    state = load_checkpoint(saved[-1])
    try:
        trainer.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"{saved[-1]}: not a checkpoint of this run ({str(error).splitlines()[0]})") from None


def claim(run_dir: Path, config: AnyRun, place: Engine, data_file: str, data: Mapping[str, Any]) -> None:
    """Writes config.json, environment.json and what the run's data are, under `data_file`.

    Raises:
        UserError: the folder cannot be made, or holds a config.json of something else, which would be lost.
    """
    standing = run_dir / "config.json"
    try:
        if standing.exists():
            read_json(type(config), standing)
    except UserError:
        lost = f"{standing} is not of such a run, and would be overwritten"
        raise UserError(f"{lost}: name another folder with --run-dir") from None
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run_dir}: cannot be made a run folder ({error.strerror or error})") from None
    remove_leftovers(run_dir)
    write_json(run_dir / "config.json", config.model_dump(mode="json"))
    write_json(run_dir / "environment.json", environment(place))
    write_json(run_dir / data_file, data)


def open_tracker(config: AnyRun, run_dir: Path, images_seen: int, quiet: bool, place: Engine) -> Tracker:
    """The log of a run that stands at `images_seen`."""
    return Tracker(
        run_dir,
        total_images=config.train.images,
        start_images=images_seen,
        tensorboard=config.train.tensorboard,
        wandb=config.train.wandb,
        run_config=config.model_dump(mode="json"),
        quiet=quiet,
        enabled=place.is_main,
    )


def _check_data(file: Path, data: Mapping[str, Any]) -> None:
    """Passes if a run's data are what its folder says they were."""
    if not file.exists():
        return
    try:
        stands = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{file}: damaged; name another folder with --run-dir") from None
    changed = [key for key in data if stands.get(key) != data[key]]
    if changed:
        there, here = (textwrap.shorten(repr(of.get(changed[0])), 60) for of in (stands, data))
        raise UserError(
            f"{file.parent} holds a run with other data ({changed[0]} of {file.name}: {there} there, {here} here); "
            "name another folder with --run-dir"
        )
