"""What of the families signs and planes is compiled ahead of time: layers of 8192 x 8192 as launched."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lowbit.backends.cuda import digit_widths
from lowbit.formats import PRECISIONS
from lowbit.formats.base import group_count

from ..compiled import Launch
from ..gpu import INTERPRETED_MULTIPROCESSORS, Gpu
from .call import Call
from .config import SPAN_INPUTS
from .gemm import gemm
from .layer import BitsLayer
from .linear import calls
from .product import product
from .staging import Kind

_FEATURES = 8192
_GPU = Gpu(INTERPRETED_MULTIPROCESSORS)
_FAST, _HIGH, _EXACT = range(len(PRECISIONS))
_EXPERTS = 4
_MANY = 4096


def launches(capability: tuple[int, int]) -> list[Launch]:
    """Every form of the kernels."""
    return [*_signs(), *_planes(), *_gemms(Gpu(INTERPRETED_MULTIPROCESSORS, capability=capability))]


def _signs() -> Iterator[Launch]:
    whole, mixed, grouped = _layer(1, -1), _layer(1, -1, experts=_EXPERTS), _layer(1, 128)
    for precision, tokens in ((_HIGH, 1), (_HIGH, 4), (_HIGH, 8), (_FAST, 1), (_FAST, 8), (_FAST, 16)):
        name = f"{PRECISIONS[precision]}, {tokens} tokens"
        yield _product(f"signs, BinaryMoS, {name}", mixed, Kind(precision, 0), tokens)
        yield _product(f"signs, g128, {name}", grouped, Kind(precision, 0), tokens)
    yield _product("signs, g64, high, 4 tokens", _layer(1, 64), Kind(_HIGH, 0), 4)
    yield _product("signs, exact, 4 tokens", whole, Kind(_EXACT, 0), 4)
    for precision in range(len(PRECISIONS)):
        prologue, *_, last = _calls(mixed, Kind(precision, 0), 4)
        yield prologue.ahead_of_time(f"signs, BinaryMoS, {PRECISIONS[precision]}, prologue")
        yield last.ahead_of_time(f"signs, BinaryMoS, {PRECISIONS[precision]}, sum of splits")


def _planes() -> Iterator[Launch]:
    for bits in (2, 3, 4, 8):
        for precision, tokens in ((_HIGH, 1), (_HIGH, 8), (_FAST, 8)):
            name = f"planes, W{bits} g128, {PRECISIONS[precision]}, {tokens} tokens"
            yield _product(name, _layer(bits, 128), Kind(precision, 0), tokens)
    yield _product(
        "planes, W4 g128 with offsets, high, 4 tokens", _layer(4, 128, offsets=True), Kind(_HIGH, 0), 4
    )
    yield _product("planes, W4 g32, high, 4 tokens", _layer(4, 32), Kind(_HIGH, 0), 4)
    yield _product(
        "planes, W4 of one-bit digits, high, 4 tokens", _layer(4, 128, one_bit=True), Kind(_HIGH, 0), 4
    )
    yield _product("planes, W4 g128, exact, 4 tokens", _layer(4, 128), Kind(_EXACT, 0), 4)
    for weight_bits, activation_bits in ((1, 1), (2, 2), (4, 4), (8, 8)):
        name = f"planes, W{weight_bits}A{activation_bits}, 8 tokens"
        yield _product(name, _layer(weight_bits, -1), Kind(_HIGH, activation_bits), 8)
    prologue, *_, last = _calls(_layer(4, 128), Kind(_HIGH, 0), 4)
    yield prologue.ahead_of_time("planes, W4 g128, high, prologue")
    yield last.ahead_of_time("planes, W4 g128, high, sum of splits")


def _gemms(gpu: Gpu) -> Iterator[Launch]:
    """For many tokens, of which one column tile has 64 or 128."""
    layers = {
        "signs, BinaryMoS": _layer(1, -1, experts=_EXPERTS),
        "signs, g128": _layer(1, 128),
        "planes, W3 g128": _layer(3, 128),
        "planes, W4 g128": _layer(4, 128),
        "planes, W4 g128 with offsets": _layer(4, 128, offsets=True),
        "planes, W4 g32": _layer(4, 32),
        "planes, W8 g128": _layer(8, 128),
    }
    for name, layer in layers.items():
        for precision in (_HIGH, _FAST):
            kind = Kind(precision, 0)
            yield _product(f"{name}, {PRECISIONS[precision]}, many tokens", layer, kind, _MANY, gpu)
    name = "planes, W4 g128, high, tile of 32, many tokens"
    yield _product(name, layers["planes, W4 g128"], Kind(_HIGH, 0), 32, gpu)
    for bits in (4, 8):
        name = f"planes, W{bits}A{bits}, many tokens"
        yield _product(name, _layer(bits, -1), Kind(_HIGH, bits), _MANY, gpu)


def _layer(
    bits: int, group_size: int, *, experts: int = 0, offsets: bool = False, one_bit: bool = False
) -> BitsLayer:
    def empty(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    groups = (_FEATURES, group_count(_FEATURES, group_size))
    widths = tuple(digit_widths(bits, bits if one_bit else 0))
    return BitsLayer(
        weight=empty(bits, len(widths), 1, 128, dtype=torch.uint8),
        scales=None if experts else empty(*groups),
        offsets=empty(*groups, dtype=torch.int16) if offsets else None,
        router=empty(experts, _FEATURES) if experts else None,
        in_scales=empty(experts, _FEATURES) if experts else None,
        out_scales=empty(experts, _FEATURES) if experts else None,
        bias=None,
        stored_widths=widths,
        widths=widths,
        segments=(_FEATURES,),
        in_features=_FEATURES,
        group_size=group_size,
    )


def _calls(layer: BitsLayer, kind: Kind, tokens: int, gpu: Gpu = _GPU) -> list[Call]:
    x, y = (torch.empty(tokens, _FEATURES, dtype=torch.float16, device="meta") for _ in range(2))
    return calls(x, layer, kind, y, gpu)


def _product(name: str, layer: BitsLayer, kind: Kind, tokens: int, gpu: Gpu = _GPU) -> Launch:
    call = _calls(layer, kind, tokens, gpu)[1]
    inputs = call.constexprs["UNIT"]
    if call.kernel is gemm:
        inputs *= call.constexprs["BLOCK_COLUMNS"] // call.constexprs["PER_TOKEN"]
    if call.kernel is product:
        # The loop of the first digit takes a span at a time, or half of it.
        halved = call.constexprs["HALVED"] and layer.widths[0] > 1
        inputs *= SPAN_INPUTS // 128 // (2 if halved else 1)
    return call.ahead_of_time(name, call.constexprs["BLOCK_ROWS"] * inputs)
