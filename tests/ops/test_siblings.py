"""siblings_linear: one call gives bit by bit what the layers give one by one."""

from __future__ import annotations

import pytest
import torch
from lowbit.modules import QuantizedLinear, make_linear
from lowbit.ops.siblings import MEMBERS, Member, fused_arguments
from lowbit.schemes import BinaryMoS, BipolarInt, GroupedSigns, OneBit, Scheme

from tests.native import needs_native

pytestmark = needs_native

ROWS, K = (130, 64, 7), 100
SCHEMES = {
    "planes": BipolarInt(4, group_size=32, asymmetric=True),
    "planes_a4": BipolarInt(3, 4, group_size=64),
    "binary_mos": BinaryMoS(experts=3),
    "one_bit": OneBit(),
    "grouped_signs": GroupedSigns(32),
}


def layers(scheme: Scheme, biased: tuple[bool, ...] = (True, False, True)) -> list[QuantizedLinear]:
    torch.manual_seed(0)
    return [
        make_linear(scheme.quantize(torch.randn(rows, K)), torch.randn(rows) if bias else None, scheme=scheme)
        for rows, bias in zip(ROWS, biased, strict=True)
    ]


def member(layer: QuantizedLinear) -> Member:
    names = {
        "signs": ("weight", "scales", "router", "in_scales", "out_scales"),
        "planes": ("weight", "scales", "offsets"),
    }
    tensors = [layer._buffers.get(name) for name in names[layer.kind]]
    found = MEMBERS[layer.kind]((*tensors, layer.bias, *layer._numbers()))
    assert found is not None
    return found


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("tokens", [0, 1, 5, 70])
@torch.no_grad()
def test_equals_one_by_one(scheme: Scheme, precision: str, tokens: int) -> None:
    parts = layers(scheme)
    for layer in parts:
        layer.precision = precision
    x = torch.randn(2, tokens, K, generator=torch.Generator().manual_seed(1))
    arguments = fused_arguments([member(layer) for layer in parts])
    fused = torch.ops.lowbit.siblings_linear(x, *arguments)
    assert fused.shape == (2, tokens, sum(ROWS))
    for layer, part in zip(parts, fused.split(ROWS, dim=-1), strict=True):
        assert torch.equal(part, layer(x))
    out = torch.empty_like(fused)
    torch.ops.lowbit.siblings_linear_out(x, *arguments, out)
    assert torch.equal(out, fused)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_opcheck(scheme: Scheme) -> None:
    arguments = fused_arguments([member(layer) for layer in layers(scheme)])
    x = torch.randn(3, K)
    torch.library.opcheck(torch.ops.lowbit.siblings_linear.default, (x, *arguments))
    y = torch.empty(3, sum(ROWS))
    torch.library.opcheck(torch.ops.lowbit.siblings_linear_out.default, (x, *arguments, y))


@torch.no_grad()
def test_fewer_planes_and_group_sizes_of_their_own() -> None:
    parts = [
        make_linear(BipolarInt(bits, group_size=group).quantize(torch.randn(rows, K)))
        for rows, bits, group in zip(ROWS, (4, 3, 8), (32, -1, 64), strict=True)
    ]
    for layer in parts:
        layer.active_bits = 2
    x = torch.randn(3, K)
    fused = torch.ops.lowbit.siblings_linear(x, *fused_arguments([member(layer) for layer in parts]))
    assert torch.equal(fused, torch.cat([layer(x) for layer in parts], dim=-1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({8: [130, 64]}, "one element per layer"),
        ({1: [None]}, "one element per layer"),
        ({6: [torch.zeros(3), None, None]}, "bias must be"),
        ({8: [130, 64, 70]}, "tiles must be"),
        ({9: [33, -1, -1]}, "group_size must be"),
        ({10: 2}, "active_bits is 2; allowed: 1 to the 1 planes of segment 0"),
        ({11: 4}, "activation_bits is 4; allowed: 0, as layer 0 has experts"),
        ({12: 3}, "precision must be"),
        ({7: 99}, "x must be"),
    ],
)
@torch.no_grad()
def test_refusals(change: dict[int, object], message: str) -> None:
    """Positions are those of the operator's arguments behind x."""
    arguments = list(fused_arguments([member(layer) for layer in layers(BinaryMoS(experts=2))]))
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.lowbit.siblings_linear(torch.randn(1, K), *arguments)


def test_signs_with_segments_are_left_alone() -> None:
    layer = layers(OneBit())[0]
    arguments = [*(layer._buffers.get(n) for n in ("weight", "scales", "router", "in_scales", "out_scales"))]
    assert MEMBERS["signs"]((*arguments, layer.bias, [64, 66], K, 130, -1, 0)) is None
