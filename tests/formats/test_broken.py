"""Broken tensors and metadata: a typed error that names layer, tensor, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lowbit.errors import DtypeError, FormatError, ShapeError, ValueRangeError
from lowbit.formats import PackedWeight, packed_from_tensors
from torch import Tensor

from tests.formats.samples import SAMPLES, K, N, binary_mos, channels, one_bit, planes, scalars, vectors

Tensors = dict[str, Tensor]
Metadata = dict[str, int | str]


def spoil(tensors: Tensors, name: str, place: object, value: float) -> None:
    tensors[name] = tensors[name].clone()
    tensors[name][place] = value  # type: ignore[index]


BROKEN_TENSORS: list[tuple[str, Callable[[], PackedWeight], Callable[[Tensors], object], type, str]] = [
    (
        "missing",
        planes,
        lambda t: t.pop("scales"),
        FormatError,
        "missing tensor 'scales'; found weight; allowed",
    ),
    (
        "unexpected",
        planes,
        lambda t: t.update(extra=torch.ones(1)),
        FormatError,
        "unexpected tensor 'extra'; found extra; allowed weight, scales",
    ),
    (
        "shape",
        planes,
        lambda t: t.update(weight=t["weight"][:, :-1]),
        ShapeError,
        f"wrong shape of 'weight'; found [4, {N - 1}, 10]; allowed [4, {N}, 10]",
    ),
    (
        "group count",
        planes,
        lambda t: t.update(scales=t["scales"][:, :2]),
        ShapeError,
        f"wrong shape of 'scales'; found [{N}, 2]; allowed [{N}, 3]",
    ),
    (
        "scale dtype",
        planes,
        lambda t: t.update(scales=t["scales"].double()),
        DtypeError,
        "wrong dtype of 'scales'; found float64; allowed float16",
    ),
    (
        "packed dtype",
        one_bit,
        lambda t: t.update(weight=t["weight"].int()),
        DtypeError,
        "wrong dtype of 'weight'; found int32; allowed uint8",
    ),
    (
        "offset dtype",
        lambda: planes(asymmetric=True),
        lambda t: t.update(offsets=t["offsets"].int()),
        DtypeError,
        "wrong dtype of 'offsets'; found int32; allowed int16",
    ),
    (
        "NaN scale",
        planes,
        lambda t: spoil(t, "scales", (0, 0), torch.nan),
        ValueRangeError,
        "non-finite values in 'scales'; found 1 NaN or infinite; allowed finite",
    ),
    (
        "infinite router",
        binary_mos,
        lambda t: spoil(t, "router", (1, 2), torch.inf),
        ValueRangeError,
        "non-finite values in 'router'",
    ),
    (
        "pad bits of signs",
        one_bit,
        lambda t: spoil(t, "weight", (0, -1), 0xFF),
        ValueRangeError,
        f"pad bits of 'weight' are set; found 1 rows with bits behind input {K - 1}; allowed only 0",
    ),
    (
        "pad bits of one plane",
        planes,
        lambda t: spoil(t, "weight", (3, 2, -1), 0x80),
        ValueRangeError,
        "pad bits of 'weight' are set",
    ),
    (
        "labels",
        channels,
        lambda t: spoil(t, "labels", 0, 5),
        ValueRangeError,
        "'labels' out of range; found 5; allowed 0..4",
    ),
    (
        "half a low rank",
        channels,
        lambda t: t.pop("low_rank_in"),
        FormatError,
        "missing tensor 'low_rank_in'",
    ),
    (
        "NaN table",
        scalars,
        lambda t: spoil(t, "tables", (0, 0), torch.nan),
        ValueRangeError,
        "non-finite values in 'tables'",
    ),
    (
        "outlier columns",
        lambda: scalars(outliers=True),
        lambda t: spoil(t, "outlier_columns", 0, K),
        ValueRangeError,
        f"'outlier_columns' out of range; found 0..{K}; allowed 0..{K - 1}",
    ),
    (
        "outlier order",
        lambda: scalars(outliers=True),
        lambda t: spoil(t, "outlier_columns", 1, 0),
        ValueRangeError,
        "'outlier_columns' out of order; found a repeat or descent",
    ),
    (
        "outlier offsets",
        lambda: scalars(outliers=True),
        lambda t: spoil(t, "outlier_offsets", -1, 0),
        ValueRangeError,
        "bad 'outlier_offsets'; found 0..0; allowed ascending from 0",
    ),
    (
        "infinite out_scales",
        vectors,
        lambda t: spoil(t, "out_scales", 0, -torch.inf),
        ValueRangeError,
        "non-finite values in 'out_scales'",
    ),
]


@pytest.mark.parametrize(
    ("make", "change", "error", "message"),
    [case[1:] for case in BROKEN_TENSORS],
    ids=[case[0] for case in BROKEN_TENSORS],
)
def test_broken_tensors(
    make: Callable[[], PackedWeight],
    change: Callable[[Tensors], object],
    error: type[Exception],
    message: str,
) -> None:
    packed = make()
    tensors = packed.tensors()
    change(tensors)
    with pytest.raises(error) as caught:
        packed_from_tensors(tensors, packed.metadata(), "a.b")
    assert type(caught.value) is error
    assert str(caught.value).startswith("layer 'a.b': ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (planes, {"bits": 0}, "bad metadata field 'bits'; found 0; allowed an integer 1..8"),
        (planes, {"bits": 9}, "bad metadata field 'bits'; found 9; allowed an integer 1..8"),
        (planes, {"bits": True}, "bad metadata field 'bits'; found True"),
        (planes, {"group_size": 48}, "unsupported group_size; found 48; allowed -1 (whole row)"),
        (planes, {"group_size": 0}, "unsupported group_size; found 0"),
        (
            planes,
            {"scale_dtype": "float64"},
            "bad metadata field 'scale_dtype'; found 'float64'; allowed float16",
        ),
        (
            planes,
            {"in_features": "77"},
            "bad metadata field 'in_features'; found '77'; allowed an integer >= 1",
        ),
        (planes, {"colour": 1}, "unknown metadata field for planes; found colour; allowed in_features"),
        (planes, {"kind": "plains"}, "unknown kind of packed weight; found 'plains'; allowed signs, planes"),
        (planes, {"kind": "signs"}, "unknown metadata field for signs; found asymmetric, bits"),
        (one_bit, {"scale_groups": 2}, "bad metadata field 'scale_groups'; found 2; allowed 0 or 1"),
        (one_bit, {"experts": -1}, "bad metadata field 'experts'; found -1"),
        (channels, {"axis": 2}, "bad metadata field 'axis'; found 2; allowed an integer 0..1"),
        (channels, {"clusters": 70000}, "bad metadata field 'clusters'; found 70000"),
        (
            vectors,
            {"vector_size": 65},
            "bad metadata field 'vector_size'; found 65; allowed an integer 1..64",
        ),
    ],
)
def test_broken_metadata(make: Callable[[], PackedWeight], change: Metadata, message: str) -> None:
    packed = make()
    with pytest.raises(FormatError) as caught:
        packed_from_tensors(packed.tensors(), {**packed.metadata(), **change}, "a.b")
    assert str(caught.value).startswith("layer 'a.b': ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", SAMPLES)
def test_missing_metadata(name: str) -> None:
    packed = SAMPLES[name]()
    for field in packed.metadata_fields:
        metadata = packed.metadata()
        del metadata[field]
        with pytest.raises(FormatError, match=rf"missing metadata field for {packed.kind}.*{field}"):
            packed_from_tensors(packed.tensors(), metadata)


@pytest.mark.parametrize("name", SAMPLES)
def test_validate_refuses_a_flat_weight(name: str) -> None:
    packed = SAMPLES[name]()
    tensors = {**packed.tensors(), "weight": packed.tensors()["weight"].flatten()}
    integers = {field: getattr(packed, field) for field in type(packed)._fields(packed.metadata())}
    with pytest.raises(ShapeError, match=r"layer 'a\.b': wrong shape of 'weight'.*dimensions"):
        type(packed)(**tensors, **integers).validate("a.b")
