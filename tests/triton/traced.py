"""Program: the kernels that torch sees in the graphs of the operators, as JSON, compiled for a GPU that need
not exist.

    {"launches": [{"case": "mos, high", "kernel": "product", "found": true, "cloned": ["y"]}], "fixed": []}

`found`: torch's search of the operator's source, which decides what compiled graphs depend on, has it as
well. `cloned`: arguments that torch takes for written to. `fixed`: see there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import torch
import triton
from lowbit.formats import PRECISIONS
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import BackendCompilerFailed
from torch._functorch.aot_autograd import aot_function
from torch._higher_order_ops.triton_kernel_wrap import (
    kernel_side_table,
    triton_kernel_wrapper_functional,
)
from torch._library.triton import get_triton_kernels_for_op
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from triton.backends.compiler import GPUTarget

from tests.ops import cases, targets

TARGET = targets.Target("triton", "lowbit::triton_")
KINDS = ("mos", "planes", "channel0", "channel1", "outliers", "vector")
N, K, M = 70, 2300, 3


def graph(layer: cases.Layer, precision: str) -> GraphModule:
    """What AOTAutograd hands to Inductor."""
    graphs: list[GraphModule] = []

    def keep(module: GraphModule, inputs: object) -> GraphModule:
        graphs.append(module)
        return module

    operator, values = layer.operator(), layer.arguments(precision)
    with FakeTensorMode() as mode:
        arguments = [mode.from_tensor(value) if isinstance(value, Tensor) else value for value in values]
        aot_function(lambda x: operator(x, *arguments), fw_compiler=keep)(torch.empty(M, K))
    return graphs[0]


def launches() -> Iterator[dict[str, object]]:
    for kind in KINDS:
        layer = cases.make(kind, N, K, target=TARGET)
        found = get_triton_kernels_for_op(layer.operator()._name)
        for precision in PRECISIONS:
            for node in graph(layer, precision).graph.nodes:
                if node.target is triton_kernel_wrapper_functional:
                    autotuner = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])  # of one choice
                    kernel = autotuner.fn
                    yield {
                        "case": f"{kind}, {precision}",
                        "operator": layer.packed.kind,
                        "kernel": kernel.__name__,
                        "found": kernel in found,
                        "cloned": node.kwargs["tensors_to_clone"],
                    }


def graph_of_any_tokens(kind: str, precision: str) -> GraphModule:
    """What torch.compile traces where the number of tokens may change."""
    graphs: list[GraphModule] = []

    class Traced(Exception):
        pass

    def keep(module: GraphModule, inputs: object) -> GraphModule:
        graphs.append(module)
        raise Traced

    layer = cases.make(kind, N, K, target=TARGET)
    operator, arguments = layer.operator(), layer.arguments(precision)
    x = torch.empty(M, K)
    torch._dynamo.reset()  # the function below is another one each time, with the same code
    torch._dynamo.mark_dynamic(x, 0)
    with suppress(Traced, BackendCompilerFailed):
        torch.compile(lambda x: operator(x, *arguments), backend=aot_autograd(fw_compiler=keep))(x)
    return graphs[0]


def fixed() -> Iterator[str]:
    """Kernels that a graph starts for one number of tokens only, of a few layers."""
    for kind, precision in (("mos", "fast"), ("planes", "high"), ("channel0", "high"), ("vector", "exact")):
        for node in graph_of_any_tokens(kind, precision).graph.nodes:
            if node.target is triton_kernel_wrapper_functional:
                ((first, *_),) = node.kwargs["grid"]
                kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).fn.__name__
                if isinstance(first, int) and kernel != "partial_sums":  # whose last dimension are tokens
                    yield f"{kind}, {precision}: {kernel}"


if __name__ == "__main__":
    # Who is written to is decided by compiling for the GPU at hand.
    target = GPUTarget("cuda", 90, 32)
    triton.runtime.driver.set_active(SimpleNamespace(get_current_target=lambda: target))
    targets.load(TARGET)
    print(json.dumps({"launches": list(launches()), "fixed": list(fixed())}))
