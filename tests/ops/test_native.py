"""lowbit._native: the kernels and the packing without torch, on NumPy arrays."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.backends.cpu import tile_bits, tile_scales
from lowbit.errors import BackendError, DtypeError, FormatError, ShapeError, ValueRangeError
from lowbit.formats import pack_bits, quantize_activations, quantize_bipolar

from tests.ops import cases

_native = pytest.importorskip("lowbit._native", reason="installed without native kernels")

N, K = 70, 150


def arrays(layer: cases.Layer) -> dict[str, np.ndarray]:
    tensors = {name: tensor.numpy() for name, tensor in layer.packed.tensors().items()}
    return tensors | {"bias": layer.bias.numpy()}


def test_imports_no_torch():
    code = "import sys; from lowbit import _native; _native.version(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(n=cases.sizes, k=cases.sizes, seed=cases.seeds)
def test_packing_is_that_of_the_formats(n, k, seed):
    values = torch.randn(n, k, generator=cases.generator(seed))
    packed = pack_bits(values >= 0).numpy()
    for source in (values.numpy(), (values >= 0).numpy()):
        np.testing.assert_array_equal(_native.pack_signs(source), packed)
    signs = _native.unpack_signs(packed, k)
    np.testing.assert_array_equal(signs, np.where(values.numpy() >= 0, 1, -1))
    planes = np.stack([packed, packed ^ packed])
    for bits in (packed, planes):
        np.testing.assert_array_equal(_native.tile_bits(bits, k), tile_bits(torch.from_numpy(bits)).numpy())
    for dtype in (torch.float32, torch.float16, torch.int16):
        scales = (values * 100).to(dtype)
        np.testing.assert_array_equal(_native.tile_scales(scales.numpy()), tile_scales(scales).numpy())


@pytest.mark.parametrize("kind", ["signs", "onebit", "mos"])
@pytest.mark.parametrize("precision", ["fast", "high", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_signs(kind, precision, dtype):
    """The same kernels as the torch operator: the same bits."""
    layer = cases.make(kind, N, K)
    x = cases.activations(5, K, dtype)
    values = arrays(layer)
    tiles = _native.tile_bits(values.pop("weight"), K)
    if "scales" in values:
        values |= {"scales": _native.tile_scales(values["scales"]), "group_size": 128}
    y = _native.signs_linear(x.numpy(), tiles, N, precision=precision, **values)
    np.testing.assert_array_equal(y, layer.native(x, precision).numpy())


@pytest.mark.parametrize("activation_bits", [0, 4])
def test_planes(activation_bits):
    layer = cases.make("planes", N, K)
    x = cases.activations(5, K, torch.float32)
    values = arrays(layer)
    y = _native.planes_linear(
        x.numpy(),
        _native.tile_bits(values["weight"], K),
        N,
        _native.tile_scales(values["scales"]),
        group_size=128,
        offsets=_native.tile_scales(values["offsets"]),
        bias=values["bias"],
        active_bits=2,
        activation_bits=activation_bits,
    )
    expected = layer.native(x, "fast", active_bits=2, activation_bits=activation_bits)
    np.testing.assert_array_equal(y, expected.numpy())


@given(m=st.integers(1, 5), k=cases.sizes, seed=cases.seeds, bits=st.integers(0, 8))
def test_activations_are_quantised_like_the_specification(m, k, seed, bits):
    x = cases.activations(m, k, torch.float32, seed)
    if m > 2:
        x[0] = 0
        x[1, -1] = float("inf")
    for precision in ("fast", "high"):
        expected = quantize_bipolar(x, bits) if bits else quantize_activations(x, precision)
        codes, scales = _native.quantize_activations(x.numpy(), precision, activation_bits=bits)
        np.testing.assert_array_equal(codes, expected.codes.numpy())
        np.testing.assert_array_equal(scales, expected.scales.numpy())


def test_prologue():
    layer = cases.make("mos", N, K)
    x = cases.activations(5, K, torch.float32)
    values = arrays(layer)
    gates, z = _native.signs_prologue(x.numpy(), values["router"], values["in_scales"])
    expected = layer.packed.gates(x.double())
    np.testing.assert_allclose(gates, expected.numpy(), rtol=1e-5)
    scaled = x.double() * (expected @ layer.packed.in_scales.double())
    np.testing.assert_allclose(z, scaled.numpy(), rtol=1e-5, atol=1e-7)


def test_threads_and_instruction_sets():
    before, isa = _native.num_threads(), _native.current_isa()
    assert isa in _native.available_isas()
    assert "scalar" in _native.available_isas()
    try:
        _native.set_num_threads(3)
        assert _native.num_threads() == 3
        for name in _native.available_isas():
            _native.set_isa(name)
            assert _native.current_isa() == name
    finally:
        _native.set_num_threads(before)
        _native.set_isa(isa)
    missing = {"scalar", "avx2", "avxvnni", "avx512", "amx", "neon"} - set(_native.available_isas())
    for name in (*missing, "mmx"):
        with pytest.raises((BackendError, FormatError)):
            _native.set_isa(name)
    assert _native.current_isa() == isa


def test_errors_are_typed():
    tiles = np.zeros((2, 1, 5, 64, 4), np.uint8)
    x = np.zeros((1, K), np.float32)
    with pytest.raises(ShapeError, match=r"tiles has the wrong shape; found \(2, 1, 5, 64, 4\)"):
        _native.signs_linear(x[:, :100].copy(), tiles, N)
    with pytest.raises(ShapeError, match="C-contiguous"):
        _native.signs_linear(np.zeros((1, 2 * K), np.float32)[:, ::2], tiles, N)
    with pytest.raises(DtypeError, match="x has the wrong dtype; found float64"):
        _native.signs_linear(x.astype(np.float64), tiles, N)
    with pytest.raises(DtypeError, match="x has the wrong dtype; found >f2"):
        _native.signs_linear(x.astype(">f2"), tiles, N)
    with pytest.raises(DtypeError, match="one dtype"):
        _native.signs_prologue(x, np.ones((2, K), np.float16), np.ones((2, K), np.float32))
    with pytest.raises(ValueRangeError, match="precision"):
        _native.signs_linear(x, tiles, N, precision="best")
    with pytest.raises(ValueRangeError, match="group_size"):
        _native.signs_linear(x, tiles, N, group_size=48)
    with pytest.raises(FormatError, match="belong together"):
        _native.signs_linear(x, tiles, N, in_scales=np.ones((1, K), np.float32))
    with pytest.raises(ValueRangeError, match="NaN"):
        _native.pack_signs(np.full((1, 1), np.nan, np.float32))
    with pytest.raises(FormatError, match="padding bits"):
        _native.unpack_signs(np.full((1, 1), 255, np.uint8), 5)
    with pytest.raises(ValueRangeError, match="negative"):
        _native.set_num_threads(-1)
    scales = np.ones((2, 1, 64), np.float32)
    with pytest.raises(FormatError, match="active"):
        _native.planes_linear(x, tiles, N, scales, active_bits=2)


def test_forked_process_computes():
    """torch's own threads do not survive a fork; a product in the child must not wait for them."""
    script = """
import os, signal, torch, lowbit
torch.set_num_threads(2)
x, packed = torch.randn(3, 256), torch.randint(0, 256, (2, 300, 32), dtype=torch.uint8)
scales = torch.rand(300, 1)
expected = lowbit.ops.planes_linear(x, packed, scales)
child = os.fork()
if child == 0:
    signal.alarm(30)
    same = torch.equal(lowbit.ops.planes_linear(x, packed, scales), expected)
    os._exit(0 if same else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
