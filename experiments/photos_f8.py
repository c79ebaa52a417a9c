"""The tokenizer in the box on photos of another source than its training, beside JPEG and WebP.

    python experiments/photos_f8.py --data BSDS/test --write
    python experiments/photos_f8.py --picture docs/images/photos-f8.png

Every photo is brought to at most the bits that its tokens take, log₂K a token: packed tokens without a
header, JPEG and WebP as the whole files that Pillow writes (without metadata, tables optimized, WebP's slowest method).
Then, the other way about, how many bits JPEG and WebP need to come as near as the tokens do. The picture is of three
photos that come with scikit-image: astronaut (NASA), coffee (Rachel Michetti), chelsea (Stéfan van der Walt).
"""

import argparse
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image

from vaevq import Tokenizer
from vaevq.console import progress, say
from vaevq.data.images import Pixels, centre_crop, to_pillow, to_pixels, to_tensor
from vaevq.data.index import find_images
from vaevq.files import write_text
from vaevq.metrics.image import psnr, ssim
from vaevq.metrics.networks import lpips_network
from vaevq.pretrained import DEFAULT
from vaevq.report.pictures import overview

RESULT = Path(__file__).with_suffix(".json")
CODECS = {"JPEG": {"optimize": True, "progressive": True}, "WebP": {"method": 6}}
QUALITIES = range(101)

Measure = Callable[[Pixels, Pixels], "Closeness"]


@dataclass(frozen=True)
class Closeness:
    """How near a picture is to the original; means over photos in the result."""

    psnr: float
    ssim: float
    lpips: float


@dataclass(frozen=True)
class Compressed:
    """A picture at a size."""

    bits_per_pixel: float
    closeness: Closeness


def main() -> None:
    """Measures and prints the table; with --write keeps it beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with photos")
    parser.add_argument("--picture", type=Path, help="only draw three photos beside JPEG and WebP, into this file")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--write", action="store_true", help=f"also write {RESULT.name}")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_pretrained(options.model)
    if options.picture:
        picture(tokenizer, options.model).save(options.picture, optimize=True)
        return
    if options.data is None:
        parser.error("name --data, or --picture")
    measure, images = closeness(), find_images(options.data)
    found: dict[str, list[Compressed]] = {}
    over = dict.fromkeys(CODECS, 0)
    with progress("compressing", len(images), quiet=False) as reached:
        for done, image in enumerate(images, start=1):
            original = image.load(3)
            bits, reconstruction = by_tokens(tokenizer, original)
            tokens = Compressed(bits, measure(original, reconstruction))
            found.setdefault("tokens", []).append(tokens)
            for name in CODECS:
                bits, finest = at_most(name, original, tokens.bits_per_pixel)
                equal = Compressed(bits, measure(original, finest))
                over[name] += equal.bits_per_pixel > tokens.bits_per_pixel
                found.setdefault(name, []).append(equal)
                for figure in ("psnr", "lpips"):
                    found.setdefault(f"{name}, {figure} of the tokens", []).append(
                        as_near_as(name, original, tokens.closeness, figure, measure)
                    )
            reached(done)
    means = {name: mean(pictures) for name, pictures in found.items()}
    say(table(means))
    beyond = ", ".join(f"{name} {count}" for name, count in over.items())
    say(f"{len(images)} photos. Whose coarsest file has more bits than the tokens, and counts all the same: {beyond}")
    if options.write:
        result = {"model": options.model, "model_digest": tokenizer.digest, "photos": len(images), "over": over}
        figures = {name: asdict(picture) for name, picture in means.items()}
        write_text(RESULT, json.dumps({**result, "figures": figures}, indent=1) + "\n")


def closeness() -> Measure:
    """What is measured of a picture beside its original."""
    network = lpips_network("alexnet", None)

    @torch.inference_mode()
    def measure(original: Pixels, picture: Pixels) -> Closeness:
        x, y = (torch.from_numpy(array.copy()).permute(2, 0, 1)[None] for array in (original, picture))
        distance = network(to_tensor(original)[None], to_tensor(picture)[None])
        return Closeness(float(psnr(x, y)), float(ssim(x, y)), float(distance))

    return measure


@torch.inference_mode()
def by_tokens(tokenizer: Tokenizer, original: Pixels) -> tuple[float, Pixels]:
    """Bits a pixel of the tokens, at log₂K each, and the tokenizer's reconstruction."""
    tokens = tokenizer.encode(to_tensor(original)[None])
    decoded = tokenizer.decode(tokens, size=original.shape[:2])[0]
    bits = tokens.numel() * math.log2(tokenizer.config.quantizer.codebook_size)
    return bits / (original.shape[0] * original.shape[1]), to_pixels(decoded)


def at_most(name: str, original: Pixels, bits_per_pixel: float) -> tuple[float, Pixels]:
    """Bits a pixel and picture of the finest quality whose file has at most so many; the coarsest where none has."""
    low, high = QUALITIES[0], QUALITIES[-1]
    while low < high:
        middle = (low + high + 1) // 2
        if compressed(name, original, middle)[0] <= bits_per_pixel:
            low = middle
        else:
            high = middle - 1
    return compressed(name, original, low)


def as_near_as(name: str, original: Pixels, asked: Closeness, figure: str, measure: Measure) -> Compressed:
    """The coarsest quality that is at least as near in one figure."""
    sign = -1 if figure == "lpips" else 1
    low, high = QUALITIES[0], QUALITIES[-1]
    while low < high:
        middle = (low + high) // 2
        reached = measure(original, compressed(name, original, middle)[1])
        if sign * getattr(reached, figure) >= sign * getattr(asked, figure):
            high = middle
        else:
            low = middle + 1
    bits, picture = compressed(name, original, low)
    return Compressed(bits, measure(original, picture))


def compressed(name: str, original: Pixels, quality: int) -> tuple[float, Pixels]:
    """Bits a pixel of the file, and what it shows."""
    file = io.BytesIO()
    Image.fromarray(original).save(file, name, quality=quality, **CODECS[name])
    bits = 8 * file.tell() / (original.shape[0] * original.shape[1])
    return bits, np.asarray(Image.open(file).convert("RGB"))


def picture(tokenizer: Tokenizer, model: str) -> Image.Image:
    """The middles of three photos, and what comes back of the whole photos at the bits of the tokens."""
    from skimage import data

    columns, names = [], ("astronaut", "coffee", "chelsea")
    for name in names:
        original: Pixels = np.ascontiguousarray(getattr(data, name)())
        bits, reconstruction = by_tokens(tokenizer, original)
        parts = [original, reconstruction, *(at_most(codec, original, bits)[1] for codec in ("WebP", "JPEG"))]
        columns.append([to_pillow(centre_crop(part, 256)) for part in parts])
    return overview(columns, names, ("original", model, "WebP", "JPEG"))


def mean(pictures: list[Compressed]) -> Compressed:
    """Means over photos."""
    names = Closeness.__dataclass_fields__
    near = {name: fmean(getattr(picture.closeness, name) for picture in pictures) for name in names}
    return Compressed(fmean(picture.bits_per_pixel for picture in pictures), Closeness(**near))


def table(means: dict[str, Compressed]) -> str:
    """In Markdown."""
    rows = ["| | bits a pixel | PSNR (dB) ↑ | SSIM ↑ | LPIPS (AlexNet) ↓ |", "|---|---:|---:|---:|---:|"]
    for name, picture in means.items():
        near = picture.closeness
        rows.append(f"| {name} | {picture.bits_per_pixel:.3f} | {near.psnr:.2f} | {near.ssim:.3f} | {near.lpips:.3f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
