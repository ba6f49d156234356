"""quantization_config: round trip, defaults, refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lowbit.errors import FormatError
from lowbit.formats import QuantizationConfig
from lowbit.schemes import (
    SCHEMES,
    BinaryMoS,
    BipolarInt,
    ChannelCodebook,
    GroupedSigns,
    OneBit,
    ScalarCodebook,
    Scheme,
    VectorCodebook,
    scheme_from_config,
)

group_sizes = st.sampled_from([-1, 32, 64, 128])
dtypes = st.sampled_from(["float16", "bfloat16", "float32"])
schemes: st.SearchStrategy[Scheme] = st.one_of(
    st.builds(BinaryMoS, experts=st.integers(2, 16), scale_dtype=dtypes),
    st.builds(OneBit, scale_dtype=dtypes),
    st.builds(GroupedSigns, group_size=group_sizes, scale_dtype=dtypes),
    st.builds(
        BipolarInt,
        weight_bits=st.integers(1, 8),
        activation_bits=st.none() | st.integers(1, 8),
        group_size=group_sizes,
        asymmetric=st.booleans(),
    ),
    st.builds(ChannelCodebook, clusters=st.integers(1, 512), rank=st.integers(0, 64), axis=st.integers(0, 1)),
    st.builds(ScalarCodebook, bits=st.integers(1, 8), outlier_fraction=st.floats(0, 0.5)),
    st.builds(VectorCodebook, codebooks=st.integers(1, 4), vector_size=st.integers(1, 64)),
)


def minimal(**fields: object) -> dict[str, object]:
    return {"quant_method": "lowbit", "format": "bipolar_int", "format_version": 1, **fields}


@given(schemes, st.dictionaries(st.text(min_size=1), schemes, max_size=3))
def test_round_trip(scheme: Scheme, overrides: dict[str, Scheme]) -> None:
    config = QuantizationConfig(
        scheme,
        modules_to_not_convert=("lm_head",),
        overrides=overrides,
        layers={"a.b": {"kind": "planes", "bits": 4}},
        tied={"lm_head": "embed"},
    )
    assert QuantizationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert scheme_from_config(scheme.to_config()) == scheme


def test_what_is_written() -> None:
    config = QuantizationConfig(BipolarInt(4, group_size=32), modules_to_not_convert=("lm_head",)).to_dict()
    assert config == minimal(
        scale_dtype="float16",
        weight_bits=4,
        activation_bits=0,
        group_size=32,
        asymmetric=False,
        modules_to_not_convert=["lm_head"],
        overrides={},
        layers={},
        tied={},
    )


def test_defaults_fill_in() -> None:
    assert QuantizationConfig.from_dict(minimal()) == QuantizationConfig(BipolarInt())
    assert QuantizationConfig.from_dict(minimal(activation_bits=None)).scheme == BipolarInt()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "wrong quant_method; found None; allowed lowbit"),
        (minimal(quant_method="gptq"), "wrong quant_method; found 'gptq'"),
        (minimal(format_version=2), "unknown format_version; found 2; allowed 1"),
        (minimal(format_version="1"), "unknown format_version; found '1'"),
        (minimal(format_version=True), "unknown format_version; found True"),
        (
            minimal(format="int5"),
            "unknown format in quantization_config; found 'int5'; allowed binary_mos",
        ),
        (minimal(experts=4), "unknown field in quantization_config; found 'experts'; allowed quant_method"),
        (minimal(weight_bits=9), "bipolar_int: bad weight_bits; found 9; allowed an integer 1..8"),
        (minimal(weight_bits="4"), "bipolar_int: bad weight_bits; found '4'"),
        (minimal(group_size=100), "bipolar_int: bad group_size; found 100; allowed -1"),
        (
            {**minimal(), "format": "binary_mos", "experts": 1},
            "binary_mos: bad experts; found 1; allowed an integer >= 2",
        ),
        (minimal(asymmetric=1), "bipolar_int: bad asymmetric; found 1; allowed True or False"),
        (
            minimal(scale_dtype="int8"),
            "bipolar_int: bad scale_dtype; found 'int8'; allowed float16",
        ),
        (minimal(modules_to_not_convert="lm_head"), "wrong type of 'modules_to_not_convert'"),
        (
            minimal(overrides=[]),
            "wrong type of 'overrides' in quantization_config; found []; allowed an",
        ),
        (minimal(overrides={"a": 4}), "wrong type of 'overrides.a'"),
        (
            minimal(overrides={"a": {"format": "one_bit", "bits": 1}}),
            "for one_bit; found 'bits'",
        ),
        (minimal(layers={"a": {"bits": 1.5}}), "wrong type of 'layers.a.bits'"),
        (minimal(tied={"lm_head": 3}), "wrong type of 'tied.lm_head'"),
    ],
)
def test_refusals(config: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        QuantizationConfig.from_dict(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("binary_mos", {"experts": 0}),
        ("grouped_signs", {"group_size": 16}),
        ("bipolar_int", {"activation_bits": 9}),
        ("channel_codebook", {"axis": 2}),
        ("channel_codebook", {"rank": -1}),
        ("scalar_codebook", {"bits": 0}),
        ("scalar_codebook", {"outlier_fraction": 1.0}),
        ("scalar_codebook", {"outlier_fraction": True}),
        ("vector_codebook", {"vector_size": 65}),
        ("vector_codebook", {"codebooks": 0}),
    ],
)
def test_schemes_check_their_arguments(name: str, fields: dict[str, object]) -> None:
    (field, value) = next(iter(fields.items()))
    with pytest.raises(FormatError, match=rf"{name}: bad {field}; found {value}; allowed "):
        SCHEMES[name](**fields)


def test_activation_bits_of_every_scheme() -> None:
    assert [cls().activation_bits for cls in SCHEMES.values()] == [0] * len(SCHEMES)
    assert BipolarInt(activation_bits=8).activation_bits == 8
