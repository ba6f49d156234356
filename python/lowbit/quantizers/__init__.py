"""Packing a weight matrix without calibration data: one file per family, called by the schemes.

Quantisers know the formats and nothing of kernels. They read a weight in row chunks, so that a large head
costs little memory beyond the weight and its packed form.
"""
