"""Generation at the speed of the linear layers: a compiled step and the loop around it."""

from lowbit.decoding.decoder import FastDecoder, fast_decode
from lowbit.decoding.sampling import Sampling

__all__ = ["FastDecoder", "Sampling", "fast_decode"]
