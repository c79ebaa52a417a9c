"""One photo through a tokenizer: what comes back, the tokens, and how many bits they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vaevq.data.images import Pixels, to_pixels, to_tensor
from vaevq.data.tokens import token_type
from vaevq.demo.jpeg import EqualJpeg
from vaevq.metrics.codebook import CodebookStatistics, TokenHistogram
from vaevq.metrics.image import psnr
from vaevq.report.pictures import Tokens
from vaevq.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo and what a tokenizer makes of it.

    Attributes:
        original, reconstruction: uint8 H×W×C.
        tokens: int64 h×w, or h×w×q.
        psnr: of the reconstruction, in dB.
        statistics: of this photo's tokens.
        counts: how often each codeword occurs, codebook after codebook.
    """

    original: Pixels
    reconstruction: Pixels
    tokens: Tokens
    psnr: float
    statistics: CodebookStatistics
    counts: tuple[int, ...]

    @property
    def grid(self) -> Tokens:
        """The tokens h×w that are drawn and clicked: of q codes a position the first."""
        return first_codes(self.tokens)

    @property
    def pixels(self) -> int:
        """H·W."""
        return int(self.original.shape[0] * self.original.shape[1])


@torch.inference_mode()
def tokenized(tokenizer: Tokenizer, original: Pixels) -> Photo:
    """A photo, uint8 H×W×C with the tokenizer's channels, encoded deterministically and decoded."""
    device = next(tokenizer.parameters()).device
    tokens = tokenizer.encode(to_tensor(original)[None].to(device))[0].cpu()
    reconstruction = decoded(tokenizer, tokens.numpy(), (original.shape[0], original.shape[1]))
    quantizer = tokenizer.quantizer
    histogram = TokenHistogram(quantizer.codebook_size, codebooks=quantizer.codebooks)
    histogram.update(tokens)
    quality = psnr(*(torch.from_numpy(image).permute(2, 0, 1)[None] for image in (original, reconstruction)))
    counts = tuple(histogram.counts.tolist())
    return Photo(original, reconstruction, tokens.numpy(), float(quality), histogram.statistics(), counts)


@torch.inference_mode()
def decoded(tokenizer: Tokenizer, tokens: Tokens, size: tuple[int, int] | None = None) -> Pixels:
    """The image, uint8 H×W×C, of tokens h×w or h×w×q."""
    device = next(tokenizer.parameters()).device
    return to_pixels(tokenizer.decode(torch.from_numpy(tokens)[None].to(device), size)[0])


def first_codes(tokens: Tokens) -> Tokens:
    """Tokens h×w: of q codes a position the first."""
    return tokens if tokens.ndim == 2 else tokens[..., 0]


def size_rows(photo: Photo, jpeg: EqualJpeg) -> Sequence[tuple[str, str, str]]:
    """What the photo takes: (what, bytes, bits a pixel) of its tokens in three forms, of JPEG and of bare pixels."""
    statistics, pixels = photo.statistics, photo.pixels
    bits = {
        "tokens at their entropy (an ideal coder that knows this photo's histogram)": statistics.entropy_bits
        * statistics.tokens,
        f"tokens at log₂K = {statistics.fixed_bits_per_pixel(statistics.tokens):.2f} bits each": (
            statistics.fixed_bits_per_pixel(pixels) * pixels
        ),
        f"tokens as a token file holds them ({token_type(statistics.codebook_size).__name__}), less its header": (
            8.0 * token_type(statistics.codebook_size)().itemsize * statistics.tokens
        ),
        f"JPEG {jpeg.words(photo.psnr)}": 8.0 * jpeg.size,
        "bare pixels": 8.0 * photo.original.size,
    }
    return [(what, f"{-(-number // 8):,.0f}", f"{number / pixels:.3f}") for what, number in bits.items()]
