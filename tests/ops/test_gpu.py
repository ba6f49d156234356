"""What takes a real GPU, beside test_family.py: large shapes, graphs, streams, modules.

Skipped where there is none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lowbit import backends, ops
from lowbit.formats import PRECISIONS
from lowbit.modules import QuantizedLinear, make_linear
from torch import Tensor

from tests.ops import cases, targets
from tests.ops.targets import Target

pytestmark = pytest.mark.gpu

SHAPES = ((37, 515), (257, 1031), (1024, 4096))
on_gpus = targets.on("cuda", "triton_gpu")


def _module(layer: cases.Layer, bias: Tensor | None) -> QuantizedLinear:
    """On the layer's backend and device."""
    tensors = {name: tensor.cuda() for name, tensor in layer.packed.tensors().items()}
    packed = backends.packed_format(tensors, layer.packed.metadata())
    bias = None if bias is None else bias.cuda()
    return make_linear(packed, bias, dtype=torch.float16, backend=layer.target.backend)


@on_gpus
@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(target: Target, kind: str, precision: str, shape: tuple[int, int]) -> None:
    for seed, (m, dtype) in enumerate(
        (
            *((1, torch.float16), (7, torch.bfloat16), (17, torch.float32), (65, torch.float16)),
            (300, torch.bfloat16),
        )
    ):
        layer = cases.make(kind, *shape, seed, target=target)
        layer.check(cases.activations(m, shape[1], dtype, seed), precision)


@on_gpus
@pytest.mark.parametrize("kind", cases.KINDS)
def test_graph(target: Target, kind: str) -> None:
    """Captured once, replayed on other activations."""
    layer = cases.make(kind, 257, 1030, 3, target=target)
    arguments = layer.arguments("high")
    x = cases.activations(4, 1030, torch.float16, 3).cuda()
    run = layer.operator()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(x, *arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(x, *arguments)
    for seed in (4, 5):
        x.copy_(cases.activations(4, 1030, torch.float16, seed))
        graph.replay()
        assert torch.equal(y, layer.native(x, "high"))


def test_graph_of_many_tokens() -> None:
    """Captured with torch's product of every tile in it, several of them."""
    layer = cases.make("mos", 4100, 16390, 3, target=targets.CUDA)
    arguments = layer.arguments("high")
    x = cases.activations(300, 16390, torch.float16, 3).cuda()
    layer.native(x, "high")  # torch sets its library up outside
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer.operator()(x, *arguments)
    for seed in (4, 5):
        fresh = cases.activations(300, 16390, torch.float16, seed)
        x.copy_(fresh)
        graph.replay()
        rows = slice(0, 300, 60)
        eps = targets.CUDA.eps(layer.packed.kind, "high", 300)
        cases.check(layer, fresh[rows], y[rows].cpu(), "high", eps)


def test_graph_of_blocks_that_share_rows() -> None:
    """With eight tokens a large layer's inputs are divided over blocks, which count each other's arrival:
    every replay starts from zero again, and sums are those of one token, where nothing is divided."""
    layer = cases.make("mos", 4096, 8192, 13, target=targets.CUDA)
    arguments = layer.arguments("high")
    x = cases.activations(8, 8192, torch.float16, 13).cuda()
    y = torch.empty(8, 4096, dtype=torch.float16, device="cuda")
    layer.operator("_out")(x, *arguments, y)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer.operator("_out")(x, *arguments, y)
    for seed in (14, 15, 16):
        x.copy_(cases.activations(8, 8192, torch.float16, seed))
        graph.replay()
        alone = torch.cat([layer.native(x[m : m + 1], "high") for m in range(8)])
        assert torch.equal(y, alone)


@on_gpus
def test_streams(target: Target) -> None:
    """Calls in as many streams at once as there are kinds do not meet in each other's workspace."""
    layers = [cases.make(kind, 1024, 4096, 6, target=target) for kind in cases.KINDS]
    xs = [cases.activations(8, 4096, torch.float16, seed).cuda() for seed in range(len(layers))]
    expected = [layer.native(x, "high") for layer, x in zip(layers, xs, strict=True)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in layers]
    results: list[list[Tensor]] = [[] for _ in layers]
    for _ in range(50):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[i].append(layers[i].native(xs[i], "high"))
    torch.cuda.synchronize()
    for ys, y in zip(results, expected, strict=True):
        assert all(torch.equal(other, y) for other in ys)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
@on_gpus
@pytest.mark.parametrize("kind", cases.KINDS)
def test_second_gpu(target: Target, kind: str) -> None:
    """Layers run where their tensors are, whichever GPU is the current one, which stays that."""
    second = replace(target, device="cuda:1")
    layer = cases.make(kind, 257, 1030, 3, target=second)
    x = cases.activations(4, 1030, torch.float16, 3)
    for current in (0, 1):
        with torch.cuda.device(current):
            y = layer.check(x, "high")
            assert torch.cuda.current_device() == current
        assert y.device == torch.device("cuda", 1)


@on_gpus
@pytest.mark.parametrize("kind", cases.KINDS)
def test_modules(target: Target, kind: str) -> None:
    """Values, rows, and the checkpoint's bytes."""
    layer = cases.make(kind, 70, 200, 9, target=target)
    module = _module(layer, layer.bias)
    assert module.backend == target.backend
    x = cases.activations(2, 200, torch.float16, 9).cuda()
    layer.bias = module.bias.detach().cpu()
    cases.check(layer, x.cpu(), module(x).cpu(), "high", target.eps(layer.packed.kind, "high"))
    state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    for name, tensor in layer.packed.tensors().items():
        assert torch.equal(state[name], tensor), name
    ids = torch.tensor([69, 0, 3], device="cuda")
    assert torch.equal(module.rows(ids).cpu(), layer.packed.dequantize()[ids.cpu()])


@on_gpus
def test_fewer_bits_lay_out_anew(target: Target) -> None:
    layer = cases.make("planes", 70, 200, 10, bits=4, target=target)
    module = _module(layer, None)
    assert module.runtime_tensors()["weight"].shape[1] == 1
    module.active_bits = 3
    assert module.runtime_tensors()["weight"].shape[1] == 4
    x = cases.activations(2, 200, torch.float16, 10).cuda()
    layer.bias = None
    cases.check(layer, x.cpu(), module(x).cpu(), "high", active_bits=3)


@on_gpus
def test_functional_takes_canonical_tensors(target: Target) -> None:
    layer = cases.make("planes", 70, 200, 11, bits=3, target=target)
    tensors = {name: tensor.cuda() for name, tensor in layer.packed.tensors().items()}
    x = cases.activations(2, 200, torch.float16, 11).cuda()
    y = ops.planes_linear(x, **tensors, group_size=128, backend=target.backend)
    layer.bias = None
    cases.check(layer, x.cpu(), y.cpu(), "high")


def test_modules_move() -> None:
    """CPU to GPU and back: each has its own backend."""
    layer = cases.make("planes", 70, 200, 9)
    module = make_linear(layer.packed, dtype=torch.float16).cuda()
    assert module.backend in ("cuda", "triton")
    assert module.cpu().backend == "cpu"


def test_tensors_elsewhere_are_refused() -> None:
    layer = cases.make("planes", 20, 130, 12, target=targets.CUDA)
    arguments = list(layer.arguments("high"))
    arguments[1] = arguments[1].cpu()
    with pytest.raises(RuntimeError, match="all tensors must be on cuda:0"):
        layer.operator()(cases.activations(1, 130, torch.float16).cuda(), *arguments)
