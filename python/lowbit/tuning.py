"""What `lowbit tune` has measured: tiles of Triton products, in one file for a GPU and a set of versions.

$XDG_CACHE_HOME/lowbit/tiles/<digest>.json        ~/.cache/lowbit/tiles where that is not set

{"gpu": "NVIDIA H100 80GB HBM3", "versions": {"lowbit": "0.1.0", "torch": "2.13.0", "triton": "3.7.1"},
 "tiles": {"integers 4096 x 4096, 1 bits, 2 columns": [4, 128, 4, 3]}}
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]


class Tiles(NamedTuple):
    """What a product may be given instead of the tiles that shape and GPU suggest; 0 keeps those.

    `programs` for each multiprocessor are wanted: fewer rows than that, and their inputs are divided. With 0
    they never are, which saves the kernel that adds the parts up.
    """

    programs: int
    rows: int = 0
    warps: int = 0
    stages: int = 0

    def over(self, rows: int, warps: int, stages: int) -> Tiles:
        """These, with the zeros filled in."""
        return Tiles(self.programs, self.rows or rows, self.warps or warps, self.stages or stages)


# Rows and warps. Of 16 rows a warp, or twice as many for one matrix; fewer cost twice the instructions.
_ROWS_WARPS = ((32, 2), (64, 2), (64, 4), (128, 4))
_OF_BITS = tuple(
    Tiles(programs, *tile, stages)
    for programs, tile, stages in itertools.product((0, 1, 2, 4), _ROWS_WARPS, (2, 3))
)
_OF_OTHERS = tuple(Tiles(programs) for programs in (1, 2, 4, 8))


def candidates(key: str) -> tuple[Tiles, ...]:
    """What may be chosen for a product. Only kernels over bits are written for more than one tile."""
    return _OF_BITS if key.startswith(("integers ", "scaled ")) else _OF_OTHERS


def path(gpu: str) -> Path:
    """The file for a GPU of that name and the versions that are installed."""
    digest = hashlib.sha256(json.dumps(_header(gpu), sort_keys=True).encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()
    return cache / "lowbit" / "tiles" / f"{digest}.json"


def load(gpu: str) -> Mapping[str, Tiles]:
    """Tiles by product: those of the file, or none. With a warning where it is not as `store` wrote it."""
    try:
        file = path(gpu)
        text = file.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        warnings.warn(f"lowbit: tiles measured for {gpu} cannot be read: {error}", stacklevel=2)
        return {}
    try:
        return _parse(json.loads(text), gpu)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        warnings.warn(f"lowbit: ignores {file}, which `lowbit tune` writes anew: {error}", stacklevel=2)
        return {}


def store(gpu: str, tiles: Mapping[str, Tiles | None]) -> Path:
    """Writes the file, complete or not at all, with what it already had of other products.

    Products with None are left out: they keep the tiles that shape and GPU suggest.
    """
    file = path(gpu)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file.with_suffix(".lock")):
        merged = {**load(gpu), **tiles}
        kept = {key: own for key, own in merged.items() if own is not None}
        _replace(file, {**_header(gpu), "tiles": kept})
    return file


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time, where system and file system have locks."""
    with file.open("w") as stream:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _replace(file: Path, document: Mapping[str, Any]) -> None:
    descriptor, aside = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(document, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, file)
    except BaseException:
        os.unlink(aside)
        raise


def _header(gpu: str) -> dict[str, Any]:
    import triton

    import lowbit

    versions = {"lowbit": lowbit.__version__, "torch": torch.__version__, "triton": triton.__version__}
    return {"gpu": gpu, "versions": {name: str(version) for name, version in versions.items()}}


def _parse(document: dict[str, Any], gpu: str) -> dict[str, Tiles]:
    header = _header(gpu)
    if (found := {name: document[name] for name in header}) != header:
        raise ValueError(f"it is for {found}, not for {header}")
    tiles = {key: Tiles(*sizes) for key, sizes in document["tiles"].items()}
    for key, chosen in tiles.items():
        # 4.0 and True are equal to sizes, and are none.
        if chosen not in candidates(key) or any(type(size) is not int for size in chosen):
            raise ValueError(f"no tiles for '{key}': {list(chosen)}")
    return tiles
