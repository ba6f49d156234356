"""Packed linear layers as modules: results, attributes, errors."""

from __future__ import annotations

import pytest
import torch
from lowbit.errors import BackendError, DtypeError, ShapeError, UnsupportedLayerError, ValueRangeError
from lowbit.formats import packed_from_tensors
from lowbit.modules import (
    CodebookLinear,
    PackedEmbedding,
    PackedModule,
    PlanesLinear,
    QuantizedLinear,
    SignsLinear,
    TiedEmbedding,
    make_linear,
)
from lowbit.schemes import BipolarInt, GroupedSigns, OneBit, ScalarCodebook, Scheme
from torch import Tensor, nn


@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
def test_forward_is_the_format_s_product(layer: QuantizedLinear, x: Tensor, precision: str) -> None:
    layer.precision = precision
    options = {}
    if isinstance(layer, PlanesLinear):
        options = {"activation_bits": layer.activation_bits}
    expected = layer.packed().linear(x, layer.bias, precision=precision, **options)
    y = layer(x)
    assert y.shape == (2, 3, 70)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(layer: QuantizedLinear, x: Tensor, dtype: torch.dtype) -> None:
    layer.to(dtype)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    options = {"activation_bits": layer.activation_bits} if isinstance(layer, PlanesLinear) else {}
    expected = layer.packed().linear(
        x.to(dtype).float(), layer.bias.float(), precision=layer.precision, **options
    )
    assert (y.float() - expected).norm() < torch.finfo(dtype).eps * expected.norm()


def test_describes_itself(layer: QuantizedLinear, scheme: Scheme, backend: str) -> None:
    assert (layer.in_features, layer.out_features) == (100, 70)
    assert layer.backend == backend
    assert layer.backend_reason.startswith("forced")
    assert layer.scheme == scheme
    assert layer.device == torch.device("cpu")
    packed = packed_from_tensors(layer.canonical_tensors(), layer.metadata)
    assert layer.bits_per_weight == packed.bits_per_weight
    assert layer.group_size == packed.group_size
    assert torch.equal(layer.dequantize(), packed.dequantize())
    assert layer.dequantize().shape == (70, 100)
    text = repr(layer)
    for part in (scheme.name, "in_features=100", "precision=fast", f"backend={backend}"):
        assert part in text
    assert layer.nbytes == sum(buffer.nbytes for buffer in layer.buffers())


def test_classes_follow_the_family() -> None:
    weight = torch.randn(8, 32)
    assert type(make_linear(OneBit().quantize(weight))) is SignsLinear
    assert type(make_linear(BipolarInt(2, group_size=32).quantize(weight))) is PlanesLinear
    assert issubclass(CodebookLinear, QuantizedLinear)


def test_the_packed_weight_is_in_memory_once(layer: QuantizedLinear, backend: str) -> None:
    weight = layer.get_buffer("weight")
    if backend == "cpu" and layer.kind in ("signs", "planes"):
        assert weight.dim() == 5
    else:
        assert torch.equal(weight, layer.canonical_tensors()["weight"])
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert set(dict(layer.named_buffers())) == set(layer.canonical_tensors())


def test_any_leading_dimensions(layer: QuantizedLinear) -> None:
    for shape in [(100,), (0, 100), (1, 100), (2, 1, 4, 100)]:
        assert layer(torch.randn(shape)).shape == (*shape[:-1], 70)
    strided = torch.randn(100, 5).T
    torch.testing.assert_close(layer(strided), layer(strided.contiguous()))


def test_a_token_with_a_nan_is_nan_and_the_others_are_not(layer: QuantizedLinear, x: Tensor) -> None:
    clean = layer(x)
    x[1, 2, 5] = float("nan")
    y = layer(x)
    assert y[1, 2].isnan().all()
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[1, 2] = False
    assert torch.equal(y[mask], clean[mask])


def test_precision_attribute(layer: QuantizedLinear) -> None:
    assert layer.precision == "fast"
    layer.precision = "exact"
    assert layer.precision == "exact"
    layer.precision = None
    assert layer.precision == "fast"
    with pytest.raises(ValueRangeError, match=r"layer 'layer'.*found 'best'; allowed fast, high, exact"):
        layer.precision = "best"


def test_active_bits_reads_the_first_planes(backend: str, x: Tensor) -> None:
    packed = BipolarInt(4, group_size=32, asymmetric=True).quantize(torch.randn(70, 100))
    layer = make_linear(packed, precision="exact", backend=backend)
    assert isinstance(layer, PlanesLinear)
    assert (layer.bits, layer.active_bits) == (4, 4)
    assert "active" not in repr(layer)
    full = layer(x)
    layer.active_bits = 2
    assert "active_bits=2" in repr(layer)
    torch.testing.assert_close(layer(x), packed.linear(x, active_bits=2), rtol=1e-4, atol=1e-4)
    layer.active_bits = None
    assert torch.equal(layer(x), full)
    for wrong in (0, 5, 2.0, "2", True):
        message = rf"active_bits; found {wrong!r}; allowed an integer 1\.\.4"
        with pytest.raises(ValueRangeError, match=message):
            layer.active_bits = wrong  # type: ignore[assignment]
    assert layer.active_bits == 4


@pytest.mark.parametrize("scheme", [ScalarCodebook(bits=3), OneBit()])
def test_active_bits_of_what_is_not_nested(scheme: Scheme) -> None:
    layer = make_linear(scheme.quantize(torch.randn(8, 32)), name="head")
    _refuses_bits(layer)


def test_active_bits_of_an_embedding() -> None:
    packed = BipolarInt(4).quantize(torch.randn(8, 32))
    own = PackedEmbedding(packed, dtype=torch.float32, name="head")
    tied = TiedEmbedding(own, dtype=torch.float32)
    for embedding in (own, tied):
        _refuses_bits(embedding)
        with pytest.raises(
            ValueRangeError, match=r"precision of a .*Embedding of planes.*only a linear layer"
        ):
            embedding.precision = "exact"
        with pytest.raises(DtypeError, match=r"wrong dtype of the ids; found torch.float32"):
            embedding(torch.rand(2, 3))


def _refuses_bits(module: PackedModule | TiedEmbedding) -> None:
    for name in ("active_bits", "activation_bits"):
        with pytest.raises(ValueRangeError, match=rf"{name} of a .*only a PlanesLinear has it"):
            setattr(module, name, 2)
        setattr(module, name, None)
        assert not hasattr(module, name)


def test_activation_bits_come_from_the_scheme_and_can_change(backend: str, x: Tensor) -> None:
    scheme = BipolarInt(2, 3, group_size=-1)
    layer = make_linear(scheme.quantize(torch.randn(70, 100)), scheme=scheme, backend=backend)
    assert isinstance(layer, PlanesLinear)
    assert layer.activation_bits == 3
    coarse = layer(x)
    layer.activation_bits = 8
    assert not torch.equal(layer(x), coarse)
    layer.activation_bits = None
    assert torch.equal(layer(x), coarse)
    for wrong in (9, -1, 2.0, False):
        with pytest.raises(ValueRangeError, match=f"activation_bits; found {wrong}"):
            layer.activation_bits = wrong  # type: ignore[assignment]


def test_bias_none_and_the_caller_s_parameter() -> None:
    packed = GroupedSigns(32).quantize(torch.randn(8, 32))
    assert make_linear(packed).bias is None
    bias = nn.Parameter(torch.zeros(8))
    assert make_linear(packed, bias).bias is bias


def test_layers_may_share_the_packed_weight(layer: QuantizedLinear, x: Tensor) -> None:
    twin = layer.sharing_weight(None, "twin")
    handle = twin.register_forward_hook(lambda module, args, output: output * 0)
    assert layer(x).any()
    handle.remove()
    assert twin.get_buffer("weight") is layer.get_buffer("weight")
    assert twin.bias is None
    assert layer.bias is not None
    torch.testing.assert_close(twin(x) + layer.bias, layer(x))


def test_wrong_arguments() -> None:
    packed = GroupedSigns(32).quantize(torch.randn(8, 32))
    with pytest.raises(ShapeError, match=r"layer 'up'.*bias; found \[7\]; allowed \[8\]"):
        make_linear(packed, torch.zeros(7), name="up")
    with pytest.raises(DtypeError, match="floating dtype"):
        make_linear(packed, dtype=torch.int8)
    with pytest.raises(ValueRangeError, match="unknown precision"):
        make_linear(packed, precision="low")
    with pytest.raises(BackendError, match=r"layer 'up'.*'cuda' cannot run"):
        make_linear(packed, backend="cuda", name="up")
    with pytest.raises(BackendError, match="names no backend"):
        make_linear(packed, backend="metal")


def test_wrong_inputs(layer: QuantizedLinear) -> None:
    with pytest.raises(ShapeError, match=r"layer 'layer'.*found \[2, 99\]; allowed \[\.\.\., 100\]"):
        layer(torch.randn(2, 99))
    with pytest.raises(ShapeError, match="wrong shape of the input"):
        layer(torch.tensor(1.0))
    with pytest.raises(DtypeError, match=r"layer 'layer'.*found torch.int64; allowed torch.float32"):
        layer(torch.ones(2, 100, dtype=torch.int64))
    with pytest.raises(DtypeError, match=r"layer 'layer'.*no tensor; found ndarray; allowed torch.Tensor"):
        layer(torch.ones(2, 100).numpy())


def test_double_input_to_native_kernels() -> None:
    layer = make_linear(OneBit().quantize(torch.randn(8, 32)), backend="cpu", name="up")
    kernels = "torch.float32, torch.float16, torch.bfloat16"
    with pytest.raises(DtypeError, match=rf"layer 'up'.*'cpu'; found torch.float64; allowed {kernels}$"):
        layer(torch.randn(2, 32, dtype=torch.float64))


def test_a_packed_weight_is_not_overwritten_by_a_parameter(layer: QuantizedLinear, x: Tensor) -> None:
    before = layer(x)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'layer'.*cannot be replaced by a parameter"):
        layer.weight = nn.Parameter(torch.randn(70, 100))
    assert torch.equal(layer(x), before)
