"""Section "VLQ", eq. 2: the codewords e_k, the nearest one of each latent, and back from indices to codewords."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from vaevq.quantization.resizing import Resizing

LATENT_TILE = 512
CODEWORD_TILE = 2048
GROUP = 128
"""Scores whose minimum is taken before the place of any is looked for; it divides CODEWORD_TILE."""

_IN_TILES = ContextVar("in_tiles", default=True)


@contextmanager
def in_one_piece() -> Iterator[None]:
    """Within it `nearest` and the search for the largest product hold N×K scores: graphs of any size have no tiles."""
    before = _IN_TILES.set(False)
    try:
        yield
    finally:
        _IN_TILES.reset(before)


def works_in_tiles() -> bool:
    """Whether searches go tile by tile: everywhere but within `in_one_piece`."""
    return _IN_TILES.get()


def nearest(latents: Tensor, codewords: Tensor) -> Tensor:
    """k* = argmin_k ‖z − e_k‖², exact, the lowest index where several are equally near.

    Works in tiles, so that besides the result memory grows by one number a codeword alone, and in at least float32
    whatever the autocast: latents of 16 bits are not searched in 16 bits.

    Args:
        latents: N×d.
        codewords: K×d.

    Returns:
        int64 N.
    """
    with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
        dtype = torch.promote_types(latents.dtype, torch.float32)
        # ‖z − e‖² = ‖z‖² + 2 (½‖e‖² − z·e), and ‖z‖² does not depend on k.
        half_norms = torch.empty(len(codewords), dtype=dtype, device=codewords.device)
        for first in range(0, len(codewords), CODEWORD_TILE):
            columns = slice(first, first + CODEWORD_TILE)
            half_norms[columns] = 0.5 * codewords[columns].to(dtype).square().sum(dim=1)
        if not works_in_tiles():
            return torch.addmm(half_norms, latents.to(dtype), codewords.to(dtype).T, alpha=-1).argmin(dim=1)
        tokens = torch.empty(len(latents), dtype=torch.int64, device=latents.device)
        for start in range(0, len(latents), LATENT_TILE):
            rows = latents[start : start + LATENT_TILE].to(dtype)
            best = torch.full((len(rows),), torch.inf, dtype=dtype, device=rows.device)
            index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            for first in range(0, len(codewords), CODEWORD_TILE):
                columns = slice(first, first + CODEWORD_TILE)
                score, k = _least(torch.addmm(half_norms[columns], rows, codewords[columns].to(dtype).T, alpha=-1))
                closer = score < best  # strict: an earlier tile keeps a tie
                best = torch.where(closer, score, best)
                index = torch.where(closer, k + first, index)
            tokens[start : start + LATENT_TILE] = index
    return tokens


def _least(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The least score of each row and its lowest place, as `scores.min(dim=1)`, which is twice as slow on a CPU:
    minima without places are vectorized, so they are taken first, and one group a row is searched."""
    if scores.shape[1] % GROUP:
        return scores.min(dim=1)
    groups = scores.view(len(scores), -1, GROUP)
    least, group = groups.amin(dim=2).min(dim=1)
    chosen = groups[torch.arange(len(groups), device=scores.device), group]
    return least, group * GROUP + chosen.argmin(dim=1)


def nearest_tokens(latents: Tensor, codewords: Tensor) -> Tensor:
    """Tokens of a grid of latents: B×d×h×w and K×d to int64 B×h×w."""
    batch, _, height, width = latents.shape
    flat = latents.detach().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    return nearest(flat, codewords.detach()).view(batch, height, width)


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
