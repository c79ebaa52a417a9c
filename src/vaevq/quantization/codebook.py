"""Section "VLQ", eq. 2: the codewords e_k, the nearest ones of a grid of latents, and the way back from tokens."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaevq.nn.grid import as_rows
from vaevq.quantization.search import nearest

if TYPE_CHECKING:
    from vaevq.quantization.resizing import Resizing


def nearest_tokens(latents: Tensor, codewords: Tensor) -> Tensor:
    """Tokens of a grid of latents: B×d×h×w and K×d to int64 B×h×w."""
    batch, _, height, width = latents.shape
    return nearest(as_rows(latents.detach()), codewords.detach()).view(batch, height, width)


def lookup(tokens: Tensor, codewords: Tensor) -> Tensor:
    """Codewords of a grid of tokens: int64 B×h×w and K×d to B×d×h×w. Differentiable in the codewords."""
    return F.embedding(tokens, codewords).permute(0, 3, 1, 2).contiguous()


def initial_codewords(codebook_size: int, code_dim: int) -> Tensor:
    """K×d, uniform in [-1/K, 1/K], as VQ-VAE and VQGAN start."""
    return (torch.rand(codebook_size, code_dim) * 2 - 1) / codebook_size


class Codebook(nn.Module):
    """K codewords of d dimensions.

    With `projection`, codewords are an embedding through one learnable d×d layer, so that one gradient moves all of
    them (SimVQ, Zhu et al. 2024); without, they are the embedding itself.
    """

    def __init__(self, codebook_size: int, code_dim: int, *, projection: bool = False) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.code_dim = code_dim
        if projection:
            initial = torch.randn(codebook_size, code_dim) * code_dim**-0.5
        else:
            initial = initial_codewords(codebook_size, code_dim)
        self.embedding = nn.Parameter(initial)
        self.projection = nn.Linear(code_dim, code_dim, bias=False) if projection else None

    @property
    def counts(self) -> Tensor:
        """Ones, K: how much a codeword wins is not counted here."""
        return torch.ones_like(self.embedding[:, 0])

    def forward(self) -> Tensor:
        """e_k, K×d, as they are compared with latents and looked up."""
        if self.projection is None:
            return self.embedding
        with torch.autocast(self.embedding.device.type, enabled=False):
            codewords: Tensor = self.projection(self.embedding)
        return codewords

    def observe(self, latents: Tensor, tokens: Tensor) -> None:
        """Nothing: gradients move these codewords. `vaevq.quantization.averaged` has the other kind."""

    def finish_step(self) -> None:
        """Nothing, as `observe`."""

    @torch.no_grad()
    def resize(self, resizing: "Resizing") -> None:
        """Takes another number of codewords: `embedding` is a new parameter afterwards."""
        assert type(self) is Codebook, "codewords that share parameters cannot be split"
        assert self.projection is None, "codewords that share parameters cannot be split"
        codewords = self.embedding[resizing.source] + resizing.offset
        self.embedding = nn.Parameter(codewords, requires_grad=self.embedding.requires_grad)
        self.codebook_size = resizing.codebook_size
