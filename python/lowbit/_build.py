"""What the installation built: files and, where something is missing, why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
LIBRARIES = PACKAGE / "lib"


def build_record() -> dict[str, Any]:
    """What setup.py wrote down: "native" (bool), "reason" if not, else compiler and machine.

    Without a record (a source tree that was never installed) "native" is False and the reason says so.
    """
    try:
        record: dict[str, Any] = json.loads((PACKAGE / "_build.json").read_text())
    except FileNotFoundError:
        return {"native": False, "reason": "lowbit was never installed: pip install ."}
    return record


def cmake_prefix() -> str:
    """The CMAKE_PREFIX_PATH with which a C or C++ project finds `find_package(lowbit)` of this one."""
    return str(PACKAGE)
