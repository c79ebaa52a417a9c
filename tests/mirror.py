"""A tokenizer whose every figure can be said in advance: it averages 2×2 pixels, and repeats them after quantizing."""

import torch
from torch import Tensor, nn

from vaevq.config import AutoencoderConfig, EmaConfig, PlainConfig, TokenizerConfig, VariationalConfig
from vaevq.data.loader import ImageBatch
from vaevq.quantization import Posterior
from vaevq.seeding import generator
from vaevq.tokenizer import Tokenizer


class _Head(nn.Module):
    """The features are the mean; log σ² is a constant, or there is none."""

    def __init__(self, sigma: float | None) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, features: Tensor) -> Posterior:
        if self.sigma is None:
            return Posterior(features)
        return Posterior(features, torch.full_like(features, self.sigma).log() * 2)


class _Repeat(nn.Module):
    """Every latent becomes 2×2 pixels, times a gain; its `last_layer` is the gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.last_layer = nn.Parameter(torch.tensor(gain))

    def forward(self, latent: Tensor) -> Tensor:
        return self.last_layer * repeated(latent)


def mirror(codewords: Tensor, sigma: float | None = 0.1, gain: float = 1.0, **options: object) -> Tokenizer:
    """A tokenizer of three channels with these codewords, K×3, in evaluation mode; `sigma` None: plain VQ.

    Args:
        codewords: K×3.
        sigma: of every posterior.
        gain: of the decoder.
        options: further fields of the quantizer's configuration; `kind: vq_ema` makes that.
    """
    shape = {"code_dim": 3, "codebook_size": len(codewords)}
    if options.pop("kind", None) == "vq_ema":
        quantizer = EmaConfig(**shape, **options)
    elif sigma is None:
        quantizer = PlainConfig(**shape, **options)
    else:
        quantizer = VariationalConfig(**shape, **{"codebook": "embedding", **options})
    autoencoder = AutoencoderConfig(base_width=8, multipliers=(1, 1), blocks=1)
    tokenizer = Tokenizer(TokenizerConfig(autoencoder=autoencoder, quantizer=quantizer))
    tokenizer.encoder = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 3, 1, bias=False))
    with torch.no_grad():
        tokenizer.encoder[1].weight.copy_(torch.eye(3)[..., None, None])
        tokenizer.quantizer.codebook.embedding.copy_(codewords)
    tokenizer.head, tokenizer.decoder = _Head(sigma), _Repeat(gain)
    return tokenizer.eval()


def repeated(latent: Tensor) -> Tensor:
    """B×3×h×w to B×3×2h×2w, each value on 2×2 pixels: the images whose latents these are."""
    return latent.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def some_latents(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [-0.5, 0.5], so that noise on the images is hardly ever clamped."""
    return torch.rand(shape, generator=generator("mirror", seed)) - 0.5


def in_batches(images: Tensor, size: int = 2) -> list[ImageBatch]:
    """Images B×3×H×W as the loader gives them."""
    parts = torch.arange(len(images)).chunk(-(-len(images) // size))
    return [ImageBatch(images[at], at, None, tuple(f"image {int(p)}" for p in at), ()) for at in parts]
