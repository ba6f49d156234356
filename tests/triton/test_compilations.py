"""What makes Triton compile a product again: not the sizes of a layer, nor how many tokens there are."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import pytest
import torch
from lowbit.formats import PRECISIONS
from lowbit.triton_kernels.bits.ahead import layer_of
from lowbit.triton_kernels.bits.call import Call
from lowbit.triton_kernels.bits.layer import BitsLayer
from lowbit.triton_kernels.bits.linear import calls
from lowbit.triton_kernels.bits.staging import Kind
from lowbit.triton_kernels.gpu import Gpu

ROWS = (1, 16, 1031, 8192)
WHOLE, RAGGED = (1024, 3072, 4096, 14336), (640, 1153, 3584 + 128)
HIGH = PRECISIONS.index("high")
SMALL, LARGE = Gpu(0), Gpu(1024)  # on which no row is split, and every long one


def seen(call: Call) -> Hashable:
    """What Triton looks at: types, alignment and ones, constants."""
    unseen = getattr(call.kernel, "do_not_specialize", None) or call.kernel.kwargs["do_not_specialize"] or ()
    named = dict(zip(call.kernel.arg_names, call.arguments, strict=False))
    values = {
        name: value.dtype
        if isinstance(value, torch.Tensor)
        else (value == 1, value % 16 == 0)
        if isinstance(value, int)
        else type(value)
        for name, value in named.items()
        if name not in unseen
    }
    return (call.kernel.__name__, *sorted(map(str, values.items())), str(call.constexprs), str(call.options))


def compiled(kernel: str, layers: Iterable[BitsLayer], tokens: Iterable[int], gpu: Gpu) -> int:
    """How many codes of a kernel there are, for all layers and numbers of tokens."""
    found = set()
    for layer in layers:
        for count in tokens:
            x, y = (
                torch.empty(count, size, dtype=torch.float16, device="meta")
                for size in (layer.in_features, layer.out_features)
            )
            found |= {seen(call) for call in calls(x, layer, Kind(HIGH, 0), y, gpu)}
    return len([code for code in found if code[0] == kernel])


@pytest.mark.parametrize("gpu", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("bits", "group_size", "experts"), [(1, -1, 4), (1, 128, 0), (4, 128, 0), (3, -1, 0)]
)
def test_once_for_all_sizes(bits: int, group_size: int, experts: int, gpu: Gpu) -> None:
    def layers(inputs: Iterable[int]) -> Iterable[BitsLayer]:
        for rows in ROWS:
            for in_features in inputs:
                layer = layer_of(bits, group_size, in_features=in_features, experts=experts)
                yield layer._replace(segments=(rows,))

    some = WHOLE if gpu is SMALL else WHOLE[2:]
    assert compiled("product", layers(some), (1, 3, 4), gpu) == 1
    sixteens = [layer for layer in layers(some) if layer.out_features % 16 == 0]
    assert compiled("gemm", sixteens, (33, 48, 512), gpu) <= 2  # tiles of 64 columns and of 128
    if gpu is LARGE:
        assert compiled("combine", layers(some), (1, 3, 4, 16), gpu) == 1


def test_rows_that_are_no_whole_turns_are_another_code() -> None:
    layers = [layer_of(4, 128, in_features=size) for size in (*WHOLE, *RAGGED)]
    assert compiled("product", layers, (1, 3, 4), SMALL) == 2
    whole_rows = [layer_of(4, -1, in_features=size) for size in (*WHOLE, *RAGGED)]
    assert compiled("product", whole_rows, (1, 3, 4), SMALL) == 1


def test_fused_layers_are_another_code_by_their_sizes() -> None:
    layers = [
        layer_of(1, -1, experts=4)._replace(segments=sizes) for sizes in ((64, 32), (64, 512), (32, 64))
    ]
    assert compiled("product", layers, (1, 3), SMALL) == 2  # the last one's size is none of it
