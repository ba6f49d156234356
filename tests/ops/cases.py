"""Random layers of every kind, their operators, fp64 references and error bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st
from lowbit.formats import (
    PRECISIONS,
    CodebookChannel,
    CodebookScalar,
    CodebookVector,
    PackedWeight,
    Planes,
    Signs,
    pack_bits,
    pack_codes,
    quantize_activations,
)
from lowbit.formats.base import group_count
from lowbit.formats.codebook import label_dtype
from torch import Tensor

from tests.ops import targets
from tests.ops.targets import Target

targets.load(targets.CPU)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KINDS = ("signs", "onebit", "mos", "planes", "channel0", "channel1", "scalar", "outliers", "vector")
SIZES = targets.CPU.sizes
sizes = st.sampled_from(SIZES)
seeds = st.integers(0, 2**31 - 1)


@dataclass
class Layer:
    """A packed weight with its operator's arguments behind x, on a target; packed and bias are on the CPU."""

    packed: PackedWeight
    bias: Tensor | None
    target: Target = field(default=targets.CPU, kw_only=True)

    @property
    def n(self) -> int:
        return self.packed.out_features

    @property
    def k(self) -> int:
        return self.packed.in_features

    def operator(self, suffix: str = "") -> Callable[..., Any]:
        """torch.ops.lowbit.<kind>_linear<suffix>, or the target's equal."""
        return self.target.operator(self.packed.kind, suffix)

    def runtime(self, active_bits: int | None) -> dict[str, Tensor]:
        """The packed tensors as the operator takes them."""
        return self.target.prepare(self.packed, any_bits=active_bits is not None)

    def arguments(
        self, precision: str, activation_bits: int = 0, active_bits: int | None = None
    ) -> tuple[Any, ...]:
        """What follows x in the call of the operator."""
        packed, code = self.packed, PRECISIONS.index(precision)
        bias = None if self.bias is None else self.bias.to(self.target.device)
        get = self.runtime(active_bits).get
        if isinstance(packed, Signs):
            tensors = [get(name) for name in ("weight", "scales", "router", "in_scales", "out_scales")]
            return (*tensors, bias, [], self.k, self.n, packed.group_size, code)
        if isinstance(packed, Planes):
            bits = packed.bits if active_bits is None else active_bits
            tensors = [get(name) for name in ("weight", "scales", "offsets")]
            return (*tensors, bias, self.k, self.n, packed.group_size, bits, activation_bits, code)
        if isinstance(packed, CodebookChannel):
            tensors = [get(name) for name in ("weight", "labels", "low_rank_out", "low_rank_in")]
            return (*tensors, bias, self.k, self.n, packed.axis, code)
        tensors = [get(name) for name in packed.tensor_names]
        return (*tensors, bias, self.k, code)

    def native(self, x: Tensor, precision: str, **quantised: Any) -> Tensor:
        """The operator's result for x, on the target's device."""
        return self.operator()(moved(x, self.target.device), *self.arguments(precision, **quantised))

    def check(self, x: Tensor, precision: str, **quantised: Any) -> Tensor:
        """Runs the operator on x, compares it with the specification, and returns its result."""
        y = self.native(x, precision, **quantised)
        tokens = 0 if quantised.get("activation_bits") else x.shape[:-1].numel()
        eps = self.target.eps(self.packed.kind, precision, tokens)
        check(self, x, y.cpu(), precision, eps, **quantised)
        return y

    def specification(self, x: Tensor, precision: str, **quantised: Any) -> Tensor:
        """fp64, on the activations as `precision` quantises them."""
        bias = None if self.bias is None else self.bias.double()
        return self.packed.linear(x.double(), bias, precision=precision, **quantised)

    def norms(self, x: Tensor, active_bits: int | None = None) -> Tensor:
        """|z_m| |w_n| |output scale| of every output, fp64."""
        z, packed = x.double(), self.packed
        if isinstance(packed, Signs) and packed.in_scales is not None and packed.out_scales is not None:
            gates = packed.gates(z)
            z = z * (gates @ packed.in_scales.double())
            signs = Signs(packed.weight, self.k, packed.scales, packed.group_size).dequantize().double()
            return (
                z.norm(dim=-1, keepdim=True) * signs.norm(dim=1) * (gates @ packed.out_scales.double()).abs()
            )
        return z.norm(dim=-1, keepdim=True) * summands(packed, active_bits).double().norm(dim=1)


def summands(packed: PackedWeight, active_bits: int | None) -> Tensor:
    """Like dequantize(), with the magnitudes of a weight's summands added up.

    Where table, low-rank part or offset cancel, a kernel that multiplies before it adds rounds relative
    to those.
    """
    if isinstance(packed, Planes):
        whole = packed.dequantize(active_bits)
        values = Planes(packed.weight, packed.scales, packed.in_features, packed.group_size).dequantize(
            active_bits
        )
        return values.abs() + (whole - values).abs()
    tables = {name: t.abs() for name, t in packed.tensors().items() if t.is_floating_point()}
    return replace(packed, **tables).dequantize()


def half_ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Half a unit in the last place of `dtype` at these fp64 values."""
    info = torch.finfo(dtype)
    normal = values.abs().clamp_min(info.smallest_normal)
    power = normal / torch.frexp(normal).mantissa  # of two, above the value
    return power * (info.eps / 4)


def flips(layer: Layer, x: Tensor, precision: str) -> Tensor:
    """What ties may cost BinaryMoS, [M, 1] or 0.

    Its quantiser sees x * in_mix, and two correct fp32 softmax functions differ in the last bits; a value
    on the border of two codes may then take either. Each costs one step of its scale times a sign.
    """
    packed = layer.packed
    if not isinstance(packed, Signs) or packed.in_scales is None or precision == "exact":
        return torch.zeros(())
    z = (x.double() * (packed.gates(x.double()) @ packed.in_scales.double())).float()
    quantized = quantize_activations(z, precision)
    steps = quantized.scales.double()
    if quantized.group_size != -1:
        steps = steps.repeat_interleave(quantized.group_size, dim=-1)[..., : layer.k]
    position = z.double() / steps.clamp_min(1e-300)
    border = ((position - position.floor()) - 0.5).abs() < position.abs().clamp_min(1) * 2.0**-20
    scale = packed.gates(x.double()) @ packed.out_scales.double().abs().amax(dim=1, keepdim=True)
    return (border * steps).sum(dim=-1, keepdim=True) * scale


def check(layer: Layer, x: Tensor, y: Tensor, precision: str, eps: float = 1e-5, **quantised: Any) -> None:
    """|y - ref| <= eps |z| |w| |output scale| + half an ulp of the output dtype, element by element.

    A whole one where the target cuts bits off that should be rounded.
    """
    halves = 2 if y.dtype in layer.target.truncates else 1
    assert y.shape == (*x.shape[:-1], layer.n)
    assert y.dtype == x.dtype
    norms = layer.norms(x, quantised.get("active_bits"))

    def within(reference: Tensor, bound: Tensor) -> None:
        error = (y.double() - reference).abs()
        excess = error - bound - halves * half_ulp(reference.abs() + bound, y.dtype)
        assert bool((excess <= 0).all()), f"excess {excess.max():.3e} at {precision}, {quantised}"

    # On its own quantised activations.
    within(layer.specification(x, precision, **quantised), eps * norms + flips(layer, x, precision))
    if precision == "high" and not quantised.get("activation_bits"):
        within(layer.specification(x, "exact", active_bits=quantised.get("active_bits")), 1e-3 * norms)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(
    kind: str,
    n: int,
    k: int,
    seed: int = 0,
    *,
    group_size: int = 128,
    bits: int = 3,
    scale_dtype: torch.dtype = torch.float16,
    bias: bool = True,
    target: Target = targets.CPU,
) -> Layer:
    """A random layer. Weights are of order one."""
    rng = generator(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    def positive(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=rng) + 0.5).to(scale_dtype)

    def integers(high: int, *shape: int, low: int = 0) -> Tensor:
        return torch.randint(low, high, shape, generator=rng)

    groups = group_count(k, group_size)
    packed: PackedWeight
    if kind == "signs":
        packed = Signs(pack_bits(normal(n, k) >= 0), k, positive(n, groups), group_size)
    elif kind in ("onebit", "mos"):
        experts = 1 if kind == "onebit" else 4
        router = None if kind == "onebit" else normal(experts, k).to(scale_dtype) * 0.1
        signs = pack_bits(normal(n, k) >= 0)
        packed = Signs(
            signs, k, router=router, in_scales=positive(experts, k), out_scales=positive(experts, n)
        )
    elif kind == "planes":
        codes = pack_codes(integers(2**bits, n, k).to(torch.uint8), bits)
        offsets = integers(2**bits, n, groups, low=-(2**bits)).to(torch.int16)
        packed = Planes(codes, positive(n, groups), k, group_size, offsets)
    elif kind in ("channel0", "channel1"):
        axis = int(kind[-1])
        clusters = 1 + min(n, k) // 2
        shape = (clusters, k) if axis == 0 else (n, clusters)
        labels = integers(clusters, n if axis == 0 else k).to(label_dtype(clusters))
        low_rank = (normal(n, 3).to(scale_dtype), normal(3, k).to(scale_dtype))
        packed = CodebookChannel(normal(*shape).to(scale_dtype), labels, axis, k, n, *low_rank)
    elif kind in ("scalar", "outliers"):
        codes = pack_codes(integers(2**bits, n, k).to(torch.uint8), bits)
        outliers: tuple[Tensor, ...] = ()
        if kind == "outliers":
            mask = torch.rand(n, k, generator=rng) < 0.05
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(dim=1).cumsum(0)])
            columns = mask.nonzero()[:, 1].to(torch.int32)
        if kind == "outliers" and len(columns):
            outliers = (offsets.to(torch.int32), columns, normal(len(columns)).to(scale_dtype) * 4)
        packed = CodebookScalar(codes, normal(n, 2**bits).to(scale_dtype), k, *outliers)
    else:
        codes = integers(256, 2, n, -(-k // 8)).to(torch.uint8)
        packed = CodebookVector(codes, normal(2, 256, 8).to(scale_dtype), positive(n), k)
    packed.validate()
    return Layer(packed, normal(n).to(scale_dtype) if bias else None, target=target)


def activations(m: int, k: int, dtype: torch.dtype, seed: int = 0, strides: str = "contiguous") -> Tensor:
    """[m, k] of the given dtype, a few large values among them, in one of STRIDES."""
    x = torch.randn(m, k, generator=generator(seed))
    x = (x * torch.where(torch.rand(m, k, generator=generator(seed + 1)) < 0.01, 20.0, 1.0)).to(dtype)
    if strides == "rows apart":
        wide = torch.zeros(m, k + 5, dtype=dtype)
        wide[:, 2 : k + 2] = x
        return wide[:, 2 : k + 2]
    if strides == "every second":
        wide = torch.zeros(m, 2 * k, dtype=dtype)
        wide[:, ::2] = x
        return wide[:, ::2]
    if strides == "transposed":
        return x.T.contiguous().T
    if strides == "one row":
        return x[:1].expand(m, k)
    return x


def moved(x: Tensor, device: str) -> Tensor:
    """x on the device: a copy with its strides, where Tensor.to would close the gaps, but no history."""
    if x.requires_grad:
        return x.to(device)
    flat = x.new_empty(0).set_(x.untyped_storage()).to(device, copy=True)
    return flat.as_strided(x.shape, x.stride(), x.storage_offset())


STRIDES = ("contiguous", "rows apart", "every second", "transposed", "one row")
