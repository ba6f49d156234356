"""Compiled code that runs again without Python, as a captured graph does on a GPU.

Inductor's code for a step is Python without branches: it allocates, and calls compiled kernels and operators.

    buf0 = empty_strided_cpu(...)            kept alive: its address is part of the recording
    cpp_fused_mean_mul_0(arg0, buf0)         on the tape: the kernel's address, and those of its arguments
    buf1 = torch.ops.lowbit.planes_linear... on the tape, by itself (csrc/torch/tape.h)
    buf2 = torch.ops.aten...                 called again by Python, its result copied to where it was

`Recorder` rewrites that code so that one run leaves such a recording. Whatever it does not know makes it
refuse: the code then runs as Inductor wrote it.
"""

from __future__ import annotations

import ast
import ctypes
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lowbit.decoding.tape import Tape
from lowbit.ops import _library

_STATEMENTS = (ast.Assign, ast.Expr, ast.Delete, ast.Return)
_VIEWS = ("reinterpret_tensor",)
_ALLOCATIONS = ("empty_strided_cpu",)
_OPERATORS = ("torch.ops.", "extern_kernels.")
_HARMLESS = ("args.clear",)
_RECORDER = "_lowbit_recorder"

COMPILED = "compiled"  # by Inductor
PYTHON = "Python"


class NotReplayableError(Exception):
    """The code does what a recording cannot hold."""


class Replay:
    """What a run of compiled code left; `play` does it again on the same memory.

    Attributes:
        names: of the calls on the tape: an operator, or COMPILED.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._tape = Tape()
        self._kept: list[Any] = []
        self._python: list[tuple[int, Callable[[], None]]] = []  # (calls on the tape before it, itself)

    def play(self) -> None:
        """Everything again, in its order.

        Raises:
            RuntimeError: what a call failed with.
        """
        begin = 0
        for end, call in self._python:
            self._tape.play(begin, end)
            call()
            begin = end
        self._tape.play(begin, len(self._tape))

    def time(self) -> list[tuple[str, float]]:
        """`play`; what ran, and for how many seconds, in its order."""
        times: list[tuple[str, float]] = []
        begin = 0
        for end, call in [*self._python, (len(self._tape), None)]:
            nanoseconds = self._tape.time(begin, end)
            times += [
                (name, spent / 1e9) for name, spent in zip(self.names[begin:end], nanoseconds, strict=True)
            ]
            begin = end
            if call is not None:
                began = time.perf_counter()
                call()
                times.append((PYTHON, time.perf_counter() - began))
        return times

    # What the rewritten code calls.

    def allocation(self, tensor: Tensor) -> Tensor:
        self._kept.append(tensor)
        return tensor

    def kernel(self, function: types.BuiltinFunctionType, *arguments: Tensor | int) -> None:
        function(*arguments)
        values = [_word(argument) for argument in arguments]
        if not self._tape.add(_address(function), values):
            raise NotReplayableError(f"a kernel of {len(values)} arguments")
        self.names.append(COMPILED)

    def operator(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        noted = len(self._tape)
        with self._tape.recording():
            result = function(*arguments, **options)
        self._kept.append(result)
        if self._tape.refusal:
            raise NotReplayableError(self._tape.refusal)
        if len(self._tape) > noted:
            self.names += [str(function)] * (len(self._tape) - noted)
        else:
            self._python.append((noted, _again(function, arguments, options, result)))
        return result


def _again(function: Callable[..., Any], arguments: Any, options: Any, result: Any) -> Callable[[], None]:
    before = tree_leaves(result)
    if not all(leaf is None or isinstance(leaf, Tensor) for leaf in before):
        raise NotReplayableError(f"{function} returns what is no tensor")

    def call() -> None:
        for old, new in zip(before, tree_leaves(function(*arguments, **options)), strict=True):
            if old is not None and old.data_ptr() != new.data_ptr():
                old.copy_(new)

    return call


def _word(argument: Tensor | int) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if type(argument) is int:
        return argument
    raise NotReplayableError(f"a kernel with an argument of {type(argument).__name__}")


@cache
def _address(function: types.BuiltinFunctionType) -> int:
    """Of the C function that Inductor's extension module wraps."""
    try:
        library = ctypes.CDLL(function.__self__.__file__)  # type: ignore[attr-defined] # a module
        address = ctypes.cast(getattr(library, function.__name__), ctypes.c_void_p).value
    except (AttributeError, OSError) as error:
        raise NotReplayableError(f"a kernel without an address: {error}") from error
    assert address is not None
    return address


class Recorder:
    """Code of Inductor rewritten to record.

    Args:
        graph: what Inductor compiled; `graph.current_callable` takes the list of arguments.

    Raises:
        NotReplayableError: there is something in the code that this does not know, or there are no native
            operators.
    """

    def __init__(self, graph: Any) -> None:
        failure = _library.load()
        if failure is not None:
            raise NotReplayableError(failure)
        self._graph = graph
        code = getattr(graph, "current_callable", None)
        function = getattr(code, "__func__", code)
        if not isinstance(function, types.FunctionType):
            raise NotReplayableError(f"compiled code of type {type(code).__name__}")
        self._owner = getattr(code, "__self__", None)
        self._globals = dict(function.__globals__)
        tree = _Rewriter(self._globals).visit(_source(function))
        module = ast.fix_missing_locations(ast.Module([tree], type_ignores=[]))
        exec(compile(module, function.__code__.co_filename, "exec"), self._globals)
        self._function: Callable[..., Sequence[Any]] = self._globals[function.__name__]

    @contextmanager
    def in_place(self) -> Iterator[Replay]:
        """The graph runs this instead meanwhile; yields what the run is recorded in."""
        replay = self._globals[_RECORDER] = Replay()
        before = self._graph.current_callable
        self._graph.current_callable = partial(self._function, self._owner) if self._owner else self._function
        try:
            yield replay
        finally:
            self._graph.current_callable = before
            del self._globals[_RECORDER]


def _source(function: types.FunctionType) -> ast.FunctionDef:
    try:
        with open(function.__code__.co_filename) as file:
            tree = ast.parse(file.read())
    except OSError as error:
        raise NotReplayableError(f"the compiled code cannot be read: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
            return node
    raise NotReplayableError(f"no function {function.__name__} in {function.__code__.co_filename}")


class _Rewriter(ast.NodeTransformer):
    """Sends every call to the recorder, and refuses all but straight code."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        for statement in node.body:
            if not isinstance(statement, _STATEMENTS):
                raise NotReplayableError(f"a statement of kind {type(statement).__name__}")
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name in _VIEWS or name in _HARMLESS:
            return node
        if name in _ALLOCATIONS:
            return _to_recorder("allocation", [node])
        if isinstance(self._names.get(name), types.BuiltinFunctionType) and name.startswith("cpp_"):
            return _to_recorder("kernel", [node.func, *node.args])
        if name.startswith(_OPERATORS):
            return _to_recorder("operator", [node.func, *node.args], node.keywords)
        raise NotReplayableError(f"a call of {name}")


def _to_recorder(
    method: str, arguments: list[ast.expr], keywords: list[ast.keyword] | None = None
) -> ast.Call:
    recorder = ast.Name(_RECORDER, ast.Load())
    return ast.Call(ast.Attribute(recorder, method, ast.Load()), arguments, keywords or [])
