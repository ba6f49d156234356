"""Other libraries' linears, each optional: found at run time, or reported as missing with the reason.

A rival is a function from a problem to candidates. It raises :class:`Missing` where it cannot run at all, and
leaves out with a reason (``problem.leave_out``) the single candidates that cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata

import torch
from shapes import Shape
from timing import Candidate, copies_needed
from torch import Tensor


class Missing(Exception):
    """This rival cannot run here; the message says why."""


@dataclass
class Problem:
    """One linear layer to time: random weights, random activations.

    Attributes:
        tokens: rows of the activations.
        x: [tokens, in_features] float32, drawn once so that all candidates multiply the same.
        missing: reasons of what could not run, by name.
    """

    shape: Shape
    tokens: int
    x: Tensor = field(init=False)
    missing: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(self.tokens, self.shape.in_features, generator=generator)

    def weight(self) -> Tensor:
        """[out_features, in_features] float32, the same on every call."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.shape.out_features, self.shape.in_features, generator=generator) * 0.02

    def copies(self, nbytes: int) -> int:
        return copies_needed(nbytes)

    def traffic(self, weight_bytes: int, element_bytes: int) -> int:
        """Bytes of one call: weight, activations and result."""
        ends = self.tokens * (self.shape.in_features + self.shape.out_features)
        return weight_bytes + ends * element_bytes

    def leave_out(self, name: str, reason: object) -> None:
        text = " ".join(str(reason).split())
        self.missing[name] = text if len(text) <= 200 else text[:197] + "..."


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of ``expected``."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


Rival = Callable[[Problem], list[Candidate]]


def all_rivals() -> dict[str, Rival]:
    """Every rival by name."""
    from rivals import bitsandbytes, llama_cpp, torch_dense, torch_int4, torch_int8, torchao, unpacked

    return {
        "torch": torch_dense.candidates,
        "torch int8": torch_int8.candidates,
        "torch int4": torch_int4.candidates,
        "torchao": torchao.candidates,
        "bitsandbytes": bitsandbytes.candidates,
        "llama.cpp": llama_cpp.candidates,
        "unpacked": unpacked.candidates,
    }


def versions() -> dict[str, str | None]:
    """Versions of the packages that rivals come from; None: not installed."""
    found: dict[str, str | None] = {}
    for package in ("llama-cpp-python", "bitsandbytes", "torchao"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def gather(problem: Problem, rivals: dict[str, Rival]) -> list[Candidate]:
    """Candidates of all rivals that run here; the others' reasons go to ``problem.missing``."""
    found: list[Candidate] = []
    for name, rival in rivals.items():
        try:
            found += rival(problem)
        except Missing as reason:
            problem.leave_out(name, reason)
    return found
