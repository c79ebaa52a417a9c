"""Which images a run trains on and which it holds out."""

from dataclasses import dataclass

from vaevq.config import DataConfig
from vaevq.data.index import ImageIndex, check_disjoint, find_images, split
from vaevq.data.sources import fetch


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
    found = find_images(location)
    name = config.train or "quick-start photos"
    if config.held_out is not None:
        held_out = find_images(config.held_out)
        check_disjoint(found, held_out)
        return RunImages(found, held_out, f"{name}, held out: {config.held_out}")
    sides = split(found, config.held_out_share, config.split_by, seed)
    return RunImages(sides.train, sides.held_out, f"{name}, split by {config.split_by} with seed {seed}")
