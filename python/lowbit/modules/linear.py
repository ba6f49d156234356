"""Linear layers with packed weights, one class per family."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowbit import backends
from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.formats import FORMATS, PRECISIONS, PackedWeight
from lowbit.formats.base import Metadata
from lowbit.modules.packed import FLOAT_DTYPES, PackedModule, Plan
from lowbit.schemes import BipolarInt, Scheme, check_integer

_CODES = {name: code for code, name in enumerate(PRECISIONS)}  # what the operators take


class QuantizedLinear(PackedModule):
    """y = x W^T + bias with a packed W; drop-in for `nn.Linear`.

    Use the subclass of the weight's family, or `make_linear`. Gradients flow to the input and the bias,
    straight through the quantisation of the activations; the packed weight is not trained.

    Args:
        packed: the weight.
        bias: [out_features] or None; kept as it is when it is a Parameter.
        dtype: floating dtype the model computes in; default: the bias's, else torch's default dtype.
        precision: "fast", "high", "exact"; None: "fast" on CPUs, "high" on GPUs, also after a move.
        backend, scheme, name: see `PackedModule`.

    Raises:
        ShapeError: the bias does not have out_features values.
        ValueRangeError: unknown precision.
    """

    def __init__(
        self,
        packed: PackedWeight,
        bias: Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
        precision: str | None = None,
        backend: str | None = None,
        scheme: Scheme | None = None,
        name: str | None = None,
    ) -> None:
        if dtype is None:
            dtype = torch.get_default_dtype() if bias is None else bias.dtype
        super().__init__(packed, dtype=dtype, scheme=scheme, backend=backend, name=name)
        if bias is not None and tuple(bias.shape) != (self.out_features,):
            raise ShapeError(
                "wrong shape of the bias", layer=name, found=list(bias.shape), allowed=[self.out_features]
            )
        self._input_shape = (self.in_features,)  # last dimension of x
        self.register_parameter("bias", _as_parameter(bias))
        self.precision = precision

    @property
    def precision(self) -> str:
        """How activations are quantised. Setting None returns to the default of the device."""
        if self._precision is not None:
            return self._precision
        return "fast" if self.device.type in ("cpu", "meta") else "high"

    @precision.setter
    def precision(self, value: str | None) -> None:
        if value is not None and value not in PRECISIONS:
            raise ValueRangeError(
                "unknown precision", layer=self.layer_name, found=repr(value), allowed=", ".join(PRECISIONS)
            )
        self._precision = value

    def sharing_weight(self, bias: Tensor | None, name: str | None = None) -> QuantizedLinear:
        """A layer with a bias of its own around the same packed tensors (in memory once, until moved)."""
        twin = copy.copy(self)
        for attribute, value in vars(self).items():
            if isinstance(value, (dict, set)):  # buffers, hooks, metadata: of each layer its own
                setattr(twin, attribute, copy.copy(value))
        twin._parameters = {"bias": _as_parameter(bias)}
        twin.layer_name = name
        return twin

    def _make_plan(self) -> Plan:
        plan = Plan(backends.get(self._backend).operator(self.kind), self._numbers())
        if not torch.compiler.is_compiling():
            self.__dict__["_plan"] = plan
        return plan

    def _numbers(self) -> tuple[Any, ...]:
        """The operator's arguments behind the tensors."""
        raise NotImplementedError

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise DtypeError(
                "the input is no tensor",
                layer=self.layer_name,
                found=type(x).__name__,
                allowed="torch.Tensor",
            )
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                "wrong shape of the input",
                layer=self.layer_name,
                found=list(x.shape),
                allowed=f"[..., {self.in_features}]",
            )
        if x.dtype != self.dtype and not torch.compiler.is_compiling():
            supports = backends.get(self._backend).supports
            allowed = [d for d in FLOAT_DTYPES if supports(self.kind, x.device, d, forced=True).ok]
            if x.dtype not in allowed:
                raise DtypeError(
                    f"wrong dtype of the input for backend '{self._backend}'",
                    layer=self.layer_name,
                    found=x.dtype,
                    allowed=", ".join(map(str, allowed)) or self.dtype,
                )

    def _precision_code(self) -> int:
        return _CODES[self.precision]

    def extra_repr(self) -> str:
        scheme = self.kind if self.scheme is None else self.scheme.name
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, "
            f"scheme={scheme}, bits_per_weight={self.bits_per_weight:.3f}, precision={self.precision}, "
            f"backend={self.backend}"
        )


class SignsLinear(QuantizedLinear):
    """1-bit weights: BinaryMoS, OneBit, signs with scales per group."""

    def _numbers(self) -> tuple[Any, ...]:
        return [], self.in_features, self.out_features, self.group_size, self._precision_code()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is not self.dtype or x.shape[-1:] != self._input_shape:
            self._check_input(x)
        operator, numbers = self._plan or self._make_plan()
        buffers = self._buffers
        return operator(
            x,
            buffers["weight"],
            buffers.get("scales"),
            buffers.get("router"),
            buffers.get("in_scales"),
            buffers.get("out_scales"),
            self._parameters["bias"],
            *numbers,
        )


class PlanesLinear(QuantizedLinear):
    """Weights of 1 to 8 bits as bit planes.

    `active_bits` and `activation_bits` may change between calls: the first `active_bits` planes are a valid
    weight of fewer bits, read from the same memory (a backend may have to lay the weight out anew the first
    time); `activation_bits` 1..8 quantises activations to that many bits, 0 leaves them to `precision`.
    """

    _active_bits: int | None = None
    _activation_bits: int | None = None

    @property
    def bits(self) -> int:
        """Stored planes."""
        return int(self.metadata["bits"])

    @property
    def active_bits(self) -> int:
        """Planes read per product, 1..bits. Setting None returns to all of them."""
        return self.bits if self._active_bits is None else self._active_bits

    @active_bits.setter
    def active_bits(self, value: int | None) -> None:
        if value is not None:
            check_integer("unsupported active_bits", value, 1, self.bits, self.layer_name)
        self._active_bits = value
        if value is not None and value < self.bits and not self._any_bits:
            self._any_bits = True
            if backends.get(self._backend).packs_digits:
                self._take(self.canonical_tensors())

    @property
    def activation_bits(self) -> int:
        """Bits of the activations, 1..8; 0: floating point. Setting None returns to the scheme's."""
        if self._activation_bits is not None:
            return self._activation_bits
        return (self.scheme.activation_bits or 0) if isinstance(self.scheme, BipolarInt) else 0

    @activation_bits.setter
    def activation_bits(self, value: int | None) -> None:
        if value is not None:
            check_integer("unsupported activation_bits", value, 0, 8, self.layer_name)
        self._activation_bits = value

    def _numbers(self) -> tuple[Any, ...]:
        shape = (self.in_features, self.out_features, self.group_size)
        return *shape, self.active_bits, self.activation_bits, self._precision_code()

    def extra_repr(self) -> str:
        active = f", active_bits={self.active_bits}" if self.active_bits < self.bits else ""
        activations = f", activation_bits={self.activation_bits}" if self.activation_bits else ""
        return super().extra_repr() + active + activations

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is not self.dtype or x.shape[-1:] != self._input_shape:
            self._check_input(x)
        operator, numbers = self._plan or self._make_plan()
        buffers = self._buffers
        return operator(
            x,
            buffers["weight"],
            buffers["scales"],
            buffers.get("offsets"),
            self._parameters["bias"],
            *numbers,
        )


class CodebookLinear(QuantizedLinear):
    """Weights from tables: shared channels with a low-rank correction, one per row, or vector codebooks."""

    def _numbers(self) -> tuple[Any, ...]:
        if self.kind == "codebook_channel":
            axis = int(self.metadata["axis"])
            return self.in_features, self.out_features, axis, self._precision_code()
        return self.in_features, self._precision_code()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is not self.dtype or x.shape[-1:] != self._input_shape:
            self._check_input(x)
        operator, numbers = self._plan or self._make_plan()
        buffers = self._buffers
        if self.kind == "codebook_channel":
            return operator(
                x,
                buffers["weight"],
                buffers["labels"],
                buffers.get("low_rank_out"),
                buffers.get("low_rank_in"),
                self._parameters["bias"],
                *numbers,
            )
        if self.kind == "codebook_scalar":
            return operator(
                x,
                buffers["weight"],
                buffers["tables"],
                buffers.get("outlier_offsets"),
                buffers.get("outlier_columns"),
                buffers.get("outlier_values"),
                self._parameters["bias"],
                *numbers,
            )
        return operator(
            x,
            buffers["weight"],
            buffers["codebooks"],
            buffers["out_scales"],
            self._parameters["bias"],
            *numbers,
        )


def _as_parameter(bias: Tensor | None) -> nn.Parameter | None:
    if bias is None or isinstance(bias, nn.Parameter):
        return bias
    return nn.Parameter(bias, requires_grad=False)


_CLASSES: Mapping[str, type[QuantizedLinear]] = {
    "signs": SignsLinear,
    "planes": PlanesLinear,
    "codebook": CodebookLinear,
}


def make_linear(
    packed: PackedWeight,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    precision: str | None = None,
    backend: str | None = None,
    scheme: Scheme | None = None,
    name: str | None = None,
) -> QuantizedLinear:
    """The module of the weight's family; arguments as for `QuantizedLinear`."""
    return _CLASSES[packed.family](
        packed, bias, dtype=dtype, precision=precision, backend=backend, scheme=scheme, name=name
    )


def meta_weight(metadata: Metadata, layer: str | None = None) -> PackedWeight:
    """A packed weight of that metadata without data (meta device), to be filled by `load_state_dict`.

    Raises:
        FormatError: the metadata is wrong.
    """
    cls = FORMATS[str(metadata["kind"])]
    specs = cls.expected(metadata, layer)
    tensors = {name: torch.empty(spec.shape, dtype=spec.dtype, device="meta") for name, spec in specs.items()}
    return backends.packed_format(tensors, metadata)
