"""Slices as radiologists expect them: square millimetres, the patient's sides at the edges, the window said."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vaevq.config import Axis, VolumesConfig
from vaevq.data.images import Pixels
from vaevq.data.volumes.entries import SlicedVolume, SliceEntry, channel_voxels
from vaevq.data.volumes.layout import Channel
from vaevq.data.volumes.slices import AXES, EDGES, Slicing
from vaevq.data.volumes.window import Window
from vaevq.errors import UserError

_LETTER = "#ffd54a"
_GAP = 6
_CAPTION = 20


@dataclass(frozen=True)
class Look:
    """How a slice is shown.

    Attributes:
        spacing: millimetres from row to row and from column to column.
        edges: what lies at the left, right, top and bottom edge.
        caption: orientation, window and voxel size in words.
        psnr: of the reconstruction over the window, in dB; None where nothing was reconstructed.
    """

    spacing: tuple[float, float]
    edges: tuple[str, str, str, str]
    caption: str
    psnr: float | None = None

    @classmethod
    def of(cls, entry: SliceEntry, psnr: float | None) -> "Look":
        """That of a slice of an index."""
        sliced = entry.sliced
        windows = ", ".join(
            f"{channel.contrast or 'window'} {window.low:g} to {window.high:g}"
            for channel, window in zip(sliced.volume.channels, sliced.windows, strict=True)
        )
        row, column = sliced.spacing
        axis, edges = sliced.slicing.axis, EDGES[sliced.slicing.axis]
        words = f"{axis} slice {entry.place}, {edges[0]} on the left, {edges[2]} at the top, {windows}, "
        return cls(_pixel_spacing(sliced), edges, f"{words}{column:.3g}×{row:.3g} mm", psnr)

    def spaced(self, image: Image.Image, *, smooth: bool = True) -> Image.Image:
        """A picture with as many pixels a millimetre down as across, as many as where it has more of them."""
        row, column = self.spacing
        fine = min(row, column)
        size = (max(1, round(image.width * column / fine)), max(1, round(image.height * row / fine)))
        filtering = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        return image if size == image.size else image.resize(size, filtering)

    def shown(self, array: Pixels) -> Image.Image:
        """A slice's channels side by side, each as grey and with its sides named: contrasts are no colours."""
        parts = [self._marked(self.spaced(Image.fromarray(array[:, :, c]))) for c in range(array.shape[2])]
        sheet = Image.new("RGB", (sum(part.width for part in parts), parts[0].height))
        for i, part in enumerate(parts):
            sheet.paste(part, (i * parts[0].width, 0))
        return sheet

    def _marked(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGB")
        draw, (left, right, top, bottom) = ImageDraw.Draw(image), self.edges
        font = ImageFont.load_default(size=max(8, min(14, image.height // 12)))
        middle_x, middle_y = image.width // 2, image.height // 2
        draw.text((1, middle_y), left, fill=_LETTER, font=font, anchor="lm")
        draw.text((image.width - 2, middle_y), right, fill=_LETTER, font=font, anchor="rm")
        draw.text((middle_x, 1), top, fill=_LETTER, font=font, anchor="mt")
        draw.text((middle_x, image.height - 2), bottom, fill=_LETTER, font=font, anchor="mb")
        return image


def volume_picture(path: Path, config: VolumesConfig) -> Image.Image:
    """The three planes through the middle of a volume's foreground, side by side; of a fourth axis its first place.

    Args:
        path: a NIfTI file, or the folder of a DICOM series.
        config: the window's percentiles.

    Raises:
        UserError: it cannot be read, or there is nothing to see.
    """
    channel = Channel.of(str(path), 0)
    opened, voxels = channel.header, channel_voxels(channel, cached=False)
    try:
        window = Window.of(voxels, opened.slope, opened.inter, config.percentiles)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    middle = _middle(voxels * opened.slope + opened.inter > window.low)
    axes: tuple[Axis, ...] = ("axial", "coronal", "sagittal")
    drawn = []
    for axis in axes:
        slicing = Slicing(opened.ras_shape, axis, None, "pad", ())
        plane = window.apply(slicing.plane(voxels, middle[AXES[axis]]), opened.slope, opened.inter)
        column, row = (size for at, size in enumerate(opened.voxel_sizes) if at != AXES[axis])
        look = Look((row, column), EDGES[axis], "")
        drawn.append(look.shown(np.rint((plane[..., None] + 1) * 127.5).astype(np.uint8)))
    height = max(part.height for part in drawn)
    width = sum(part.width for part in drawn) + _GAP * (len(drawn) - 1)
    sheet = Image.new("RGB", (width, height + _CAPTION), "black")
    left = 0
    for part in drawn:
        sheet.paste(part, (left, (height - part.height) // 2))
        left += part.width + _GAP
    sizes = " by ".join(f"{size:.3g}" for size in opened.voxel_sizes)
    text = f"window {window.low:g} to {window.high:g}   {sizes} mm   right is on the left"
    draw = ImageDraw.Draw(sheet)
    draw.text((2, height + 3), text, fill="#cccccc", font=ImageFont.load_default(size=12))
    return sheet


def _pixel_spacing(sliced: SlicedVolume) -> tuple[float, float]:
    """Millimetres from row to row and column to column of a slice as it comes."""
    row, column = sliced.spacing
    slicing = sliced.slicing
    if slicing.size is None or slicing.fit == "pad":
        return row, column
    height, width = slicing.plane_shape
    return row * height / slicing.size, column * width / slicing.size


def _middle(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The mean place of what is set, along each axis."""
    counts = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    return [int(np.average(np.arange(len(count)), weights=count)) for count in counts]
