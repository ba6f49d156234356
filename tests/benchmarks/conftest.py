"""The scripts of benchmarks/ import each other by plain names, as `python benchmarks/demo.py` lets them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
