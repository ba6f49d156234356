"""The layouts of the CUDA backend and what its operators refuse, on the emulated device."""

from __future__ import annotations

import pytest
import torch
from lowbit.backends import cuda
from lowbit.formats import Planes, Signs
from lowbit.formats.base import group_count

from tests.emulated.device import KIND
from tests.native import needs_emulated
from tests.ops import cases, targets

pytestmark = [
    needs_emulated,
    pytest.mark.skipif(KIND != "", reason="torch's allocator is no sanitizer's"),
]


@pytest.fixture(autouse=True)
def _emulated_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    targets.load(targets.EMULATED)
    monkeypatch.setattr(cuda, "_layouts", lambda: torch.ops.lowbit_emulated)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("any_bits", [False, True])
def test_shape_of_tiles(bits: int, any_bits: bool) -> None:
    """That Python knows without the library."""
    n, k = 33, 1100
    planes = torch.randint(0, 256, (bits, n, (k + 7) // 8), dtype=torch.uint8)
    tiles = cuda.repack_bits(planes, k, any_bits)
    widths = cuda.digit_widths(bits, tiles.shape[1])
    assert sum(widths) == bits
    assert tiles.shape == (bits, len(widths), cuda.tile_words(n, k, widths), 16)
    assert tiles.shape[1] == (bits if any_bits else len(cuda.digit_widths(bits, 0)))


@pytest.mark.parametrize("group_size", [-1, 32, 96, 128, 256])
@pytest.mark.parametrize("k", [1, 100, 1024, 1300])
def test_groups_are_the_kernels(group_size: int, k: int) -> None:
    values = torch.randn(19, group_count(k, group_size))
    units = cuda.repack_groups(values, k, group_size)
    assert units.shape[0] == 32
    assert not units[19:].any()
    assert torch.equal(cuda.restore_groups(units[:19], k, group_size), values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 130, dtype=torch.int32)}, "x must be a float32"),
        ({1: torch.zeros(3, 7, dtype=torch.uint8)}, "tiles must be a contiguous uint8 tensor"),
        ({2: torch.zeros(3, 7)}, "scales must be"),
        ({8: 9}, "active_bits"),
        ({9: 11}, "activation_bits"),
        ({10: 7}, "precision"),
    ],
)
def test_wrong_arguments(change: dict[int, object], message: str) -> None:
    layer = cases.make("planes", 20, 130, target=targets.EMULATED)
    arguments = [cases.activations(2, 130, torch.float32), *layer.arguments("high")]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        layer.operator()(*arguments)


def test_kinds_are_those_of_the_formats() -> None:
    assert {Signs.kind, Planes.kind} == set(cuda.KINDS_OF_BITS)
