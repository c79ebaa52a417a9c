"""An exported tokenizer beside PyTorch's: the same tokens but for ties, the same pixels of the same tokens."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vaevq.errors import UserError
from vaevq.export.misfit import TIE, ties
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer

PIXELS = 1e-4
"""By how much a pixel, in [-1, 1], may differ on equal tokens."""

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Parity:
    """How an exported tokenizer compares with PyTorch on made-up images of several sizes.

    Attributes:
        shapes: of the batches, as B×C×H×W.
        tokens: how many were compared.
        ties: tokens that differ where both choices fit equally well (`vaevq.export.misfit`).
        differing: tokens that differ otherwise.
        largest_pixel_difference: on equal tokens, of pixels about [-1, 1].
    """

    shapes: tuple[str, ...]
    tokens: int
    ties: int
    differing: int
    largest_pixel_difference: float

    def check(self) -> None:
        """UserError where the export is not what it was made of."""
        if self.differing:
            raise UserError(
                f"{self.differing} of {self.tokens} tokens of the export are not PyTorch's; nothing is kept"
            )
        if not self.largest_pixel_difference <= PIXELS:  # NaN as well
            difference = f"{self.largest_pixel_difference:.2g}, above {PIXELS:g}"
            raise UserError(f"pixels of the export differ from PyTorch's by up to {difference}; nothing is kept")

    def rows(self) -> list[tuple[str, Any]]:
        """For a table."""
        return [
            ("compared on", list(self.shapes)),
            ("tokens compared", self.tokens),
            (f"tokens that differ, choices within {TIE:g}", self.ties),
            ("tokens that differ otherwise", self.differing),
            ("largest pixel difference", self.largest_pixel_difference),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "shapes": list(self.shapes)}


@torch.no_grad()
def compare(tokenizer: Tokenizer, encoder: Runner, decoder: Runner) -> Parity:
    """Runs both graphs of a tokenizer, on the CPU and in evaluation mode, beside it."""
    shapes, counts, largest = list[str](), torch.zeros(3, dtype=torch.int64), 0.0
    for images in _images(tokenizer):
        posterior = tokenizer.posterior(images)
        expected, found = tokenizer.quantizer.encode(posterior), encoder(images)
        if found.shape != expected.shape or found.dtype != torch.int64:
            raise UserError(f"the export makes tokens {_shape(found)}, PyTorch {_shape(expected)}; nothing is kept")
        tied = ties(tokenizer.quantizer, posterior, expected, found)
        counts += torch.tensor([expected.numel(), tied.sum(), ((found != expected) & ~tied).sum()])
        difference = (decoder(expected) - tokenizer.decode(expected)).abs().max()
        largest = max(largest, float(difference)) if difference == difference else float("nan")
        shapes.append(_shape(images))
    total, tied_count, differing = counts.tolist()
    return Parity(tuple(shapes), total, tied_count, differing, largest)


def _images(tokenizer: Tokenizer) -> Iterator[Tensor]:
    """Batches of smooth shades with noise, B×C×H×W in [-1, 1]: one image and several, multiples of f and others."""
    f, channels = tokenizer.downsample_factor, tokenizer.config.autoencoder.image_channels
    for batch, height, width in ((1, 4 * f, 6 * f), (3, 5 * f + 1, 3 * f - 1), (2, 2 * f, 9 * f + f // 2)):
        random = generator("export", batch)
        shades = torch.rand(batch, channels, 3, 3, generator=random) * 2 - 1
        smooth = interpolate(shades, (height, width), mode="bilinear", align_corners=True)
        noise = torch.randn(smooth.shape, generator=random)
        yield (smooth + 0.1 * noise).clamp(-1, 1)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
