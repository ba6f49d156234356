"""Functional operators on packed weights, for every backend; torch.ops.lowbit.* underneath.

    y = signs_linear(x, weight, ...)       1-bit weights: BinaryMoS, OneBit, scales per group
    y = planes_linear(x, weight, ...)      1 to 8 bits as bit planes
    y = codebook_linear(x, weight, ...)    weights from tables: channels, scalars, vectors

All take activations [..., in_features] of any leading dimensions and strides and give [..., out_features] of
the same dtype. They are differentiable in x (straight through the quantisation of the activations) and in the
bias, and legal under torch.compile(fullgraph=True) and torch.export.

The module `straight_through` has what trains weights for them.
"""

from lowbit.ops import straight_through
from lowbit.ops._library import load, load_cuda
from lowbit.ops.codebook import codebook_linear
from lowbit.ops.planes import planes_linear
from lowbit.ops.signs import signs_linear

__all__ = ["codebook_linear", "load", "load_cuda", "planes_linear", "signs_linear", "straight_through"]
