"""k-means (Lloyd 1982), exact: every vector goes to its nearest centre, every centre to the mean of its vectors."""

import torch
from torch import Tensor

from vaevq.quantization.search import nearest
from vaevq.seeding import generator

PART = 65_536
"""Rows that are in float64 at a time."""


@torch.no_grad()
def kmeans(vectors: Tensor, count: int, *, steps: int, seed: int) -> Tensor:
    """The centres of clusters of vectors, a function of its arguments: count×D in the vectors' type and place.

    It starts from `count` of the vectors, drawn by the seed. A centre that wins nothing takes the place of a vector
    that is farthest from its own. It ends after `steps`, or where nothing changes its cluster any more.

    Args:
        vectors: N×D with N ≥ count.
        count: of clusters.
        steps: of Lloyd's, at most.
    """
    assert len(vectors) >= count
    rows = vectors.detach().cpu()
    centres = rows[torch.randperm(len(rows), generator=generator("kmeans", seed))[:count]].double()
    tokens = torch.full((len(rows),), -1)
    for _ in range(steps):
        before, tokens = tokens, nearest(vectors, centres.to(vectors)).cpu()
        if torch.equal(tokens, before):
            break
        won = torch.bincount(tokens, minlength=count)
        means = _sums(rows, tokens, count) / won.clamp_min(1)[:, None]
        empty = (won == 0).nonzero().flatten()
        if len(empty):
            means[empty] = rows[_distances(rows, tokens, centres).topk(len(empty)).indices].double()
        centres = means
    return centres.to(vectors)


def _sums(rows: Tensor, tokens: Tensor, count: int) -> Tensor:
    """The sum of each cluster's rows, count×D, in float64 and on the CPU, where its order is always one."""
    totals = torch.zeros(count, rows.shape[1], dtype=torch.float64)
    for part, chosen in zip(torch.split(rows, PART), torch.split(tokens, PART), strict=True):
        totals.index_add_(0, chosen, part.double())
    return totals


def _distances(rows: Tensor, tokens: Tensor, centres: Tensor) -> Tensor:
    """‖row − its centre‖², N."""
    pairs = zip(torch.split(rows, PART), torch.split(tokens, PART), strict=True)
    return torch.cat([(part.double() - centres[chosen]).square().sum(dim=1) for part, chosen in pairs])
