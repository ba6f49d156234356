"""A launch as Triton's compiler takes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lowbit.triton_kernels.compiled import Launch
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

from .targets import Target

_ALIGNED = [["tt.divisibility", 16]]


def gpu_of(target: Target) -> GPUTarget:
    return GPUTarget(target.backend, target.architecture, target.lanes)


def source_of(launch: Launch) -> ASTSource:
    signature = {name: launch.signature.get(name, "constexpr") for name in launch.kernel.arg_names}
    constants = {name: launch.constexprs[name] for name, kind in signature.items() if kind == "constexpr"}
    aligned = {
        (position,): _ALIGNED
        for position, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or name in launch.divisible
    }
    return ASTSource(launch.kernel, signature, constants, aligned)


def with_ones(launch: Launch) -> Launch:
    """The same where every integer is 1, which Triton takes for a constant: of one token, or one output."""
    ones = {name: 1 for name, kind in launch.signature.items() if kind == "i32"}
    signature = {name: kind for name, kind in launch.signature.items() if name not in ones}
    return replace(launch, signature=signature, constexprs={**launch.constexprs, **ones}, divisible=())


def read(launch: Launch, target: Target) -> str:
    """What Triton makes of the source before it looks at the target: all that is compiled.

    Raises what that does.
    """
    backend = make_backend(gpu_of(target))
    options = backend.parse_options(dict(launch.options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    source = source_of(launch)
    module = source.make_ir(gpu_of(target), options, functions, modules, context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    return str(stages["ttir"](module, {}).str_nodebug())
