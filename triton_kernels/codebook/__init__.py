"""Family codebook: products with weights from tables, in three variants."""

from .channel import channel_linear
from .scalar import scalar_linear
from .vector import vector_linear

__all__ = ["channel_linear", "scalar_linear", "vector_linear"]
