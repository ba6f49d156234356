"""What of the families signs and planes is compiled ahead of time: layers of 8192 x 8192 as launched."""

from __future__ import annotations

from collections.abc import Iterator

from lowbit.formats import PRECISIONS

from ..compiled import Launch
from ..gpu import Gpu
from .ahead import EXPERTS, FEATURES, calls_of, layer_of, product_launch
from .staging import Kind

_FAST, _HIGH, _EXACT = range(len(PRECISIONS))
_MANY = 4096


def launches(gpu: Gpu) -> list[Launch]:
    """Every form of the kernels, with the tiles that shape and GPU suggest; variants.py has the others."""
    return [*_signs(gpu), *_planes(gpu), *_gemms(gpu)]


def _signs(gpu: Gpu) -> Iterator[Launch]:
    whole, mixed, grouped = layer_of(1, -1), layer_of(1, -1, experts=EXPERTS), layer_of(1, 128)
    for precision, tokens in ((_HIGH, 1), (_HIGH, 4), (_HIGH, 8), (_FAST, 1), (_FAST, 8), (_FAST, 16)):
        name = f"{PRECISIONS[precision]}, {tokens} tokens"
        yield product_launch(f"signs, BinaryMoS, {name}", mixed, Kind(precision, 0), tokens, gpu)
        yield product_launch(f"signs, g128, {name}", grouped, Kind(precision, 0), tokens, gpu)
    yield product_launch("signs, g64, high, 4 tokens", layer_of(1, 64), Kind(_HIGH, 0), 4, gpu)
    yield product_launch("signs, exact, 4 tokens", whole, Kind(_EXACT, 0), 4, gpu)
    for precision in range(len(PRECISIONS)):
        prologue, *_, last = calls_of(mixed, Kind(precision, 0), 4, gpu)
        yield prologue.ahead_of_time(f"signs, BinaryMoS, {PRECISIONS[precision]}, prologue")
        yield last.ahead_of_time(f"signs, BinaryMoS, {PRECISIONS[precision]}, sum of splits")


def _planes(gpu: Gpu) -> Iterator[Launch]:
    for bits in (2, 3, 4, 8):
        for precision, tokens in ((_HIGH, 1), (_HIGH, 8), (_FAST, 8), (_FAST, 16)):
            name = f"planes, W{bits} g128, {PRECISIONS[precision]}, {tokens} tokens"
            yield product_launch(name, layer_of(bits, 128), Kind(precision, 0), tokens, gpu)
    yield product_launch(
        "planes, W4 g128 with offsets, high, 4 tokens", layer_of(4, 128, offsets=True), Kind(_HIGH, 0), 4, gpu
    )
    ragged = layer_of(4, 128, in_features=FEATURES - 128)
    yield product_launch("planes, W4 g128, ragged rows, high, 8 tokens", ragged, Kind(_HIGH, 0), 8, gpu)
    yield product_launch("planes, W4 g32, high, 4 tokens", layer_of(4, 32), Kind(_HIGH, 0), 4, gpu)
    yield product_launch(
        "planes, W4 of one-bit digits, high, 4 tokens", layer_of(4, 128, one_bit=True), Kind(_HIGH, 0), 4, gpu
    )
    yield product_launch("planes, W4 g128, exact, 4 tokens", layer_of(4, 128), Kind(_EXACT, 0), 4, gpu)
    for weight_bits, activation_bits in ((1, 1), (2, 2), (4, 4), (8, 8)):
        name = f"planes, W{weight_bits}A{activation_bits}, 8 tokens"
        yield product_launch(name, layer_of(weight_bits, -1), Kind(_HIGH, activation_bits), 8, gpu)
    prologue, *_, last = calls_of(layer_of(4, 128), Kind(_HIGH, 0), 4, gpu)
    yield prologue.ahead_of_time("planes, W4 g128, high, prologue")
    yield last.ahead_of_time("planes, W4 g128, high, sum of splits")


def _gemms(gpu: Gpu) -> Iterator[Launch]:
    """For many tokens, of which one column tile has 64 or 128."""
    layers = {
        "signs, BinaryMoS": layer_of(1, -1, experts=EXPERTS),
        "signs, g128": layer_of(1, 128),
        "planes, W3 g128": layer_of(3, 128),
        "planes, W4 g128": layer_of(4, 128),
        "planes, W4 g128 with offsets": layer_of(4, 128, offsets=True),
        "planes, W4 g32": layer_of(4, 32),
        "planes, W8 g128": layer_of(8, 128),
    }
    for name, layer in layers.items():
        for precision in (_HIGH, _FAST):
            kind = Kind(precision, 0)
            yield product_launch(f"{name}, {PRECISIONS[precision]}, many tokens", layer, kind, _MANY, gpu)
    name = "planes, W4 g128, high, tile of 32, many tokens"
    yield product_launch(name, layers["planes, W4 g128"], Kind(_HIGH, 0), 32, gpu)
    for bits in (4, 8):
        name = f"planes, W{bits}A{bits}, many tokens"
        yield product_launch(name, layer_of(bits, -1), Kind(_HIGH, bits), _MANY, gpu)
