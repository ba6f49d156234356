"""Codebook quantisers: Eckart-Young, Lloyd against every partition, outliers, residual codebooks."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.formats.rounding import nearest_entries
from lowbit.quantizers import codebook as quantizer
from lowbit.quantizers.codebook import lloyd_tables, low_rank_factors
from lowbit.quantizers.kmeans import kmeans, nearest_centroids
from lowbit.schemes import ChannelCodebook, ScalarCodebook, VectorCodebook


def relative_error(weight: torch.Tensor, found: torch.Tensor) -> float:
    return float((weight - found).norm() / weight.norm())


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (31, 31)])
@pytest.mark.parametrize("rank", [1, 7, 31])
def test_eckart_young(shape: tuple[int, int], rank: int) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, right = low_rank_factors(matrix, rank)
    assert left.shape == (shape[0], rank)
    assert right.shape == (rank, shape[1])
    tail = torch.linalg.svdvals(matrix.double())[rank:].square().sum().sqrt()
    error = (matrix - left @ right).double().norm()
    assert abs(error - tail) <= 1e-5 * matrix.norm()


def test_randomised_svd_is_close_and_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(200, 150, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(quantizer, "_EXACT_SVD", 16)
    before = torch.random.get_rng_state()
    left, right = low_rank_factors(matrix, 10)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(low_rank_factors(matrix, 10)[0], left)
    tail = torch.linalg.svdvals(matrix)[10:].square().sum().sqrt()
    assert (matrix - left @ right).norm() <= 1.001 * tail


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_with_correction_follow_eckart_young(axis: int) -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    plain = ChannelCodebook(8, 0, axis, scale_dtype="float32").quantize(weight)
    corrected = ChannelCodebook(8, 12, axis, scale_dtype="float32").quantize(weight)
    residual = weight - plain.dequantize()
    tail = torch.linalg.svdvals(residual)[12:].square().sum().sqrt()
    torch.testing.assert_close((weight - corrected.dequantize()).norm(), tail, rtol=1e-4, atol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_planted_channels_are_found(axis: int) -> None:
    shared = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    weight = shared[torch.arange(40) % 5]
    weight = weight if axis == 0 else weight.T.contiguous()
    packed = ChannelCodebook(5, 0, axis).quantize(weight)
    assert relative_error(weight, packed.dequantize()) < 1e-3


@pytest.mark.parametrize("axis", [0, 1])
def test_enough_clusters_keep_every_channel(axis: int) -> None:
    weight = torch.randn(6, 9)
    packed = ChannelCodebook(256, 128, axis, scale_dtype="float32").quantize(weight)
    assert packed.clusters == (6 if axis == 0 else 9)
    assert packed.rank == 0
    assert torch.equal(packed.dequantize(), weight)
    assert packed.weight.data_ptr() != weight.data_ptr()


def test_rank_is_clipped_to_the_layer() -> None:
    packed = ChannelCodebook(2, 128, scale_dtype="float32").quantize(torch.randn(6, 9))
    assert packed.rank == 6


def test_kmeans_finds_separated_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(12, 4, generator=generator) * 100
    points = (centres[:, None] + torch.randn(12, 50, 4, generator=generator)).flatten(0, 1)
    found = kmeans(points, 12, iterations=20, sample=10_000)
    errors = (points - found[nearest_centroids(points, found)]).square().sum()
    means = centres[:, None] + 0 * points.view(12, 50, 4)
    assert errors <= (points - means.flatten(0, 1)).square().sum()


def test_kmeans_with_fewer_points_than_clusters() -> None:
    points = torch.tensor([[0.0], [1.0]])
    found = kmeans(points, 5, iterations=5, sample=10)
    assert torch.equal(found[nearest_centroids(points, found)], points)


def best_partition_error(values: torch.Tensor, levels: int) -> float:
    """Optimal one-dimensional k-means by trying every set of borders."""
    ordered = values.sort().values.double()
    errors = []
    for cuts in combinations(range(1, len(ordered)), levels - 1):
        parts = ordered.tensor_split(cuts)
        errors.append(sum(float((part - part.mean()).square().sum()) for part in parts))
    return min(errors)


def test_lloyd_against_every_partition() -> None:
    rows = torch.randn(40, 14, generator=torch.Generator().manual_seed(0))
    tables = lloyd_tables(rows, 4)
    errors = (rows - tables.gather(1, nearest_entries(rows, tables).long())).square().sum(1)
    best = torch.tensor([best_partition_error(row, 4) for row in rows])
    ratios = errors / best
    assert float(ratios.min()) > 0.999
    assert float(ratios.median()) < 1.1
    assert float(errors.sum() / best.sum()) < 1.3


@given(levels=st.sampled_from([2, 4, 8, 16]), k=st.integers(1, 60), seed=st.integers(0, 99))
def test_lloyd_reaches_a_fixed_point(levels: int, k: int, seed: int) -> None:
    rows = torch.randn(2, k, generator=torch.Generator().manual_seed(seed))
    tables = lloyd_tables(rows, levels)
    assert bool((tables.diff(dim=1) >= 0).all())
    codes = nearest_entries(rows, tables).long()
    nearest = (rows[:, :, None] - tables[:, None]).abs().amin(-1)
    torch.testing.assert_close((rows - tables.gather(1, codes)).abs(), nearest)
    for row, table, code in zip(rows, tables, codes, strict=True):
        for level in code.unique():
            torch.testing.assert_close(table[level], row[code == level].mean(), rtol=1e-4, atol=1e-5)


@given(levels=st.sampled_from([2, 8]), k=st.integers(1, 70), seed=st.integers(0, 99))
def test_lloyd_with_every_weight_kept(levels: int, k: int, seed: int) -> None:
    """Tables do not depend on how the weights were sorted; rows with many equal weights included."""
    rows = torch.randn(3, k, generator=torch.Generator().manual_seed(seed)).mul_(4).round_()
    rows[1] /= 3
    kept = torch.ones_like(rows, dtype=torch.bool)
    assert torch.equal(lloyd_tables(rows, levels), lloyd_tables(rows, levels, kept))


def test_few_values_are_kept_exactly() -> None:
    values = torch.tensor([-3.0, -0.5, 0.25, 7.0])
    weight = values[torch.randint(0, 4, (10, 64))]
    assert torch.equal(ScalarCodebook(bits=3).quantize(weight).dequantize(), weight)


def test_outliers_are_the_largest_and_nearly_exact() -> None:
    weight = torch.randn(32, 50, generator=torch.Generator().manual_seed(0))
    weight[3, 7], weight[20, 49] = 40.0, -60.0
    packed = ScalarCodebook(bits=3, outlier_fraction=0.01).quantize(weight)
    packed.validate()
    assert len(packed.outlier_values) == 16
    owners = torch.arange(32).repeat_interleave(packed.outlier_offsets.diff().long())
    columns = packed.outlier_columns.long()
    bound = weight.abs().flatten().topk(16).values[-1]
    assert bool((weight[owners, columns].abs() >= bound).all())
    found = packed.dequantize()
    torch.testing.assert_close(found[owners, columns], weight[owners, columns], rtol=1e-3, atol=1e-3)
    without = ScalarCodebook(bits=3).quantize(weight).dequantize()
    assert relative_error(weight, found) < 0.9 * relative_error(weight, without)


def test_more_codebooks_leave_less_error() -> None:
    weight = torch.randn(256, 96, generator=torch.Generator().manual_seed(0))
    errors = [
        relative_error(weight, VectorCodebook(books, 8).quantize(weight).dequantize()) for books in (1, 2, 3)
    ]
    assert errors[0] < 0.62
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_vector_scales_fit_the_rows() -> None:
    shapes = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    sizes = torch.logspace(-3, 2, 64)[:, None]
    small = VectorCodebook(scale_dtype="float32").quantize(shapes)
    scaled = VectorCodebook(scale_dtype="float32").quantize(shapes * sizes)
    torch.testing.assert_close(scaled.dequantize(), small.dequantize() * sizes, rtol=1e-3, atol=1e-5)
