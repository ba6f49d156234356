"""One entry per launch and target, and what must not get worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from lowbit.triton_kernels.bits import launches as bits
from lowbit.triton_kernels.codebook import launches as codebook
from lowbit.triton_kernels.compiled import Launch

from .compiling import Entry, entry
from .targets import AMD, NVIDIA, Target

TARGETS = {target.name: target for target in (*NVIDIA, AMD)}


@cache
def launches(target: Target) -> dict[str, Launch]:
    """By name; permutations of bytes are NVIDIA's alone (codebook/target.py)."""
    capability = (8, 0) if target is AMD else target.capability
    found = [*bits.launches(capability), *codebook.launches(capability)]
    if target is AMD:
        found = [
            replace(item, constexprs={**item.constexprs, "PRMT": False})
            if "PRMT" in item.constexprs
            else item
            for item in found
        ]
    return {item.name: item for item in found}


def names() -> list[str]:
    return list(launches(AMD))


def compile_one(name: str, target: str) -> Entry:
    return entry(launches(TARGETS[target])[name], TARGETS[target])


def from_dict(values: dict[str, Any]) -> Entry:
    return Entry(**values)


def regressions(before: Sequence[Entry], now: Sequence[Entry], slack: float = 0.05) -> list[str]:
    """What got worse than `before`, or breaks a rule that holds always; one sentence each.

    Targets below 8.0 and AMD's are not shipped: for them only what is refused is compared.
    """
    found, old = [], {item.key: item for item in before}
    for item in now:
        was = old.get(item.key)
        if was is None:
            found.append(f"{item.key}: not in the committed report (make triton-report writes it)")
            continue
        if item.refused and not was.refused:
            found.append(f"{item.key}: refused, {item.refused}")
        if item.target in (AMD.name, "sm_75") or item.refused:
            continue
        if item.spills:
            found.append(f"{item.key}: {item.spills} bytes of registers are spilled")
        if item.calls:
            found.append(f"{item.key}: CALL in a hot loop")
        if was.per_weight is not None and (
            item.per_weight is None or item.per_weight > was.per_weight * (1 + slack)
        ):
            found.append(
                f"{item.key}: {item.per_weight} thread instructions per weight, not {was.per_weight}"
            )
    return found
