"""Precision and recall of generated images by k-nearest-neighbour manifolds (Kynkäänniemi et al. 2019).

A set's manifold is the union of balls around its features, each as wide as the distance to the k-th nearest other one.
Precision is the share of the generated images inside the real ones' manifold, recall the share of the real ones inside
the generated ones'. Distances are computed in tiles: memory grows with the number of images, not with its square.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaevq.errors import UserError
from vaevq.metrics.fid import accumulator_device

TILE = 2048
"""Rows and columns of the distances that are in memory at a time."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Both between 0 and 1."""

    precision: float
    recall: float


def precision_recall(generated: Tensor, real: Tensor, neighbours: int = 3, tile: int = TILE) -> PrecisionRecall:
    """Of features M×dim and N×dim, compared in float64, on the CPU where their device has none.

    Args:
        generated: features of generated images.
        real: features of real ones.
        neighbours: k.
        tile: images a side of a tile; changes nothing but memory and time.

    Raises:
        UserError: a set has no more than k images.
    """
    if min(len(generated), len(real)) <= neighbours:
        raise UserError(
            f"precision and recall with {neighbours} neighbours need more images than that on both sides, not "
            f"{len(generated)} and {len(real)}: leave precision_recall out of metrics or measure more images"
        )
    generated, real = (features.to(accumulator_device(features.device)) for features in (generated, real))
    return PrecisionRecall(
        precision=_share_inside(generated, real, manifold_radii(real, neighbours, tile), tile),
        recall=_share_inside(real, generated, manifold_radii(generated, neighbours, tile), tile),
    )


def manifold_radii(features: Tensor, neighbours: int, tile: int = TILE) -> Tensor:
    """The squared distance of each of N features to its k-th nearest other one, float64 N."""
    radii = []
    for first in range(0, len(features), tile):
        rows = features[first : first + tile]
        nearest = torch.empty(len(rows), 0, dtype=torch.float64, device=features.device)
        for other in range(0, len(features), tile):
            distances = _squared_distances(rows, features[other : other + tile])
            if other == first:
                distances.fill_diagonal_(torch.inf)  # none is its own neighbour
            candidates = torch.cat([nearest, distances], dim=1)
            nearest = candidates.topk(min(neighbours, candidates.shape[1]), dim=1, largest=False).values
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor, tile: int) -> float:
    """The share of the points that lie in one of the balls, on their edges included."""
    inside = 0
    for first in range(0, len(points), tile):
        rows = points[first : first + tile]
        hit = torch.zeros(len(rows), dtype=torch.bool, device=points.device)
        for other in range(0, len(centres), tile):
            distances = _squared_distances(rows, centres[other : other + tile])
            hit |= (distances <= radii[other : other + tile]).any(1)
        inside += int(hit.sum())
    return inside / len(points)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """M×N float64, by ‖a‖² + ‖b‖² − 2 aᵀb: one matrix product."""
    a, b = a.double(), b.double()
    products = torch.addmm(b.square().sum(1)[None], a, b.T, alpha=-2)
    return products.add_(a.square().sum(1)[:, None]).clamp_min_(0)
