"""k-means of channels and vectors by scikit-learn, and its two steps for the alternating refinements."""

from __future__ import annotations

import warnings

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

    Fewer distinct points than clusters leave equal centroids.
    """
    from sklearn.cluster import KMeans  # a second to import: only for those who quantise
    from sklearn.exceptions import ConvergenceWarning

    if len(points) > sample:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(points), generator=generator)[:sample]
        points = points[chosen.to(points.device)]
    if len(points) <= clusters:
        return points[torch.arange(clusters, device=points.device).remainder(len(points))]
    fit = KMeans(clusters, n_init=1, max_iter=iterations, tol=0.0, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal points
        fit.fit(points.cpu().numpy())
    return torch.from_numpy(fit.cluster_centers_).to(points)
