"""A pass over compiled graphs that makes one call of the layers with the same input.

    q = planes_linear(x, ...)        y = siblings_linear(x, [q's, k's, v's tensors], ...)
    k = planes_linear(x, ...)   ->   q = y[..., :Nq]
    v = planes_linear(x, ...)        k = y[..., Nq : Nq + Nk];  v = ...

The graph is functional, so that the same node is the same value: no names are needed, and nothing is assumed
of the model.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.utils._pytree import tree_any, tree_map_only

from lowbit.ops.siblings import MEMBERS, Member, fused_arguments


class FuseSiblings(CustomGraphPass):
    """For Inductor's option `post_grad_custom_pre_pass`."""

    def __call__(self, graph: fx.Graph) -> None:
        fuse_siblings(graph)

    def uuid(self) -> Any:
        """What compiled code in the cache depends on besides the graph: this file."""
        return get_hash_for_files((__file__,))


def fuse_siblings(graph: fx.Graph) -> int:
    """Fuses all layers with the same input, in place; returns how many calls that saves."""
    families = {getattr(torch.ops.lowbit, f"{family}_linear").default: family for family in MEMBERS}
    groups: dict[tuple[Any, ...], list[tuple[fx.Node, Member]]] = {}
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in families or node.kwargs:
            continue
        x, *arguments = node.args
        member = MEMBERS[families[node.target]](arguments)
        if member is not None and _on_cpu(x) and not tree_any(_is_computed, list(member.tensors)):
            groups.setdefault((x, families[node.target], member.shared), []).append((node, member))
    saved = 0
    for (x, *_), group in groups.items():
        if len(group) > 1:
            _fuse(graph, x, [node for node, _ in group], [member for _, member in group])
            saved += len(group) - 1
    return saved


def _on_cpu(x: fx.Node) -> bool:
    return bool(x.meta["val"].device.type == "cpu")


def _is_computed(value: object) -> bool:
    """A weight that the graph computes may not exist yet where the first layer runs."""
    return isinstance(value, fx.Node) and value.op not in ("placeholder", "get_attr")


def _fuse(graph: fx.Graph, x: fx.Node, nodes: list[fx.Node], members: list[Member]) -> None:
    with graph.inserting_before(nodes[0]):
        fused = _call(graph, torch.ops.lowbit.siblings_linear.default, x, *fused_arguments(members))
        ends = list(accumulate(member.out_features for member in members))
        parts = [
            _call(graph, torch.ops.aten.slice.Tensor, fused, fused.meta["val"].dim() - 1, begin, end)
            for begin, end in zip([0, *ends], ends, strict=False)
        ]
    for node, part in zip(nodes, parts, strict=True):
        node.replace_all_uses_with(part)
        graph.erase_node(node)


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    values = tree_map_only(fx.Node, lambda argument: argument.meta["val"], args)
    node.meta["val"] = target(*values)  # fake tensors: shapes and dtypes only
    return node
