"""Which images a run trains on and which it holds out."""

import json
from dataclasses import dataclass
from pathlib import Path

from vaevq.config import DataConfig
from vaevq.data.index import ImageIndex, VolumeOptions, find_images
from vaevq.data.sources import fetch
from vaevq.data.split import SplitBy, check_disjoint, check_subjects, split, subjects_of
from vaevq.errors import UserError


@dataclass(frozen=True)
class RunImages:
    """The two sides of a run's data; no image, and with a split no group of images, stands on both.

    Attributes:
        train, held_out: images by index.
        description: where they come from and how they were split, in words, for protocols.
    """

    train: ImageIndex
    held_out: ImageIndex
    description: str


def run_images(config: DataConfig, seed: int) -> RunImages:
    """Finds a run's images; the quick-start photos are fetched once where no location is given.

    Raises:
        UserError: nothing at a location, too few groups to split, an image on both sides, no way to fetch.
    """
    location = config.train or str(fetch("quickstart-photos"))
    options = volume_options(config)
    found = find_images(location, options)
    of_volumes = bool(subjects_of(found))
    if of_volumes:
        _check_volumes(config)
    name = config.train or "quick-start photos"
    if config.held_out is not None:
        held_out = find_images(config.held_out, options)
        if bool(subjects_of(held_out)) != of_volumes:
            raise UserError(f"{config.held_out} and {location}: volumes on one side, images on the other")
        check_disjoint(found, held_out)
        return RunImages(found, held_out, f"{name}, held out: {config.held_out}")
    by: SplitBy = "subject" if of_volumes else config.split_by
    sides = split(found, config.held_out_share, by, seed)
    check_disjoint(sides.train, sides.held_out)
    return RunImages(sides.train, sides.held_out, f"{name}, split by {by} with seed {seed}")


def check_split_of_run(split_file: Path, held_out: ImageIndex) -> None:
    """Makes sure that no subject that a run was trained on is measured on.

    Args:
        split_file: split.json of the run; where it names no subjects, anything passes.

    Raises:
        UserError: a subject was trained on; or the file is damaged.
    """
    try:
        trained_on = json.loads(split_file.read_text(encoding="utf-8")).get("train_subjects", [])
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{split_file}: damaged or gone") from None
    check_subjects(trained_on, held_out, str(split_file))


def volume_options(config: DataConfig) -> VolumeOptions:
    """How a run reads volumes."""
    return VolumeOptions(config.volumes, config.volume_cache)


def _check_volumes(config: DataConfig) -> None:
    """Raises a UserError for options of images that would be wrong of slices."""
    if config.split_by != "shoot":
        raise UserError(
            f"data.split_by: {config.split_by} would put slices of one subject on both sides; leave it out: volumes "
            "are always split by subject"
        )
    if config.flip and config.volumes.axis == "sagittal":
        raise UserError("data.flip: a sagittal slice is mirrored front to back, which no body is; set data.flip=false")
