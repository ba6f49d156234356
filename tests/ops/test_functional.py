"""lowbit.ops: defaults, backends, canonical and tiled weights, typed errors."""

from __future__ import annotations

import pytest
import torch
from lowbit import ops
from lowbit.backends.cpu import tile_bits, tile_scales
from lowbit.errors import BackendError, DtypeError, FormatError, ShapeError, ValueRangeError

from tests.native import needs_native
from tests.ops import cases

BACKENDS = [pytest.param("cpu", marks=needs_native), "torch"]
N, K = 70, 150


def call(layer: cases.Layer, x: torch.Tensor, **options: object) -> torch.Tensor:
    """The functional operator on canonical tensors."""
    packed = layer.packed
    tensors = packed.tensors()
    metadata = packed.metadata()
    functions = {"signs": ops.signs_linear, "planes": ops.planes_linear, "codebook": ops.codebook_linear}
    if packed.family != "codebook":
        options = {"group_size": metadata["group_size"], **options}
    if packed.kind == "codebook_channel":
        options = {"axis": metadata["axis"], **options}
    return functions[packed.family](x, bias=layer.bias, **tensors, **options)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
def test_every_backend_keeps_the_bound(kind, backend, precision):
    layer = cases.make(kind, N, K, 4)
    x = cases.activations(5, K, torch.float16, 4)
    cases.check(layer, x, call(layer, x, precision=precision, backend=backend), precision)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tiles_and_canonical_weights_agree(backend):
    x = cases.activations(5, K, torch.float32)
    signs, planes = cases.make("signs", N, K).packed, cases.make("planes", N, K).packed
    canonical = ops.signs_linear(x, signs.weight, scales=signs.scales, group_size=128, backend=backend)
    tiles = {"weight": tile_bits(signs.weight), "scales": tile_scales(signs.scales)}
    assert torch.equal(
        ops.signs_linear(x, **tiles, group_size=128, out_features=N, backend=backend), canonical
    )
    arguments = {"group_size": 128, "backend": backend, "active_bits": 2}
    canonical = ops.planes_linear(x, planes.weight, planes.scales, offsets=planes.offsets, **arguments)
    tiled = [tile_scales(tensor) for tensor in (planes.scales, planes.offsets)]
    y = ops.planes_linear(
        x, tile_bits(planes.weight), tiled[0], offsets=tiled[1], out_features=N, **arguments
    )
    assert torch.equal(y, canonical)


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments(backend):
    layers = [cases.make("mos", n, K, n) for n in (5, 64, 70)]
    x = cases.activations(4, K, torch.float32)
    packed = [layer.packed for layer in layers]
    fused = ops.signs_linear(
        x,
        torch.cat([p.weight for p in packed]),
        router=torch.stack([p.router for p in packed]),
        in_scales=torch.stack([p.in_scales for p in packed]),
        out_scales=torch.cat([p.out_scales for p in packed], dim=1),
        bias=torch.cat([layer.bias for layer in layers]),
        segments=[5, 64, 70],
        backend=backend,
    )
    apart = torch.cat([call(layer, x, backend=backend) for layer in layers], dim=-1)
    assert torch.equal(fused, apart)


def test_the_default_precision_of_the_cpu_is_fast():
    layer = cases.make("signs", N, K)
    x = cases.activations(2, K, torch.float32)
    assert torch.equal(call(layer, x), call(layer, x, precision="fast"))
    assert not torch.equal(call(layer, x), call(layer, x, precision="exact"))


def test_double_goes_to_torch():
    layer = cases.make("signs", N, K)
    x = cases.activations(2, K, torch.float32).double()
    assert torch.equal(call(layer, x, precision="exact"), layer.specification(x, "exact"))
    with pytest.raises(BackendError, match="cpu"):
        call(layer, x, backend="cpu")


def test_errors_are_typed():
    signs = cases.make("signs", N, K).packed
    planes = cases.make("planes", N, K).packed
    x = cases.activations(2, K, torch.float32)
    with pytest.raises(ShapeError, match="bytes a row"):
        ops.signs_linear(x[:, :100], signs.weight)
    with pytest.raises(ShapeError, match="wrong shape of the weight"):
        ops.signs_linear(x, signs.weight[0])
    with pytest.raises(ShapeError, match="out_features=N"):
        ops.signs_linear(x, tile_bits(signs.weight))
    for segments in ([1, 2], [len(signs.weight) + 5, -5], [len(signs.weight), 0]):
        with pytest.raises(ShapeError, match="segments of 1 or more do not add up"):
            ops.signs_linear(x, signs.weight, segments=segments)
    with pytest.raises(DtypeError, match="wrong dtype of the input"):
        ops.signs_linear(x.int(), signs.weight)
    with pytest.raises(ValueRangeError, match="unknown precision"):
        ops.signs_linear(x, signs.weight, precision="best")
    with pytest.raises(BackendError, match="names no backend"):
        ops.signs_linear(x, signs.weight, backend="gpu")
    with pytest.raises(ValueRangeError, match="active_bits"):
        ops.planes_linear(x, planes.weight, planes.scales, active_bits=4)
    with pytest.raises(ValueRangeError, match="activation_bits"):
        ops.planes_linear(x, planes.weight, planes.scales, activation_bits=9)
    with pytest.raises(FormatError, match="which codebook"):
        ops.codebook_linear(x, planes.weight)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_does_not_fit_is_refused_by_every_backend(backend):
    x = cases.activations(2, K, torch.float32)
    signs, mos, planes = (cases.make(kind, N, K).packed for kind in ("signs", "mos", "planes"))
    channel, scalar, vector = (cases.make(kind, N, K).packed for kind in ("channel0", "scalar", "vector"))
    refused = [
        (ops.signs_linear, signs, {"scales": signs.scales.repeat(1, 2)}, ShapeError, "'scales'"),
        (ops.signs_linear, signs, {"scales": signs.scales.double()}, DtypeError, "'scales'"),
        (ops.signs_linear, signs, {"weight": signs.weight.int()}, DtypeError, "'weight'"),
        (ops.signs_linear, signs, {"group_size": 48}, ValueRangeError, "group_size"),
        (ops.signs_linear, signs, {"bias": torch.ones(1)}, ShapeError, "'bias'"),
        (ops.signs_linear, mos, {"router": None}, FormatError, "router"),
        (ops.signs_linear, mos, {"router": mos.router[:2]}, ShapeError, "'router'"),
        (ops.signs_linear, mos, {"in_scales": None}, FormatError, "belong together"),
        (ops.signs_linear, mos, {"out_scales": mos.out_scales[:, :1]}, ShapeError, "'out_scales'"),
        (ops.planes_linear, planes, {"scales": planes.scales[:1]}, ShapeError, "'scales'"),
        (ops.planes_linear, planes, {"offsets": planes.offsets.int()}, DtypeError, "'offsets'"),
        (ops.codebook_linear, channel, {"weight": channel.weight[:, 1:]}, ShapeError, "'weight'"),
        (ops.codebook_linear, channel, {"labels": channel.labels.long()}, DtypeError, "'labels'"),
        (ops.codebook_linear, channel, {"low_rank_in": None}, FormatError, "half a low-rank"),
        (ops.codebook_linear, channel, {"axis": 2}, ValueRangeError, "axis"),
        (ops.codebook_linear, scalar, {"tables": scalar.tables[:, :2]}, ShapeError, "'tables'"),
        (ops.codebook_linear, scalar, {"weight": scalar.weight[..., 1:]}, ShapeError, "bytes a row"),
        (ops.codebook_linear, scalar, {"outlier_columns": torch.ones(1)}, FormatError, "incomplete"),
        (ops.codebook_linear, vector, {"codebooks": vector.codebooks[..., 1:]}, ShapeError, "'codebooks'"),
        (ops.codebook_linear, vector, {"out_scales": torch.ones(1)}, ShapeError, "'out_scales'"),
    ]
    for function, packed, change, error, message in refused:
        options = {"group_size": packed.group_size} if packed.family != "codebook" else {}
        with pytest.raises(error, match=message):
            function(x, **{**options, **packed.tensors(), **change}, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_segment_needs_no_dimension_of_its_own(backend):
    layer = cases.make("mos", N, K)
    x = cases.activations(3, K, torch.float32)
    assert torch.equal(call(layer, x, segments=[N], backend=backend), call(layer, x, backend=backend))


def test_a_forced_backend_that_cannot_run_is_an_error(monkeypatch):
    layer = cases.make("signs", N, K)
    x = cases.activations(2, K, torch.float32)
    monkeypatch.setenv("LOWBIT_BACKEND", "cuda")
    with pytest.raises(BackendError, match="cuda"):
        call(layer, x)
