"""What every packed weight has in common: tensors, metadata, checks, and the linear layer in plain torch.

A packed weight is a frozen dataclass of tensors and integers. Its tensors go into a checkpoint under their
field names, its metadata (JSON-able) beside them, and :meth:`PackedWeight.from_tensors` puts both together
again, checked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from lowbit.errors import DtypeError, FormatError, ShapeError, ValueRangeError
from lowbit.formats.activations import check_precision, prepare_activations

SCALE_DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
GROUP_MULTIPLE = 32
# Rows are expanded in pieces of about this many weights, so that a large head needs no full-size temporaries.
_CHUNK_WEIGHTS = 1 << 22

Metadata = Mapping[str, int | str]
Self = TypeVar("Self", bound="PackedWeight")


class TensorSpec(NamedTuple):
    """Shape and dtype that a stored tensor must have."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def dtype_name(dtype: torch.dtype) -> str:
    """'float16' for torch.float16."""
    return str(dtype).removeprefix("torch.")


def group_count(in_features: int, group_size: int) -> int:
    """Groups per row; the last one may be short. A group size of -1 is the whole row."""
    return 1 if group_size == -1 else -(-in_features // group_size)


def check_group_size(group_size: int, *, layer: str | None = None) -> None:
    """Raise :class:`ValueRangeError` unless `group_size` is -1 or a positive multiple of 32."""
    if group_size != -1 and (group_size <= 0 or group_size % GROUP_MULTIPLE):
        raise ValueRangeError(
            "unsupported group_size",
            layer=layer,
            found=group_size,
            allowed=f"-1 (whole row) or a positive multiple of {GROUP_MULTIPLE}",
        )


def spread_groups(values: Tensor, in_features: int, group_size: int) -> Tensor:
    """One value per group -> one per input: [n, G] -> [n, K], or still [n, 1] when the group is the row."""
    if group_size == -1:
        return values
    return values.repeat_interleave(group_size, dim=1)[:, :in_features]


class MetadataReader:
    """Reads the fields of one layer's metadata; complains in the layer's name."""

    def __init__(self, metadata: Metadata, fields: tuple[str, ...], kind: str, layer: str | None) -> None:
        self._metadata = metadata
        self._layer = layer
        unknown = sorted(set(metadata) - {"kind", *fields})
        if unknown:
            raise FormatError(
                f"unknown metadata field for {kind}",
                layer=layer,
                found=", ".join(unknown),
                allowed=", ".join(fields),
            )
        missing = [name for name in fields if name not in metadata]
        if missing:
            raise FormatError(
                f"missing metadata field for {kind}",
                layer=layer,
                found=", ".join(metadata),
                allowed=", ".join(fields),
            )
        if metadata.get("kind", kind) != kind:
            raise FormatError(
                "wrong kind of packed weight", layer=layer, found=metadata["kind"], allowed=kind
            )

    def integer(self, name: str, minimum: int, maximum: int | None = None) -> int:
        value = self._metadata[name]
        bound = f"an integer >= {minimum}" if maximum is None else f"an integer {minimum}..{maximum}"
        # bool is an int to Python, not to JSON.
        if type(value) is not int or value < minimum or (maximum is not None and value > maximum):
            raise ValueRangeError(
                f"bad metadata field '{name}'", layer=self._layer, found=repr(value), allowed=bound
            )
        return value

    def group_size(self) -> int:
        value = self.integer("group_size", -1)
        check_group_size(value, layer=self._layer)
        return value

    def scale_dtype(self) -> torch.dtype:
        value = self._metadata["scale_dtype"]
        if value not in SCALE_DTYPES:
            raise ValueRangeError(
                "bad metadata field 'scale_dtype'",
                layer=self._layer,
                found=repr(value),
                allowed=", ".join(SCALE_DTYPES),
            )
        return SCALE_DTYPES[str(value)]


def check_tensors(
    tensors: Mapping[str, Tensor], specs: Mapping[str, TensorSpec], *, layer: str | None = None
) -> None:
    """Raise a typed error unless exactly the tensors of `specs` are there, each with its shape and dtype."""
    for name in specs:
        if name not in tensors:
            raise FormatError(
                f"missing tensor '{name}'", layer=layer, found=", ".join(tensors), allowed=", ".join(specs)
            )
    for name, tensor in tensors.items():
        if name not in specs:
            raise FormatError(
                f"unexpected tensor '{name}'", layer=layer, found=name, allowed=", ".join(specs)
            )
        if tuple(tensor.shape) != specs[name].shape:
            raise ShapeError(
                f"wrong shape of '{name}'",
                layer=layer,
                found=list(tensor.shape),
                allowed=list(specs[name].shape),
            )
        if tensor.dtype != specs[name].dtype:
            raise DtypeError(
                f"wrong dtype of '{name}'",
                layer=layer,
                found=dtype_name(tensor.dtype),
                allowed=dtype_name(specs[name].dtype),
            )


class PackedWeight(ABC):
    """A weight matrix [N, K] in packed form (N = out_features, K = in_features).

    Attributes:
        in_features, out_features: K and N.
        group_size: inputs per scale; -1 for the whole row or where it means nothing.
        family: 'signs', 'planes' or 'codebook', as kernels, operators, tests and benchmarks are called.
        kind: the family, or for codebooks the family and variant; selects the class on loading.
        tensor_names: fields that are stored tensors; None means absent.
        metadata_fields: keys of :meth:`metadata` besides 'kind'.
        weight_dims: dimensions of the tensor 'weight'.
        quantized_precisions: those at which activations become integers; the others compute in float.
    """

    # Fields or properties of each format.
    in_features: int
    out_features: int
    group_size: int
    weight: Tensor

    family: ClassVar[str]
    kind: ClassVar[str]
    tensor_names: ClassVar[tuple[str, ...]]
    metadata_fields: ClassVar[tuple[str, ...]]
    weight_dims: ClassVar[int]
    quantized_precisions: ClassVar[tuple[str, ...]]

    @abstractmethod
    def metadata(self) -> dict[str, int | str]:
        """Everything besides the tensors that loading needs; JSON-able."""

    @classmethod
    @abstractmethod
    def expected(cls, metadata: Metadata, layer: str | None = None) -> dict[str, TensorSpec]:
        """Names, shapes and dtypes of the tensors that belong to this metadata.

        Raises:
            FormatError: a metadata field is unknown, missing or out of range.
        """

    @classmethod
    @abstractmethod
    def _fields(cls, metadata: Metadata) -> dict[str, int]:
        """Constructor arguments that are not tensors, from checked metadata."""

    @abstractmethod
    def _validate_values(self, layer: str | None) -> None:
        """Check the values, given right shapes and dtypes."""

    @abstractmethod
    def _expand(self, ids: Tensor) -> Tensor:
        """float32 [len(ids), K]: the weights of these rows."""

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors under their checkpoint names, absent ones left out."""
        found = {name: getattr(self, name) for name in self.tensor_names}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def from_tensors(
        cls: type[Self], tensors: Mapping[str, Tensor], metadata: Metadata, layer: str | None = None
    ) -> Self:
        """Inverse of :meth:`tensors` and :meth:`metadata`, with every check of :meth:`validate`.

        Raises:
            FormatError: metadata or tensors break the format (ShapeError, DtypeError, ValueRangeError).
        """
        check_tensors(tensors, cls.expected(metadata, layer), layer=layer)
        packed = cls(**tensors, **cls._fields(metadata))
        packed._validate_values(layer)
        return packed

    def validate(self, layer: str | None = None) -> None:
        """Raise a typed error, naming `layer`, if shapes, dtypes or values break the format."""
        if self.weight.dim() != self.weight_dims:
            raise ShapeError(
                "wrong shape of 'weight'",
                layer=layer,
                found=list(self.weight.shape),
                allowed=f"{self.weight_dims} dimensions",
            )
        check_tensors(self.tensors(), self.expected(self.metadata(), layer), layer=layer)
        self._validate_values(layer)

    def _check_finite(self, names: tuple[str, ...], layer: str | None) -> None:
        for name in names:
            tensor = getattr(self, name)
            if tensor is not None and not bool(tensor.isfinite().all()):
                bad = int((~tensor.isfinite()).sum())
                raise ValueRangeError(
                    f"non-finite values in '{name}'",
                    layer=layer,
                    found=f"{bad} NaN or infinite",
                    allowed="finite",
                )

    def _chunks(self) -> Iterator[Tensor]:
        step = max(1, _CHUNK_WEIGHTS // self.in_features)
        for begin in range(0, self.out_features, step):
            yield torch.arange(begin, min(begin + step, self.out_features), device=self.weight.device)

    def dequantize(self) -> Tensor:
        """float32 [N, K]: the weights that the packed form stands for."""
        return torch.cat([self._expand(ids) for ids in self._chunks()])

    def rows(self, ids: Tensor) -> Tensor:
        """float32 [len(ids), K]: some rows of :meth:`dequantize`, e.g. of an embedding.

        Args:
            ids: integer tensor [n] of row numbers.
        """
        self._check_ids(ids)
        return self._expand(ids.long())

    def _check_ids(self, ids: Tensor) -> None:
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.out_features):
            raise ValueRangeError(
                "row number out of range",
                found=f"{int(ids.min())}..{int(ids.max())}",
                allowed=f"0..{self.out_features - 1}",
            )

    def linear(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        *,
        precision: str = "exact",
        activation_bits: int = 0,
        active_bits: int | None = None,
    ) -> Tensor:
        """y = x W^T + bias, the specification that every kernel is compared with.

        Computes in float32, or in float64 when x is float64 (the reference of the error bounds).

        Args:
            x: float [..., K], any leading dimensions.
            bias: [N] or None.
            precision: 'exact', 'high' or 'fast'; activations are quantised (formats/activations.py) at those
                in `quantized_precisions` and kept in float otherwise.
            activation_bits: 1..8 quantises activations to bipolar codes instead; planes only.
            active_bits: use only the first planes of the weight; planes only.

        Returns:
            [..., N] in x's dtype. A token with a non-finite value gives a row of NaN. The gradient in x
            passes straight through the activation quantiser.
        """
        self._check_call(x, activation_bits, active_bits)
        values = self._activations(x, precision, activation_bits)
        return self._finish(self._product(values, active_bits), bias, x.dtype)

    def _activations(self, x: Tensor, precision: str, activation_bits: int = 0) -> Tensor:
        check_precision(precision)
        used = precision if precision in self.quantized_precisions else "exact"
        return prepare_activations(x, used, activation_bits)

    def _product(self, x: Tensor, active_bits: int | None) -> Tensor:
        pieces = [torch.nn.functional.linear(x, self._expand(ids).to(x.dtype)) for ids in self._chunks()]
        return torch.cat(pieces, dim=-1)

    @staticmethod
    def _finish(y: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        return (y if bias is None else y + bias.to(y.dtype)).to(dtype)

    def _check_call(self, x: Tensor, activation_bits: int, active_bits: int | None) -> None:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                "wrong shape of the input", found=list(x.shape), allowed=f"[..., {self.in_features}]"
            )
        self._check_bits(activation_bits, active_bits)

    def _check_bits(self, activation_bits: int, active_bits: int | None) -> None:
        if activation_bits:
            raise ValueRangeError(
                f"activation_bits of a {self.kind} weight",
                found=activation_bits,
                allowed="0; only planes take 1..8",
            )
        if active_bits is not None:
            raise ValueRangeError(
                f"active_bits of a {self.kind} weight",
                found=active_bits,
                allowed="None; only planes are nested",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, everything counted: scales, router, tables, labels, low rank, pads, ..."""
        return 8 * self.nbytes / (self.out_features * self.in_features)

    def __repr__(self) -> str:
        """Shapes and dtypes of the tensors instead of their values, and the metadata."""
        shown = ((name, value) for name, value in vars(self).items() if value is not None)
        return f"{type(self).__name__}({', '.join(f'{name}={_describe(value)}' for name, value in shown)})"


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
