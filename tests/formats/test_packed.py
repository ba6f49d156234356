"""What every packed format promises: rows, linear, storage, checkpoint round trip."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from lowbit.errors import ShapeError, ValueRangeError
from lowbit.formats import PackedWeight, packed_from_tensors

from tests.formats.samples import SAMPLES, K, N, binary_mos

samples = pytest.mark.parametrize("name", SAMPLES)


@samples
def test_checkpoint_round_trip(name: str) -> None:
    packed = SAMPLES[name]()
    packed.validate("a.b")
    metadata = json.loads(json.dumps(packed.metadata()))
    again = packed_from_tensors(packed.tensors(), metadata, "a.b")
    assert type(again) is type(packed)
    assert again.metadata() == packed.metadata()
    assert torch.equal(again.dequantize(), packed.dequantize())
    specs = type(packed).expected(metadata)
    assert {name: (tuple(t.shape), t.dtype) for name, t in packed.tensors().items()} == specs


@samples
def test_identity_reproduces_the_weight(name: str) -> None:
    packed = SAMPLES[name]()
    if name == "binary_mos":  # even gates, as dequantize() assumes
        packed = dataclasses.replace(packed, router=torch.zeros_like(packed.tensors()["router"]))
    weight = packed.dequantize()
    assert weight.shape == (N, K)
    assert weight.dtype == torch.float32
    found = packed.linear(torch.eye(K)).T
    if name in ("channel_rows", "channel_columns"):  # sums over the rank
        torch.testing.assert_close(found, weight)
    else:
        assert torch.equal(found, weight)


@samples
def test_rows_are_rows_of_dequantize(name: str) -> None:
    packed = SAMPLES[name]()
    ids = torch.tensor([3, 0, 3, N - 1])
    torch.testing.assert_close(packed.rows(ids), packed.dequantize()[ids], rtol=1e-6, atol=0)
    assert packed.rows(ids[:0]).shape == (0, K)
    with pytest.raises(ValueRangeError, match=rf"row number.*; found -1\.\.0; allowed 0\.\.{N - 1}"):
        packed.rows(torch.tensor([0, -1]))


@samples
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_linear_is_a_linear_layer(name: str, dtype: torch.dtype) -> None:
    packed = SAMPLES[name]()
    x = torch.randn(2, 3, K, generator=torch.Generator().manual_seed(5)).to(dtype)
    bias = torch.randn(N)
    reference = packed.linear(x.double(), bias)
    for precision, tolerance in (("exact", 2e-6), ("high", 1e-4), ("fast", 2e-2)):
        y = packed.linear(x, bias, precision=precision)
        assert y.shape == (2, 3, N)
        assert y.dtype == dtype
        error = (y.double() - reference).norm() / reference.norm()
        assert error < tolerance + torch.finfo(dtype).eps
    assert packed.linear(x[:, :0]).shape == (2, 0, N)
    strided = torch.randn(K, 4).T.to(dtype)
    torch.testing.assert_close(packed.linear(strided), packed.linear(strided.contiguous()))


@samples
@pytest.mark.parametrize("precision", ["exact", "high", "fast"])
def test_non_finite_token_gives_a_nan_row(name: str, precision: str) -> None:
    x = torch.randn(3, K)
    x[1, 5] = torch.inf
    y = SAMPLES[name]().linear(x, precision=precision)
    assert bool(y[1].isnan().all())
    assert bool(y[[0, 2]].isfinite().all())


@samples
def test_gradient_of_the_input(name: str) -> None:
    packed = SAMPLES[name]()
    x = torch.randn(2, K, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(packed.linear, (x,), fast_mode=True)
    fast = torch.randn(2, K, requires_grad=True)
    packed.linear(fast, precision="fast").square().sum().backward()
    assert bool(fast.grad.isfinite().all())
    assert bool(fast.grad.any())


@samples
def test_storage_counts_every_tensor(name: str) -> None:
    packed = SAMPLES[name]()
    total = sum(t.numel() * t.element_size() for t in packed.tensors().values())
    assert packed.nbytes == total
    assert packed.bits_per_weight == 8 * total / (N * K)


@samples
def test_repr_shows_shapes_instead_of_values(name: str) -> None:
    packed = SAMPLES[name]()
    shown = repr(packed)
    assert shown.startswith(f"{type(packed).__name__}(weight=")
    assert f"weight=uint8{list(packed.weight.shape)}" in shown or packed.weight.dtype != torch.uint8
    assert "tensor(" not in shown
    assert all(f"{key}=" in shown for key in packed.tensors())


@samples
def test_wrong_calls_are_refused(name: str) -> None:
    packed: PackedWeight = SAMPLES[name]()
    with pytest.raises(ShapeError, match=rf"shape of the input; found \[2, 5\]; allowed \[\.\.\., {K}\]"):
        packed.linear(torch.ones(2, 5))
    with pytest.raises(ValueRangeError, match="unknown precision; found 'low'"):
        packed.linear(torch.ones(2, K), precision="low")
    if packed.kind != "planes":
        with pytest.raises(ValueRangeError, match=f"activation_bits of a {packed.kind} weight; found 4"):
            packed.linear(torch.ones(2, K), activation_bits=4)
        with pytest.raises(ValueRangeError, match=f"active_bits of a {packed.kind} weight; found 1"):
            packed.linear(torch.ones(2, K), active_bits=1)


def test_large_weights_are_expanded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = binary_mos()
    x = torch.randn(2, K)
    whole, weight = packed.linear(x), packed.dequantize()
    monkeypatch.setattr("lowbit.formats.base._CHUNK_WEIGHTS", 3 * K)
    torch.testing.assert_close(packed.linear(x), whole)
    assert torch.equal(packed.dequantize(), weight)
