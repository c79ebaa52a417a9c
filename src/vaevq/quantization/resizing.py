"""Another number of codewords: growing splits and appends, shrinking merges and says where every old index went.

A codebook grows where a split lowers the quantization error most, and shrinks where a merger raises it least (Ward
1963): codewords that nothing wins and codewords that lie on one another cost nothing and go first.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaevq.quantization.search import CODEWORD_TILE, nearest
from vaevq.seeding import generator

AT_ONCE = 1 / 8
"""Of the codewords that are too many, the share that is merged before costs are looked at again."""

PERTURBATION = 0.1
"""How far halves that nothing is known of stand from the codeword, as a share of the way to the nearest other one."""


@dataclass(frozen=True)
class Resizing:
    """How a codebook of K codewords becomes one of K'.

    Attributes:
        source: int64 K', the old index that each new one comes from.
        target: int64 K, the new index of each old one: its own in growth; in a shrink the survivors keep their
            order, and what is dropped goes to the survivor nearest to it.
        share: K', of what the source's codeword has won.
        offset: K'×d, from the source's codeword to the new one.
    """

    source: Tensor
    target: Tensor
    share: Tensor
    offset: Tensor

    @property
    def codebook_size(self) -> int:
        """K'."""
        return len(self.source)

    @property
    def keeps_indices(self) -> bool:
        """Whether every old index still means what it meant."""
        return bool((self.target == torch.arange(len(self.target), device=self.target.device)).all())

    def pooled(self, values: Tensor) -> Tensor:
        """What old codewords have won, K×…, added up for the new ones and shared out among halves: K'×…"""
        total = values.new_zeros(self.codebook_size, *values.shape[1:]).index_add_(0, self.target, values)
        share = self.share.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
        return total[self.target[self.source]] * share


@dataclass(frozen=True)
class Halves:
    """A cut through what each codeword wins.

    Attributes:
        share: K, what one half has of it, inside (0, 1) where the cut is to be made.
        offset: K×d, from the codeword to that half. The other lies on the other side of it, so that the mean stays.
        gain: K, how much a cut lowers the error, in any unit; none is made where it is not above 0.
    """

    share: Tensor
    offset: Tensor
    gain: Tensor


def growth(halves: Halves, codebook_size: int) -> Resizing:
    """Splits the codewords of largest gain; one half keeps the index, the other is appended.

    Args:
        halves: of K codewords.
        codebook_size: K', more than K; what cannot be had by splitting each codeword once is left out.
    """
    size, device = len(halves.gain), halves.gain.device
    order = halves.gain.argsort(descending=True, stable=True)[: codebook_size - size]
    parents = order[halves.gain[order] > 0].sort().values
    share = torch.cat([torch.ones_like(halves.share), 1 - halves.share[parents]])
    share[parents] = halves.share[parents]
    other = -halves.offset[parents] * (share[parents] / share[size:])[:, None]
    offset = torch.cat([torch.zeros_like(halves.offset), other])
    offset[parents] = halves.offset[parents]
    indices = torch.arange(size, device=device)
    return Resizing(torch.cat([indices, parents]), indices, share, offset)


def shrinkage(codewords: Tensor, won: Tensor, codebook_size: int) -> Resizing:
    """Merges the codewords whose loss costs least, n_i n_j / (n_i + n_j) ‖e_i − e_j‖² with e_j the nearest other one.

    Args:
        codewords: K×d.
        won: K, how much each has won.
        codebook_size: K', at least 1 and less than K.
    """
    weight, stands = won.clone(), torch.ones(len(codewords), dtype=torch.bool, device=codewords.device)
    other, distance = nearest_other(codewords)
    while (excess := int(stands.sum()) - codebook_size) > 0:
        left = stands.nonzero()[:, 0]
        mine, its = weight[left], weight[other[left]]
        cost = mine * its / (mine + its).clamp_min(torch.finfo(mine.dtype).tiny) * distance[left]
        # Of a pair that lies apart from all others the one that wins less goes.
        by_weight = torch.argsort(mine, stable=True)
        by_cost = left[by_weight[torch.argsort(cost[by_weight], stable=True)]]
        gone = _independent(by_cost.tolist(), other.tolist(), weight.tolist(), math.ceil(excess * AT_ONCE))
        dropped = torch.tensor(gone, device=left.device)
        weight.index_add_(0, other[dropped], weight[dropped])
        stands[dropped] = False
        bereft = (stands & ~stands[other]).nonzero()[:, 0]
        other[bereft], distance[bereft] = nearest_other(codewords, bereft, stands)
    left = stands.nonzero()[:, 0]
    target = nearest(codewords, codewords[left])
    target[left] = torch.arange(len(left), device=left.device)
    return Resizing(left, target, torch.ones_like(weight[left]), torch.zeros_like(codewords[left]))


def _independent(order: list[int], other: list[int], weight: list[float], most: int) -> list[int]:
    """The first of an order that can go at once, so that nothing won goes to one that goes itself."""
    heirs, gone = set[int](), set[int]()
    for i in order:
        if len(gone) == most:
            break
        if weight[i] == 0:
            gone.add(i)
        elif i not in heirs and other[i] not in gone:
            heirs.add(other[i])
            gone.add(i)
    return sorted(gone)


def perturbed_halves(codewords: Tensor, won: Tensor, *seed: int | str) -> Halves:
    """Halves where nothing is known of what codewords win: equal, a little apart along a seeded direction.

    Codewords that win much and stand apart are split first.
    """
    distance = nearest_other(codewords)[1]
    direction = torch.randn(codewords.shape, generator=generator("halves", *seed)).to(codewords)
    length = direction.norm(dim=1, keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
    offset = PERTURBATION * distance.sqrt()[:, None] * direction / length
    return Halves(torch.full_like(won, 0.5), offset, won * distance)


def nearest_other(codewords: Tensor, of: Tensor | None = None, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest other codeword.

    Args:
        codewords: K×d with K at least 2.
        of: int64 N, indices of those that it is looked for; all where left out.
        among: bool K, those that it may be; all where left out.

    Returns:
        int64 N, indices, and the squared distances, N.
    """
    of = torch.arange(len(codewords), device=codewords.device) if of is None else of
    half_norms = 0.5 * codewords.square().sum(dim=1)
    if among is not None:
        half_norms = half_norms.masked_fill(~among, torch.inf)
    found = [torch.empty_like(of[:0])]
    for rows in torch.split(of, CODEWORD_TILE):
        scores = torch.addmm(half_norms, codewords[rows], codewords.T, alpha=-1)  # as in `nearest`
        scores[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        found.append(scores.argmin(dim=1))
    index = torch.cat(found)
    return index, (codewords[of] - codewords[index]).square().sum(dim=1)


def room_for(codebook_size: int, codewords: Tensor) -> Resizing:
    """Room for so many codewords in place of K×d ones, whose values are about to be loaded."""
    old, device = len(codewords), codewords.device
    source, target = torch.arange(codebook_size, device=device) % old, torch.arange(old, device=device) % codebook_size
    return Resizing(source, target, codewords.new_ones(codebook_size), torch.zeros_like(codewords[source]))
