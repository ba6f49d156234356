"""`explain`: which kernel each packed layer runs with, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from lowbit import backends
from lowbit.backends.arguments import ARGUMENTS
from lowbit.backends.base import KernelChoice
from lowbit.bandwidth import Bandwidth, bandwidth
from lowbit.formats import FORMATS
from lowbit.modules import PackedModule, PlanesLinear, QuantizedLinear, TiedEmbedding
from lowbit.report import size, table


@dataclass(frozen=True)
class LayerExplanation:
    """One packed layer.

    Attributes:
        name, shape, scheme, bits_per_weight: as in the report of `replace_linear`.
        kernel: what computes the product of one token, with the tile of Triton kernels.
        backend: that the kernel belongs to; reason: why this one, and why not those before it; why this
            kernel, and why not the backend's others.
        precision: how activations are quantised: "fast", "high", "exact", or "A4" for 4-bit activations;
            "(float)" behind it where the kind of weight leaves them in float; "-" for an embedding.
        nbytes: of the packed tensors in memory; 0 for an embedding that reads those of another layer.
        read_bytes: of them that one token reads: of planes those in use, of an embedding one row.
        microseconds: that memory takes for those; an estimate from `Explanation.bandwidth`, None without one.
    """

    name: str
    shape: tuple[int, int]
    scheme: str
    bits_per_weight: float
    kernel: str
    backend: str
    reason: str
    precision: str
    nbytes: int
    read_bytes: int
    microseconds: float | None


@dataclass(frozen=True)
class Explanation:
    """All packed layers of a model; `str()` is a table, the reasons below it.

    `bandwidth` is that of the layers' device, from which times are estimated: nothing but reading weights is
    counted, no launch and no arithmetic.
    """

    layers: Sequence[LayerExplanation]
    bandwidth: Bandwidth | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        bandwidth = None if self.bandwidth is None else asdict(self.bandwidth)
        return {"layers": [asdict(layer) for layer in self.layers], "bandwidth": bandwidth}

    def __str__(self) -> str:
        if not self.layers:
            return "no packed layers"
        rows = [
            (
                layer.name,
                "x".join(map(str, layer.shape)),
                layer.scheme,
                f"{layer.bits_per_weight:.3f}",
                layer.kernel,
                layer.backend,
                layer.precision,
                size(layer.nbytes),
                size(layer.read_bytes),
                "-" if layer.microseconds is None else f"{layer.microseconds:.1f} us",
            )
            for layer in self.layers
        ]
        header = (
            *("layer", "shape", "scheme", "bits/weight", "kernel", "backend", "precision", "memory"),
            *("read/token", "estimate"),
        )
        lines = table(header, rows, right=(3, 7, 8, 9))
        if self.bandwidth is not None:
            rate, source = self.bandwidth.bytes_per_second / 1e9, self.bandwidth.source
            lines.append(
                f"estimate: bytes read / {rate:.1f} GB/s ({source}); arithmetic and launches not counted"
            )
        reasons: dict[tuple[str, str], int] = {}
        for layer in self.layers:
            reasons[layer.backend, layer.reason] = reasons.get((layer.backend, layer.reason), 0) + 1
        lines += [f"{backend} ({count} layers): {reason}" for (backend, reason), count in reasons.items()]
        return "\n".join(lines)


def explain(model: nn.Module) -> Explanation:
    """Which kernel each packed layer of `model` runs with, on which backend, and why."""
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    first = next((module for module in names if isinstance(module, PackedModule)), None)
    rate = None if first is None else bandwidth(first.device)
    layers = []
    for module, name in names.items():
        if isinstance(module, PackedModule):
            layers.append(_layer(name, module, module, _choice(module), rate))
        elif isinstance(module, TiedEmbedding):
            choice = KernelChoice(f"rows of {names.get(module.head, 'another layer')}")
            layers.append(_layer(name, module, module.head, choice, rate))
    return Explanation(tuple(layers), rate)


def _layer(
    name: str, module: nn.Module, source: PackedModule, choice: KernelChoice, rate: Bandwidth | None
) -> LayerExplanation:
    read = _read_bytes(module, source)
    return LayerExplanation(
        name=name,
        shape=(source.out_features, source.in_features),
        scheme=source.kind if source.scheme is None else source.scheme.name,
        bits_per_weight=source.bits_per_weight,
        kernel=choice.kernel,
        backend=source.backend,
        reason="; ".join([source.backend_reason, *_reasons(choice)]),
        precision=_precision(module),
        nbytes=source.nbytes if module is source else 0,
        read_bytes=read,
        microseconds=None if rate is None else read / rate.bytes_per_second * 1e6,
    )


def _read_bytes(module: nn.Module, source: PackedModule) -> int:
    if not isinstance(module, QuantizedLinear):
        return source.nbytes // source.out_features
    if not isinstance(module, PlanesLinear):
        return module.nbytes
    weight = module.runtime_tensors()["weight"].nbytes
    return module.nbytes - weight + weight * module.active_bits // module.bits


def _choice(module: PackedModule) -> KernelChoice:
    if not isinstance(module, QuantizedLinear):
        return KernelChoice("rows")
    x = torch.empty((1, module.in_features), dtype=module.dtype, device="meta")
    numbers = module._numbers()
    tensors = {**module.runtime_tensors(), "bias": module.bias}
    arguments = [tensors.get(name) for name in ARGUMENTS[module.kind]._fields[1 : -len(numbers)]]
    choice = backends.get(module.backend).choose(module.kind, x, (*arguments, *numbers))
    if isinstance(module, PlanesLinear) and module.active_bits < module.bits:
        return choice._replace(kernel=f"{choice.kernel}, {module.active_bits} of {module.bits} planes")
    return choice


def _reasons(choice: KernelChoice) -> list[str]:
    own = [f"{choice.kernel}: {choice.reason}"] if choice.reason else []
    return own + [f"not {kernel}: {reason}" for kernel, reason in choice.rejected.items()]


def _precision(module: nn.Module) -> str:
    if not isinstance(module, QuantizedLinear):
        return "-"
    if isinstance(module, PlanesLinear) and module.activation_bits:
        return f"A{module.activation_bits}"
    quantized = FORMATS[module.kind].quantized_precisions
    return module.precision if module.precision in ("exact", *quantized) else f"{module.precision} (float)"
