"""`vaevq inspect` and `vaevq report`."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from vaevq.cli.options import Json, load, run_config
from vaevq.console import say, say_evaluation, say_rows
from vaevq.errors import UserError


def inspect(
    path: tyro.conf.Positional[Path],
    /,
    *,
    diagnose: bool = False,
    picture: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    force: bool = False,
    device: str = "auto",
    as_json: Json = False,
) -> None:
    """Say what a run or model folder, a checkpoint, a token file, a folder of shards or a volume holds.

    For example:

      vaevq inspect runs/quickstart
      vaevq inspect runs/quickstart --diagnose
      vaevq inspect tokens.safetensors
      vaevq inspect volume.nii.gz --picture volume.png

    Args:
        path: a run or model folder (tokenizer or generator), a tokenizer in the box (photos-f8), a checkpoint (.pt), a
            token file, a folder of shards or a volume (.nii, .nii.gz, the folder of a DICOM series).
        diagnose: measure instead why a run's quantizer does well or badly, on its own images; takes minutes.
        picture: of a volume: also draw its three middle planes into this PNG file, as radiologists look at them.
        force: overwrite the picture.
        device: of --diagnose: auto, cpu, cuda, cuda:1, mps.
        as_json: print JSON instead of a table.
    """
    if diagnose:
        from vaevq.training.engine import choose_device
        from vaevq.training.run_diagnosis import diagnose_run

        diagnosis = diagnose_run(path, device=choose_device(device))
        if as_json:
            say(json.dumps(diagnosis.to_json(), indent=2))
        else:
            say_evaluation(diagnosis.rows(), [])
        return
    from vaevq.inspection import inspect_path, is_volume

    if picture is not None:
        _draw(path, picture, of_volume=is_volume(path), force=force)
    rows = inspect_path(path)
    if as_json:
        say(json.dumps(dict(rows), indent=2))
    else:
        say_rows(str(path), rows)


def _draw(path: Path, picture: Path, *, of_volume: bool, force: bool) -> None:
    from vaevq.config import VolumesConfig
    from vaevq.files import make_folder, require_place, written_aside
    from vaevq.report import volume_picture

    if not of_volume:
        raise UserError(f"--picture is of a volume, and {path} is none")
    require_place(picture, force=force)
    drawn = volume_picture(path, VolumesConfig())
    make_folder(picture.parent)
    with written_aside(picture) as aside:
        drawn.save(aside, format="PNG")


def report(
    run: tyro.conf.Positional[Path],
    /,
    *,
    against: tuple[Path, ...] = (),
) -> None:
    """Write a run's report anew, by option with other runs beside it.

    For example:

      vaevq report runs/quickstart --against runs/plain

    Args:
        run: the run folder.
        against: folders of runs that saw as many images and were measured on the same ones.
    """
    from vaevq.data.held_out import run_images
    from vaevq.report import report_run, write_comparison

    config = run_config(str(run))
    if config is None:
        raise UserError(f"{run}: no run folder of vaevq train")
    if against:
        write_comparison(run, against)
    held_out = run_images(config.data, config.seed).held_out
    say(str(report_run(run, load(str(run)), held_out, config.eval)))
