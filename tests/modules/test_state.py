"""State dicts, copies, moves: the packed bytes survive all of them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from lowbit import backends
from lowbit.errors import BackendError
from lowbit.formats import packed_from_tensors
from lowbit.modules import QuantizedLinear, make_linear, meta_weight
from lowbit.schemes import BipolarInt, OneBit
from torch import Tensor, nn


def test_state_dict_is_canonical_whatever_the_backend(layer: QuantizedLinear) -> None:
    state = layer.state_dict()
    bias = state.pop("bias")
    assert torch.equal(bias, layer.bias)
    packed = packed_from_tensors(state, layer.metadata)
    assert torch.equal(packed.dequantize(), layer.dequantize())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("target", ["cpu", "torch"])
def test_load_state_dict_into_either_backend(
    layer: QuantizedLinear, x: Tensor, target: str, assign: bool
) -> None:
    other = make_linear(
        meta_weight(layer.metadata), torch.zeros(70), scheme=layer.scheme, backend=target, name="other"
    )
    assert other.device.type == "meta"
    result = other.load_state_dict(layer.state_dict(), assign=assign)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert other.backend == target
    assert other.device.type == "cpu"
    torch.testing.assert_close(other(x), layer(x), rtol=1e-4, atol=1e-4)


def test_load_state_dict_copies(layer: QuantizedLinear, x: Tensor) -> None:
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    other = copy.deepcopy(layer)
    other.load_state_dict(state)
    before = other(x)
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(other(x), before)


def test_load_state_dict_reports_what_is_wrong(layer: QuantizedLinear, x: Tensor) -> None:
    before = layer(x)
    model = nn.Sequential(layer)
    state = model.state_dict()
    missing = {name: tensor for name, tensor in state.items() if name != "0.weight"}
    assert model.load_state_dict(missing, strict=False).missing_keys == ["0.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"0.weight"'):
        model.load_state_dict(missing)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"0.more"'):
        model.load_state_dict(state | {"0.more": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="layer '0': wrong shape of 'weight'"):
        model.load_state_dict(state | {"0.weight": state["0.weight"][:-1]})
    floats = next(name for name, tensor in state.items() if tensor.dtype == torch.float16)
    with pytest.raises(RuntimeError, match="layer '0': non-finite values"):
        model.load_state_dict(state | {floats: state[floats] * float("nan")})
    assert torch.equal(layer(x), before)


def test_a_part_that_is_wrong_leaves_the_whole_layer_as_it_was(layer: QuantizedLinear, x: Tensor) -> None:
    before = layer(x)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(RuntimeError, match="wrong shape of 'weight'"):
        layer.load_state_dict(state | {"bias": torch.ones(70), "weight": state["weight"][:-1]})
    assert torch.equal(layer(x), before)
    other = {name: tensor * 0 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        layer.load_state_dict(other | {"bias": torch.ones(71)})
    assert torch.equal(layer(x), before)


def test_deepcopy_and_pickle(layer: QuantizedLinear, x: Tensor) -> None:
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), y)
        assert other.get_buffer("weight").data_ptr() != layer.get_buffer("weight").data_ptr()
        assert other.backend == layer.backend


def test_unpickled_without_native_kernels(monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    layer = make_linear(BipolarInt(4, group_size=32).quantize(torch.randn(70, 100)))
    y, data = layer(x), pickle.dumps(layer)
    gone = backends.Availability(False, "no compiler at installation")
    monkeypatch.setattr(type(backends.get("cpu")), "available", lambda self: gone)
    other = pickle.loads(data)
    assert other.backend == "torch"
    assert "no compiler" in other.backend_reason
    torch.testing.assert_close(other(x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float"])
def test_casts_leave_the_packed_tensors_alone(layer: QuantizedLinear, cast: str) -> None:
    before = layer.canonical_tensors()
    getattr(nn.Sequential(layer), cast)()
    assert layer.dtype == layer.bias.dtype == torch.tensor(0.0).__getattribute__(cast)().dtype
    for name, tensor in layer.canonical_tensors().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_double_goes_to_the_backend_that_can(x: Tensor) -> None:
    layer = make_linear(OneBit().quantize(torch.randn(70, 100)), precision="exact")
    assert layer.backend == "cpu"
    weight = layer.canonical_tensors()["weight"]
    layer.double()
    assert layer.backend == "torch"
    assert torch.equal(layer.get_buffer("weight"), weight)
    assert layer(x.double()).dtype == torch.float64
    layer.float()
    assert layer.backend == "cpu"
    assert layer.get_buffer("weight").dim() == 5


def test_a_forced_backend_that_cannot_follow_is_an_error() -> None:
    layer = make_linear(OneBit().quantize(torch.randn(70, 100)), backend="cpu", name="q")
    with pytest.raises(BackendError, match=r"layer 'q'.*float64"):
        layer.double()
    assert layer.dtype == torch.float32
    assert layer.backend == "cpu"


def test_off_the_cpu_the_layout_is_canonical(layer: QuantizedLinear, x: Tensor, backend: str) -> None:
    y, state = layer(x), layer.state_dict()
    shapes = {name: tensor.shape for name, tensor in layer.canonical_tensors().items()}
    layer.to("meta")
    assert {name: tensor.shape for name, tensor in layer.named_buffers()} == shapes
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    layer.to_empty(device="cpu")
    assert layer.backend == backend
    layer.load_state_dict(state)
    assert torch.equal(layer(x), y)
