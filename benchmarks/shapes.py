"""Layer shapes and batch sizes that all benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass

# Tokens of one call: decoding one sequence, small batches, a prompt.
TOKENS = (1, 2, 4, 8, 16, 32, 128, 512)


@dataclass(frozen=True)
class Shape:
    """A linear layer, out_features x in_features."""

    out_features: int
    in_features: int

    def __str__(self) -> str:
        return f"{self.out_features}x{self.in_features}"

    @property
    def weights(self) -> int:
        return self.out_features * self.in_features


# Distinct linears of one block; Gemma's head too, since most of that model is its head.
MODELS: dict[str, tuple[Shape, ...]] = {
    "llama3-8b": (Shape(4096, 4096), Shape(1024, 4096), Shape(14336, 4096), Shape(4096, 14336)),
    "llama3-70b": (Shape(8192, 8192), Shape(1024, 8192), Shape(28672, 8192), Shape(8192, 28672)),
    "mistral-7b": (Shape(4096, 4096), Shape(1024, 4096), Shape(14336, 4096), Shape(4096, 14336)),
    "qwen2.5-1.5b": (Shape(1536, 1536), Shape(256, 1536), Shape(8960, 1536), Shape(1536, 8960)),
    "qwen2.5-7b": (Shape(3584, 3584), Shape(512, 3584), Shape(18944, 3584), Shape(3584, 18944)),
    "gemma3-270m": (
        *(Shape(1024, 640), Shape(256, 640), Shape(640, 1024)),
        *(Shape(2048, 640), Shape(640, 2048), Shape(262144, 640)),
    ),
    "gemma3-1b": (
        *(Shape(1024, 1152), Shape(256, 1152), Shape(1152, 1024)),
        *(Shape(6912, 1152), Shape(1152, 6912), Shape(262144, 1152)),
    ),
    "square": (Shape(2048, 2048), Shape(4096, 4096), Shape(8192, 8192)),
}


def parse(text: str) -> tuple[Shape, ...]:
    """Shapes of ``llama3-8b,4096x4096``: names of MODELS and OUTxIN, each shape once, in order.

    Raises:
        ValueError: neither.
    """
    found: list[Shape] = []
    for part in text.split(","):
        if part in MODELS:
            found += MODELS[part]
            continue
        extents = part.split("x")
        if len(extents) != 2 or not all(extent.isdigit() for extent in extents):
            raise ValueError(f"'{part}' is no shape; allowed: OUTxIN, {', '.join(MODELS)}")
        found.append(Shape(*map(int, extents)))
    return tuple(dict.fromkeys(found))
