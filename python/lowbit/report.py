"""What `replace_linear` did, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LayerReport:
    """One packed weight.

    Attributes:
        name: dotted name of the module.
        module: class that was replaced.
        shape: (out_features, in_features).
        scheme: name of the scheme.
        bits_per_weight: stored bits, everything counted.
        relative_error: ||W - W'|| / ||W|| (Frobenius) of the packed weight W'; mixed scales at uniform gates.
        nbytes: bytes of the packed tensors; dense_nbytes: of the weight before.
        backend: that runs the layer.
        shared_with: other modules that use the same packed weight.
    """

    name: str
    module: str
    shape: tuple[int, int]
    scheme: str
    bits_per_weight: float
    relative_error: float
    nbytes: int
    dense_nbytes: int
    backend: str
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The converted layers, and the layers left as they are with the reason.

    `str(report)` is a table, `to_json()` the same as JSON.
    """

    layers: Sequence[LayerReport]
    skipped: Mapping[str, str]

    @property
    def weights(self) -> int:
        """Weights in converted layers, shared ones once."""
        return sum(layer.shape[0] * layer.shape[1] for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all packed tensors."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the same weights before."""
        return sum(layer.dense_nbytes for layer in self.layers)

    @property
    def bits_per_weight(self) -> float:
        """Mean over all converted weights."""
        return 8 * self.nbytes / self.weights

    @property
    def relative_error(self) -> float:
        """Root of the mean squared relative error of the layers, each weighted by its number of weights."""
        total = sum(layer.relative_error**2 * layer.shape[0] * layer.shape[1] for layer in self.layers)
        return float((total / self.weights) ** 0.5)

    def to_dict(self) -> dict[str, object]:
        """JSON-able: `layers`, `skipped`, `total`."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "skipped": dict(self.skipped),
            "total": {
                "layers": len(self.layers),
                "weights": self.weights,
                "bits_per_weight": self.bits_per_weight,
                "relative_error": self.relative_error,
                "nbytes": self.nbytes,
                "dense_nbytes": self.dense_nbytes,
            },
        }

    def to_json(self) -> str:
        """`to_dict()` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        rows = [
            (
                " = ".join((layer.name, *layer.shared_with)),
                "x".join(map(str, layer.shape)),
                layer.scheme,
                f"{layer.bits_per_weight:.3f}",
                f"{layer.relative_error:.4f}",
                layer.backend,
            )
            for layer in self.layers
        ]
        lines = table(
            ("layer", "shape", "scheme", "bits/weight", "rel. error", "backend"), rows, right=(3, 4)
        )
        lines.append(
            f"{len(self.layers)} layers, {self.weights:,} weights: {size(self.dense_nbytes)} -> "
            f"{size(self.nbytes)}, {self.bits_per_weight:.3f} bits per weight, "
            f"relative error {self.relative_error:.4f}"
        )
        lines += [f"not converted: {name} ({reason})" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def size(nbytes: int) -> str:
    """Bytes for people: '12.3 MB'."""
    if nbytes < 1e6:
        return f"{nbytes / 1e3:.1f} kB"
    return f"{nbytes / 1e6:.1f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:.2f} GB"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of a plain-text table; columns numbered in `right` are right-aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(header), line(["-" * width for width in widths]), *map(line, rows)]
