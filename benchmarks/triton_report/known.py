"""Facts of compiled variants, kept in a file as they are found, so that a run that was ended goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import triton
from lowbit.triton_kernels import bits
from lowbit.triton_kernels.bits.variants import Variant

from . import compiling, source
from . import facts as facts_of
from .facts import Facts, facts
from .targets import NVIDIA

_SOURCES = ("product", "epilogue", "fields", "config", "linear", "ahead", "variants")
TARGETS = {int(target.architecture): target for target in NVIDIA}
# Whose code stands for an architecture's: of 152 variants compiled for both, 151 had the same facts.
_LIKE = {89: 86}


def compiled_for(architecture: int) -> int:
    """The architecture whose compiled code has the facts of it."""
    return _LIKE.get(architecture, architecture)


class Known:
    """By architecture and name of a variant."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"facts-{_digest()}.jsonl"
        self._found: dict[tuple[int, str], Facts] = {}
        if self._file.exists():
            for line in self._file.read_text().splitlines():
                architecture, name, row = json.loads(line)
                self._found[architecture, name] = Facts(*row)

    def get(self, architecture: int, variant: Variant) -> Facts | None:
        return self._found.get((architecture, variant.name))

    def compile_all(self, wanted: Iterable[tuple[int, Variant]], pool: Executor) -> Iterator[tuple[int, int]]:
        """Compiles those that are not known; yields how many of how many."""
        missing = [(a, variant) for a, variant in wanted if (a, variant.name) not in self._found]
        found = pool.map(compiled, *zip(*missing, strict=True)) if missing else []
        for done, ((architecture, variant), values) in enumerate(zip(missing, found, strict=True), 1):
            self._keep(architecture, variant.name, values)
            yield done, len(missing)

    def _keep(self, architecture: int, name: str, found: Facts) -> None:
        self._found[architecture, name] = found
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as stream:
            stream.write(json.dumps([architecture, name, found.row()]) + "\n")


def compiled(architecture: int, variant: Variant) -> Facts:
    return facts(variant, TARGETS[architecture])


def _digest() -> str:
    """Of all that facts depend on: kernels, what launches and what looks at them, Triton."""
    kernels = [Path(bits.__path__[0]) / f"{name}.py" for name in _SOURCES]
    sources = [*kernels, *(Path(module.__file__) for module in (facts_of, compiling, source))]
    parts = [triton.__version__.encode(), *(path.read_bytes() for path in sources)]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]
