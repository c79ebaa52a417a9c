"""Figures of volumes: of slices inside the foreground, and of whole volumes put together again."""

import math
from typing import Any

import torch
from torch import Tensor

from vaevq import distributed
from vaevq.data.entries import ImageIndex
from vaevq.data.volumes.entries import SlicedVolume, SliceEntry, sliced_volumes
from vaevq.metrics.fid import accumulator_device, as_float64
from vaevq.metrics.image import SSIM_RADIUS, WINDOW_FLOOR, WINDOW_RANGE, psnr_of_error, ssim_maps

SLICE_FIGURES = {"psnr": "psnr_foreground", "ssim": "ssim_foreground"}
"""What a metric is called where it is taken inside the foreground alone."""


class VolumeScores:
    """Figures of slices of volumes; sums over the planes of each volume, in constant memory.

    Args:
        index: slices, in the order of the positions that they are told of by.
        device: where slices are.
    """

    def __init__(self, index: ImageIndex, device: torch.device) -> None:
        self._index = index
        self._volumes = sliced_volumes(index)
        self._number = {id(sliced): number for number, sliced in enumerate(self._volumes)}
        # Squared error, squared error of the foreground, values of the foreground, slices.
        self._sums = torch.zeros(len(self._volumes), 4, dtype=torch.float64, device=accumulator_device(device))

    @classmethod
    def of(cls, index: ImageIndex, device: torch.device) -> "VolumeScores | None":
        """For slices; None for images."""
        return cls(index, device) if isinstance(index[0], SliceEntry) else None

    def foreground(self, originals: Tensor) -> Tensor:
        """Where a channel lies above `data.volumes.foreground` of its window: B×C×H×W in [-1, 1] to bool B×1×H×W."""
        return ((as_float64(originals) + 1) / 2 > self._volumes[0].config.foreground).any(dim=1, keepdim=True)

    def slice_psnr(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        """PSNR inside the foreground, float64 B; of the whole slice where it has none."""
        error = _mean_inside(_squares(originals, reconstructions), self.foreground(originals))
        return psnr_of_error(error, WINDOW_RANGE, WINDOW_FLOOR)

    def slice_ssim(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        """SSIM averaged over the windows whose middle is foreground, float64 B; over all where none is."""
        maps = ssim_maps(originals, reconstructions)
        middle = slice(SSIM_RADIUS, -SSIM_RADIUS)
        return _mean_inside(maps, self.foreground(originals)[..., middle, middle])

    def update(self, positions: Tensor, originals: Tensor, reconstructions: Tensor) -> None:
        """Takes in slices at `positions` (int64 B), B×C×H×W clamped to [-1, 1]."""
        squares = _squares(originals, reconstructions) / WINDOW_RANGE**2  # in units of the window
        inside = self.foreground(originals)
        shares = (as_float64(originals) + 1) / 2
        for i, position in enumerate(positions.tolist()):
            entry = self._index[position]
            assert isinstance(entry, SliceEntry)
            sliced = entry.sliced
            if tuple(squares.shape[-2:]) != sliced.slicing.square_shape:
                continue  # cut or resized since: not the planes of a volume any more
            row = self._sums[self._number[id(sliced)]]
            row[0] += _plane_error(sliced, entry.place, squares[i], shares[i])
            row[1] += (squares[i] * inside[i]).sum()
            row[2] += inside[i].sum() * len(squares[i])
            row[3] += 1

    def figures(self) -> dict[str, float]:
        """Merges all processes. Means over the volumes of which every kept slice was measured; none, no figure."""
        self._sums = distributed.all_reduce_sum(self._sums)
        rows = [(self._volumes[i], row) for i, row in enumerate(self._sums.tolist()) if self._is_whole(i, row[3])]
        if not rows:
            return {}
        whole = [_psnr((row[0] + _lost(sliced)) / _values(sliced)) for sliced, row in rows]
        inside = [_psnr(row[1] / row[2]) for _, row in rows if row[2]]
        mean = sum(whole) / len(whole)
        figures = {"psnr_3d": mean}
        if len(whole) > 1:
            figures["psnr_3d_deviation"] = math.sqrt(sum((v - mean) ** 2 for v in whole) / (len(whole) - 1))
        if inside:
            figures["psnr_3d_foreground"] = sum(inside) / len(inside)
        return figures

    def notes(self) -> list[str]:
        """What to know before quoting `psnr_3d`; after `figures`."""
        parts = sum(not self._is_whole(i, row[3]) for i, row in enumerate(self._sums.tolist()))
        if not parts:
            return []
        return [
            f"{parts} of {len(self._volumes)} volumes are not in psnr_3d: not all of their slices were measured, or "
            "eval.resize and eval.crop changed them"
        ]

    def _is_whole(self, number: int, slices: float) -> bool:
        return int(slices) == len(self._volumes[number].slicing.kept)


def volume_protocol(index: ImageIndex) -> dict[str, Any]:
    """How slices came about and what their figures are of; nothing of images."""
    volumes = sliced_volumes(index)
    if not volumes:
        return {}
    config = volumes[0].config
    low, high = config.percentiles
    size = "as they are" if config.size is None else f"{config.fit} to {config.size}×{config.size} pixels"
    return {
        "volumes": len(volumes),
        "subjects": len({sliced.volume.subject for sliced in volumes}),
        "slices": f"{config.axis}, {size}; left out with less than {config.empty_below:g} of foreground",
        "intensities": f"window of each volume and channel, percentile {low:g} of all voxels to percentile {high:g} of "
        "those above it, clipped, as [-1, 1]",
        "foreground": f"above {config.foreground:g} of the window in a channel; a slice without any counts whole",
        "interpolation": "bicubic with antialias, in floating point, where slices are resized",
        "rounding": "none: reconstructions clamped to the window",
        "psnr_3d": "per volume over its own voxels in the window, what is left out as its bottom, mean over volumes"
        + ("; over resized slices" if config.fit == "resize" else ""),
    }


def _mean_inside(values: Tensor, inside: Tensor) -> Tensor:
    """The mean of B×C×H×W where a mask, bool B×1×H×W, holds; everywhere where it nowhere does: B."""
    weight = (inside | ~inside.flatten(1).any(1)[:, None, None, None]).to(values)
    return (values * weight).flatten(1).sum(1) / weight.expand_as(values).flatten(1).sum(1)


def _squares(originals: Tensor, reconstructions: Tensor) -> Tensor:
    return (as_float64(originals) - as_float64(reconstructions)).square()


def _plane_error(sliced: SlicedVolume, place: int, squares: Tensor, shares: Tensor) -> Tensor:
    """The squared error of a plane's own voxels, C×H×W squares of the square it came in: what was cut off is lost."""
    slicing = sliced.slicing
    if slicing.fit == "resize" and slicing.size is not None:
        height, width = slicing.plane_shape
        return squares.mean() * squares.shape[0] * height * width
    inside, _ = slicing.footprint
    cut = sliced.energy[place] - shares[:, inside[0], inside[1]].square().sum()
    return squares[:, inside[0], inside[1]].sum() + cut.clamp_min(0)


def _lost(sliced: SlicedVolume) -> float:
    """The squared error of the planes that are left out."""
    kept = set(sliced.slicing.kept)
    return sum(energy for place, energy in enumerate(sliced.energy) if place not in kept)


def _values(sliced: SlicedVolume) -> int:
    return math.prod(sliced.slicing.shape) * len(sliced.windows)


def _psnr(share: float) -> float:
    """Of a mean squared error in units of the window."""
    return -10 * math.log10(max(share, WINDOW_FLOOR / WINDOW_RANGE**2))
