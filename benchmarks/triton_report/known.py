"""Facts of compiled variants, kept in a file as they are found, so that a run that was ended goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from functools import cache
from pathlib import Path

import triton
from lowbit.triton_kernels import bits
from lowbit.triton_kernels.bits.variants import Variant

from . import compiling, source
from . import facts as facts_of
from .facts import Facts, facts
from .targets import NVIDIA

_KERNELS = ("product", "epilogue", "subnormal", "row_scales", "fields", "sizes")
TARGETS = {int(target.architecture): target for target in NVIDIA}
# Whose code estimates stand on: of 152 variants compiled for both, 151 had the same facts.
_LIKE = {89: 86}


def compiled_for(architecture: int) -> int:
    """The architecture whose compiled code has the facts that its times are estimated from."""
    return _LIKE.get(architecture, architecture)


class Known:
    """By architecture and launch of a variant."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"facts-{_digest()}.jsonl"
        self._found: dict[tuple[int, str], Facts] = {}
        if self._file.exists():
            for line in self._file.read_text().splitlines():
                architecture, launch, row = json.loads(line)
                self._found[architecture, launch] = Facts(*row)

    def get(self, architecture: int, variant: Variant) -> Facts | None:
        return self._found.get((architecture, _launch_digest(variant)))

    def compile_all(self, wanted: Iterable[tuple[int, Variant]], pool: Executor) -> Iterator[tuple[int, int]]:
        """Compiles those that are not known; yields how many of how many."""
        missing = [each for each in wanted if self.get(*each) is None]
        found = pool.map(compiled, *zip(*missing, strict=True)) if missing else []
        for done, ((architecture, variant), values) in enumerate(zip(missing, found, strict=True), 1):
            self._keep(architecture, _launch_digest(variant), values)
            yield done, len(missing)

    def _keep(self, architecture: int, launch: str, found: Facts) -> None:
        self._found[architecture, launch] = found
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as stream:
            stream.write(json.dumps([architecture, launch, found.row()]) + "\n")


def compiled(architecture: int, variant: Variant) -> Facts:
    return facts(variant, TARGETS[architecture])


@cache
def _launch_digest(variant: Variant) -> str:
    launch = variant.launch()
    values = (launch.signature, launch.constexprs, launch.options, launch.weights, launch.divisible)
    return hashlib.sha256(repr((variant.name, *values)).encode()).hexdigest()[:16]


def _digest() -> str:
    """Of all else that facts depend on: kernels, what looks at them, Triton."""
    kernels = [Path(bits.__path__[0]) / f"{name}.py" for name in _KERNELS]
    sources = [*kernels, *(Path(module.__file__) for module in (facts_of, compiling, source))]
    parts = [triton.__version__.encode(), *(path.read_bytes() for path in sources)]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]
