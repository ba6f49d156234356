"""Every kernel on a real GPU: values, dtypes, odd shapes, graphs, streams, modules. Skipped where there is
none."""

from __future__ import annotations

import pytest
import torch
from lowbit import backends, ops
from lowbit.formats import PRECISIONS
from lowbit.modules import make_linear
from torch import Tensor

from tests.cuda import operators
from tests.ops import cases

pytestmark = pytest.mark.gpu

SHAPES = ((1, 1), (3, 131), (37, 515), (257, 1031), (1024, 4096))


@pytest.fixture(autouse=True)
def _backend() -> None:
    answer = backends.availability()["cuda"]
    if not answer.ok:
        pytest.skip(answer.reason)


def make(kind: str, n: int, k: int, seed: int = 0, **options) -> operators.GpuLayer:
    return operators.make(kind, n, k, seed, namespace="lowbit", device="cuda", **options)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values(kind: str, precision: str, shape: tuple[int, int]) -> None:
    for seed, (m, dtype) in enumerate(
        ((1, torch.float16), (7, torch.bfloat16), (17, torch.float32), (65, torch.float16))
    ):
        make(kind, *shape, seed).check(cases.activations(m, shape[1], dtype, seed), precision)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group_size", [-1, 32, 128])
def test_planes(bits: int, group_size: int) -> None:
    layer = make("planes", 130, 1100, bits, bits=bits, group_size=group_size)
    for m in (1, 9, 40):
        x = cases.activations(m, 1100, torch.float16, m)
        for precision in PRECISIONS:
            layer.check(x, precision)
        for active in range(1, bits + 1):
            layer.check(x, "high", active_bits=active)
        for activation_bits in range(1, 9):
            layer.check(x, "high", activation_bits=activation_bits)


@pytest.mark.parametrize("bits", range(1, 9))
def test_scalar_tables(bits: int) -> None:
    layer = make("outliers", 70, 1100, bits, bits=bits)
    for m in (1, 9, 40):
        for precision in PRECISIONS:
            layer.check(cases.activations(m, 1100, torch.float16, m), precision)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_a_row_does_not_depend_on_the_others(kind: str) -> None:
    """Nor on the run."""
    layer = make(kind, 257, 2050, 1)
    x = cases.activations(16, 2050, torch.float16, 1).cuda()
    for precision in PRECISIONS:
        whole = layer.native(x, precision)
        assert torch.equal(whole, layer.native(x, precision))
        for m in (1, 3, 8):
            assert torch.equal(whole[:m], layer.native(x[:m], precision)), (precision, m)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_non_finite_tokens(kind: str) -> None:
    layer = make(kind, 40, 300, 2)
    x = cases.activations(3, 300, torch.float32, 2).cuda()
    x[1, 7] = torch.inf
    for precision in PRECISIONS:
        y = layer.native(x, precision)
        assert y[1].isnan().all()
        assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("kind", cases.KINDS)
def test_graph(kind: str) -> None:
    """Captured once, replayed on other activations."""
    layer = make(kind, 257, 1030, 3)
    arguments = layer.arguments("high")
    x = cases.activations(4, 1030, torch.float16, 3).cuda()
    y = torch.empty(4, 257, dtype=torch.float16, device="cuda")
    run = layer.operator("_out")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(x, *arguments, y)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(x, *arguments, y)
    for seed in (4, 5):
        x.copy_(cases.activations(4, 1030, torch.float16, seed))
        graph.replay()
        assert torch.equal(y, layer.native(x, "high"))


def test_graph_of_blocks_that_share_rows() -> None:
    """With eight tokens a large layer's inputs are divided over blocks, which count each other's arrival:
    every replay starts from zero again, and sums are those of one token, where nothing is divided."""
    layer = make("mos", 4096, 8192, 13)
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


def test_streams() -> None:
    """Calls in two streams at once do not meet in each other's workspace."""
    layers = [make(kind, 1024, 4096, 6) for kind in ("mos", "planes")]
    xs = [cases.activations(8, 4096, torch.float16, seed).cuda() for seed in (1, 2)]
    expected = [layer.native(x, "high") for layer, x in zip(layers, xs, strict=True)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in layers]
    results: list[list[Tensor]] = [[], []]
    for _ in range(50):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[i].append(layers[i].native(xs[i], "high"))
    torch.cuda.synchronize()
    for i in range(2):
        assert all(torch.equal(y, expected[i]) for y in results[i])


@pytest.mark.parametrize("kind", cases.KINDS)
def test_opcheck(kind: str) -> None:
    layer = make(kind, 70, 150, 7, scale_dtype=torch.float32)
    x = cases.activations(3, 150, torch.float32, 7).cuda().requires_grad_()
    torch.library.opcheck(layer.operator(), (x, *layer.arguments("high")))


@pytest.mark.parametrize("kind", cases.KINDS)
def test_gradient(kind: str) -> None:
    layer = make(kind, 70, 150, 8, scale_dtype=torch.float32)
    x = cases.activations(3, 150, torch.float32, 8)
    x1, x2 = x.cuda().requires_grad_(), x.double().requires_grad_()
    layer.operator()(x1, *layer.arguments("exact")).square().sum().backward()
    layer.packed.linear(x2, layer.bias.double()).square().sum().backward()
    torch.testing.assert_close(x1.grad.cpu().double(), x2.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_modules_move(kind: str) -> None:
    """CPU to GPU and back, with the checkpoint's bytes."""
    layer = make(kind, 70, 200, 9)
    module = make_linear(layer.packed, layer.bias, dtype=torch.float16).cuda()
    assert module.backend == "cuda"
    x = cases.activations(2, 200, torch.float16, 9).cuda()
    layer.bias = module.bias.detach().cpu()
    cases.check(layer, x.cpu(), module(x).cpu(), "high", operators.ROUNDED.get(layer.packed.kind, 1e-5))
    state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    for name, tensor in layer.packed.tensors().items():
        assert torch.equal(state[name], tensor), name
    ids = torch.tensor([69, 0, 3], device="cuda")
    assert torch.equal(module.rows(ids).cpu(), layer.packed.dequantize()[ids.cpu()])
    assert module.cpu().backend == "cpu"


def test_fewer_bits_lay_out_anew() -> None:
    layer = make("planes", 70, 200, 10, bits=4)
    module = make_linear(layer.packed, dtype=torch.float16).cuda()
    assert module.runtime_tensors()["weight"].shape[1] == 1
    module.active_bits = 3
    assert module.runtime_tensors()["weight"].shape[1] == 4
    x = cases.activations(2, 200, torch.float16, 10).cuda()
    layer.bias = None
    cases.check(layer, x.cpu(), module(x).cpu(), "high", active_bits=3)


def test_functional_takes_canonical_tensors() -> None:
    layer = make("planes", 70, 200, 11, bits=3)
    tensors = {name: tensor.cuda() for name, tensor in layer.packed.tensors().items()}
    x = cases.activations(2, 200, torch.float16, 11).cuda()
    y = ops.planes_linear(x, **tensors, group_size=128, backend="cuda")
    layer.bias = None
    cases.check(layer, x.cpu(), y.cpu(), "high")


def test_tensors_elsewhere_are_refused() -> None:
    layer = make("planes", 20, 130, 12)
    arguments = list(layer.arguments("high"))
    arguments[1] = arguments[1].cpu()
    with pytest.raises(RuntimeError, match="all tensors must be on cuda:0"):
        layer.operator()(cases.activations(1, 130, torch.float16).cuda(), *arguments)
