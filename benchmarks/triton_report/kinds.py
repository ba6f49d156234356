"""Every kind of launch that shape and GPU may lead to over bits, not only the layers of the report.

Bits stand for the digits that they are stored in, a form for how their sums are scaled.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product as combinations
from typing import NamedTuple

from lowbit.formats import PRECISIONS
from lowbit.triton_kernels.bits.ahead import FEATURES, calls_of, layer_of, product_launch
from lowbit.triton_kernels.bits.layer import BitsLayer
from lowbit.triton_kernels.bits.staging import Kind
from lowbit.triton_kernels.compiled import Launch
from lowbit.triton_kernels.gpu import Gpu

from .targets import Target

FAST, HIGH, EXACT = (Kind(precision, 0) for precision in range(len(PRECISIONS)))
INTEGERS = Kind(HIGH.precision, 4)  # activations of one column of bits
BITS = range(1, 9)
RAGGED = FEATURES - 128  # inputs that are no whole turns of a loop over scaled sums
_SOME = 8  # tokens that have 16 columns in `high`, and 8 in `fast`
_MANY = 4096
_ALONE, _SHARED = 0, 1024  # multiprocessors: no row is split, or every one is


class Form(NamedTuple):
    """A layer, its digits aside."""

    group_size: int
    in_features: int = FEATURES
    offsets: bool = False

    @property
    def name(self) -> str:
        groups = "whole rows" if self.group_size < 0 else f"g{self.group_size}"
        inputs = {FEATURES: "", RAGGED: ", ragged"}[self.in_features]
        return groups + inputs + ", offsets" * self.offsets

    def layer(self, bits: int, *, experts: int = 0) -> BitsLayer:
        return layer_of(
            bits,
            self.group_size,
            in_features=self.in_features,
            experts=experts,
            offsets=self.offsets,
        )


WHOLE, BY_128 = Form(-1), Form(128)
FORMS = (
    WHOLE,
    BY_128,
    Form(128, RAGGED),
    Form(128, offsets=True),
    Form(32),
    Form(256),
    Form(64),
    Form(64, RAGGED),
    Form(128, RAGGED, offsets=True),
    Form(32, offsets=True),
)


FORMS_OF_ENDS = (WHOLE, BY_128, Form(128, offsets=True), Form(32))


@cache
def kinds(target: Target) -> dict[str, Launch]:
    """By name, which tells the tile as well: another choice of tiles is another kind."""
    found: dict[str, Launch] = {}
    for launch in (*_few(target), *_many(target), *_ends(target)):
        constants = launch.constexprs
        sizes = [f"{size}" for key, size in constants.items() if key.startswith("BLOCK")]
        options = [f"{value} {key.removeprefix('num_')}" for key, value in launch.options.items()]
        found[", ".join([launch.name, "x".join(sizes), *options])] = launch
    return found


def _named(name: str, kind: Kind, tokens: int, multiprocessors: int = _ALONE) -> str:
    activations = f"A{kind.bits}" if kind.bits else PRECISIONS[kind.precision]
    split = ", split" * (multiprocessors == _SHARED)
    return f"{name}, {activations}, {tokens} tokens{split}"


def _product(
    name: str, layer: BitsLayer, kind: Kind, tokens: int, target: Target, multiprocessors: int = _ALONE
) -> Launch:
    gpu = Gpu(multiprocessors, capability=target.capability)
    return product_launch(_named(name, kind, tokens, multiprocessors), layer, kind, tokens, gpu)


def _few(target: Target) -> Iterator[Launch]:
    """Up to 16 tokens: as many columns as a tile has."""
    for bits, form in combinations(BITS, FORMS):
        if bits <= 4 or form in (WHOLE, BY_128):
            layer, name = form.layer(bits), f"W{bits} {form.name}"
            yield _product(name, layer, HIGH, _SOME, target)
            yield _product(name, layer, FAST, 2 * _SOME, target)
    for bits in BITS:
        yield _product(f"W{bits}", WHOLE.layer(bits), INTEGERS, 2 * _SOME, target)
    for bits, form in combinations((1, 4), (WHOLE, BY_128)):
        layer, name = form.layer(bits), f"W{bits} {form.name}"
        yield _product(name, layer, HIGH, _SOME, target, _SHARED)
        yield _product(name, layer, FAST, 2 * _SOME, target, _SHARED)
    for experts, kind in combinations((1, 4), (HIGH, FAST)):
        layer = WHOLE.layer(1, experts=experts)
        yield _product(f"signs, {experts} experts", layer, kind, _SOME if kind is HIGH else 2 * _SOME, target)


def _many(target: Target) -> Iterator[Launch]:
    for bits in BITS:
        for kind in (HIGH, FAST):
            yield _product(f"W{bits} {BY_128.name}", BY_128.layer(bits), kind, _MANY, target)
        yield _product(f"W{bits}", WHOLE.layer(bits), INTEGERS, _MANY, target)


def _ends(target: Target) -> Iterator[Launch]:
    """Kernels before and behind a product whose rows are split."""
    gpu = Gpu(_SHARED, capability=target.capability)
    layers = {f"W{bits} {form.name}": form.layer(bits) for bits, form in combinations((1, 4), FORMS_OF_ENDS)}
    layers |= {f"signs, {experts} experts": WHOLE.layer(1, experts=experts) for experts in (1, 4)}
    for (name, layer), kind in combinations(layers.items(), (FAST, HIGH, EXACT)):
        prologue, *_, last = calls_of(layer, kind, _SOME, gpu)
        yield prologue.ahead_of_time(f"{_named(name, kind, _SOME)}, prologue")
        yield last.ahead_of_time(f"{_named(name, kind, _SOME)}, sum of splits")
