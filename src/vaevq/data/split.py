"""Which images are held out: whole groups, chosen by a hash of their names, so that nothing else moves them."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vaevq.data.entries import ImageIndex
from vaevq.data.entry import ImageEntry
from vaevq.data.volumes.entries import SliceEntry
from vaevq.errors import UserError
from vaevq.seeding import stream_seed

SplitBy = Literal["shoot", "file", "folder", "subject"]


@dataclass(frozen=True)
class Split:
    """Images to learn from and images to measure on; both in the order of the index they come from."""

    train: ImageIndex
    held_out: ImageIndex


def split(index: ImageIndex, share: float, by: SplitBy, seed: int) -> Split:
    """Holds out whole groups, `share` of the images as closely as the groups allow; of subjects, of their number.

    Groups are shoots (`vaevq.data.entry.shoot_of`), files, folders, or the subjects of slices. They are taken in the
    order of a hash of seed and name as long as that brings the count nearer to the share; neither side is ever empty.

    Raises:
        UserError: there is one group only.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for position, entry in enumerate(index):
        groups[_group(entry, by)].append(position)
    if len(groups) < 2:
        hint = "" if by in ("file", "subject") else ", or set data.split_by to file"
        raise UserError(
            f"{index.location}: its {len(index)} images are one {by}, so none can be held out; "
            f"name held-out images in data.held_out{hint}"
        )
    # A subject counts once, however many slices it has: the paper's share is one of subjects.
    size = {group: 1 if by == "subject" else len(places) for group, places in groups.items()}
    target = share * sum(size.values())
    order = sorted(groups, key=lambda group: (stream_seed("split", seed, group), group))
    chosen: list[str] = []
    count = 0
    for group in order:
        if size[group] < 2 * (target - count):
            chosen.append(group)
            count += size[group]
    if not chosen:
        chosen = [min(order, key=lambda group: size[group])]
    elif len(chosen) == len(order):
        chosen.remove(min(order, key=lambda group: size[group]))
    held_out = {position for group in chosen for position in groups[group]}
    return Split(
        train=index.subset(i for i in range(len(index)) if i not in held_out),
        held_out=index.subset(sorted(held_out)),
    )


def check_disjoint(train: ImageIndex, held_out: ImageIndex) -> None:
    """Makes sure that no file stands on both sides, under whatever name or link, and no subject of slices.

    Raises:
        UserError: one does; the message counts them and names the first.
    """
    check_subjects(subjects_of(train), held_out, train.location)
    known = {_identity(entry) for entry in train} - {None}
    both = [entry.name for entry in held_out if _identity(entry) in known]
    if both:
        raise UserError(
            f"{held_out.location}: {len(both)} of {len(held_out)} held-out images also stand in the training images "
            f"{train.location} (the first is {both[0]}); measure on images that were not trained on"
        )


def subjects_of(index: ImageIndex) -> list[str]:
    """The subjects whose slices an index holds, sorted; none where it holds images."""
    return sorted({entry.group for entry in index if isinstance(entry, SliceEntry)})


def check_subjects(trained_on: Iterable[str], held_out: ImageIndex, where: str) -> None:
    """Makes sure that no subject of held-out slices was trained on.

    Raises:
        UserError: one was; the message counts them and names the first, and `where` it was.
    """
    both = sorted(set(trained_on) & set(subjects_of(held_out)))
    if both:
        raise UserError(
            f"{held_out.location}: {len(both)} subjects also stand on the training side of {where} (the first is "
            f"{both[0]}); measure on subjects that were not trained on"
        )


def _group(entry: ImageEntry, by: SplitBy) -> str:
    match by:
        case "shoot" | "subject":
            return entry.group
        case "file":
            return entry.name
        case "folder":
            return entry.name.rpartition("/")[0]


def _identity(entry: ImageEntry) -> tuple[int, int, int] | None:
    try:
        status = os.stat(entry.file)  # noqa: PTH116 - a Path for each of a million files is too slow
    except OSError:
        return None  # absent: the loader will count it as unreadable
    return status.st_dev, status.st_ino, entry.offset
