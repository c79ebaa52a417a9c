"""What a token file keeps of volumes, so that they come back on their own grid: plain JSON, and headers as bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from vaevq.config import Axis, Section
from vaevq.data.volumes.cache import open_volume
from vaevq.data.volumes.entries import SlicedVolume
from vaevq.data.volumes.layout import VOLUME_EXTENSIONS
from vaevq.data.volumes.slices import Slicing
from vaevq.data.volumes.source import MOST_HEADER, VolumeFile, described, parse_prefix
from vaevq.data.volumes.window import Window
from vaevq.errors import UserError

_NAME = r"(?i)^[^/\\\x00.][^/\\\x00]*\.nii(\.gz)?$"


class KeptFile(Section):
    """A file to write: its name, and how many of the header bytes are its own."""

    name: str = Field(pattern=_NAME, max_length=255)
    header_bytes: int = Field(ge=348, le=MOST_HEADER)


class KeptChannel(Section):
    """Where a channel goes, and its window."""

    file: int = Field(ge=0)
    frame: int = Field(ge=0)
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)


class KeptVolume(Section):
    """A volume: successive images of the token file are its kept slices, along the axis."""

    name: str
    channels: tuple[KeptChannel, ...] = Field(min_length=1)
    axis: Axis
    size: int | None = Field(ge=1)
    fit: Literal["pad", "resize"]
    kept: tuple[int, ...] = Field(min_length=1)


class _Kept(Section):
    files: tuple[KeptFile, ...] = Field(min_length=1)
    volumes: tuple[KeptVolume, ...] = Field(min_length=1)


@dataclass(frozen=True)
class VolumeRecord:
    """The volumes of a token file.

    Attributes:
        files: that are written when it is decoded.
        prefixes: what stands before the voxels of each, byte by byte.
        volumes: in the order of their slices.

    Raises:
        UserError: the parts do not fit together.
    """

    files: tuple[KeptFile, ...]
    prefixes: tuple[bytes, ...]
    volumes: tuple[KeptVolume, ...]

    def __post_init__(self) -> None:
        if len({file.name for file in self.files}) < len(self.files):
            raise UserError("two of its volumes' files are of one name")
        for volume in self.volumes:
            self._check(volume)

    def _check(self, volume: KeptVolume) -> None:
        for channel in volume.channels:
            if channel.file >= len(self.files) or channel.frame >= self.opened[channel.file].frames:
                raise UserError(f"'{volume.name}': a channel is of a file or a place that is not there")
            if not channel.low < channel.high:
                raise UserError(f"'{volume.name}': a window from {channel.low:g} to {channel.high:g}")
        if len({self.opened[channel.file].ras_shape for channel in volume.channels}) > 1:
            raise UserError(f"'{volume.name}': its channels are not on one grid")
        places = range(self.slicing(volume).planes_in_all)
        if list(volume.kept) != sorted(set(volume.kept)) or volume.kept[0] < 0 or volume.kept[-1] not in places:
            raise UserError(f"'{volume.name}': its slices are not those of {len(places)} planes, in order")

    @cached_property
    def opened(self) -> tuple[VolumeFile, ...]:
        """The headers of the files; there are no voxels to read."""

        def nothing() -> Any:
            raise AssertionError("the voxels of a record are in its tokens")

        return tuple(
            described(file.name, parse_prefix(prefix, file.name), prefix, nothing)
            for file, prefix in zip(self.files, self.prefixes, strict=True)
        )

    def slicing(self, volume: KeptVolume) -> Slicing:
        """How a volume was taken apart."""
        shape = self.opened[volume.channels[0].file].ras_shape
        return Slicing(shape, volume.axis, volume.size, volume.fit, volume.kept)

    def check_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Makes sure that images of these sizes are the slices.

        Raises:
            UserError: there are more or fewer, or one is of another size.
        """
        expected = [self.slicing(volume).square_shape for volume in self.volumes for _ in volume.kept]
        if list(sizes) != expected:
            raise UserError(f"its {len(sizes)} images are not the {len(expected)} slices of its volumes")

    def to_json(self) -> str:
        """All but the header bytes."""
        return _Kept(files=self.files, volumes=self.volumes).model_dump_json()

    @classmethod
    def from_json(cls, text: str, headers: bytes) -> Self:
        """The inverse of `to_json`, with the header bytes of all files one after another.

        Raises:
            UserError: it is no record, or its parts do not fit together.
        """
        try:
            kept = _Kept.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"its volumes are damaged: {where}: {first['msg']}") from None
        if sum(file.header_bytes for file in kept.files) != len(headers):
            raise UserError(f"its volumes' headers are not its {len(headers)} header bytes")
        prefixes, start = [], 0
        for file in kept.files:
            prefixes.append(headers[start : start + file.header_bytes])
            start += file.header_bytes
        return cls(kept.files, tuple(prefixes), kept.volumes)

    @classmethod
    def of(cls, volumes: Sequence[SlicedVolume]) -> Self:
        """The record of volumes all of whose kept slices are encoded, volume after volume."""
        numbers: dict[str, int] = {}
        kept = []
        for sliced in volumes:
            channels = tuple(
                KeptChannel(
                    file=numbers.setdefault(channel.path, len(numbers)),
                    frame=channel.frame,
                    low=window.low,
                    high=window.high,
                )
                for channel, window in zip(sliced.volume.channels, sliced.windows, strict=True)
            )
            slicing = sliced.slicing
            kept.append(
                KeptVolume(
                    name=sliced.name,
                    channels=channels,
                    axis=slicing.axis,
                    size=slicing.size,
                    fit=slicing.fit,
                    kept=slicing.kept,
                )
            )
        prefixes = tuple(open_volume(path).prefix for path in numbers)
        files = tuple(
            KeptFile(name=_name(path), header_bytes=len(prefix)) for path, prefix in zip(numbers, prefixes, strict=True)
        )
        return cls(files, prefixes, tuple(kept))


def window_of(channel: KeptChannel) -> Window:
    """The window of a channel."""
    return Window(channel.low, channel.high)


def _name(path: str) -> str:
    """What a file is called when it is written: as it was, a DICOM series like its folder."""
    name = Path(path).resolve().name if Path(path).is_dir() else Path(path).name
    return name if name.lower().endswith(VOLUME_EXTENSIONS) else f"{name}.nii.gz"
