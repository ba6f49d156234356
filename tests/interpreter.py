"""What makes Python fast enough to interpret Triton's kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any


def patch_language_once() -> None:
    """A launch replaces the functions of `triton.language`; every call of a device function in it does so
    again, which takes longer than most of them. Only modules that the kernel does not see need it.
    """
    try:
        import triton.language as tl
        from triton.runtime import interpreter
    except Exception:  # none, or a broken one: tests that need it say so
        return
    patch = interpreter._patch_lang
    nothing_to_restore = getattr(interpreter, "_LangPatchScope", lambda: None)

    def patch_what_is_not(function: FunctionType) -> Any:
        modules = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        if modules and not any(tl.core.is_builtin(module.load) for module in modules):
            return nothing_to_restore()
        return patch(function)

    interpreter._patch_lang = patch_what_is_not


def fuse_multiply_add_once() -> None:
    """`tl.fma` rounds once, as on a GPU; float64 holds the product of two float32."""
    try:
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
    except Exception:  # see above
        return

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        exact = x.data.astype("float64") * y.data + z.data
        return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    InterpreterBuilder.create_fma = create_fma


def call_with_room(function: Callable[..., Any], **arguments: Any) -> Any:
    """function(**arguments), with 100 KB for the frames of what it calls.

    Python takes memory for frames from the system in chunks of 16 KB, and gives a chunk back with its first
    frame: a loop whose calls just need the next one asks the system twice in every turn. This function's own
    frame is so large that it comes with a large chunk.
    """
    return function(**arguments)


call_with_room.__code__ = call_with_room.__code__.replace(co_stacksize=17000)
