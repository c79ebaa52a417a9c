"""A visitor's volume through a tokenizer of slices: nothing in the file is trusted; what comes back is a file too."""

import math
import shutil
import weakref
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from PIL import Image

from vaevq.codec import decode_volumes, encode_images
from vaevq.config import Axis, EvalConfig, VolumesConfig
from vaevq.data.images import Floats, Pixels, UnreadableImage
from vaevq.data.volumes.cache import open_volume
from vaevq.data.volumes.entries import SlicedVolume, channel_voxels, sliced_volumes
from vaevq.data.volumes.index import index_volumes
from vaevq.data.volumes.layout import Channel, is_volume_name
from vaevq.data.volumes.slices import AXES, EDGES, Slicing
from vaevq.data.volumes.source import VolumeFile
from vaevq.errors import UserError
from vaevq.metrics.codebook import CodebookStatistics, TokenHistogram
from vaevq.report.pictures import error_map
from vaevq.report.slices import Look
from vaevq.tokenizer import Tokenizer

MAX_VOXELS = 2**24
"""256³, of all volumes on a fourth axis; larger files are refused by what their header says."""

MAX_SIDE = 512
"""Voxels along an axis, and slices along the tokenizer's own in all."""

_MOST_STRETCH = 8
"""A picture of slices that lie further apart than so many of their own voxels is not stretched to scale."""


@dataclass(frozen=True, eq=False)
class ShownVolume:
    """A volume and what a tokenizer makes of it.

    Attributes:
        original, reconstruction: uint8 x×y×z×n in RAS over the window, n volumes or channels of the fourth axis.
        voxel_sizes: millimetres along x, y and z.
        psnr: over the window, in dB, the mean of the volumes; None where all is equal.
        slices: how many were encoded.
        statistics: of the tokens.
        file: the reconstructed file, which is deleted with this object.
    """

    original: Pixels
    reconstruction: Pixels
    voxel_sizes: tuple[float, float, float]
    psnr: float | None
    slices: int
    statistics: CodebookStatistics
    file: Path

    def planes(self, axis: Axis) -> int:
        """How many planes there are along an axis."""
        return int(self.original.shape[AXES[axis]])

    def pictures(self, axis: Axis, place: int, frame: int) -> tuple[Image.Image, Image.Image, Image.Image]:
        """A plane of one of the n: original, reconstruction and error. UserError where there is no such plane."""
        if not (0 <= place < self.planes(axis) and 0 <= frame < self.original.shape[3]):
            raise UserError(f"{axis} slice {place} of volume {frame}: there is none")
        slicing = Slicing((self.original.shape[0], *self.original.shape[1:3]), axis, None, "pad", ())
        both = [slicing.plane(volume[..., frame], place)[..., None] for volume in (self.original, self.reconstruction)]
        look = Look(self._spacing(axis), EDGES[axis], "")
        return look.shown(both[0]), look.shown(both[1]), look.spaced(error_map(both[0], both[1]), smooth=False)

    def _spacing(self, axis: Axis) -> tuple[float, float]:
        column, row = (size for at, size in enumerate(self.voxel_sizes) if at != AXES[axis])
        most = _MOST_STRETCH * min(row, column)
        return min(row, most), min(column, most)


def shown_volume(tokenizer: Tokenizer, path: Path, config: VolumesConfig) -> ShownVolume:
    """Encodes a file deterministically and decodes it.

    Args:
        tokenizer: in evaluation mode, on any device.
        path: of the file.
        config: how slices are taken.

    Raises:
        UserError: no NIfTI file, a damaged one, one of too many voxels, or one that the tokenizer does not take. No
            folder of this machine is named in it.
    """
    folder = Path(mkdtemp(prefix="vaevq-volume-"))
    try:
        made = _shown(tokenizer, path, config, folder / f"reconstructed-{path.name[-100:]}")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, UserError):
            raise UserError(str(error).replace(str(path), path.name).replace(f"{path.parent}/", "")) from None
        raise
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _shown(tokenizer: Tokenizer, path: Path, config: VolumesConfig, file: Path) -> ShownVolume:
    opened = _checked(path, config.axis)
    device = next(tokenizer.parameters()).device
    index = index_volumes([path], config, path.name, cached=False)
    encoded = encode_images(tokenizer, index, EvalConfig(resize=None, crop=None), device).file
    decode_volumes(tokenizer, encoded, file, device)
    quantizer = tokenizer.quantizer
    histogram = TokenHistogram(quantizer.codebook_size, codebooks=quantizer.codebooks)
    for grid in encoded.tokens:
        histogram.update(torch.from_numpy(grid))
    originals, reconstructions, errors = list[Pixels](), list[Pixels](), list[float]()
    for sliced in sliced_volumes(index):
        squares = 0.0
        for one, other in _channels(sliced, file):
            squares += float(np.square(one.astype(np.float64) - other).mean())
            originals.append(_uint8(one))
            reconstructions.append(_uint8(other))
        errors.append(squares / len(sliced.windows))
    decibels = [10 * math.log10(4 / error) for error in errors if error > 0]
    return ShownVolume(
        original=np.stack(originals, axis=-1),
        reconstruction=np.stack(reconstructions, axis=-1),
        voxel_sizes=opened.voxel_sizes,
        psnr=sum(decibels) / len(decibels) if decibels else None,
        slices=len(encoded.names),
        statistics=histogram.statistics(),
        file=file,
    )


def _checked(path: Path, axis: Axis) -> VolumeFile:
    """The header, before its voxels are unpacked."""
    if not is_volume_name(path.name):
        raise UnreadableImage(f"{path.name}: not a NIfTI file: its name ends neither in .nii nor in .nii.gz")
    opened = open_volume(str(path))
    shape = "×".join(map(str, opened.shape))
    if math.prod(opened.shape) > MAX_VOXELS:
        raise UserError(f"{path.name}: {shape} voxels, more than the {MAX_VOXELS:,} that this page takes")
    if max(opened.shape) > MAX_SIDE or opened.ras_shape[AXES[axis]] * opened.frames > MAX_SIDE:
        raise UserError(f"{path.name}: {shape} voxels, more than {MAX_SIDE} on a side or {MAX_SIDE} slices in all")
    return opened


def _channels(sliced: SlicedVolume, file: Path) -> list[tuple[Floats, Floats]]:
    """Of each channel the voxels in the window, in [-1, 1], as they were and as they are in the reconstructed file."""
    found = []
    for channel, window in zip(sliced.volume.channels, sliced.windows, strict=True):
        opened = channel.header
        both = [
            window.apply(channel_voxels(place, cached=False), opened.slope, opened.inter)
            for place in (channel, Channel.of(str(file), channel.frame))
        ]
        if not all(bool(np.isfinite(values).all()) for values in both):
            raise UserError(f"{channel.path}: its intensities cannot be computed with: they are too large or too close")
        found.append((both[0], both[1]))
    return found


def _uint8(values: Floats) -> Pixels:
    pixels: Pixels = np.rint((values + 1) * 127.5).astype(np.uint8)
    return pixels
