"""Section "VLQ", eq. 2: the exact search for the nearest codeword, in tiles that bound its memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from vaevq.quantization.screening import GROUP, Screen, has_fast_bytes

LATENT_TILE = 512
CODEWORD_TILE = 2048
"""A multiple of GROUP."""

GPU_LATENT_TILE = 1 << 12
"""512 rows, measured best on CPUs, are little work for a GPU. Scores of these take 32 MiB; not measured."""

SPAN = 1 << 15
"""Codewords that are screened together; so many times SCREENED / GROUP minima are held."""

SCREENED = 1 << 12
"""Latents that are screened together."""

LEAST_CODEWORDS, LEAST_DIM, LEAST_NUMBERS = 1 << 12, 4, 1 << 17
"""Fewer codewords, dimensions, or numbers in all latents are scored sooner than screened. Besides, torch's product of
bytes is wrong for one dimension."""

MOST_GROUPS = 4
"""Where more than one group in so many is left after screening, it does not pay."""

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

    Works in tiles, so that besides the result memory grows by one number a codeword and one a latent, and in at least
    float32 whatever the autocast: latents of 16 bits are not searched in 16 bits. Where a processor multiplies bytes
    fast, `vaevq.quantization.screening` first tells which codewords need not be scored in float32.

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
        found = _Found.nothing(latents, dtype)
        # Products of less than four rows are summed in another order: a last tile of so few is left to the tiles.
        left = len(latents) % LATENT_TILE
        whole = len(latents) - left if left < 4 else len(latents)
        for first in range(0, len(codewords), SPAN):
            span = _Span(codewords[first : first + SPAN], half_norms[first : first + SPAN], first)
            searched = _search_groups(latents[:whole], span, found) if _can_screen(latents, span) else 0
            _search_tiles(latents[searched:], span, found.rest(searched))
    return found.tokens


@dataclass(frozen=True)
class _Span:
    """Successive codewords.

    Attributes:
        codewords: K×d.
        half_norms: ½‖e‖², K, in the format that is searched in.
        first: the index of the first.
    """

    codewords: Tensor
    half_norms: Tensor
    first: int

    def scores(self, latents: Tensor, columns: slice) -> Tensor:
        """½‖e‖² − z·e of some of the codewords, N×k."""
        codewords = self.codewords[columns].to(latents.dtype)
        return torch.addmm(self.half_norms[columns], latents, codewords.T, alpha=-1)


@dataclass(frozen=True)
class _Found:
    """The least score so far of each latent, N, and the codeword that has it."""

    scores: Tensor
    tokens: Tensor

    @classmethod
    def nothing(cls, latents: Tensor, dtype: torch.dtype) -> Self:
        scores = torch.full((len(latents),), torch.inf, dtype=dtype, device=latents.device)
        return cls(scores, torch.zeros_like(scores, dtype=torch.int64))

    def rest(self, start: int) -> "_Found":
        """Of the latents from `start` on; it writes into the same memory."""
        return _Found(self.scores[start:], self.tokens[start:])


def _search_tiles(latents: Tensor, span: _Span, found: _Found) -> None:
    """Scores all codewords."""
    tile = LATENT_TILE if latents.device.type == "cpu" else GPU_LATENT_TILE
    for start in range(0, len(latents), tile):
        rows = latents[start : start + tile].to(span.half_norms.dtype)
        best, tokens = found.scores[start : start + tile], found.tokens[start : start + tile]
        for first in range(0, len(span.codewords), CODEWORD_TILE):
            score, k = _least(span.scores(rows, slice(first, first + CODEWORD_TILE)))
            closer = score < best  # strict: an earlier tile keeps a tie
            torch.where(closer, score, best, out=best)
            torch.where(closer, k + (span.first + first), tokens, out=tokens)


def _least(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The least score of each row and its lowest place, as `scores.min(dim=1)`, which is twice as slow on a CPU:
    minima without places are vectorized, so they are taken first, and one group a row is searched."""
    if scores.shape[1] % GROUP:
        return scores.min(dim=1)
    groups = scores.view(len(scores), -1, GROUP)
    least, group = groups.amin(dim=2).min(dim=1)
    chosen = groups[torch.arange(len(groups), device=scores.device), group]
    return least, group * GROUP + chosen.argmin(dim=1)


def _can_screen(latents: Tensor, span: _Span) -> bool:
    """Whether screening is possible, and not so much work by itself that it cannot pay."""
    of_floats = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in (latents, span.codewords))
    enough = len(span.codewords) >= LEAST_CODEWORDS and latents.numel() >= LEAST_NUMBERS
    return of_floats and enough and latents.shape[1] >= LEAST_DIM and has_fast_bytes()


def _search_groups(latents: Tensor, span: _Span, found: _Found) -> int:
    """Scores the groups of codewords that screening leaves. Returns how many latents it has searched: not all of them
    where screening leaves so much that it does not pay."""
    screen = Screen(span.codewords, span.half_norms)
    start = 0
    while start < len(latents):
        rows = latents[start : start + (SCREENED if start else LATENT_TILE)]  # a few at first, to see whether it pays
        candidates = screen.groups(rows)
        if candidates is None or int(candidates.sum()) * MOST_GROUPS > candidates.numel():
            break
        _search_candidates(rows, candidates, span, found.rest(start))
        start += len(rows)
    return start


def _search_candidates(latents: Tensor, candidates: Tensor, span: _Span, found: _Found) -> None:
    """Scores group by group the latents that have it as a candidate: bool N×groups."""
    rows = candidates.T.nonzero()[:, 1]
    scores, tokens = torch.empty(len(rows)), torch.empty_like(rows)
    end = 0
    for group, count in enumerate(candidates.sum(dim=0).tolist()):
        if not count:
            continue
        begin, end = end, end + count
        # Products of few rows or columns are summed in another order, but the rounding of tiles is what is wanted: so
        # there are four rows or more, and an incomplete last group takes in some of the one before.
        first = min(group * GROUP, max(0, len(span.codewords) - GROUP))
        given = rows[begin : begin + max(count, 4)] if begin + 4 <= len(rows) else rows[begin:end].repeat(4)
        of_group = span.scores(latents[given], slice(first, first + GROUP))[:count]
        torch.min(of_group, dim=1, out=(scores[begin:end], tokens[begin:end]))
        tokens[begin:end] += span.first + first
    best, first_tokens = found.scores[: len(latents)], found.tokens[: len(latents)]
    least = best.scatter_reduce(0, rows, scores, "amin")
    won = scores == least[rows]
    lowest = torch.full_like(first_tokens, torch.iinfo(torch.int64).max)
    lowest.scatter_reduce_(0, rows[won], tokens[won], "amin")
    torch.where(least < best, lowest, first_tokens, out=first_tokens)  # strict: an earlier span keeps a tie
    best.copy_(least)
