"""Hubs and anti-hubs: codewords that are among the nearest of very many latents, and those that no latent is near.

In many dimensions nearest neighbours are unequally shared (Radovanović et al. 2010): points close to the centre are
near to all. N_k(e) counts the latents that have the codeword e among their k nearest, so it tells a dead codeword that
lies where the latents are, and always loses to a hub, from one that lies off them.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vaevq.diagnostics.figures import Shown, ratio
from vaevq.nn.grid import as_rows
from vaevq.quantization.search import CODEWORD_TILE, LATENT_TILE
from vaevq.seeding import generator

SAMPLE = 20_000
"""So many held-out latents are looked at; N_k has the mean 10 SAMPLE / K, 12 at K = 16,384."""

NEIGHBOURS = 10
"""k, or half of the codebook where that is less: with k = K all codewords would be equal."""


@dataclass(frozen=True)
class HubFigures:
    """Dead codewords are those that no position of the held-out images chooses, as in usage.

    Norms are taken from the centre of the latents, which is what makes a hub.
    """

    tokens_per_codeword: Annotated[float, Shown("{:.2f}", "T/K of the held-out tokens; claims need at least 30")]
    dead_share: Annotated[float, Shown("{:.2%}", "codewords that no held-out latent chooses")]
    hub_skewness: Annotated[float, Shown("{:.2f}", "skewness of N_10 over codewords; above about 1 there are hubs")]
    hub_largest: Annotated[float, Shown("{:.1f}", "the largest N_10 over the mean one")]
    orphan_share: Annotated[float, Shown("{:.2%}", "codewords with N_10 = 0: near to no latent of the sample")]
    dead_but_close_share: Annotated[
        float | None, Shown("{:.2%}", "dead codewords with N_10 above the median of the used ones: eclipsed by hubs")
    ]
    dead_norm_ratio: Annotated[
        float | None, Shown("{:.3f}", "mean distance from the latents' centre, dead codewords over used ones")
    ]


class LatentSample:
    """At most `most` latents of all that go by, the same ones whatever the batches.

    Every position draws a number from (place of its image, place in the grid) alone; the smallest are kept.
    """

    def __init__(self, code_dim: int, most: int = SAMPLE) -> None:
        self._most = most
        self._keys = torch.zeros(0, dtype=torch.float64)
        self.latents = torch.zeros(0, code_dim)

    def update(self, positions: Tensor, latents: Tensor) -> None:
        """Takes in latents B×d×h×w of the images at `positions` (int64 B)."""
        rows = as_rows(latents.detach()).cpu()
        area = latents.shape[-2] * latents.shape[-1]
        draws = [torch.rand(area, generator=generator("latents", int(p)), dtype=torch.float64) for p in positions]
        keys = torch.cat([self._keys, *draws])
        kept = keys.argsort()[: self._most]
        self._keys, self.latents = keys[kept], torch.cat([self.latents.to(rows), rows])[kept]


def nearest_several(latents: Tensor, codewords: Tensor, k: int) -> Tensor:
    """The k nearest of K×d codewords to each of N×d latents, int64 N×k in no order; in tiles, as `search.nearest`."""
    half_norms = 0.5 * codewords.square().sum(dim=1)
    found = []
    for start in range(0, len(latents), LATENT_TILE):
        rows = latents[start : start + LATENT_TILE]
        scores, indices = rows.new_zeros(len(rows), 0), torch.zeros(len(rows), 0, dtype=torch.int64, device=rows.device)
        for first in range(0, len(codewords), CODEWORD_TILE):
            columns = slice(first, first + CODEWORD_TILE)
            score = torch.addmm(half_norms[columns], rows, codewords[columns].T, alpha=-1)
            index = torch.arange(first, first + score.shape[1], device=rows.device).expand_as(score)
            scores, indices = torch.cat([scores, score], dim=1), torch.cat([indices, index], dim=1)
            scores, kept = scores.topk(min(k, scores.shape[1]), dim=1, largest=False, sorted=False)
            indices = indices.gather(1, kept)
        found.append(indices)
    return torch.cat(found)


def k_occurrence(latents: Tensor, codewords: Tensor, k: int) -> Tensor:
    """N_k of each codeword: how many of the latents, N×d, have it among their k nearest of K×d; int64 K."""
    return torch.bincount(nearest_several(latents, codewords, k).flatten(), minlength=len(codewords))


def skewness(values: Tensor) -> float:
    """E[(x − x̄)³] / E[(x − x̄)²]^{3/2} of a vector; 0 where all are equal."""
    deviations = values.cpu().double() - values.cpu().double().mean()
    variance = float(deviations.square().mean())
    return float(deviations.pow(3).mean()) / variance**1.5 if variance > 0 else 0.0


@torch.no_grad()
def hub_figures(latents: Tensor, codewords: Tensor, counts: Tensor) -> HubFigures:
    """The figures of a sample of latents.

    Args:
        latents: N×d, held-out means; see `LatentSample`.
        codewords: K×d, K ≥ 2.
        counts: int64 K, how often each codeword is chosen by all held-out positions.
    """
    latents, counts = latents.to(codewords), counts.cpu()
    near = k_occurrence(latents, codewords, max(1, min(NEIGHBOURS, len(codewords) // 2))).cpu()
    dead, used = counts == 0, counts > 0
    some_dead = bool(dead.any())
    # The lower median: at ties with it a codeword is not above the used ones.
    close = (near[dead] > near[used].median()).double().mean() if some_dead else None
    norms = (codewords - latents.mean(dim=0)).norm(dim=1).cpu().double()
    return HubFigures(
        tokens_per_codeword=float(counts.sum()) / len(counts),
        dead_share=float(dead.double().mean()),
        hub_skewness=skewness(near),
        hub_largest=float(near.max() / near.double().mean()),
        orphan_share=float((near == 0).double().mean()),
        dead_but_close_share=float(close) if close is not None else None,
        dead_norm_ratio=ratio(float(norms[dead].mean()), float(norms[used].mean())) if some_dead else None,
    )
