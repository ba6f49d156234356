"""Attention of one token against the formula in double precision: any shapes, strides and threads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowbit.errors import ValueRangeError
from lowbit.ops.attention import attention
from torch import Tensor

from tests.native import needs_native

pytestmark = needs_native

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def states(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def reference(
    query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, scale: float, cap: float
) -> Tensor:
    shared = query.shape[1] // keys.shape[1]
    keys, values = (tensor.double().repeat_interleave(shared, dim=1) for tensor in (keys, values))
    scores = query.double() @ keys.mT * scale
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
    return scores.softmax(dim=-1) @ values


def check(result: Tensor, query: Tensor, keys: Tensor, values: Tensor, *rest: object) -> None:
    """fp32 sums: 1e-5 of the values' size, and half an ulp of the result."""
    expected = reference(query, keys, values, *rest)
    size = values.double().abs().amax()
    half_ulp = torch.finfo(query.dtype).eps / 2 * expected.abs()
    assert result.dtype == query.dtype
    assert result.shape == expected.shape
    assert bool(((result.double() - expected).abs() <= 1e-5 * size + half_ulp * 1.001).all())


@given(
    batch=st.integers(0, 3),
    groups=st.integers(1, 3),
    shared=st.integers(1, 7),
    length=st.sampled_from([1, 2, 63, 64, 65, 128, 200]),
    width=st.integers(1, 70),
    value_width=st.integers(1, 140),
    dtype=st.sampled_from(DTYPES),
    cap=st.sampled_from([0.0, 3.0]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_formula(batch, groups, shared, length, width, value_width, dtype, cap, masked, seed) -> None:
    query = states(batch, groups * shared, 1, width, dtype=dtype, seed=seed)
    keys = states(batch, groups, length + 9, width, dtype=dtype, seed=seed + 1)[:, :, :length]
    values = states(batch, groups, length, value_width, dtype=dtype, seed=seed + 2)
    seen = None
    if masked:
        seen = states(batch, length, seed=seed + 3) > 0
        seen[:, seed % length] = True
    if batch == 0:
        assert attention(query, keys, values, seen, 0.3, cap).shape == (0, groups * shared, 1, value_width)
        return
    check(attention(query, keys, values, seen, 0.3, cap), query, keys, values, seen, 0.3, cap)


def test_any_strides() -> None:
    query = states(2, 1, 6, 16).transpose(1, 2)
    keys = states(2, 70, 3, 16, seed=1).transpose(1, 2)
    values = states(70, 2, 3, 8, seed=2).permute(1, 2, 0, 3)
    seen = (states(2, 140, seed=3) > 0)[:, :70]
    check(attention(query, keys, values, seen), query, keys, values, seen, 0.25, 0.0)
    # The last dimension with gaps: not native, and the same.
    check(attention(query, keys, values.mT.contiguous().mT, seen), query, keys, values, seen, 0.25, 0.0)


@pytest.mark.parametrize("length", [50, 1000])
def test_the_same_bits_on_any_number_of_threads(length: int) -> None:
    query, keys, values = (
        states(1, 8, 1, 64),
        states(1, 2, length, 64, seed=1),
        states(1, 2, length, 64, seed=2),
    )
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(attention(query, keys, values))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_large_scores_do_not_overflow() -> None:
    query, keys, values = states(1, 2, 1, 16) * 1e3, states(1, 1, 100, 16, seed=1) * 10, states(1, 1, 100, 16)
    check(attention(query, keys, values), query, keys, values, None, 0.25, 0.0)


def test_positions_that_are_not_seen_are_not_read() -> None:
    query, keys, values = states(1, 2, 1, 16), states(1, 1, 200, 16, seed=1), states(1, 1, 200, 16, seed=2)
    seen = torch.zeros(1, 200, dtype=torch.bool)
    seen[:, 130:150] = True
    expected = attention(query, keys[:, :, 130:150], values[:, :, 130:150])
    for tensor in (keys, values):
        tensor[:, :, ~seen[0]] = float("nan")
    torch.testing.assert_close(attention(query, keys, values, seen), expected, rtol=0, atol=1e-6)


def test_nothing_seen_is_nan() -> None:
    query, keys, values = states(2, 2, 1, 16), states(2, 1, 70, 16), states(2, 1, 70, 16)
    seen = torch.ones(2, 70, dtype=torch.bool)
    seen[1] = False
    result = attention(query, keys, values, seen)
    assert bool(result[0].isfinite().all())
    assert bool(result[1].isnan().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["query", "key"])
def test_values_that_are_not_finite_give_nan(value: float, where: str) -> None:
    query, keys, values = states(1, 2, 1, 16), states(1, 1, 70, 16), states(1, 1, 70, 16)
    if where == "query":
        query[0, 1, 0, 3] = value
    else:
        keys[0, 0, 65] = value
    result = attention(query, keys, values)
    assert bool(result[0, 1].isnan().all())
    assert bool(result[0, 0].isfinite().all()) == (where == "query")


@pytest.mark.parametrize("first", [63, 64])
def test_scores_of_minus_infinity_weigh_nothing(first: int) -> None:
    query, keys, values = states(1, 2, 1, 16).abs(), states(1, 1, 130, 16), states(1, 1, 130, 16, seed=1)
    keys[:, :, :first, 3] = float("-inf")
    expected = attention(query, keys[:, :, first:], values[:, :, first:])
    torch.testing.assert_close(attention(query, keys, values), expected, rtol=0, atol=1e-6)
    keys[:, :, 5] = float("nan")
    assert bool(attention(query, keys, values).isnan().all())


def test_the_formula_elsewhere_is_the_same() -> None:
    query, keys, values = states(2, 4, 1, 16), states(2, 2, 70, 16), states(2, 2, 70, 16, seed=1)
    seen = (states(140, 2, seed=3) > 0)[:70].T  # rows with gaps
    values[0, :, ~seen[0]] = float("nan")
    native = attention(query, keys, values, seen, 0.3, 2.0)
    wide = attention(query.double(), keys.double(), values.double(), seen, 0.3, 2.0)
    torch.testing.assert_close(native.double(), wide, rtol=0, atol=1e-5)


@pytest.mark.parametrize("softcap", [-1.0, float("nan")])
def test_softcap_out_of_range(softcap: float) -> None:
    arguments = (GOOD["query"], GOOD["keys"], GOOD["values"], None, 1.0, softcap)
    with pytest.raises(ValueRangeError, match="softcap out of range"):
        attention(*arguments)
    with pytest.raises(RuntimeError, match="softcap must be 0 or more"):
        torch.ops.lowbit.attention(*arguments)


def test_an_empty_batch_in_a_new_process() -> None:
    code = """
import torch
from lowbit.ops.attention import attention
empty = torch.empty(0, 2, 1, 16), torch.empty(0, 1, 70, 16), torch.empty(0, 1, 70, 8)
assert attention(*empty).shape == (0, 2, 1, 8)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_out() -> None:
    query, keys, values = states(1, 4, 1, 16), states(1, 2, 70, 16), states(1, 2, 70, 24)
    out = torch.empty(1, 4, 1, 24)
    torch.ops.lowbit.attention_out(query, keys, values, None, 0.25, 0.0, out)
    assert torch.equal(out, attention(query, keys, values))


GOOD: dict[str, object] = {
    "query": states(1, 4, 1, 16),
    "keys": states(1, 2, 70, 16),
    "values": states(1, 2, 70, 16),
    "seen": None,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"query": states(1, 4, 2, 16)}, r"query must be .* \[batch, heads, 1, width\]"),
        ({"query": states(1, 4, 1, 16).double()}, "query must be a float32"),
        ({"query": states(1, 3, 1, 16)}, "a multiple of the groups"),
        ({"keys": states(1, 2, 70, 15)}, "keys must be as wide as query"),
        ({"keys": states(2, 70, 16)}, r"keys must be \[batch"),
        ({"values": states(1, 2, 69, 16)}, "values must be .*found float32"),
        ({"values": states(1, 2, 70, 16).half()}, "values must be .* of query's dtype"),
        ({"values": states(1, 1, 70, 16)}, "a multiple of the groups"),
        ({"seen": torch.ones(1, 69, dtype=torch.bool)}, "seen must be bool"),
        ({"seen": torch.ones(1, 70)}, "seen must be bool"),
    ],
)
def test_wrong_arguments(wrong: dict[str, object], message: str) -> None:
    arguments = {**GOOD, **wrong}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.lowbit.attention(*arguments.values(), 1.0, 0.0)


def test_opcheck() -> None:
    arguments = (*GOOD.values(), 0.25, 0.0)
    torch.library.opcheck(torch.ops.lowbit.attention.default, arguments)
    y = torch.empty_like(torch.ops.lowbit.attention(*arguments))
    torch.library.opcheck(torch.ops.lowbit.attention_out.default, (*arguments, y))
