"""One run beside others: allowed only where the figures were measured on the same images, prepared alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaevq.errors import UserError
from vaevq.files import write_json
from vaevq.report.run_folder import RunFolder

_EQUAL = ("data_digest", "images", "resize", "crop", "interpolation", "rounding", "lpips", "lpips_checksum")
_SHOWN = (
    "psnr",
    "ssim",
    "psnr_3d",
    "lpips_alexnet",
    "lpips_vgg16",
    "usage",
    "perplexity",
    "tokens_per_codeword",
    "bits_per_pixel",
)


def write_comparison(run_dir: Path, others: Sequence[Path]) -> Path:
    """Writes run_dir/comparison.json, this run first, for the report's table.

    Raises:
        UserError: a run without evaluation, or one whose figures cannot stand beside this run's: other images, another
            preparation, or another number of images seen.
    """
    runs = [RunFolder.read(folder) for folder in (run_dir, *others)]
    for run in runs:
        if run.evaluation is None:
            raise UserError(f"{run.path}: not evaluated yet; run its training command again to finish it")
        _check_comparable(runs[0], run)
    entries = [
        {
            "name": f"{run.path.name} ({run.setting('model.quantizer.kind')}, seed {run.setting('seed')})",
            "figures": {name: value for name, value in _figures(run).items() if name in _SHOWN},
        }
        for run in runs
    ]
    path = run_dir / "comparison.json"
    write_json(path, entries)
    return path


def _figures(run: RunFolder) -> dict[str, float]:
    return run.evaluation.figures if run.evaluation is not None else {}


def _check_comparable(first: RunFolder, other: RunFolder) -> None:
    def facts(run: RunFolder) -> dict[str, Any]:
        protocol = run.evaluation.protocol if run.evaluation is not None else {}
        return {name: protocol.get(name) for name in _EQUAL} | {"images seen": run.images_seen}

    ours, theirs = facts(first), facts(other)
    for name, value in ours.items():
        if theirs[name] != value:
            raise UserError(
                f"{other.path} cannot stand beside {first.path}: {name} is {theirs[name]!r} there, {value!r} here"
            )
