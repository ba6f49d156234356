"""What `explain` says of kernels, bytes and times; GPUs here are described, not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace

import lowbit
import pytest
import torch
from lowbit import backends
from lowbit._explain import LayerExplanation
from lowbit.backends import cpu, cuda, cuda_plan
from lowbit.backends.cuda import CudaBackend
from lowbit.backends.triton import WHY_OLDEST, TritonBackend
from lowbit.bandwidth import Bandwidth, bandwidth
from lowbit.modules import QuantizedLinear, TiedEmbedding, make_linear
from torch import nn

from tests.emulated.device import BUILD
from tests.native import without_emulated
from tests.ops import cases, targets

H100, A100 = cuda_plan.Gpu(90, 132), cuda_plan.Gpu(80, 108)


def explained(module: nn.Module) -> LayerExplanation:
    (layer,) = lowbit.explain(module).layers
    return layer


# ---- bytes and times ----


@pytest.fixture
def rate(monkeypatch: pytest.MonkeyPatch) -> float:
    """Bytes in a microsecond."""
    monkeypatch.setattr("lowbit._explain.bandwidth", lambda device: Bandwidth(250e6, "made up"))
    return 250.0


def planes(n: int, k: int, bits: int) -> QuantizedLinear:
    packed = lowbit.BipolarInt(weight_bits=bits, group_size=32).quantize(torch.randn(n, k))
    return make_linear(packed, dtype=torch.float32, backend="torch")


def test_bytes_of_a_token(rate: float) -> None:
    """Planes that are not used are not read."""
    module = planes(64, 256, 4)
    weight, scales = 4 * 64 * 256 // 8, 64 * 256 // 32 * module.get_buffer("scales").element_size()
    layer = explained(module)
    assert (layer.nbytes, layer.read_bytes) == (weight + scales, weight + scales)
    assert layer.microseconds == pytest.approx((weight + scales) / rate)
    module.active_bits = 1
    layer = explained(module)
    assert (layer.nbytes, layer.read_bytes) == (weight + scales, weight // 4 + scales)
    assert layer.microseconds == pytest.approx((weight / 4 + scales) / rate)


def test_an_embedding_reads_a_row(rate: float) -> None:
    head = planes(64, 256, 4)
    model = nn.ModuleList([TiedEmbedding(head, dtype=torch.float32), head])
    embedding, _ = lowbit.explain(model).layers
    assert (embedding.nbytes, embedding.read_bytes) == (0, head.nbytes // 64)
    assert embedding.microseconds == pytest.approx(head.nbytes // 64 / rate)
    assert embedding.precision == "-"


def test_the_table_says_where_times_come_from(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module = planes(64, 3904, 8)
    text = str(lowbit.explain(module))
    us = explained(module).read_bytes / rate
    assert f"{us:.1f} us" in text
    assert "estimate: bytes read / 0.2 GB/s (made up); arithmetic and launches not counted" in text
    monkeypatch.setattr("lowbit._explain.bandwidth", lambda device: None)
    explanation = lowbit.explain(module)
    assert explanation.layers[0].microseconds is None
    assert "estimate:" not in str(explanation)
    assert explanation.to_dict()["bandwidth"] is None


def test_bandwidth_of_the_cpu() -> None:
    """Measured, once."""
    found = bandwidth(torch.device("cpu"))
    assert found is not None
    assert 1e8 < found.bytes_per_second < 1e13
    assert found.source == f"measured with {torch.get_num_threads()} threads"
    assert bandwidth(torch.device("cpu")) is found


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        # An A100 with 40 GB: 1,215 MHz, 5,120 bits, two transfers a clock.
        ({"memory_clock_rate": 1_215_000, "memory_bus_width": 5120}, 1.5552e12),
        ({"memory_clock_rate": 0, "memory_bus_width": 5120}, None),
        ({}, None),
    ],
)
def test_bandwidth_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, properties: dict, expected: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**properties))
    found = bandwidth.__wrapped__(torch.device("cuda", 0))
    assert found == (None if expected is None else Bandwidth(expected, "stated by the driver"))


def test_bandwidth_of_anything_else() -> None:
    assert bandwidth(torch.device("meta")) is None


@pytest.mark.parametrize(
    ("kind", "precision", "options", "reason"),
    [
        ("mos", "fast", {}, "by avx512 up to 4 tokens, in tiles of amx from 5 on"),
        ("planes", "fast", {"bits": 4}, "by avx512 up to 5 tokens, in tiles of amx from 6 on"),
        ("planes", "fast", {"bits": 8}, "by avx512 up to 15 tokens, in tiles of amx from 16 on"),
        ("planes", "high", {"bits": 4}, "by avx512 up to 2 tokens, in tiles of amx from 3 on"),
        ("planes", "exact", {"bits": 4}, "by avx512"),
        ("scalar", "fast", {}, "by avx512 up to 47 tokens, in tiles of amx from 48 on"),
        ("scalar", "fast", {"scale_dtype": torch.float32}, "by avx512"),
        ("scalar", "high", {}, "by avx512"),
        ("vector", "fast", {}, "by avx512; 48 tokens or more in tiles of amx where rows are expanded"),
        ("vector", "high", {}, "by avx512"),
        ("channel0", "fast", {}, "by avx512; 48 tokens or more in tiles of amx where rows are expanded"),
        ("channel1", "fast", {}, "by avx512"),
    ],
)
def test_what_amx_computes(
    kind: str, precision: str, options: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = pytest.importorskip("lowbit._native", reason="installed without native kernels")
    monkeypatch.setattr(cpu, "instruction_set", lambda: "amx")
    # What the library says of a machine that has it.
    monkeypatch.setattr(
        native, "tile_columns", lambda active_bits: 5 if active_bits < 3 else 6 if active_bits < 8 else 16
    )
    layer = cases.make(kind, 256, 1024, 1, **options)
    module = make_linear(layer.packed, dtype=torch.float16, backend="cpu", precision=precision)
    own = explained(module).reason.partition(f"{module.kind}_linear: ")[2]
    assert own == reason
    monkeypatch.setattr(cpu, "instruction_set", lambda: "avx512")
    assert "linear: " not in explained(module).reason


@pytest.mark.parametrize(
    ("kind", "tables", "error", "found"),
    [
        ("codebook_table", "float16", lowbit.ValueRangeError, "unknown kind; found codebook_table"),
        ("codebook_scalar", "float8", lowbit.DtypeError, "unknown dtype; found float8"),
    ],
)
def test_tiles_of_what_there_is_not(kind: str, tables: str, error: type[Exception], found: str) -> None:
    native = pytest.importorskip("lowbit._native", reason="installed without native kernels")
    with pytest.raises(error, match=found):
        native.codebook_tile_tokens(kind, "float16", tables, "fast", 0)


# ---- CUDA C++: what the library's plan says ----


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A GPU of which there is only the description; its tensors are on the CPU."""
    library = BUILD / "liblowbit_emulated.so"
    if without_emulated:
        pytest.skip(without_emulated)
    assert targets.load(targets.EMULATED) is None, "built, and does not load"
    monkeypatch.setattr(cuda, "_layouts", lambda: torch.ops.lowbit_emulated)
    monkeypatch.setattr(cuda_plan, "LIBRARY", library)
    cuda_plan._library.cache_clear()
    described = SimpleNamespace(gpu=H100)
    monkeypatch.setattr(cuda, "gpu_of", lambda device: described.gpu)
    yes = backends.Availability(True, "CUDA kernels, made up")
    monkeypatch.setattr(CudaBackend, "supports", lambda *arguments, **options: yes)
    monkeypatch.setattr(CudaBackend, "operator", lambda *arguments: None)
    yield described
    cuda_plan._library.cache_clear()


def on_gpu(kind: str, precision: str = "high", **options: object) -> QuantizedLinear:
    layer = cases.make(kind, 256, 1024, 1, **options)
    return make_linear(layer.packed, layer.bias, dtype=torch.float16, backend="cuda", precision=precision)


def test_kernel_of_the_gpu(gpu: SimpleNamespace) -> None:
    """One-bit products where their rate is known; the reasons against them where it is not."""
    module = on_gpu("mos")
    layer = explained(module)
    assert (layer.backend, layer.kernel) == ("cuda", "imma_gemv")
    assert layer.reason.startswith("forced; CUDA kernels, made up; imma_gemv: ")
    assert "; not b1_gemv: the rate of one-bit products is unmeasured on sm_90" in layer.reason
    assert {"gemm", "fp32", "matmul"} < set(re.findall(r"not (\w+): ", layer.reason))
    gpu.gpu = A100
    assert explained(module).kernel == "b1_gemv"


def test_kernel_of_many_tokens(gpu: SimpleNamespace) -> None:
    """Of the operators, which hand torch's product over."""
    layer = cases.make("mos", 256, 1024, 1, target=targets.EMULATED)
    for tokens, kernel in ((256, "gemm"), (257, "matmul")):
        found = CudaBackend().choose("signs", torch.empty(tokens, 1024), layer.arguments("high"))
        assert found.kernel == kernel


def test_kernel_of_the_arguments(gpu: SimpleNamespace) -> None:
    assert explained(on_gpu("mos", "exact")).kernel == "fp32"
    gpu.gpu = A100
    module = on_gpu("planes", bits=2, group_size=-1)
    assert "not b1_gemv: the weight has digits of more than one bit" in explained(module).reason
    module.active_bits = 1  # laid out anew, in digits of one bit
    assert explained(module).kernel == "b1_gemv, 1 of 2 planes"
    grouped = explained(on_gpu("planes", bits=1, group_size=128))
    assert "not b1_gemv: the weight has a scale for every 128" in grouped.reason


@pytest.mark.parametrize(
    ("kind", "precision", "kernel", "other"),
    [
        ("channel0", "high", "gather", "label_sums"),
        ("channel1", "high", "label_sums", "gather"),
        ("scalar", "high", "selectors", "fp32"),
        ("outliers", "exact", "fp32", "selectors"),
        ("vector", "high", "tensor", "fp32"),
        ("vector", "exact", "fp32", "tensor"),
    ],
)
def test_kernel_of_a_codebook(
    gpu: SimpleNamespace, kind: str, precision: str, kernel: str, other: str
) -> None:
    layer = explained(on_gpu(kind, precision))
    assert layer.kernel == kernel
    assert f"; {kernel}: " in layer.reason
    assert f"; not {other}: " in layer.reason


def test_what_the_library_refuses(gpu: SimpleNamespace) -> None:
    gpu.gpu = cuda_plan.Gpu(75, 40)
    layer = explained(on_gpu("signs"))
    assert layer.kernel == "none"
    assert "compute capability 7.5; the CUDA kernels need 8.0 or newer" in layer.reason


# ---- Triton: what would be launched ----


@pytest.mark.parametrize("kind", ["mos", "planes", "vector"])
def test_what_triton_refuses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 7.5: another backend runs, and the table tells why."""
    supports = TritonBackend.supports

    def on_old_gpu(
        self: TritonBackend, kind: str, device: object, *others: object, **options: bool
    ) -> object:
        return supports(self, kind, torch.device("cuda", 0), *others, **options)

    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    found = backends.Availability(True, "Triton 3.7.1")
    monkeypatch.setattr(TritonBackend, "available", lambda self: found)
    monkeypatch.setattr(TritonBackend, "supports", on_old_gpu)
    layer = cases.make(kind, 256, 1024, 1)
    module = make_linear(layer.packed, layer.bias, dtype=torch.float16)
    assert module.backend != "triton"
    assert f"needs compute capability 8.0 or newer ({WHY_OLDEST})" in str(lowbit.explain(module))


@pytest.mark.parametrize(
    ("kind", "precision", "kernel"),
    [
        ("mos", "high", "prologue + product 128x8 + combine 64x8"),
        ("planes", "exact", "prologue + exact 32x16 + combine 64x8"),
        ("scalar", "high", "prologue + scalar_selectors 128x16 + finish_kernel 128x1"),
    ],
)
def test_kernels_of_triton(kind: str, precision: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from lowbit.triton_kernels.gpu import Gpu, assume
    from lowbit.tuning import Tiles

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    layer = cases.make(kind, 256, 4100, 1)
    module = make_linear(layer.packed, layer.bias, dtype=torch.float16, backend="triton", precision=precision)
    assert explained(module).kernel == kernel
    with assume(Gpu(1)):  # nothing is gained by dividing rows
        assert "combine" not in explained(module).kernel
    if kind == "mos":
        table = {"integers 256 x 4100, 1 bits, 2 columns": Tiles(1, 64, 4, 2)}
        for gpu, origin in (
            (Gpu(1, table), "measured on this GPU"),
            (Gpu(1, shipped=table), "estimated, shipped"),
            (Gpu(1), "from shape and GPU"),
        ):
            with assume(gpu):
                layer = explained(module)
            assert layer.kernel == f"prologue + product {64 if gpu != Gpu(1) else 128}x8"
            assert layer.reason.endswith(f"{layer.kernel}: tiles {origin}")
