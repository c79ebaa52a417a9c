"""k-means (Lloyd 1982), exact: every vector goes to its nearest centre, every centre to the mean of its vectors."""

import torch
from torch import Tensor

from vaevq.quantization.codebook import nearest
from vaevq.seeding import generator


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
    # Sums are taken on the CPU, where their order is one, and in float64.
    rows = vectors.detach().cpu().double()
    centres = rows[torch.randperm(len(rows), generator=generator("kmeans", seed))[:count]]
    tokens = torch.full((len(rows),), -1)
    for _ in range(steps):
        before, tokens = tokens, nearest(vectors, centres.to(vectors)).cpu()
        if torch.equal(tokens, before):
            break
        won = torch.bincount(tokens, minlength=count)
        means = torch.zeros_like(centres).index_add_(0, tokens, rows) / won.clamp_min(1)[:, None]
        empty = (won == 0).nonzero().flatten()
        if len(empty):
            distances = (rows - centres[tokens]).square().sum(dim=1)
            means[empty] = rows[distances.topk(len(empty)).indices]
        centres = means
    return centres.to(vectors)
