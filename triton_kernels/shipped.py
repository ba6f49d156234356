"""Tiles that come with the package, by architecture: tiles/sm_90.json and the like.

They are estimates from the compiled code, no measurements: `make triton-tables` writes the files, with the
model in benchmarks/triton_report/estimate.py. All that is not in them has what config.py makes of its shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lowbit.tuning import Tiles

FOLDER = Path(__file__).parent / "tiles"


def path(capability: tuple[int, int]) -> Path:
    """The file for GPUs of that compute capability; not every one has one."""
    return FOLDER / f"sm_{capability[0]}{capability[1]}.json"


@cache
def tables(capability: tuple[int, int]) -> Mapping[int, Mapping[str, Tiles]]:
    """By the GPU's multiprocessors, tiles by product; read once."""
    try:
        text = path(capability).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    found = json.loads(text)["tiles"]
    return {
        int(multiprocessors): {product: Tiles(*sizes) for product, sizes in table.items()}
        for multiprocessors, table in found.items()
    }
