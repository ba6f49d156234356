"""The three codebook variants, entry by entry."""

from __future__ import annotations

import pytest
import torch
from lowbit.formats import CodebookChannel, unpack_codes

from tests.formats.samples import K, N, channels, floats, scalars, vectors


def test_output_channels() -> None:
    packed = channels(axis=0)
    low_rank = packed.low_rank_out.float() @ packed.low_rank_in.float()
    for n in range(N):
        expected = packed.weight[int(packed.labels[n])].float() + low_rank[n]
        torch.testing.assert_close(packed.dequantize()[n], expected)


def test_input_channels() -> None:
    packed = channels(axis=1, rank=0)
    for k in range(K):
        assert torch.equal(packed.dequantize()[:, k], packed.weight[:, int(packed.labels[k])].float())


def test_many_clusters_take_two_byte_labels() -> None:
    labels = torch.arange(300).to(torch.uint16)
    packed = CodebookChannel(floats(300, 4), labels, 0, 4, 300)
    packed.validate()
    assert torch.equal(packed.dequantize(), packed.weight.float())
    assert packed.bits_per_weight == 16 + 16 / 4


def test_scalars_and_outliers() -> None:
    packed = scalars(outliers=True)
    codes = unpack_codes(packed.weight, K)
    expected = torch.stack([packed.tables[n].float()[codes[n].long()] for n in range(N)])
    for n in range(N):
        for entry in range(int(packed.outlier_offsets[n]), int(packed.outlier_offsets[n + 1])):
            expected[n, int(packed.outlier_columns[entry])] += float(packed.outlier_values[entry])
    assert torch.equal(packed.dequantize(), expected)
    assert torch.equal(packed.rows(torch.tensor([4, 4, 1])), expected[[4, 4, 1]])


@pytest.mark.parametrize("size", [1, 7, 8, 64])
def test_vectors(size: int) -> None:
    packed = vectors(size=size)
    for n, k in [(0, 0), (3, 20), (N - 1, K - 1)]:
        entries = [packed.codebooks[m, int(packed.weight[m, n, k // size]), k % size].float() for m in (0, 1)]
        expected = (entries[0] + entries[1]) * packed.out_scales[n].float()
        assert packed.dequantize()[n, k] == expected


def test_bits_per_weight() -> None:
    n, k = 64, 96
    clusters, rank = 16, 4
    counted = 16 * clusters * k + 8 * n + 16 * rank * (n + k)
    assert channels(n, k, clusters, 0, rank).bits_per_weight == pytest.approx(counted / (n * k))
    assert scalars(n, k, 3).bits_per_weight == pytest.approx(3 + 16 * 8 / k)
    sparse = scalars(n, k, 3, outliers=True)
    outliers = 48 * sparse.outlier_values.numel() + 32 * (n + 1)
    assert sparse.bits_per_weight == pytest.approx(3 + 16 * 8 / k + outliers / (n * k))
    table = 16 * 2 * 256 * 8
    assert vectors(n, k).bits_per_weight == pytest.approx(2 + (table + 16 * n) / (n * k))
