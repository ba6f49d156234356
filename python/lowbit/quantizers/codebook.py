"""Codebooks without data, one function per variant of the family.

Channels: k-means over rows or columns; the residual's best rank-r part is kept beside it (SWSC, arXiv
2501.08631). By Eckart-Young the error left is the tail of the residual's singular values.

Scalars: one-dimensional k-means per row (Lloyd), on sorted weights with running sums: an iteration finds the
2^B - 1 borders by binary search instead of visiting every weight. Outliers are left out of the means and
corrected up to rounding (dense and sparse parts: SqueezeLLM, arXiv 2306.07629).

Vectors: rows scaled to unit mean square, residual k-means per codebook, then sweeps that choose each code
anew given the others (AQLM, arXiv 2401.06118, without its calibration and training).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lowbit.formats.bits import pack_codes
from lowbit.formats.codebook import (
    VECTOR_CENTROIDS,
    CodebookChannel,
    CodebookScalar,
    CodebookVector,
    label_dtype,
)
from lowbit.formats.rounding import borders, nearest_entries
from lowbit.quantizers.common import check_weight, one_thread, row_chunks, to_stored
from lowbit.quantizers.kmeans import cluster_means, kmeans, nearest_centroids

_CHANNEL_ITERATIONS = 25
_CHANNEL_SAMPLE = 1 << 14
# Up to this many singular values the SVD is exact; beyond, randomised with a margin of directions.
_EXACT_SVD = 2048
_SVD_MARGIN = 32
_SVD_ITERATIONS = 6

_LLOYD_ITERATIONS = 25

_VECTOR_ITERATIONS = 15
_VECTOR_SAMPLE = 1 << 16
_VECTOR_SWEEPS = 3


def quantize_channels(
    weight: Tensor, clusters: int, rank: int, axis: int, scale_dtype: str, layer: str | None
) -> CodebookChannel:
    """Shared channels and a low-rank correction; see schemes.ChannelCodebook.

    With as many clusters as channels every channel is kept, and nothing is left to correct.
    """
    weight = check_weight(weight, layer)
    channels = (weight if axis == 0 else weight.T).float().contiguous()
    out_features, in_features = weight.shape
    if clusters >= len(channels):
        centroids, labels, rank = channels, torch.arange(len(channels), device=weight.device), 0
    else:
        centroids = kmeans(channels, clusters, iterations=_CHANNEL_ITERATIONS, sample=_CHANNEL_SAMPLE)
        labels = nearest_centroids(channels, centroids)
        centroids = cluster_means(channels, labels, centroids)
    stored = to_stored(centroids, scale_dtype, layer)
    low_rank_out = low_rank_in = None
    rank = min(rank, out_features, in_features)
    if rank:
        residual = stored.float()[labels].neg_().add_(channels)  # one matrix of their size, not two
        residual = residual if axis == 0 else residual.T
        low_rank_out, low_rank_in = (
            to_stored(f, scale_dtype, layer) for f in low_rank_factors(residual, rank)
        )
    return CodebookChannel(
        stored if axis == 0 else stored.T.contiguous(),
        labels.to(label_dtype(len(stored))),
        axis,
        in_features,
        out_features,
        low_rank_out,
        low_rank_in,
    )


def low_rank_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left [N, r], right [r, K]) whose product is the best rank-r fit of `matrix` [N, K].

    Both carry the square roots of the singular values. With up to 2048 singular values they come from the
    eigenvectors of the smaller Gram matrix in float64 (exact), beyond from a randomised SVD.
    """
    if min(matrix.shape) > _EXACT_SVD:
        q = min(rank + _SVD_MARGIN, *matrix.shape)
        with torch.random.fork_rng([matrix.device] if matrix.is_cuda else []):
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(matrix, q=q, niter=_SVD_ITERATIONS)
        root = values[:rank].sqrt()
        return left[:, :rank] * root, (right[:, :rank] * root).T
    if matrix.shape[0] < matrix.shape[1]:
        right, left = low_rank_factors(matrix.T, rank)
        return left.T, right.T
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for _, rows in row_chunks(matrix):
        wide = rows.double()
        gram.addmm_(wide.T, wide)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    root = eigenvalues[-rank:].clamp_min(0).sqrt().sqrt()
    right = vectors[:, -rank:]
    inverse = torch.where(root > 0, 1 / root, 0.0)
    left = torch.cat([((rows.double() @ right) * inverse).float() for _, rows in row_chunks(matrix)])
    return left, (right * root).T.float()


@one_thread()
def quantize_scalars(
    weight: Tensor, bits: int, outlier_fraction: float, scale_dtype: str, layer: str | None
) -> CodebookScalar:
    """A table per row, with additive outliers; see schemes.ScalarCodebook."""
    weight = check_weight(weight, layer)
    outliers = _largest(weight, round(outlier_fraction * weight.numel()))
    planes, tables, values = [], [], []
    for rows, chunk in row_chunks(weight):
        ends = torch.tensor([rows.start, rows.stop], device=weight.device) * weight.shape[1]
        first, last = torch.searchsorted(outliers, ends).tolist()
        inside = outliers[first:last] - rows.start * weight.shape[1]
        kept = None
        if len(inside):
            kept = torch.ones_like(chunk, dtype=torch.bool)
            kept.view(-1)[inside] = False
        table = to_stored(lloyd_tables(chunk, 2**bits, kept), scale_dtype, layer)
        codes = nearest_entries(chunk, table.float())
        planes.append(pack_codes(codes, bits))
        tables.append(table)
        values.append((chunk - table.float().gather(1, codes.long())).view(-1)[inside])
    sparse: dict[str, Tensor] = {}
    if len(outliers):
        counts = torch.bincount(outliers // weight.shape[1], minlength=weight.shape[0])
        sparse = {
            "outlier_offsets": torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int(),
            "outlier_columns": (outliers % weight.shape[1]).int(),
            "outlier_values": to_stored(torch.cat(values), scale_dtype, layer),
        }
    return CodebookScalar(torch.cat(planes, dim=1), torch.cat(tables), weight.shape[1], **sparse)


def lloyd_tables(rows: Tensor, levels: int, kept: Tensor | None = None) -> Tensor:
    """Ascending centroids [n, levels] of each row [n, K]; weights that are not `kept` carry no mass.

    The start spaces the centroids evenly in the running sum of gap^(1/2) between sorted weights: half way
    from the quantiles (gap^0), which starve the tails so that Lloyd sticks, to an even grid (gap^1). On
    layers of a language model it left 0.2 % (2 bits) to 20 % (4 bits) less error than the quantiles.
    """
    ordered, mass = _ascending(rows, kept)
    weights = torch.nn.functional.pad(mass.double().cumsum(1), (1, 0))
    totals = torch.nn.functional.pad((ordered * mass).double().cumsum(1), (1, 0))

    gaps = (ordered.diff(dim=1) * mass[:, 1:] * mass[:, :-1]).sqrt_()
    spread = torch.nn.functional.pad(gaps.cumsum(1), (1, 0))
    stops = (torch.arange(levels, device=rows.device) + 0.5) / levels
    centroids = ordered.gather(
        1, torch.searchsorted(spread, spread[:, -1:] * stops).clamp_max(rows.shape[1] - 1)
    )

    edges = torch.zeros(rows.shape[0], levels + 1, dtype=torch.int64, device=rows.device)
    edges[:, -1] = rows.shape[1]
    for _ in range(_LLOYD_ITERATIONS):
        edges[:, 1:-1] = torch.searchsorted(ordered, borders(centroids))
        share = weights.gather(1, edges).diff(dim=1)
        sums = totals.gather(1, edges).diff(dim=1)
        # An empty cluster stays where it is, between its neighbours.
        centroids = torch.where(share > 0, sums / share.clamp_min(1), centroids.double()).float()
    return centroids


def _ascending(rows: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each row's weights in order, and the mass of each: 1, or 0 where it is not `kept`."""
    if kept is not None:
        ordered, order = rows.sort(dim=1)
        return ordered, kept.gather(1, order).float()
    if rows.device.type == "cpu":
        ordered = torch.from_numpy(np.sort(rows.numpy(), axis=1))  # 20 times as fast as torch's
    else:
        ordered = rows.sort(dim=1).values
    return ordered, torch.ones_like(ordered)


def _largest(weight: Tensor, count: int) -> Tensor:
    """Flat positions, ascending, of the `count` largest magnitudes."""
    positions = torch.empty(0, dtype=torch.int64, device=weight.device)
    magnitudes = torch.empty(0, device=weight.device)
    if count == 0:
        return positions
    bound = -1.0
    for rows, chunk in row_chunks(weight):
        flat = chunk.abs_().view(-1)
        found = (flat > bound).nonzero().squeeze(1)
        magnitudes = torch.cat([magnitudes, flat[found]])
        positions = torch.cat([positions, found + rows.start * weight.shape[1]])
        if len(magnitudes) > 2 * count:
            magnitudes, best = magnitudes.topk(count)
            positions, bound = positions[best], float(magnitudes[-1])
    return positions[magnitudes.topk(count).indices].sort().values


@one_thread()
def quantize_vectors(
    weight: Tensor, codebooks: int, vector_size: int, scale_dtype: str, layer: str | None
) -> CodebookVector:
    """Additive codebooks of short vectors; see schemes.VectorCodebook."""
    weight = check_weight(weight, layer)
    norms = torch.cat([rows.square().mean(-1).sqrt() for _, rows in row_chunks(weight)])
    vectors_per_row = -(-weight.shape[1] // vector_size)

    def unit_vectors(rows: Tensor, scales: Tensor) -> Tensor:
        scaled = rows * torch.where(scales > 0, 1 / scales, 0.0).unsqueeze(-1)
        padding = vectors_per_row * vector_size - rows.shape[1]
        return torch.nn.functional.pad(scaled, (0, padding)).view(-1, vector_size)

    generator = torch.Generator().manual_seed(0)
    wanted = -(-_VECTOR_SAMPLE // vectors_per_row)
    chosen = torch.randperm(weight.shape[0], generator=generator)[:wanted].to(weight.device)
    books = to_stored(
        _learn_books(unit_vectors(weight[chosen].float(), norms[chosen]), codebooks), scale_dtype, layer
    )

    codes, scales = [], []
    for rows, chunk in row_chunks(weight):
        found = encode_vectors(unit_vectors(chunk, norms[rows]), books.float())
        shapes = _decode(found, books.float()).view(len(chunk), -1)[:, : weight.shape[1]]
        # The best scale for these codes; the row's norm was only the start.
        power = shapes.square().sum(-1)
        scales.append(torch.where(power > 0, (chunk * shapes).sum(-1) / power, 0.0))
        codes.append(found.view(codebooks, len(chunk), vectors_per_row).to(torch.uint8))
    return CodebookVector(
        torch.cat(codes, dim=1), books, to_stored(torch.cat(scales), scale_dtype, layer), weight.shape[1]
    )


def _learn_books(vectors: Tensor, codebooks: int) -> Tensor:
    """[M, 256, v] from sample vectors: residual k-means, then sweeps over codes and means in turn."""
    books = torch.zeros(codebooks, VECTOR_CENTROIDS, vectors.shape[1], device=vectors.device)
    codes = torch.zeros(codebooks, len(vectors), dtype=torch.int64, device=vectors.device)
    residual = vectors.clone()
    for book in range(codebooks):
        books[book] = kmeans(
            residual, VECTOR_CENTROIDS, iterations=_VECTOR_ITERATIONS, sample=_VECTOR_SAMPLE, seed=book
        )
        codes[book] = nearest_centroids(residual, books[book])
        residual -= books[book][codes[book]]
    for _ in range(_VECTOR_SWEEPS if codebooks > 1 else 0):
        for book in range(codebooks):
            residual += books[book][codes[book]]
            codes[book] = nearest_centroids(residual, books[book])
            books[book] = cluster_means(residual, codes[book], books[book])
            residual -= books[book][codes[book]]
    return books


def encode_vectors(vectors: Tensor, books: Tensor) -> Tensor:
    """int64 codes [M, P] of vectors [P, v]: book by book on the residual, then each anew given the others."""
    codes = torch.zeros(len(books), len(vectors), dtype=torch.int64, device=vectors.device)
    residual = vectors.clone()
    for sweep in range(1 + (_VECTOR_SWEEPS if len(books) > 1 else 0)):
        for book, centroids in enumerate(books):
            if sweep:
                residual += centroids[codes[book]]
            codes[book] = nearest_centroids(residual, centroids)
            residual -= centroids[codes[book]]
    return codes


def _decode(codes: Tensor, books: Tensor) -> Tensor:
    sums = torch.zeros(codes.shape[1], books.shape[2], device=codes.device)
    for code, book in zip(codes, books, strict=True):
        sums += book[code]
    return sums
