"""Sizes of a product: no value of theirs, be it 1 or a multiple of 16, makes other code.

Triton compiles a kernel again where an integer is 1, or divisible by 16. Nothing in these kernels gains by
that: addresses that matter are made of whole blocks. A layer is compiled once for its kind and tile, and a
program with one span has the registers of the loop over many.
"""

SIZES = ("tokens", "out_features", "in_features", "row_blocks", "groups", "split_spans", "splits")
