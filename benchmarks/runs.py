"""One alternating run of one shape and batch size: raw samples, and the figures that follow from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowbit.statistics import Interval, Spread, paired_ratio
from reads import READ
from shapes import Shape
from timing import Candidate, Samples

COLD, WARM = "cold", "warm"


@dataclass(frozen=True)
class Line:
    """A candidate's samples, microseconds per call, one for each round."""

    name: str
    bytes: int
    bits_per_weight: float | None
    activation_error: float | None
    cold: list[float]
    warm: list[float]

    def samples(self, temperature: str) -> list[float]:
        return self.cold if temperature == COLD else self.warm

    def us(self, temperature: str = COLD) -> float:
        return Spread.of(self.samples(temperature)).median

    def gigabytes_per_second(self, temperature: str = COLD) -> float:
        return self.bytes / self.us(temperature) / 1e3


@dataclass(frozen=True)
class Run:
    """Attributes:
    environment: the machine before the run began.
    missing: reasons of what could not be timed, by name.
    """

    environment: dict[str, Any]
    shape: Shape
    tokens: int
    lines: dict[str, Line]
    missing: dict[str, str]

    @classmethod
    def of(
        cls,
        environment: dict[str, Any],
        shape: Shape,
        tokens: int,
        candidates: Sequence[Candidate],
        samples: dict[str, Samples],
        missing: dict[str, str],
    ) -> Run:
        lines = {
            c.name: Line(
                c.name,
                c.bytes,
                c.bits_per_weight,
                c.activation_error,
                [round(us, 3) for us in samples[c.name].cold],
                [round(us, 3) for us in samples[c.name].warm],
            )
            for c in candidates
        }
        return cls(environment, shape, tokens, lines, missing)

    @property
    def kernels(self) -> Iterator[Line]:
        """The lines that multiply, in order; read loops are not among them."""
        return (line for line in self.lines.values() if line.bits_per_weight is not None)

    def best_read(self, kernel: str) -> Line | None:
        """The fastest cold read loop over the tensors of a kernel, or None where none ran."""
        loops = [line for name, line in self.lines.items() if name.startswith(f"{kernel}: ")]
        return min(loops, key=Line.us, default=None)

    @property
    def bandwidth(self) -> float:
        """GB/s of the best read loop over memory far larger than the caches."""
        best = self.best_read(READ)
        if best is None:
            raise ValueError(f"a run of {self.shape} without a read loop")
        return best.gigabytes_per_second()

    def times_faster(self, name: str, than: str, temperature: str = COLD) -> Interval | None:
        """Median over rounds of the other's time over this one's; None where either did not run."""
        if name not in self.lines or than not in self.lines:
            return None
        return paired_ratio(self.lines[than].samples(temperature), self.lines[name].samples(temperature))

    def of_read(self, name: str) -> Interval | None:
        """Cold time over that of the best read loop over the same tensors."""
        best = self.best_read(name.split(" [")[0])  # a kernel held to an older set reads the same tensors
        return None if best is None else self.times_faster(best.name, than=name)

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.shape}_m{self.tokens}.json"
        path.write_text(json.dumps(asdict(self), separators=(",", ":")) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Run:
        document = json.loads(path.read_text(encoding="utf-8"))
        lines = {name: Line(**line) for name, line in document.pop("lines").items()}
        return cls(**document | {"lines": lines, "shape": Shape(**document["shape"])})


def load_all(folder: Path) -> list[Run]:
    """Every run in a folder, by shape and number of tokens."""
    runs = [Run.load(path) for path in folder.glob("*_m*.json")]
    return sorted(runs, key=lambda run: (run.shape.weights, str(run.shape), run.tokens))
