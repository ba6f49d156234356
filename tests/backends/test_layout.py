"""The CPU layout is the canonical layout, permuted: checked entry by entry and as a round trip."""

from __future__ import annotations

import pytest
import torch
from lowbit import backends
from lowbit.backends.cpu import tile_bits, tile_scales, untile_bits, untile_scales
from lowbit.schemes import BinaryMoS, BipolarInt, GroupedSigns, OneBit

SIZES = [(1, 1), (1, 8), (7, 33), (64, 32), (65, 100), (130, 257)]


@pytest.mark.parametrize(("rows", "inputs"), SIZES)
@pytest.mark.parametrize("planes", [1, 3])
def test_bits_round_trip(rows: int, inputs: int, planes: int) -> None:
    bits = torch.randint(0, 256, (planes, rows, (inputs + 7) // 8), dtype=torch.uint8)
    tiles = tile_bits(bits)
    assert tiles.shape == (-(-rows // 64), planes, -(-inputs // 32), 64, 4)
    assert tiles.is_contiguous()
    assert torch.equal(untile_bits(tiles, inputs, rows), bits)


def test_every_byte_has_its_place() -> None:
    bits = torch.randint(0, 256, (2, 70, 9), dtype=torch.uint8)
    tiles = tile_bits(bits)
    for plane in range(2):
        for row in range(70):
            for byte in range(9):
                placed = tiles[row // 64, plane, byte // 4, row % 64, byte % 4]
                assert placed == bits[plane, row, byte]
    assert int(tiles.long().sum()) == int(bits.long().sum()), "padding must be 0"


def test_one_plane_without_its_dimension() -> None:
    bits = torch.randint(0, 256, (5, 2), dtype=torch.uint8)
    assert torch.equal(tile_bits(bits), tile_bits(bits[None]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int16])
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (64, 3), (100, 2)])
def test_scales_round_trip(rows: int, groups: int, dtype: torch.dtype) -> None:
    scales = torch.arange(1, rows * groups + 1).reshape(rows, groups).to(dtype)
    tiled = tile_scales(scales)
    assert tiled.shape == (-(-rows // 64), groups, 64)
    assert tiled[-1, groups - 1, (rows - 1) % 64] == scales[-1, -1]
    assert torch.equal(untile_scales(tiled, rows), scales)
    assert not tiled.transpose(1, 2).reshape(-1, groups)[rows:].any(), "padding rows have scale 0"


@pytest.mark.parametrize(
    "scheme",
    [OneBit(), BinaryMoS(experts=3), GroupedSigns(32), BipolarInt(3, group_size=32, asymmetric=True)],
    ids=lambda scheme: scheme.name,
)
def test_prepare_restore_and_rows(scheme) -> None:
    packed = scheme.quantize(torch.randn(150, 70))
    cpu = backends.get("cpu")
    laid_out = cpu.prepare(packed.tensors(), packed.metadata())
    assert laid_out["weight"].dim() == 5
    restored = cpu.restore(laid_out, packed.metadata())
    assert restored.keys() == packed.tensors().keys()
    for name, tensor in packed.tensors().items():
        assert torch.equal(restored[name], tensor), name
    ids = torch.tensor([149, 0, 63, 64, 64])
    assert torch.equal(cpu.rows(laid_out, packed.metadata(), ids), packed.rows(ids))
    assert cpu.rows(laid_out, packed.metadata(), ids[:0]).shape == (0, 70)
