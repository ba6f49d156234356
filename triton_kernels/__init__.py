"""Triton kernels, one module or folder per family; installed as lowbit.triton_kernels.

Imported by the backend `triton` alone (python/lowbit/backends/triton.py): everything else works without
Triton.
"""
