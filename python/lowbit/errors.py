"""Typed errors: each says which layer, what was found and what is allowed."""

from __future__ import annotations


class LowbitError(Exception):
    """Base of every error raised by lowbit.

    Args:
        message: what is wrong, in a few words.
        layer: dotted module name, when one layer is to blame.
        found: the offending value.
        allowed: what would have been accepted.
    """

    def __init__(
        self, message: str, *, layer: str | None = None, found: object = None, allowed: object = None
    ) -> None:
        text = message if layer is None else f"layer '{layer}': {message}"
        if found is not None:
            text += f"; found {found}"
        if allowed is not None:
            text += f"; allowed {allowed}"
        super().__init__(text)
        self.layer = layer
        self.found = found
        self.allowed = allowed


class FormatError(LowbitError, ValueError):
    """Packed data or metadata that does not follow the format."""


class ShapeError(FormatError):
    """A tensor of the wrong shape."""


class DtypeError(FormatError):
    """A tensor of the wrong dtype."""


class ValueRangeError(FormatError):
    """A value that is not allowed: NaN scales, labels out of range, unsupported bits."""


class BackendError(LowbitError, RuntimeError):
    """A forced or needed backend cannot run."""


class CheckpointError(LowbitError, RuntimeError):
    """A checkpoint that is missing, truncated or inconsistent."""


class UnsupportedLayerError(LowbitError, TypeError):
    """A module that cannot be converted."""
