"""What every family promises, on every backend: torch, native CPU, CUDA C++ and Triton; without a GPU the
latter two run emulated and interpreted. The one definition of correctness is `cases.check`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import strategies as st
from lowbit import backends
from lowbit.backends import cuda
from lowbit.formats import PRECISIONS, CodebookVector, PackedWeight, Signs
from lowbit.ops import signs
from torch import Tensor

from tests.ops import cases, targets
from tests.ops.targets import Target

every_target = targets.on(*targets.ALL)
every_kind = pytest.mark.parametrize("kind", cases.KINDS)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)
precisions = st.sampled_from(PRECISIONS)
dtypes = st.sampled_from(cases.DTYPES)
group_sizes = st.sampled_from((-1, 32, 64, 128, 160))


@pytest.fixture(autouse=True)
def _one_thread(_restore_threads: None) -> None:
    """The references' tensors are small: waiting for a second thread takes longer than their work."""
    torch.set_num_threads(1)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, NaN included."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@every_target
@every_kind
def test_error_bound(target: Target, kind: str) -> None:
    """Over shapes, dtypes, strides and batches."""
    sizes = st.sampled_from(target.sizes)

    @target.given(
        n=sizes,
        k=sizes,
        m=st.integers(0, 33),
        seed=cases.seeds,
        precision=precisions,
        dtype=dtypes,
        scale_dtype=dtypes,
        strides=st.sampled_from(cases.STRIDES),
        group_size=group_sizes,
        bias=st.booleans(),
    )
    def holds(n, k, m, seed, precision, dtype, scale_dtype, strides, group_size, bias):
        options = {"group_size": group_size, "scale_dtype": scale_dtype, "bias": bias}
        layer = cases.make(kind, n, k, seed, target=target, **options)
        layer.check(cases.activations(m, k, dtype, seed, strides), precision)

    holds()


@every_target
@every_kind
@every_precision
def test_odd_shape(target: Target, kind: str, precision: str) -> None:
    """More than one tile or split of a row each way."""
    layer = cases.make(kind, 37, 1131, 3, target=target)
    layer.check(cases.activations(2, 1131, torch.bfloat16, 2), precision)


@targets.on("torch", "cpu", "emulated", "cuda", "triton_gpu")
@every_kind
@every_precision
def test_many_tokens(target: Target, kind: str, precision: str) -> None:
    """None, and around the number from which on GPUs expand the weight, with every kind of strides; the same
    bits in every run."""
    n, k = target.large
    layer = cases.make(kind, n, k, 5, target=target)
    for m, strides in zip((0, 257, 300, 256, 300), cases.STRIDES, strict=True):
        x = cases.activations(m, k, torch.bfloat16, m, strides)
        y = layer.check(x, precision)
        assert same_bits(y, layer.native(x, precision))


@targets.on("torch", "cpu", "emulated", "cuda", "triton_gpu")
@pytest.mark.parametrize("kind", ["signs", "onebit", "mos"])
def test_many_tokens_of_segments(target: Target, kind: str) -> None:
    n, k = target.large
    layers = [cases.make(kind, rows, k, rows, target=target) for rows in (n, 5, 64)]
    x = cases.activations(257, k, torch.float16, 1, "every second")
    arguments = segments(target, layers)
    y = target.operator("signs")(cases.moved(x, target.device), *arguments, PRECISIONS.index("high"))
    parts = y.cpu().split([layer.n for layer in layers], dim=-1)
    for layer, part in zip(layers, parts, strict=True):
        cases.check(layer, x, part, "high", target.eps("signs", "high", 257))


@targets.on("cpu", "emulated", "cuda")
@pytest.mark.parametrize("activation_bits", [1, 8])
def test_many_quantised_tokens(target: Target, activation_bits: int) -> None:
    """Their products stay integers."""
    n, k = target.large
    layer = cases.make("planes", n, k, 5, target=target)
    x = cases.activations(257, k, torch.float32, 5)
    layer.check(x, "high", activation_bits=activation_bits)


@every_target
def test_planes_bits(target: Target) -> None:
    """Every weight width, truncation and activation width."""

    @target.given(
        n=st.sampled_from(target.sizes),
        k=st.sampled_from(target.sizes),
        m=st.integers(1, 33),
        seed=cases.seeds,
        bits=st.integers(1, 8),
        drop=st.integers(0, 7),
        activation_bits=st.integers(0, 8),
        group_size=group_sizes,
        precision=precisions,
    )
    def holds(n, k, m, seed, bits, drop, activation_bits, group_size, precision):
        layer = cases.make("planes", n, k, seed, bits=bits, group_size=group_size, target=target)
        x = cases.activations(m, k, torch.float32, seed)
        layer.check(x, precision, active_bits=max(1, bits - drop), activation_bits=activation_bits)

    holds()


@targets.on("torch", "cpu", "emulated", "cuda", "triton_gpu")
@pytest.mark.parametrize("bits", range(1, 9))
def test_active_bits(target: Target, bits: int) -> None:
    layer = cases.make("planes", 18, 65, bits, bits=bits, group_size=-1, target=target)
    x = cases.activations(2, 65, torch.float32, bits)
    for active in range(1, bits + 1):
        layer.check(x, "high", active_bits=active)
    layer.check(x, "high", activation_bits=bits)


@every_target
@pytest.mark.parametrize("bits", range(1, 9))
def test_scalar_bits(target: Target, bits: int) -> None:
    layer = cases.make("outliers", 33, 131, bits, bits=bits, target=target)
    x = cases.activations(2, 131, torch.float32, bits)
    for precision in PRECISIONS:
        layer.check(x, precision)


@every_target
@pytest.mark.parametrize("kind", ["signs", "planes", "channel0", "channel1", "scalar", "outliers", "vector"])
def test_one_hot_inputs_read_the_weight(target: Target, kind: str) -> None:
    @target.given(
        n=st.sampled_from(target.sizes),
        k=st.sampled_from(target.sizes),
        seed=cases.seeds,
        group_size=group_sizes,
    )
    def holds(n, k, seed, group_size):
        layer = cases.make(kind, n, k, seed, group_size=group_size, bias=False, target=target)
        if kind.startswith("channel"):  # a low-rank part is a sum of its own
            packed = layer.packed
            alone = type(packed)(packed.weight, packed.labels, packed.axis, k, n)
            layer = cases.Layer(alone, None, target=target)
        weight = layer.packed.dequantize()
        rows = torch.randperm(k, generator=cases.generator(seed))[:16].tolist()
        y = layer.native(torch.eye(k)[rows], "exact")
        assert torch.equal(y.cpu(), weight[:, rows].T)

    holds()


@targets.on(*(name for name in targets.ALL if name != "torch"))
@every_kind
@every_precision
def test_a_row_does_not_depend_on_the_batch(target: Target, kind: str, precision: str) -> None:
    """Nor on the run."""
    layer = cases.make(kind, 70, 150, 7, target=target)
    x = cases.activations(target.alone, 150, torch.float16, 7)
    together = layer.native(x, precision)
    assert same_bits(together, layer.native(x, precision))
    for rows in (slice(0, 1), slice(3, 8)):
        assert same_bits(together[rows], layer.native(x[rows], precision))


@every_target
@every_kind
@every_precision
def test_a_bad_token_is_all_nan_and_alone(target: Target, kind: str, precision: str) -> None:
    layer = cases.make(kind, 70, 150, 7, target=target)
    x = cases.activations(4, 150, torch.float32, 7)
    clean = layer.native(x, precision)
    x[1, 149], x[2, 0] = torch.nan, -torch.inf
    y = layer.native(x, precision)
    assert bool(y[1:3].isnan().all())
    assert same_bits(y[[0, 3]], clean[[0, 3]])


@every_target
@every_kind
def test_zeros_and_subnormals(target: Target, kind: str) -> None:
    layer = cases.make(kind, 33, 150, 7, target=target)
    x = torch.zeros(2, 150)
    x[1] = 1e-42
    for precision in PRECISIONS:
        layer.check(x, precision)


@every_target
@every_kind
def test_no_tokens_and_leading_dimensions(target: Target, kind: str) -> None:
    layer = cases.make(kind, 5, 9, target=target)
    assert layer.native(torch.empty(0, 9), "high").shape == (0, 5)
    x = cases.activations(4, 9, torch.float32).reshape(2, 2, 9)
    assert same_bits(layer.native(x, "high").reshape(4, 5), layer.native(x.reshape(4, 9), "high"))
    layer.check(x[0, 0], "high")


def segments(target: Target, layers: list[cases.Layer]) -> tuple[object, ...]:
    """Arguments of signs_linear behind x, of layers of the family signs below each other."""
    packed = [layer.packed for layer in layers]
    sizes = [layer.n for layer in layers]

    def joined(name, join, dim):
        tensors = [getattr(p, name) for p in packed]
        return None if tensors[0] is None else join(tensors, dim).to(target.device)

    first = packed[0]
    assert isinstance(first, Signs)
    weight, scales = joined("weight", torch.cat, 0), joined("scales", torch.cat, 0)
    if target.backend != "torch":
        weight, scales = signs._tile(
            target.backend, weight, scales, sizes, first.in_features, first.group_size
        )
    mix = (
        joined("router", torch.stack, 0),
        joined("in_scales", torch.stack, 0),
        joined("out_scales", torch.cat, 1),
    )
    bias = torch.cat([layer.bias for layer in layers]).to(target.device)
    return weight, scales, *mix, bias, sizes, first.in_features, sum(sizes), first.group_size


@every_target
@pytest.mark.parametrize("kind", ["signs", "onebit", "mos"])
def test_segments_are_the_layers_apart(target: Target, kind: str) -> None:
    """Fused sibling layers give exactly what each gives alone."""
    largest = st.sampled_from([size for size in (1, 5, 64, 65, 100) if size <= max(target.sizes)])

    @target.given(
        parts=st.lists(largest, min_size=1, max_size=4),
        k=st.sampled_from(target.sizes),
        m=st.integers(1, 5),
        seed=cases.seeds,
        precision=precisions,
    )
    def holds(parts, k, m, seed, precision):
        layers = [cases.make(kind, n, k, seed + i, target=target) for i, n in enumerate(parts)]
        x = cases.activations(m, k, torch.bfloat16, seed).to(target.device)
        apart = torch.cat([layer.native(x, precision) for layer in layers], dim=-1)
        arguments = segments(target, layers)
        assert torch.equal(target.operator("signs")(x, *arguments, PRECISIONS.index(precision)), apart)

    holds()


@every_target
@every_kind
def test_layout_is_undone(target: Target, kind: str) -> None:
    layer = cases.make(kind, 50, 200, 7, target=target)
    backend, packed, metadata = backends.get(target.backend), layer.packed, layer.packed.metadata()
    laid_out = target.prepare(packed, any_bits=False)
    for name, tensor in backend.restore(laid_out, metadata).items():
        assert torch.equal(tensor.cpu(), packed.tensors()[name]), name
    ids = torch.tensor([3, 49, 0, 3, 17], device=target.device)
    assert torch.equal(backend.rows(laid_out, metadata, ids).cpu(), packed.dequantize()[ids.cpu()])
    assert backend.rows(laid_out, metadata, ids[:0]).shape == (0, 200)


def codebooks() -> Iterator[PackedWeight]:
    """Scalar ones of all bits with outliers, and vectors of other sizes."""
    for bits in range(1, 9):
        yield cases.make("outliers", 50, 300, 7, bits=bits).packed
    rng = cases.generator(8)
    for size, books in ((1, 1), (4, 3), (8, 1), (16, 2)):
        codes = torch.randint(256, (books, 50, -(-300 // size)), generator=rng, dtype=torch.uint8)
        tables = torch.randn(books, 256, size, generator=rng).half()
        yield CodebookVector(codes, tables, torch.randn(50, generator=rng).half(), 300)


@every_target
def test_rows_of_codebooks(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole weight is never restored for them, nor are the tiles of many at a time."""
    backend = backends.get(target.backend)
    ids = torch.tensor([3, 49, 0, 3, 17], device=target.device)
    monkeypatch.setattr(type(backend), "restore", None)
    monkeypatch.setattr(cuda, "_IDS_AT_A_TIME", 2)
    for packed in codebooks():
        rows = backend.rows(target.prepare(packed, any_bits=False), packed.metadata(), ids)
        assert torch.equal(rows.cpu(), packed.dequantize()[ids.cpu()]), packed.metadata()


@every_target
@every_kind
def test_gradients(target: Target, kind: str) -> None:
    """Those of the specification in fp64, for x and the bias."""
    layer = cases.make(kind, 70, 150, 11, scale_dtype=torch.float32, target=target)
    x = cases.activations(3, 150, torch.float32, 11).reshape(3, 1, 150)
    dy = torch.randn(3, 1, 70, generator=cases.generator(1))
    arguments = list(layer.arguments("exact"))
    position = next(
        i for i, a in enumerate(arguments) if isinstance(a, Tensor) and same_values(a, layer.bias)
    )

    x1 = x.clone().to(target.device).requires_grad_()
    bias1 = arguments[position] = layer.bias.clone().to(target.device).requires_grad_()
    layer.operator()(x1, *arguments).backward(dy.to(target.device))
    x2, bias2 = x.double().requires_grad_(), layer.bias.double().requires_grad_()
    layer.packed.linear(x2, bias2).backward(dy.double())
    torch.testing.assert_close(x1.grad.cpu().double(), x2.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias1.grad.cpu().double(), bias2.grad, rtol=1e-5, atol=1e-5)


def same_values(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.cpu(), b)


@every_target
@pytest.mark.parametrize("kind", ["mos", "planes", "scalar"])
def test_adapters_on_packed_weights_learn(target: Target, kind: str) -> None:
    """LoRA: two frozen layers with low-rank corrections; the gradients are the reference's."""
    layers = [cases.make(kind, 33, 33, seed, scale_dtype=torch.float32, target=target) for seed in (1, 2)]
    x = cases.activations(4, 33, torch.float32, 5) / 4
    low = [torch.randn(33, 2, generator=cases.generator(seed)) / 8 for seed in range(4)]

    def gradients(product, dtype, device):
        matrices = [matrix.clone().to(device, dtype).requires_grad_() for matrix in low]
        h = x.to(device, dtype)
        for layer, down, up in zip(layers, matrices[::2], matrices[1::2], strict=True):
            h = torch.tanh(product(layer, h) / 8 + h @ down @ up.T)
        h.square().sum().backward()
        return [matrix.grad.cpu().double() for matrix in matrices]

    found = gradients(lambda layer, h: layer.native(h, "exact"), torch.float32, target.device)
    expected = gradients(
        lambda layer, h: layer.packed.linear(h, layer.bias.double()), torch.float64, torch.device("cpu")
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert b.abs().max() > 1e-3


@targets.on(*(name for name in targets.ALL if name != "torch"))
@every_kind
def test_opcheck(target: Target, kind: str) -> None:
    """Schema, fake and gradient as torch checks them."""
    layer = cases.make(kind, 33, 50, 11, scale_dtype=torch.float32, target=target)
    x = cases.activations(3, 50, torch.float32, 11).to(target.device)
    arguments = layer.arguments("exact")
    torch.library.opcheck(layer.operator(), (x.clone().requires_grad_(), *arguments))
    if target.backend != "triton":  # whose operators have no `_out` twin
        torch.library.opcheck(layer.operator("_out"), (x, *arguments, x.new_empty(3, 33)))


@targets.on("emulated", "cuda")
def test_opcheck_of_layouts(target: Target) -> None:
    """What lays out weights for the CUDA kernels, and undoes that. Bytes behind the last tile may be any."""
    layouts = cuda._layouts()

    def check(name: str, *arguments: Tensor | int) -> None:
        same_values = ("test_aot_dispatch_dynamic",) if "restore" in name else ()
        tests = ("test_schema", "test_autograd_registration", "test_faketensor", *same_values)
        torch.library.opcheck(getattr(layouts, name).default, arguments, test_utils=tests)

    for bits, one_bit_digits in ((1, False), (3, False), (3, True)):
        planes = cases.make("planes", 33, 300, 1, bits=bits).packed.weight.to(target.device)
        check("cuda_repack_bits", planes, 300, one_bit_digits)
        check("cuda_restore_bits", cuda.repack_bits(planes, 300, one_bit_digits), 300, 33)
    for packed in codebooks():
        tensors = {name: tensor.to(target.device) for name, tensor in packed.tensors().items()}
        if packed.kind == "codebook_scalar":
            weight, tables = tensors["weight"], tensors["tables"]
            check("cuda_repack_scalar", weight, tables, 300)
            check("cuda_restore_scalar", cuda.repack_scalar(weight, tables, 300), tables, 300)
        else:
            weight, tables = tensors["weight"], tensors["codebooks"]
            check("cuda_repack_vector", weight, tables, 300)
            check("cuda_restore_vector", cuda.repack_vector(weight, tables, 300), tables, 300, 50)


@targets.on("cpu", "emulated", "cuda")
@every_kind
@pytest.mark.parametrize("m", [1, 5, 40])
def test_out_is_the_same(target: Target, kind: str, m: int) -> None:
    layer = cases.make(kind, 70, 150, 7, target=target)
    x = cases.activations(m, 150, torch.float32, 7).to(target.device)
    for precision in PRECISIONS:
        expected = layer.native(x, precision)
        arguments = layer.arguments(precision)
        for out in (x.new_empty(m, 70), x.new_empty(70, m).T, x.new_empty(m, 99)[:, 3:73]):
            assert layer.operator("_out")(x, *arguments, out) is None
            assert torch.equal(out, expected)
