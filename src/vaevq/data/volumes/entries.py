"""Slices as images of an index: each knows its volume, and reads no more of it than itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from vaevq.config import VolumesConfig
from vaevq.data.entry import ImageEntry
from vaevq.data.images import Floats, UnreadableImage, resize_shorter
from vaevq.data.volumes.cache import stored_voxels
from vaevq.data.volumes.layout import Channel, Volume
from vaevq.data.volumes.slices import Slicing
from vaevq.data.volumes.window import BACKGROUND, Window
from vaevq.errors import UserError


@dataclass(frozen=True)
class SlicedVolume:
    """A volume, and how its slices are taken.

    Attributes:
        volume: its files and its subject.
        slicing: which planes there are, and how they are laid out.
        windows: of each channel.
        energy: of every plane along the axis the sum over voxels and channels of the squared distance from the
            bottom of the window, in units of it: what is lost where the plane comes back as background.
        config: how it was taken.
        spacing: millimetres from row to row and from column to column of a plane.
        cached: unpacked voxels are kept on disk.
    """

    volume: Volume
    slicing: Slicing
    windows: tuple[Window, ...]
    energy: tuple[float, ...]
    config: VolumesConfig
    spacing: tuple[float, float]
    cached: bool

    @property
    def name(self) -> str:
        """Of the volume."""
        return self.volume.name

    def slices(self) -> list["SliceEntry"]:
        """Those that are kept, along the axis."""
        axis, digits = self.slicing.axis, len(str(self.slicing.planes_in_all - 1))
        file = self.volume.channels[0].path
        return [
            SliceEntry(f"{self.name}-{axis}-{place:0{digits}}", None, file, of=self, place=place)
            for place in self.slicing.kept
        ]

    def plane(self, place: int) -> Floats:
        """A plane of all channels, float32 height×width×C in [-1, 1], before it is brought to its size.

        Raises:
            UnreadableImage: a file is absent or damaged.
        """
        return np.stack([self._of_channel(c, w, place) for c, w in self._channels()], axis=-1)

    def _channels(self) -> Iterable[tuple[Channel, Window]]:
        return zip(self.volume.channels, self.windows, strict=True)

    def _of_channel(self, channel: Channel, window: Window, place: int) -> Floats:
        opened = channel.header
        voxels = channel_voxels(channel, cached=self.cached)
        return window.apply(self.slicing.plane(voxels, place), opened.slope, opened.inter)


@dataclass(frozen=True, slots=True)
class SliceEntry(ImageEntry):
    """One slice of a volume."""

    of: SlicedVolume | None = None
    place: int = 0

    @property
    def group(self) -> str:
        """The subject: see `data.split`."""
        return self.sliced.volume.subject

    @property
    def subject(self) -> str | None:
        """See `ImageEntry.subject`."""
        return self.sliced.volume.subject

    @property
    def sliced(self) -> SlicedVolume:
        """The volume that it is of."""
        assert self.of is not None
        return self.of

    def load(self, channels: int, shorter: int | None = None) -> Floats:
        """The slice, float32 H×W×channels in [-1, 1]; the shorter side brought to so many pixels, where given.

        Raises:
            UnreadableImage: a file is absent or damaged.
            UserError: the model has another number of channels.
        """
        check_channels(self, channels)
        try:
            plane = self.sliced.plane(self.place)
        except UnreadableImage as error:
            raise UnreadableImage(f"{self.name}: {error}") from None
        whole: Floats = np.ascontiguousarray(self.sliced.slicing.fitted(plane, BACKGROUND))
        return whole if shorter is None else cast(Floats, resize_shorter(whole, shorter))


def check_channels(entry: ImageEntry, channels: int, trained: str | None = None) -> None:
    """Makes sure that a slice is what a model takes.

    Args:
        entry: one that is no slice is brought to any number of channels.
        channels: of the model's images.
        trained: what a command's --model names; None of a model that is yet to be trained.

    Raises:
        UserError: it has more channels, or fewer.
    """
    if not isinstance(entry, SliceEntry) or (has := len(entry.sliced.windows)) == channels:
        return
    setting = f"model.autoencoder.image_channels={has}"
    way_out = f"set {setting}, or data.volumes.stack and data.volumes.fourth"
    if trained is not None:
        way_out = (
            f"name with --model a tokenizer that was trained on volumes with {setting}; --volumes stack=channels or "
            "fourth=channels makes slices of several channels"
        )
    raise UserError(
        f"{entry.sliced.name}: its slices have {has} channel{'s' * (has > 1)}, and {trained or 'the model'} takes "
        f"{channels}: {way_out}"
    )


def sliced_volumes(entries: Iterable[ImageEntry]) -> list[SlicedVolume]:
    """The volumes that slices are of, each once, in the order in which they are met."""
    found = {id(entry.sliced): entry.sliced for entry in entries if isinstance(entry, SliceEntry)}
    return list(found.values())


def coverage_rows(volumes: Sequence[SlicedVolume]) -> list[tuple[str, str]]:
    """What slices leave of volumes, for a table."""
    kept, planes = sum(len(v.slicing.kept) for v in volumes), sum(v.slicing.planes_in_all for v in volumes)
    slicing = volumes[0].slicing
    energy = sum(sum(v.energy) for v in volumes)
    dropped = sum(e for v in volumes for place, e in enumerate(v.energy) if place not in set(v.slicing.kept))
    cut = [v.name for v in volumes if v.slicing.cuts]
    rows = [
        ("slices", f"{kept} of {planes} {slicing.axis} planes; the others are as good as empty"),
        ("squared intensity in the others", f"{dropped / energy:.2%}" if energy else "none"),
    ]
    if cut:
        size = f"{slicing.size}×{slicing.size}"
        rows.append(("cut at their borders", f"{len(cut)} volumes of larger planes than {size}: {cut[0]} first"))
    return rows


def channel_voxels(channel: Channel, *, cached: bool) -> np.ndarray:
    """The stored voxels of a channel in RAS, x×y×z; a view, where they need not be unpacked."""
    voxels = stored_voxels(channel.path, channel.identity, cached=cached)
    frame = voxels[..., channel.frame] if voxels.ndim == 4 else voxels
    return channel.header.orientation.to_ras(frame)
