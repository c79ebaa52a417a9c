"""Finds the images of a location: a folder, class folders, a list file, shards or volumes, in one fixed order."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from vaevq.config import VolumesConfig
from vaevq.data.entries import ImageIndex, is_image_name, natural_key
from vaevq.data.entry import ImageEntry
from vaevq.data.images import IMAGE_EXTENSIONS
from vaevq.data.shards import expand_pattern, index_shards
from vaevq.data.volumes.entries import SliceEntry
from vaevq.data.volumes.index import index_volumes
from vaevq.data.volumes.layout import VOLUME_EXTENSIONS, is_of_brats, is_volume_name, volume_paths
from vaevq.errors import UserError

__all__ = ["ImageEntry", "ImageIndex", "VolumeOptions", "find_all", "find_images", "read_list"]


@dataclass(frozen=True)
class VolumeOptions:
    """How a location of volumes is read.

    Attributes:
        slices: which there are, and what they are.
        cached: unpacked voxels are kept on disk.
        asked: names of what is asked of this very location, where the rest is a run's, which may not all apply to it;
            None: all that is not as by default.
    """

    slices: VolumesConfig = field(default_factory=VolumesConfig)
    cached: bool = True
    asked: frozenset[str] | None = None

    def has_effect_on(self, index: ImageIndex) -> bool:
        """Whether what is asked can be done: of images nothing can."""
        asked = self.slices != VolumesConfig() if self.asked is None else bool(self.asked)
        return isinstance(index[0], SliceEntry) or not asked


def find_images(location: str | Path, volumes: VolumeOptions = VolumeOptions()) -> ImageIndex:
    """Indexes the images of a location.

    Args:
        location: a folder (searched at any depth; names that start with a dot are skipped, and where every image lies
            in a sub-folder the first sub-folder is its class), a list file (`.txt`, see `read_list`), one image,
            a `.tar` shard, a pattern of shards like `train-{000..099}.tar`, or a folder of shards (see
            `vaevq.data.shards`). Of a NIfTI file, a folder or a list of them, or of DICOM slices, the images are
            slices (see `vaevq.data.volumes`).
        volumes: what slices are taken of volumes.

    Raises:
        UserError: the location is absent, empty, or none of these; images where volumes are expected.
    """
    location = str(location)
    index = _index(location, volumes)
    if not volumes.has_effect_on(index):
        raise UserError(f"data.volumes has no effect: {location} holds images, not volumes")
    return index


def _index(location: str, volumes: VolumeOptions) -> ImageIndex:
    path = Path(location).expanduser()
    # Not pathlib's, which fail where a name is too long.
    if os.path.isdir(path):  # noqa: PTH112
        return _index_folder(path, location, volumes)
    if not os.path.exists(path) and "{" in location:  # noqa: PTH110
        return index_shards(expand_pattern(str(path)), location)
    if not os.path.exists(path):  # noqa: PTH110
        raise UserError(f"{location}: no such file or folder")
    if path.suffix.lower() == ".txt":
        return _index_list(path, location, volumes)
    if is_volume_name(path.name):
        return _index_volumes([path], volumes, location)
    if is_image_name(path.name):
        return ImageIndex.packed(location, [ImageEntry(path.name, None, str(path))])
    return index_shards([path], location)


def find_all(locations: Sequence[str], volumes: VolumeOptions = VolumeOptions()) -> ImageIndex:
    """The images of several locations, one after another; names start with their location, and labels are dropped.

    Those of files of volumes are called as if they were of one folder.

    Raises:
        UserError: no location, one that `find_images` refuses, images and volumes, or two subjects of one name.
    """
    if not locations:
        raise UserError("name at least one image, folder, list file, shard or volume")
    if len(locations) == 1:
        return find_images(locations[0], volumes)
    if all(is_volume_name(location) for location in locations):
        return _index_volumes([Path(location).expanduser() for location in locations], volumes, ", ".join(locations))
    entries: list[ImageEntry] = []
    for location in locations:
        index = find_images(location, volumes)
        if isinstance(index[0], SliceEntry):
            raise UserError(f"{location}: several folders of volumes, or volumes beside images; name one at a time")
        single = len(index) == 1 and is_image_name(Path(location).name)
        prefix = "" if single else f"{Path(location).name}/"
        entries += [replace(entry, name=f"{prefix}{entry.name}", label=None) for entry in index]
    return ImageIndex.packed(", ".join(locations), entries)


def read_list(path: Path, location: str) -> ImageIndex:
    """A list file: one image path a line, relative to the list's folder, optionally a tab and a label.

    Lines that start with # and empty lines are skipped. Labels are whole numbers, or class names that are numbered in
    natural order; either every line has one or none.

    Raises:
        UserError: the list is empty, is no UTF-8 text, has labels on some lines only, or its first image is absent
            (a wrong folder shows here; later ones count as unreadable when their turn comes).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{location}: not a list of images (no UTF-8 text)") from None
    names: list[str] = []
    labels: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, label = (part.strip() for part in line.partition("\t"))
        if names and bool(label) != bool(labels):
            raise UserError(f"{location}, line {number}: either every line has a tab and a label, or none has")
        names.append(name)
        labels += [label] if label else []
    if not names:
        raise UserError(f"{location}: the list names no image")
    files = [path.parent / name for name in names]
    if not os.path.isfile(files[0]):  # noqa: PTH113
        raise UserError(f"{location}: {names[0]}: no such file in {path.parent}, which the list's paths start from")
    classes, numbers = _number_labels(labels)
    entries = [
        ImageEntry(PurePosixPath(Path(name)).as_posix(), numbers[i] if numbers else None, str(files[i]))
        for i, name in enumerate(names)
    ]
    return ImageIndex.packed(location, entries, classes)


def _index_list(path: Path, location: str, volumes: VolumeOptions) -> ImageIndex:
    index = read_list(path, location)
    files = [entry.file for entry in index]
    of_volumes = sum(is_volume_name(Path(file).name) for file in files)
    if not of_volumes:
        return index
    if of_volumes < len(files) or index.classes:
        raise UserError(f"{location}: a list of volumes names volumes alone, without labels")
    return _index_volumes([Path(file) for file in files], volumes, location)


def _index_volumes(paths: Sequence[Path], volumes: VolumeOptions, location: str) -> ImageIndex:
    slices = volumes.slices
    if volumes.asked is not None and not any(is_of_brats(path.name) for path in paths):
        of_brats = {"contrasts": None, "stack": "separate"}
        slices = slices.model_copy(update={k: v for k, v in of_brats.items() if k not in volumes.asked})
    return index_volumes(paths, slices, location, cached=volumes.cached)


def _index_folder(folder: Path, location: str, volumes: VolumeOptions) -> ImageIndex:
    names = sorted(_walk(folder), key=natural_key)
    images = [name for name in names if is_image_name(name.rpartition("/")[2])]
    if of_volumes := volume_paths(names):
        if images:
            raise UserError(
                f"{location}: {len(images)} images ({images[0]} first) and {len(of_volumes)} volumes; "
                "name a folder that holds one or the other"
            )
        return _index_volumes([folder / name for name in of_volumes], volumes, location)
    if not images:
        shards = [folder / name for name in names if name.endswith(".tar")]
        if shards:
            return index_shards(shards, location)
        looked_for = " ".join((*IMAGE_EXTENSIONS, *VOLUME_EXTENSIONS))
        raise UserError(f"{location}: no image found (files that end in {looked_for} are looked for)")
    first = [name.partition("/")[0] for name in images] if all("/" in name for name in images) else []
    classes = tuple(sorted(set(first), key=natural_key))
    number = {name: i for i, name in enumerate(classes)}
    entries = [
        ImageEntry(name, number[name.partition("/")[0]] if classes else None, str(folder / name)) for name in images
    ]
    return ImageIndex.packed(location, entries, classes)


def _walk(folder: Path) -> Iterable[str]:
    """Names of all files below `folder`; links to folders are followed, each folder is entered once."""

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: {(error.strerror or 'cannot be read').lower()}") from None

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        base = Path(parent).relative_to(folder)
        yield from ((base / name).as_posix() for name in files if not name.startswith("."))


def _number_labels(labels: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    if not all(re.fullmatch("[0-9]{1,6}", label) for label in labels):
        classes = tuple(sorted(set(labels), key=natural_key))
        number = {name: i for i, name in enumerate(classes)}
        return classes, [number[label] for label in labels]
    numbers = [int(label) for label in labels]
    return tuple(str(i) for i in range(max(numbers) + 1)) if numbers else (), numbers
