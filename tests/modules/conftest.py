"""Every scheme and both backends for the module tests."""

from __future__ import annotations

import copy

import pytest
import torch
from lowbit.modules import QuantizedLinear, make_linear
from lowbit.schemes import (
    BinaryMoS,
    BipolarInt,
    ChannelCodebook,
    GroupedSigns,
    OneBit,
    ScalarCodebook,
    Scheme,
    VectorCodebook,
)
from torch import Tensor

SCHEMES: dict[str, Scheme] = {
    "binary_mos": BinaryMoS(experts=3),
    "one_bit": OneBit(),
    "grouped_signs": GroupedSigns(32),
    "bipolar_w4": BipolarInt(4, group_size=32),
    "bipolar_w3a4": BipolarInt(3, 4, group_size=64, asymmetric=True),
    "channel_rows": ChannelCodebook(clusters=8, rank=4),
    "channel_columns": ChannelCodebook(clusters=8, rank=0, axis=1),
    "scalar": ScalarCodebook(bits=3, outlier_fraction=0.01),
    "vector": VectorCodebook(codebooks=1, vector_size=4),
}
OUT_FEATURES, IN_FEATURES = 70, 100


@pytest.fixture(params=SCHEMES, scope="session")
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return SCHEMES[request.param]


@pytest.fixture(params=["cpu", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


_packed: dict[Scheme, object] = {}


@pytest.fixture
def layer(scheme: Scheme, backend: str) -> QuantizedLinear:
    """[70, 100] with a bias, float32."""
    if scheme not in _packed:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(OUT_FEATURES, IN_FEATURES, generator=generator)
        _packed[scheme] = scheme.quantize(weight, layer="layer")
    bias = torch.linspace(-1, 1, OUT_FEATURES)
    return make_linear(copy.deepcopy(_packed[scheme]), bias, scheme=scheme, backend=backend, name="layer")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, IN_FEATURES, generator=torch.Generator().manual_seed(1))
