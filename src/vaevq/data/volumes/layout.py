"""Which files are volumes, and whose: the layout of BraTS, or a file (or a folder of DICOM slices) a subject."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from vaevq.config import VolumesConfig
from vaevq.data.volumes.cache import Identity, identity, open_volume
from vaevq.data.volumes.dicom import is_dicom_name
from vaevq.data.volumes.source import VolumeFile
from vaevq.errors import UserError

VOLUME_EXTENSIONS = (".nii", ".nii.gz")

# BraTS-GLI-00005-100-t1c.nii.gz: patient, time point, contrast.
_BRATS = re.compile(r"((BraTS-[A-Za-z]+-[0-9]+)-[0-9]+)-([A-Za-z0-9]+)\.nii(?:\.gz)?")
_LABELS = re.compile(r"(?:^|[-_.])(?:seg|segmentation)$", re.IGNORECASE)
_SEGMENTATION = "seg"

# BraTS2021_00000_t1ce.nii.gz, BraTS20_Training_001_flair.nii.gz, and BIDS's sub-01_ses-1_T1w.nii.gz: whose they are.
_SUBJECT = re.compile(r"(BraTS20(?:\d\d)?_(?:[A-Za-z]+_)?\d+|sub-[A-Za-z0-9]+)(?=_)")


@dataclass(frozen=True)
class Channel:
    """One channel of a volume: a file as it was when it was found, and the place on its fourth axis, if it has one."""

    path: str
    identity: Identity
    frame: int
    contrast: str = ""

    @classmethod
    def of(cls, path: str, frame: int, contrast: str = "") -> Self:
        """A channel of a file as it is now. UnreadableImage where it is absent."""
        return cls(path, identity(path), frame, contrast)

    @property
    def header(self) -> VolumeFile:
        """Of its file. UnreadableImage where it is none, or has changed."""
        return open_volume(self.path, self.identity)


@dataclass(frozen=True)
class Volume:
    """A volume of one or more channels on one grid.

    Attributes:
        name: unlike that of any other volume of a location.
        subject: whose it is; all volumes of a subject stand on one side of a split.
        channels: in their order.
    """

    name: str
    subject: str
    channels: tuple[Channel, ...]


def is_volume_name(name: str) -> bool:
    """Whether a file name ends as a NIfTI file's does and is not hidden."""
    return not name.startswith(".") and name.lower().endswith(VOLUME_EXTENSIONS)


def is_of_brats(name: str) -> bool:
    """Whether a file is called like one of BraTS's."""
    return _BRATS.fullmatch(name) is not None


def volume_paths(names: Iterable[str]) -> list[str]:
    """Of names of files those of NIfTI files, and the folders of DICOM slices, each once and in their order."""
    found: dict[str, None] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if is_volume_name(file):
            found[name] = None
        elif is_dicom_name(file):
            found[folder or "."] = None
    return list(found)


def find_volumes(paths: Sequence[Path], config: VolumesConfig, location: str) -> list[Volume]:
    """The volumes of files, in the order of the files.

    Files that are called like BraTS's are of its layout: a patient is a subject, and every visit has every contrast.
    Otherwise a file is a subject, called by its name, but for names that begin as those of BraTS before 2023
    (`BraTS2021_00000_`) and of BIDS (`sub-01_`) do: there that is the subject.
    Segmentations (`…-seg`, `…_seg`) are labels: left out.

    Raises:
        UserError: both layouts at once, a contrast that is missing or not known, grids of channels that differ, two
            subjects of one name, no volume; a file that is none.
    """
    matches = {path: _BRATS.fullmatch(path.name) for path in paths}
    if any(matches.values()):
        strangers = [path for path, match in matches.items() if not match]
        if strangers:
            raise UserError(
                f"{location}: {strangers[0].name} is not called like the BraTS files beside it; move it away"
            )
        return _brats({path: match for path, match in matches.items() if match}, config, location)
    if config.contrasts is not None:
        raise UserError(f"data.volumes.contrasts has no effect: {location} has no files called like BraTS's")
    return _one_a_file([path for path in paths if not _LABELS.search(_stem(path))], config, location)


def _brats(matches: dict[Path, re.Match[str]], config: VolumesConfig, location: str) -> list[Volume]:
    if config.contrasts is not None and _SEGMENTATION in config.contrasts:
        raise UserError(f"data.volumes.contrasts: {_SEGMENTATION} holds labels, not intensities")
    visits: dict[str, dict[str, Path]] = defaultdict(dict)
    patients: dict[str, str] = {}
    for path, match in matches.items():
        visit, patients[match[1]], contrast = match[1], match[2], match[3]
        if contrast in visits[visit]:
            raise UserError(f"{location}: {visit} is there twice: {visits[visit][contrast]} and {path}")
        visits[visit][contrast] = path
    known = {contrast for files in visits.values() for contrast in files} - {_SEGMENTATION}
    wanted = config.contrasts or tuple(sorted(known))
    if not wanted:
        raise UserError(f"{location}: segmentations alone, no intensities")
    volumes = []
    for visit, files in visits.items():
        if missing := [contrast for contrast in wanted if contrast not in files]:
            has = ", ".join(sorted(set(files) - {_SEGMENTATION})) or "none"
            raise UserError(
                f"{location}: {visit} has no contrast {missing[0]} (it has {has}); data.volumes.contrasts names "
                "those to take"
            )
        channels = [Channel.of(str(files[contrast]), 0, contrast) for contrast in wanted]
        opened = [channel.header for channel in channels]
        for file in opened:
            if file.frames > 1:
                raise UserError(f"{file.path}: {file.frames} volumes on a fourth axis, where a contrast is one")
        _check_grids(opened)
        subject = patients[visit]
        if config.stack == "channels":
            volumes.append(Volume(visit, subject, tuple(channels)))
        else:
            volumes += [Volume(f"{visit}/{channel.contrast}", subject, (channel,)) for channel in channels]
    return volumes


def _one_a_file(paths: Sequence[Path], config: VolumesConfig, location: str) -> list[Volume]:
    if not paths:
        raise UserError(f"{location}: segmentations alone, no intensities")
    if config.stack == "channels":
        raise UserError(
            f"data.volumes.stack: channels needs contrasts in files of their own, which {location} has not; the "
            "fourth axis of a file becomes channels by data.volumes.fourth=channels"
        )
    named: dict[str, Path] = {}
    volumes = []
    for path in paths:
        name = _stem(path)
        if name in named:
            raise UserError(f"{location}: two subjects are called {name}: {named[name]} and {path}; rename one")
        named[name] = path
        begun = _SUBJECT.match(name)
        subject = begun[1] if begun else name
        first = Channel.of(str(path), 0)
        channels = [replace(first, frame=frame) for frame in range(first.header.frames)]
        if config.fourth == "channels" or len(channels) == 1:
            volumes.append(Volume(name, subject, tuple(channels)))
        else:
            volumes += [Volume(f"{name}@{channel.frame}", subject, (channel,)) for channel in channels]
    counts = sorted({len(volume.channels) for volume in volumes})
    if len(counts) > 1:
        few, many = (next(v for v in volumes if len(v.channels) == count) for count in (counts[0], counts[-1]))
        raise UserError(
            f"{location}: {few.name} has {counts[0]} channels and {many.name} {counts[-1]}; with "
            "data.volumes.fourth=channels all files have as many"
        )
    return volumes


def _check_grids(files: Sequence[VolumeFile]) -> None:
    """Raises a UserError where volumes do not lie on one grid, however their axes are stored."""
    first = files[0]
    for file in files[1:]:
        if file.ras_shape != first.ras_shape:
            one, other = ("×".join(map(str, f.ras_shape)) for f in (file, first))
            raise UserError(f"{file.path}: {one} voxels, and {other} in {Path(first.path).name}: not on one grid")
        if abs(file.ras_affine - first.ras_affine).max() > 1e-3 * max(first.voxel_sizes):
            raise UserError(f"{file.path}: lies elsewhere in space than {Path(first.path).name}: not on one grid")


def _stem(path: Path) -> str:
    """A file's name without .nii and .gz; a folder's as it is."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE) if is_volume_name(path.name) else path.name
