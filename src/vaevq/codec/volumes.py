"""Tokens of slices back to volumes: on their own grid, of their own type, with their own header."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vaevq.codec.images import Progress, fitting
from vaevq.data.images import Floats
from vaevq.data.tokens import TokenFile
from vaevq.data.volumes.cache import open_volume
from vaevq.data.volumes.layout import is_volume_name
from vaevq.data.volumes.record import KeptVolume, VolumeRecord, window_of
from vaevq.data.volumes.source import write_nifti
from vaevq.data.volumes.window import BACKGROUND
from vaevq.errors import UserError
from vaevq.files import make_folder, require_absent, written_aside
from vaevq.tokenizer import Tokenizer

BATCH = 8


@torch.inference_mode()
def decode_volumes(
    tokenizer: Tokenizer,
    file: TokenFile,
    output: Path,
    device: torch.device,
    *,
    force: bool = False,
    progress: Progress = lambda done: None,
) -> list[Path]:
    """Writes the files of a token file's volumes: header byte by byte, grid, affine and voxel type as they were.

    Intensities are the reconstruction's within each channel's window, rounded where voxels are whole numbers. Slices
    and borders that were left out are the bottom of the window.

    Args:
        tokenizer: the model of the file, in evaluation mode, on `device`.
        file: with volumes.
        output: a NIfTI file, where the token file is of one; or a folder.

    Raises:
        UserError: another model made the file, several files for one name, something would be overwritten (unless
            `force`) or cannot be written.
    """
    assert file.volumes is not None, "a token file of volumes"
    fitting(tokenizer, file)
    record = file.volumes
    paths = _paths(record, output)
    require_absent(paths, force=force)
    last = {channel.file: number for number, volume in enumerate(record.volumes) for channel in volume.channels}
    begun: dict[int, npt.NDArray[Any]] = {}
    first = 0
    for number, volume in enumerate(record.volumes):
        for channel in volume.channels:
            if channel.file not in begun:
                opened = record.opened[channel.file]
                begun[channel.file] = np.zeros(opened.shape, dtype=opened.dtype, order="F")
        squares = _decoded(tokenizer, file, range(first, first + len(volume.kept)), device, progress)
        _fill(record, volume, squares, begun)
        first += len(volume.kept)
        for done in [at for at in begun if last[at] == number]:
            packed = paths[done].name.lower().endswith(".gz")
            make_folder(paths[done].parent)
            with written_aside(paths[done]) as aside:
                write_nifti(aside, record.prefixes[done], begun.pop(done), packed=packed)
    return paths


@dataclass(frozen=True)
class VolumeDifference:
    """One volume beside another.

    Attributes:
        same_grid, same_affine, same_type, same_header: whether shape, affine, voxel type and everything before the
            voxels are equal.
        voxels: how many there are.
        range: least and greatest intensity of the first.
        mean_absolute, root_mean_square, largest: of the differences of intensities; None on another grid.
        psnr: over that range, in dB; None where they are equal, or on another grid.
    """

    same_grid: bool
    same_affine: bool
    same_type: bool
    same_header: bool
    voxels: int
    range: tuple[float, float]
    mean_absolute: float | None = None
    root_mean_square: float | None = None
    largest: float | None = None
    psnr: float | None = None

    def rows(self) -> list[tuple[str, str]]:
        """For a table."""
        words = {True: "identical", False: "differs"}
        same = [("grid", self.same_grid), ("affine", self.same_affine), ("voxel type", self.same_type)]
        rows = [(what, words[equal]) for what, equal in [*same, ("header", self.same_header)]]
        if self.mean_absolute is None:
            return rows
        low, high = self.range
        return [
            *rows,
            ("intensities", f"{low:g} to {high:g}"),
            ("mean absolute error", f"{self.mean_absolute:.4g}"),
            ("root mean square error", f"{self.root_mean_square:.4g}"),
            ("largest error", f"{self.largest:.4g}"),
            ("PSNR over that range", "equal" if self.psnr is None else f"{self.psnr:.2f} dB"),
        ]


def compare_volumes(original: Path, decoded: Path) -> VolumeDifference:
    """What encoding and decoding has changed of a volume.

    Raises:
        UserError: one of the two is no volume that can be read.
    """
    one, other = open_volume(str(original)), open_volume(str(decoded))
    x = one.read().astype(np.float64) * one.slope + one.inter
    found: dict[str, Any] = {
        "same_grid": one.shape == other.shape,
        "same_affine": bool(np.array_equal(one.affine, other.affine)),
        "same_type": one.dtype == other.dtype,
        "same_header": one.prefix == other.prefix,
        "voxels": x.size,
        "range": (float(x.min()), float(x.max())),
    }
    if not found["same_grid"]:
        return VolumeDifference(**found)
    error = np.abs(x - (other.read().astype(np.float64) * other.slope + other.inter))
    square = float(np.square(error).mean())
    span = found["range"][1] - found["range"][0]
    return VolumeDifference(
        **found,
        mean_absolute=float(error.mean()),
        root_mean_square=square**0.5,
        largest=float(error.max()),
        psnr=float(10 * np.log10(span**2 / square)) if square and span else None,
    )


def _decoded(
    tokenizer: Tokenizer, file: TokenFile, places: range, device: torch.device, progress: Progress
) -> Iterator[Floats]:
    """The slices at `places`, which are of one size: float32 H×W×C."""
    for start in range(places.start, places.stop, BATCH):
        batch = range(start, min(start + BATCH, places.stop))
        grids = np.stack([file.tokens[place] for place in batch])
        images = tokenizer.decode(torch.from_numpy(grids).to(device), file.sizes[start])
        if not bool(images.isfinite().all()):
            raise UserError(f"'{file.names[start]}': what is decoded is not finite: this model has diverged")
        yield from images.permute(0, 2, 3, 1).float().cpu().numpy()
        progress(batch.stop)


def _fill(record: VolumeRecord, volume: KeptVolume, squares: Iterator[Floats], begun: dict[int, Any]) -> None:
    """Writes a volume's slices into the voxels of its files."""
    slicing = record.slicing(volume)
    channels = []
    for channel in volume.channels:
        opened, stored = record.opened[channel.file], begun[channel.file]
        own = stored[..., channel.frame] if stored.ndim == 4 else stored
        window = window_of(channel)
        bottom = np.array([BACKGROUND], dtype=np.float32)
        own[...] = window.undo(bottom, opened.slope, opened.inter, opened.dtype)[0]
        channels.append((opened, window, opened.orientation.to_ras(own)))
    for place, square in zip(volume.kept, squares, strict=True):
        plane = slicing.unfitted(square, BACKGROUND)
        if plane.shape[2] != len(channels):
            raise UserError(f"'{volume.name}': {len(channels)} channels, and the model makes {plane.shape[2]}")
        for i, (opened, window, ras) in enumerate(channels):
            slicing.put(ras, place, window.undo(plane[..., i], opened.slope, opened.inter, opened.dtype))


def _paths(record: VolumeRecord, output: Path) -> list[Path]:
    """Where each file of a record goes."""
    if not is_volume_name(output.name) or output.is_dir():
        return [output / file.name for file in record.files]
    if len(record.files) > 1:
        raise UserError(f"{output}: there are {len(record.files)} volumes to write; name a folder")
    return [output]
