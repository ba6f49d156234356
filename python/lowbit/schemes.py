"""Schemes: what to turn a linear layer into. Pass one to `lowbit.replace_linear`.

A scheme is a small frozen dataclass; :meth:`Scheme.quantize` packs one weight without calibration data.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lowbit.errors import FormatError, ValueRangeError

if TYPE_CHECKING:
    from torch import Tensor

    from lowbit.formats.base import PackedWeight
    from lowbit.formats.codebook import CodebookChannel, CodebookScalar, CodebookVector
    from lowbit.formats.planes import Planes
    from lowbit.formats.signs import Signs

_SCALE_DTYPES = ("float16", "bfloat16", "float32")


def check_integer(
    what: str, value: object, minimum: int, maximum: int | None = None, layer: str | None = None
) -> None:
    """Raise ValueRangeError, which begins with ``what``, unless ``value`` is an int in this range."""
    allowed = f"an integer >= {minimum}" if maximum is None else f"an integer {minimum}..{maximum}"
    # A bool is an int to Python, not to a reader of the configuration; no operator takes a float.
    if type(value) is not int or value < minimum or (maximum is not None and value > maximum):
        raise ValueRangeError(what, layer=layer, found=repr(value), allowed=allowed)


def _check_group_size(scheme: str, value: object) -> None:
    if type(value) is not int or (value != -1 and (value <= 0 or value % 32)):
        raise ValueRangeError(
            f"{scheme}: bad group_size",
            found=repr(value),
            allowed="-1 (whole row) or a positive multiple of 32",
        )


@dataclass(frozen=True)
class Scheme(ABC):
    """Base of all schemes.

    Attributes:
        name: as written in the field 'format' of config.json.
        scale_dtype: stored dtype of everything in floating point (scales, routers, tables): 'float16',
            'bfloat16' or 'float32'.
    """

    name: ClassVar[str]
    scale_dtype: str = dataclasses.field(default="float16", kw_only=True)

    def __post_init__(self) -> None:
        if self.scale_dtype not in _SCALE_DTYPES:
            raise ValueRangeError(
                f"{self.name}: bad scale_dtype",
                found=repr(self.scale_dtype),
                allowed=", ".join(_SCALE_DTYPES),
            )

    @abstractmethod
    def quantize(self, weight: Tensor, layer: str | None = None) -> PackedWeight:
        """Pack a float weight [N, K] (out_features, in_features).

        Args:
            weight: float16, bfloat16, float32 or float64; not changed.
            layer: dotted module name for error messages.

        Raises:
            ShapeError, DtypeError: not a float matrix with at least one row and column.
            ValueRangeError: NaN or infinite weights, or scales that do not fit `scale_dtype`.
        """

    def to_config(self) -> dict[str, object]:
        """{'format': name, every field}; JSON-able, inverse of :func:`scheme_from_config`."""
        return {"format": self.name, **dataclasses.asdict(self)}


class _FloatActivations:
    """Schemes whose kernels take float activations."""

    @property
    def activation_bits(self) -> int:
        return 0


@dataclass(frozen=True)
class BinaryMoS(_FloatActivations, Scheme):
    """1-bit weights whose input and output scales are mixed per token from experts (arXiv 2406.12311).

    There are at least two. Packed without data they start identical, as in the paper: they become useful by
    training.
    """

    name: ClassVar[str] = "binary_mos"
    experts: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        # One expert has nothing to mix: that is OneBit.
        check_integer(f"{self.name}: bad experts", self.experts, 2)

    def quantize(self, weight: Tensor, layer: str | None = None) -> Signs:
        from lowbit.quantizers.signs import quantize_binary_mos

        return quantize_binary_mos(weight, self.experts, self.scale_dtype, layer)


@dataclass(frozen=True)
class OneBit(_FloatActivations, Scheme):
    """1-bit weights with one scale per input and one per output (arXiv 2402.11295)."""

    name: ClassVar[str] = "one_bit"

    def quantize(self, weight: Tensor, layer: str | None = None) -> Signs:
        from lowbit.quantizers.signs import quantize_one_bit

        return quantize_one_bit(weight, self.scale_dtype, layer)


@dataclass(frozen=True)
class GroupedSigns(_FloatActivations, Scheme):
    """1-bit weights with one scale per `group_size` inputs of a row (128: the layout of GGUF's Q1_0)."""

    name: ClassVar[str] = "grouped_signs"
    group_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_group_size(self.name, self.group_size)

    def quantize(self, weight: Tensor, layer: str | None = None) -> Signs:
        from lowbit.quantizers.signs import quantize_grouped_signs

        return quantize_grouped_signs(weight, self.group_size, self.scale_dtype, layer)


@dataclass(frozen=True)
class BipolarInt(Scheme):
    """Weights of 1..8 bits as bit planes, with float or 1..8-bit activations (bipolar-INT, arXiv 2409.17870).

    Attributes:
        weight_bits: planes stored; fewer may be read per call (`active_bits` of the module).
        activation_bits: 1..8, or None (kept as 0) for float activations.
        group_size: inputs per scale; -1 for one scale per row.
        asymmetric: adds an int16 offset per group: 16 more bits per group, for weights not centred on 0.
    """

    name: ClassVar[str] = "bipolar_int"
    weight_bits: int = 4
    activation_bits: int | None = None
    group_size: int = 128
    asymmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(f"{self.name}: bad weight_bits", self.weight_bits, 1, 8)
        if self.activation_bits is None:
            object.__setattr__(self, "activation_bits", 0)
        check_integer(f"{self.name}: bad activation_bits", self.activation_bits, 0, 8)
        _check_group_size(self.name, self.group_size)
        if type(self.asymmetric) is not bool:
            raise ValueRangeError(
                f"{self.name}: bad asymmetric", found=repr(self.asymmetric), allowed="True or False"
            )

    def quantize(self, weight: Tensor, layer: str | None = None) -> Planes:
        from lowbit.quantizers.planes import quantize_planes

        return quantize_planes(
            weight, self.weight_bits, self.group_size, self.asymmetric, self.scale_dtype, layer
        )


@dataclass(frozen=True)
class ChannelCodebook(_FloatActivations, Scheme):
    """Similar channels share a representative; a low-rank term corrects them (SWSC, arXiv 2501.08631).

    Attributes:
        clusters: representatives; a layer with fewer channels keeps each of them.
        rank: of the correction; 0 for none.
        axis: 0 clusters output channels (rows), 1 input channels (columns).
    """

    name: ClassVar[str] = "channel_codebook"
    clusters: int = 256
    rank: int = 128
    axis: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(f"{self.name}: bad clusters", self.clusters, 1, 65536)
        check_integer(f"{self.name}: bad rank", self.rank, 0)
        check_integer(f"{self.name}: bad axis", self.axis, 0, 1)

    def quantize(self, weight: Tensor, layer: str | None = None) -> CodebookChannel:
        from lowbit.quantizers.codebook import quantize_channels

        return quantize_channels(weight, self.clusters, self.rank, self.axis, self.scale_dtype, layer)


@dataclass(frozen=True)
class ScalarCodebook(_FloatActivations, Scheme):
    """A table of 2^bits values per output row (SqueezeLLM, arXiv 2306.07629).

    Attributes:
        bits: 1..8.
        outlier_fraction: share of the layer's weights, the largest in magnitude, corrected by sparse values.
    """

    name: ClassVar[str] = "scalar_codebook"
    bits: int = 3
    outlier_fraction: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(f"{self.name}: bad bits", self.bits, 1, 8)
        fraction = self.outlier_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
            raise ValueRangeError(
                f"{self.name}: bad outlier_fraction", found=repr(fraction), allowed="0 <= f < 1"
            )

    def quantize(self, weight: Tensor, layer: str | None = None) -> CodebookScalar:
        from lowbit.quantizers.codebook import quantize_scalars

        return quantize_scalars(weight, self.bits, self.outlier_fraction, self.scale_dtype, layer)


@dataclass(frozen=True)
class VectorCodebook(_FloatActivations, Scheme):
    """Sums of `codebooks` table entries, each of `vector_size` weights (AQLM, arXiv 2401.06118)."""

    name: ClassVar[str] = "vector_codebook"
    codebooks: int = 2
    vector_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(f"{self.name}: bad codebooks", self.codebooks, 1)
        check_integer(f"{self.name}: bad vector_size", self.vector_size, 1, 64)

    def quantize(self, weight: Tensor, layer: str | None = None) -> CodebookVector:
        from lowbit.quantizers.codebook import quantize_vectors

        return quantize_vectors(weight, self.codebooks, self.vector_size, self.scale_dtype, layer)


_ALL: tuple[type[Scheme], ...] = (
    BinaryMoS,
    OneBit,
    GroupedSigns,
    BipolarInt,
    ChannelCodebook,
    ScalarCodebook,
    VectorCodebook,
)
SCHEMES: dict[str, type[Scheme]] = {scheme.name: scheme for scheme in _ALL}


def _scheme_class(name: object) -> type[Scheme]:
    if not isinstance(name, str) or name not in SCHEMES:
        raise FormatError(
            "unknown format in quantization_config", found=repr(name), allowed=", ".join(SCHEMES)
        )
    return SCHEMES[name]


def scheme_fields(name: object) -> tuple[str, ...]:
    """'format' and the fields of the scheme of this name.

    Raises:
        FormatError: no scheme has this name.
    """
    return ("format", *(field.name for field in dataclasses.fields(_scheme_class(name))))


def scheme_from_config(config: Mapping[str, object]) -> Scheme:
    """Inverse of :meth:`Scheme.to_config`; fields left out take their defaults.

    Raises:
        FormatError: unknown scheme or field, or a bad value (ValueRangeError).
    """
    scheme = _scheme_class(config.get("format"))
    allowed = scheme_fields(scheme.name)
    for name in config:
        if name not in allowed:
            raise FormatError(
                f"unknown field for {scheme.name}", found=repr(name), allowed=", ".join(allowed)
            )
    return scheme(**{name: value for name, value in config.items() if name != "format"})  # type: ignore[arg-type]
