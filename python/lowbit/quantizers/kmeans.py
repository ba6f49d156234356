"""k-means in plain torch: k-means++ seeding, then Lloyd iterations; deterministic for a given seed."""

from __future__ import annotations

import torch
from torch import Tensor

# Distances are formed for about this many (point, centroid) pairs at a time.
_CHUNK_PAIRS = 1 << 20


def nearest_centroids(points: Tensor, centroids: Tensor) -> Tensor:
    """int64 [P]: the centroid [C, D] closest to each of the points [P, D]; the first one on ties."""
    half_norms = centroids.square().sum(-1) / 2
    step = max(1, _CHUNK_PAIRS // len(centroids))
    # |x - c|^2 / 2 = |x|^2 / 2 - x c + |c|^2 / 2, and |x| is the same for every c.
    return torch.cat(
        [torch.addmm(half_norms, piece, centroids.T, alpha=-1).argmin(-1) for piece in points.split(step)]
    )


def cluster_means(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """The mean of the points of each label; a label without points keeps its centroid."""
    sums = torch.zeros_like(centroids).index_add_(0, labels, points)
    counts = torch.bincount(labels, minlength=len(centroids)).unsqueeze(-1)
    return torch.where(counts > 0, sums / counts.clamp_min(1), centroids)


def kmeans(points: Tensor, clusters: int, *, iterations: int, sample: int, seed: int = 0) -> Tensor:
    """Centroids [clusters, D] of float32 points [P, D], learnt from at most `sample` of them.

    Stops early when no label changes. Fewer distinct points than clusters leave equal centroids.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(points) > sample:
        chosen = torch.randperm(len(points), generator=generator)[:sample]
        points = points[chosen.to(points.device)]
    centroids = _seed(points, clusters, generator)
    labels = nearest_centroids(points, centroids)
    for _ in range(iterations):
        centroids = cluster_means(points, labels, centroids)
        previous, labels = labels, nearest_centroids(points, centroids)
        if torch.equal(previous, labels):
            break
    return centroids


def _seed(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centroid is a point drawn in proportion to its squared distance to those before."""
    draws = torch.rand(clusters, generator=generator, dtype=torch.float64).to(points.device)
    chosen = [int(draws[0] * len(points))]
    distances = torch.full((len(points),), torch.inf, device=points.device)
    for draw in draws[1:]:
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(-1))
        reach = distances.double().cumsum(0)
        chosen.append(min(int(torch.searchsorted(reach, draw * reach[-1], right=True)), len(points) - 1))
    return points[chosen]
