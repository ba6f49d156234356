"""Linear layers of language models, 1 to 8 bits wide.

Importing this is cheap: torch and everything heavy load with the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowbit.errors import (
    BackendError,
    CheckpointError,
    DtypeError,
    FormatError,
    LowbitError,
    ShapeError,
    UnsupportedLayerError,
    ValueRangeError,
)

if TYPE_CHECKING:
    from lowbit import backends, formats, ops
    from lowbit._build import cmake_prefix
    from lowbit._explain import explain
    from lowbit._info import info
    from lowbit.checkpoint import load_pretrained, save_pretrained
    from lowbit.decoding import fast_decode
    from lowbit.replace import replace_linear
    from lowbit.report import Report
    from lowbit.schemes import (
        BinaryMoS,
        BipolarInt,
        ChannelCodebook,
        GroupedSigns,
        OneBit,
        ScalarCodebook,
        Scheme,
        VectorCodebook,
    )

__version__ = "0.1.0"

# Public name -> module that defines it; None: the name is a submodule itself.
_LAZY: dict[str, str | None] = {
    "BinaryMoS": "schemes",
    "BipolarInt": "schemes",
    "ChannelCodebook": "schemes",
    "GroupedSigns": "schemes",
    "OneBit": "schemes",
    "Report": "report",
    "ScalarCodebook": "schemes",
    "Scheme": "schemes",
    "VectorCodebook": "schemes",
    "backends": None,
    "cmake_prefix": "_build",
    "explain": "_explain",
    "fast_decode": "decoding",
    "formats": None,
    "info": "_info",
    "load_pretrained": "checkpoint",
    "ops": None,
    "replace_linear": "replace",
    "save_pretrained": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lowbit' has no attribute '{name}'")
    home = _LAZY[name]
    value = import_module(f"lowbit.{home or name}")
    if home is not None:
        value = getattr(value, name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "BackendError",
    "BinaryMoS",
    "BipolarInt",
    "ChannelCodebook",
    "CheckpointError",
    "DtypeError",
    "FormatError",
    "GroupedSigns",
    "LowbitError",
    "OneBit",
    "Report",
    "ScalarCodebook",
    "Scheme",
    "ShapeError",
    "UnsupportedLayerError",
    "ValueRangeError",
    "VectorCodebook",
    "__version__",
    "backends",
    "cmake_prefix",
    "explain",
    "fast_decode",
    "formats",
    "info",
    "load_pretrained",
    "ops",
    "replace_linear",
    "save_pretrained",
]
