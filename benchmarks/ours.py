"""This package's kernels as candidates: random packed weights, each kernel checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from lowbit import _native, backends
from lowbit.errors import BackendError
from lowbit.formats import CodebookChannel, CodebookScalar, CodebookVector, PackedWeight, Planes, Signs
from rivals import Problem, relative_error
from timing import Candidate
from torch import Tensor

BINARY_MOS, ONE_BIT, PRODUCT, Q1_0 = "BinaryMoS", "OneBit", "signs, product alone", "signs g128 (Q1_0)"
W2, W4, W8 = "W2 g128", "W4 g128", "W8 g128"
SCALAR, CHANNEL, VECTOR = "W3 scalar codebook", "channel codebook, 256 + rank 128", "vector codebook, 2 x 8"
PRECISION = {"fast": 0, "high": 1}
GROUP = 128


def _bits(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def _scales(*shape: int) -> Tensor:
    return (torch.rand(shape) * 0.02 + 0.01).half()


def _groups(k: int, group: int) -> int:
    return 1 if group == -1 else -(-k // group)


def binary_mos(n: int, k: int) -> Signs:
    return Signs(
        _bits(n, k // 8),
        k,
        router=(torch.randn(4, k) * 0.02).half(),
        in_scales=_scales(4, k) * 50,
        out_scales=_scales(4, n),
    )


def one_bit(n: int, k: int) -> Signs:
    return Signs(_bits(n, k // 8), k, in_scales=_scales(1, k) * 50, out_scales=_scales(1, n))


def grouped_signs(n: int, k: int, group: int) -> Signs:
    return Signs(_bits(n, k // 8), k, _scales(n, _groups(k, group)), group)


def planes(n: int, k: int, bits: int, group: int = GROUP) -> Planes:
    return Planes(_bits(bits, n, k // 8), _scales(n, _groups(k, group)), k, group)


def scalar_codebook(n: int, k: int) -> CodebookScalar:
    return CodebookScalar(_bits(3, n, k // 8), (torch.randn(n, 8) * 0.02).half(), k)


def channel_codebook(n: int, k: int) -> CodebookChannel:
    return CodebookChannel(
        (torch.randn(256, k) * 0.02).half(),
        torch.randint(0, 256, (n,), dtype=torch.uint8),
        0,
        k,
        n,
        low_rank_out=(torch.randn(n, 128) * 0.02).half(),
        low_rank_in=(torch.randn(128, k) * 0.02).half(),
    )


def vector_codebook(n: int, k: int) -> CodebookVector:
    return CodebookVector(_bits(2, n, k // 8), (torch.randn(2, 256, 8) * 0.02).half(), _scales(n) * 50, k)


@dataclass(frozen=True)
class Entry:
    """A line of the table: a packed weight and how its kernel runs.

    Attributes:
        active_bits: planes read; None: all.
        isa: instruction set the kernel is held to; None: the best of the machine.
    """

    kernel: str
    make: Callable[[int, int], PackedWeight]
    precision: str = "fast"
    active_bits: int | None = None
    isa: str | None = None

    @property
    def name(self) -> str:
        parts = [self.kernel]
        if self.precision != "fast":
            parts.append(self.precision)
        if self.active_bits is not None:
            parts.append(f"{self.active_bits} active")
        return ", ".join(parts) + (f" [{self.isa}]" if self.isa else "")


_BASE = (
    Entry(BINARY_MOS, binary_mos),
    Entry(ONE_BIT, one_bit),
    Entry(Q1_0, partial(grouped_signs, group=GROUP)),
    Entry(W2, partial(planes, bits=2)),
    Entry(W4, partial(planes, bits=4)),
    Entry(SCALAR, scalar_codebook),
)
FAMILIES = (*_BASE, Entry(CHANNEL, channel_codebook), Entry(VECTOR, vector_codebook))
_ONE_TOKEN = (
    Entry(BINARY_MOS, binary_mos, "high"),
    Entry(ONE_BIT, one_bit, "high"),
    Entry(PRODUCT, partial(grouped_signs, group=-1)),
    *(Entry(W8, partial(planes, bits=8), active_bits=bits) for bits in (1, 2, 4, 8)),
)


def entries(tokens: int) -> tuple[Entry, ...]:
    """What is timed for a number of tokens; kernels held to older instruction sets come last."""
    native = FAMILIES + (_ONE_TOKEN if tokens == 1 else ())
    older = [isa for isa in ("avx2", "avxvnni") if isa in _native.available_isas()]
    forced = (replace(entry, isa=isa) for isa in older if isa != _native.current_isa() for entry in _BASE)
    return (*native, *forced)


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Holds the kernels of this process to ``name``."""
    before = _native.current_isa()
    _native.set_isa(name)
    try:
        yield
    finally:
        _native.set_isa(before)


def clone(packed: PackedWeight) -> PackedWeight:
    """The same weight in memory of its own."""
    tensors = {name: tensor.clone() for name, tensor in packed.tensors().items()}
    return type(packed).from_tensors(tensors, packed.metadata())


def prepare(packed: PackedWeight) -> Mapping[str, Tensor]:
    """A new copy of the weight in the layout of the native kernels: all that a call reads."""
    choice = backends.select(packed.kind, device=torch.device("cpu"), dtype=torch.bfloat16, backend="cpu")
    return choice.backend.prepare(clone(packed).tensors(), packed.metadata())


def operator_call(
    entry: Entry, packed: PackedWeight, t: Mapping[str, Tensor], x: Tensor, out: Tensor
) -> Callable[[], object]:
    """The operator on one prepared copy, writing to ``out``."""
    n, k, code = packed.out_features, packed.in_features, PRECISION[entry.precision]
    ops = torch.ops.lowbit
    if packed.kind == "signs":
        mix = (t.get("router"), t.get("in_scales"), t.get("out_scales"))
        weight = (t["weight"], t.get("scales"), *mix)
        return partial(ops.signs_linear_out, x, *weight, None, [], k, n, packed.group_size, code, out)
    if packed.kind == "planes":
        bits = entry.active_bits or int(packed.metadata()["bits"])
        weight = (t["weight"], t["scales"], t.get("offsets"))
        return partial(ops.planes_linear_out, x, *weight, None, k, n, packed.group_size, bits, 0, code, out)
    if packed.kind == "codebook_channel":
        assert isinstance(packed, CodebookChannel)
        weight = (t["weight"], t["labels"], t.get("low_rank_out"), t.get("low_rank_in"))
        return partial(ops.codebook_channel_linear_out, x, *weight, None, k, n, packed.axis, code, out)
    if packed.kind == "codebook_scalar":
        weight = (t["weight"], t["tables"], None, None, None)
        return partial(ops.codebook_scalar_linear_out, x, *weight, None, k, code, out)
    weight = (t["weight"], t["codebooks"], t["out_scales"])
    return partial(ops.codebook_vector_linear_out, x, *weight, None, k, code, out)


def activation_error(entry: Entry, packed: PackedWeight, prepared: Mapping[str, Tensor], x: Tensor) -> float:
    """Checks the kernel against the format's specification, and gives what rounding activations costs.

    Args:
        x: float32 [tokens, in_features]; of many tokens only a few are looked at.

    Raises:
        BackendError: the kernel's result is not that of the format: a wrong kernel is not worth timing.
    """
    some = x[torch.tensor([0, len(x) // 2, len(x) - 1]).unique()]
    y = torch.empty(len(some), packed.out_features)
    with instruction_set(entry.isa or _native.current_isa()):
        operator_call(entry, packed, prepared, some, y)()
    options = {} if entry.active_bits is None else {"active_bits": entry.active_bits}
    error = relative_error(y, packed.linear(some, precision=entry.precision, **options))
    if not error < 2e-3:
        raise BackendError(f"{entry.name}: wrong result of the kernel", found=f"relative error {error:.2e}")
    return relative_error(y, packed.linear(some, precision="exact", **options))


@dataclass(frozen=True)
class Ours:
    """A candidate and the copies of everything its calls read."""

    entry: Entry
    candidate: Candidate
    copies: list[Mapping[str, Tensor]]


def candidate(problem: Problem, entry: Entry) -> Ours:
    """One entry on as many copies of its weight as cold calls need."""
    packed = entry.make(problem.shape.out_features, problem.shape.in_features)
    x = problem.x.bfloat16()
    y = torch.empty(problem.tokens, packed.out_features, dtype=x.dtype)
    copies = [prepare(packed) for _ in range(problem.copies(packed.nbytes))]
    share = 1.0 if entry.active_bits is None else entry.active_bits / int(packed.metadata()["bits"])
    unread = int((1 - share) * packed.tensors()["weight"].nbytes)  # planes below active_bits
    timed = Candidate(
        entry.name,
        [operator_call(entry, packed, copy, x, y) for copy in copies],
        problem.traffic(packed.nbytes - unread, x.element_size()),
        bits_per_weight=8.0 * (packed.nbytes - unread) / problem.shape.weights,
        activation_error=activation_error(entry, packed, copies[0], problem.x),
    )
    if entry.isa is not None:
        timed.setting = partial(instruction_set, entry.isa)
    return Ours(entry, timed, copies)


def without_torch(problem: Problem, ours: Ours) -> Candidate:
    """The same signs through the module for NumPy arrays: the C entry without torch around it."""
    calls = []
    x = problem.x.numpy().astype(np.float16)
    for copy in ours.copies:
        arrays = {name: tensor.numpy() for name, tensor in copy.items() if name != "weight"}
        tiles = copy["weight"].numpy()
        calls.append(partial(_native.signs_linear, x, tiles, problem.shape.out_features, **arrays))
    timed = ours.candidate
    return Candidate(f"{timed.name}, C entry", calls, timed.bytes, timed.bits_per_weight)
