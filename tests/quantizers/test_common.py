"""What every quantiser promises: a valid result, an untouched weight, typed errors, degenerate weights."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from lowbit.errors import DtypeError, ShapeError, ValueRangeError
from lowbit.quantizers import codebook, common, planes, signs
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

ALL: list[Scheme] = [
    BinaryMoS(experts=3),
    OneBit(),
    GroupedSigns(group_size=32),
    BipolarInt(4, group_size=32),
    BipolarInt(3, group_size=-1, asymmetric=True),
    ChannelCodebook(clusters=6, rank=4),
    ChannelCodebook(clusters=6, rank=4, axis=1),
    ScalarCodebook(bits=3),
    ScalarCodebook(bits=2, outlier_fraction=0.05),
    VectorCodebook(codebooks=2, vector_size=8),
]
everyone = pytest.mark.parametrize("scheme", ALL, ids=repr)


@everyone
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_result_is_valid_and_close(scheme: Scheme, dtype: torch.dtype) -> None:
    weight = torch.randn(21, 77, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = weight.clone()
    packed = scheme.quantize(weight, "a.b")
    packed.validate("a.b")
    assert torch.equal(weight, before)
    assert (packed.out_features, packed.in_features) == (21, 77)
    error = (weight.double() - packed.dequantize().double()).norm() / weight.double().norm()
    assert error < 0.95
    assert all(t.is_contiguous() for t in packed.tensors().values())
    again = scheme.quantize(weight, "a.b")
    assert all(torch.equal(t, again.tensors()[name]) for name, t in packed.tensors().items())


@everyone
@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (33, 1), (5, 7)])
def test_any_shape(scheme: Scheme, shape: tuple[int, int]) -> None:
    packed = scheme.quantize(torch.randn(shape))
    packed.validate()
    assert packed.dequantize().shape == shape


@everyone
def test_zero_weights_stay_zero(scheme: Scheme) -> None:
    packed = scheme.quantize(torch.zeros(9, 40))
    packed.validate()
    assert not packed.dequantize().any()


@everyone
def test_a_zero_row_stays_zero(scheme: Scheme) -> None:
    weight = torch.randn(40, 64)
    weight[3] = 0
    packed = scheme.quantize(weight)
    packed.validate()
    if not isinstance(scheme, ChannelCodebook):  # shares its representative
        assert float(packed.dequantize()[3].abs().max()) < 1e-6


@everyone
def test_rows_in_chunks_make_no_difference(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(21, 77, generator=torch.Generator().manual_seed(1))
    whole = scheme.quantize(weight).dequantize()
    monkeypatch.setattr("lowbit.quantizers.common._CHUNK_WEIGHTS", 4 * 77)
    torch.testing.assert_close(scheme.quantize(weight).dequantize(), whole, rtol=1e-2, atol=1e-4)


@everyone
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_weights_are_refused(scheme: Scheme, bad: float) -> None:
    weight = torch.randn(8, 40)
    weight[2, 3] = bad
    with pytest.raises(ValueRangeError, match=r"layer 'a\.b': non-finite weights; found 1 NaN or inf"):
        scheme.quantize(weight, "a.b")


@everyone
def test_other_refusals(scheme: Scheme) -> None:
    with pytest.raises(ShapeError, match=r"layer 'a': wrong shape of the weight; found \[2, 3, 4\]"):
        scheme.quantize(torch.ones(2, 3, 4), "a")
    with pytest.raises(ShapeError, match=r"wrong shape of the weight; found \[0, 4\]"):
        scheme.quantize(torch.ones(0, 4), "a")
    with pytest.raises(DtypeError, match=r"wrong dtype of the weight; found torch\.int8"):
        scheme.quantize(torch.ones(2, 4, dtype=torch.int8), "a")


@pytest.mark.parametrize(
    "scheme",
    [GroupedSigns(), BipolarInt(1), ChannelCodebook(2, 0), ScalarCodebook(1), VectorCodebook()],
    ids=repr,
)
def test_scales_that_overflow_are_refused(scheme: Scheme) -> None:
    weight = torch.full((4, 64), 1e9)
    with pytest.raises(ValueRangeError, match=r"layer 'a': values too large for .* float16; found 1e\+09"):
        scheme.quantize(weight, "a")
    wide = type(scheme)(**{**vars(scheme), "scale_dtype": "bfloat16"}).quantize(weight, "a")
    torch.testing.assert_close(wide.dequantize(), weight, rtol=1e-2, atol=0)


IN_PIECES: dict[ModuleType, Scheme] = {
    planes: BipolarInt(2, group_size=32),
    codebook: ScalarCodebook(bits=2),
    signs: OneBit(),
}


@pytest.mark.parametrize("module", IN_PIECES, ids=lambda module: module.__name__)
def test_pieces_are_worked_on_by_one_thread(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def watched(weight: torch.Tensor):
        for piece in common.row_chunks(weight):
            seen.add(torch.get_num_threads())
            yield piece

    monkeypatch.setattr(module, "row_chunks", watched)
    torch.set_num_threads(3)
    try:
        IN_PIECES[module].quantize(torch.randn(5, 64))
        assert torch.get_num_threads() == 3
        with pytest.raises(ValueRangeError):
            IN_PIECES[module].quantize(torch.full((5, 64), torch.inf))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert seen == {1}
