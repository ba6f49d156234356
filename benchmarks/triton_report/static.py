"""One entry per launch and target, and what must not get worse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lowbit.triton_kernels.bits import launches as bits
from lowbit.triton_kernels.codebook import launches as codebook
from lowbit.triton_kernels.compiled import Launch
from lowbit.triton_kernels.gpu import INTERPRETED_MULTIPROCESSORS, Gpu
from triton.compiler import CompilationError

from .compiling import Entry, entry
from .source import read, with_ones
from .targets import AMD, NVIDIA, TOO_OLD, Target

TARGETS = {target.name: target for target in (TOO_OLD, *NVIDIA, AMD)}
SHIPPED = [target.name for target in NVIDIA]


@cache
def launches(target: Target) -> dict[str, Launch]:
    """By name."""
    gpu = Gpu(INTERPRETED_MULTIPROCESSORS, amd=True)
    if target is not AMD:
        gpu = Gpu(INTERPRETED_MULTIPROCESSORS, capability=target.capability)
    return {item.name: item for item in (*bits.launches(gpu), *codebook.launches(gpu))}


def names(target: Target) -> list[str]:
    """What is compiled for it."""
    return list(launches(target))


def compile_one(name: str, target: str) -> Entry:
    found = entry(launches(TARGETS[target])[name], TARGETS[target])
    return refuse(found) if target == TOO_OLD.name else found


def refuse(item: Entry) -> Entry:
    """Where code has no use: what spills, or needs more shared memory than there is."""
    if item.spills:
        return Entry(item.launch, item.target, refused=f"{item.spills} bytes of registers are spilled")
    if item.shared > TARGETS[item.target].shared:
        return Entry(item.launch, item.target, refused=f"needs {item.shared} bytes of shared memory")
    return item


def unreadable_with_ones(target: str) -> list[str]:
    """Launches, one for each kernel and set of absent tensors, that Triton refuses where integers are 1."""
    found, seen = [], set()
    for name, launch in launches(TARGETS[target]).items():
        absent = frozenset(key for key, value in launch.constexprs.items() if value is None)
        if (launch.kernel, absent) in seen:
            continue
        seen.add((launch.kernel, absent))
        try:
            read(with_ones(launch), TARGETS[target])
        except CompilationError as error:
            found.append(f"{name}: {error}")
    return found


def regressions(before: Sequence[Entry], now: Sequence[Entry], slack: float = 0.05) -> list[str]:
    """What got worse than `before`, or breaks a rule that holds always; one sentence each.

    Of AMD only what is refused, spilled or too large is compared.
    """
    found, old = [], {item.key: item for item in before}
    for item in now:
        was = old.get(item.key)
        if was is None:
            found.append(f"{item.key}: not in the committed report (make triton-report writes it)")
            continue
        if item.refused and not was.refused:
            found.append(f"{item.key}: refused, {item.refused}")
        if item.refused:
            continue
        if item.spills:
            unit = "registers" if item.target == AMD.name else "bytes of registers"
            found.append(f"{item.key}: {item.spills} {unit} are spilled")
        if item.shared > TARGETS[item.target].shared:
            found.append(f"{item.key}: {item.shared} bytes of shared memory, more than there are")
        if item.target == AMD.name:
            continue
        if item.calls:
            found.append(f"{item.key}: CALL in a hot loop")
        if was.per_weight is not None and (
            item.per_weight is None or item.per_weight > was.per_weight * (1 + slack)
        ):
            found.append(
                f"{item.key}: {item.per_weight} thread instructions per weight, not {was.per_weight}"
            )
    return found
