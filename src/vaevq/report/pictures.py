"""Pictures of what a tokenizer does: originals, reconstructions, token maps, error maps, and an overview of them all.

Channels: 1 is shown as grey and 3 as colour. 2 and 4 (alpha, or the contrasts of a medical slice) are shown side by
side, each as grey, so that nothing hides behind transparency; so are those of slices of volumes, whatever their number.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vaevq.data.images import Pixels
from vaevq.files import make_folder, write_json, written_aside
from vaevq.report.slices import Look

Tokens = npt.NDArray[np.int64]

PARTS = ("original", "reconstruction", "tokens", "error")

ERROR_WHITE = 64
"""The error, in 8-bit steps, at the bright end of the error maps' scale: the same in every map of every run."""

_COLUMNS = 8  # of the overview, before it goes on below
_MARGIN = 6
_LABEL = 18  # height of a name


@dataclass(frozen=True)
class Picture:
    """One image's pictures.

    Attributes:
        name: the image's, as its index calls it.
        stem: of the files STEM_original.png, …_reconstruction.png, …_tokens.png and …_error.png.
        height, width: of the image, in pixels.
        grid: height and width of its tokens.
        distinct_tokens: how many different ones the map shows.
        codebook_size: of how many.
        psnr: of the reconstruction in dB; None where it equals the original.
        codes_per_position: q; the map shows the first of them.
        caption: what else is to be said of it.
    """

    name: str
    stem: str
    height: int
    width: int
    grid: tuple[int, int]
    distinct_tokens: int
    codebook_size: int
    psnr: float | None
    codes_per_position: int = 1
    caption: str = ""


def write_pictures(
    folder: Path,
    originals: Sequence[Pixels],
    reconstructions: Sequence[Pixels],
    tokens: Sequence[Tokens],
    names: Sequence[str],
    codebook_size: int,
    looks: Sequence[Look | None] | None = None,
) -> list[Picture]:
    """Writes four PNG files an image, the overview reconstructions.png, and pictures.json.

    Args:
        folder: `images` of a run folder, or one below it; pictures of an earlier call in it are removed.
        originals, reconstructions: uint8 H×W×C, C from 1 to 4 (see this module's rule).
        tokens: int64 h×w or h×w×q of each image; of q codes the first is drawn, in `token_colours` at the image's size.
        names: of the images; files are called after them.
        codebook_size: K.
        looks: how slices of volumes are shown, one an image; None for images.
    """
    looks = looks or [None] * len(originals)
    assert len(originals) == len(reconstructions) == len(tokens) == len(names) == len(looks)
    make_folder(folder)
    for old in folder.glob("[0-9]*_*.png"):
        old.unlink()
    pictures, rows = [], []
    for i, (original, reconstruction, codes, name, look) in enumerate(
        zip(originals, reconstructions, tokens, names, looks, strict=True)
    ):
        assert original.shape == reconstruction.shape
        grid, several = (codes, 1) if codes.ndim == 2 else (codes[..., 0], codes.shape[2])
        stem = f"{i:02}_{_file_stem(name)}"
        height, width = original.shape[:2]
        parts = [shown(original, look), shown(reconstruction, look)]
        maps = [token_map(grid, height, width), error_map(original, reconstruction)]
        if look is not None:
            maps = [look.spaced(image, smooth=False) for image in maps]
        parts.append(maps[0])
        for part, image in zip(PARTS, [*parts, maps[1]], strict=True):
            save_picture(image, folder / f"{stem}_{part}.png")
        error = float(np.mean((original.astype(np.float64) - reconstruction) ** 2))
        psnr = 10 * float(np.log10(255**2 / error)) if error else None
        shape = (grid.shape[0], grid.shape[1])
        distinct = len(np.unique(grid))
        if look is not None:
            psnr = look.psnr  # of intensities, not of what is shown of them
        caption = look.caption if look is not None else ""
        pictures.append(Picture(name, stem, height, width, shape, distinct, codebook_size, psnr, several, caption))
        rows.append(parts)
    if pictures:
        save_picture(overview(rows, [_file_stem(name) for name in names]), folder / "reconstructions.png")
    write_json(folder / "pictures.json", [asdict(picture) for picture in pictures])
    return pictures


def save_picture(image: Image.Image, path: Path) -> None:
    """Writes a picture as PNG, whole or not at all."""
    with written_aside(path) as aside:
        image.save(aside, format="PNG", optimize=True)


def read_pictures(folder: Path) -> list[Picture]:
    """What `write_pictures` wrote there, less the images of which a file is gone; empty where there is none."""
    file = folder / "pictures.json"
    if not file.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    pictures = [Picture(**{**row, "grid": (row["grid"][0], row["grid"][1])}) for row in rows]
    return [p for p in pictures if all((folder / f"{p.stem}_{part}.png").exists() for part in PARTS)]


def shown(array: Pixels, look: Look | None = None) -> Image.Image:
    """An image as it is shown: see this module's rule for channels; a slice as its `look` has it."""
    if look is not None:
        return look.shown(array)
    if array.shape[2] == 3:
        return Image.fromarray(np.ascontiguousarray(array))
    return Image.fromarray(np.concatenate([array[:, :, c] for c in range(array.shape[2])], axis=1))


def token_map(tokens: Tokens, height: int, width: int) -> Image.Image:
    """Tokens h×w as a picture height×width, one colour a token, enlarged without smoothing.

    The grid covers the image padded to a multiple of f at the bottom and on the right; it is cropped like the image.
    """
    factor = max(-(-height // tokens.shape[0]), -(-width // tokens.shape[1]))
    factor = 1 << (factor - 1).bit_length()  # f is a power of 2; a small padded image alone does not show which
    enlarged = token_colours(tokens).repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(np.ascontiguousarray(enlarged[:height, :width]))


def token_colours(tokens: Tokens) -> Pixels:
    """A colour for each token, any shape to shape×3; a token's is the same in every picture and of every run.

    Lightness, chroma and hue follow an additive recurrence with the generalized golden ratio of three dimensions, so
    that consecutive tokens differ and any range of them spreads evenly over OKLCH (Ottosson 2020), in which equal
    steps look equal. The colours of near codewords are no nearer than others: they only tell tokens apart.
    """
    ratio = 1.2207440846057596  # the real root of x⁴ = x + 1
    index = tokens.astype(np.float64)[..., None] + 1
    u = np.mod(index * ratio ** -np.array([3.0, 2.0, 1.0]), 1.0)
    lightness, chroma, hue = 0.42 + 0.5 * u[..., 0], 0.05 + 0.13 * u[..., 1], 2 * np.pi * u[..., 2]
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    # OKLab → cone responses → linear sRGB → sRGB
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        axis=-1,
    )
    matrix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(cones**3 @ matrix.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: Pixels = np.rint(255 * encoded).astype(np.uint8)
    return colours


def error_map(original: Pixels, reconstruction: Pixels) -> Image.Image:
    """The absolute error, a mean over channels: black where there is none, bright from `ERROR_WHITE` on."""
    from matplotlib import colormaps

    error = np.abs(original.astype(np.float64) - reconstruction).mean(axis=2)
    colours = colormaps["magma"](np.clip(error / ERROR_WHITE, 0.0, 1.0))
    return Image.fromarray(np.rint(255 * colours[:, :, :3]).astype(np.uint8))


def overview(
    rows: Sequence[Sequence[Image.Image]],
    names: Sequence[str],
    labels: Sequence[str] = ("original", "reconstruction", "tokens"),
) -> Image.Image:
    """The pictures of each image below each other, an image a column; after 8 it goes on below.

    Args:
        rows: the pictures of each image, one a label.
        names: of the images.
        labels: what the pictures are, from top to bottom; `tokens` are enlarged without smoothing.
    """
    size = max(128, min(256, max(max(parts[0].size) for parts in rows)))
    font = ImageFont.load_default(size=12)
    columns, bands = min(_COLUMNS, len(rows)), -(-len(rows) // _COLUMNS)
    side = max(96, *(round(font.getlength(label)) + 2 * _MARGIN for label in labels))
    cell = size + _MARGIN
    band_height = _LABEL + len(labels) * cell + _MARGIN
    sheet = Image.new("RGB", (side + columns * cell + _MARGIN, bands * band_height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (parts, name) in enumerate(zip(rows, names, strict=True)):
        left, top = side + i % _COLUMNS * cell, _MARGIN + i // _COLUMNS * band_height
        while draw.textlength(name, font=font) > size:
            name = name[:-2].rstrip("…") + "…"
        draw.text((left, top), name, fill="#555555", font=font)
        for row, (part, label) in enumerate(zip(parts, labels, strict=True)):
            y = top + _LABEL + row * cell
            if i % _COLUMNS == 0:
                draw.text((_MARGIN, y + size // 2), label, fill="#222222", font=font, anchor="lm")
            fitted = _fit(part, size, smooth=label != "tokens")
            sheet.paste(fitted, (left + (size - fitted.width) // 2, y + (size - fitted.height) // 2))
    return sheet


def _fit(image: Image.Image, size: int, *, smooth: bool) -> Image.Image:
    """Brought to `size` on its longer side; small images by a whole factor without smoothing, as they are."""
    scale = size / max(image.size)
    if scale >= 2:
        scale, smooth = int(scale), False
    filtering = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return image.convert("RGB").resize([max(1, round(side * scale)) for side in image.size], filtering)


def _file_stem(name: str) -> str:
    """A name for files out of an image's: its last part without extension, letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", PurePosixPath(name).stem).strip("-.")[:40] or "image"
