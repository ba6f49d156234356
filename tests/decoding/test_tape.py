"""Calls on a tape are made again, in order, on the same memory."""

from __future__ import annotations

import ctypes

import lowbit
import pytest
import torch
from lowbit.decoding.tape import Tape
from torch import nn

from tests.native import needs_native

pytestmark = needs_native

LIBC = ctypes.CDLL(None)


def address(name: str) -> int:
    value = ctypes.cast(getattr(LIBC, name), ctypes.c_void_p).value
    assert value is not None
    return value


def packed(scheme: lowbit.Scheme) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(65, 70))
    lowbit.replace_linear(model, scheme, skip=())
    return model[0]


def test_c_functions_get_pointers_and_integers_in_order() -> None:
    source, target = torch.arange(6), torch.zeros(6, dtype=torch.int64)
    tape = Tape()
    assert tape.add(address("memset"), [source.data_ptr(), 1, 8])
    assert tape.add(address("memcpy"), [target.data_ptr(), source.data_ptr(), 16])
    assert len(tape) == 2
    assert target.tolist() == [0] * 6  # nothing ran yet
    tape.play(1, 2)
    assert target.tolist() == [0, 1, 0, 0, 0, 0]
    tape.play(0, 2)
    assert target.tolist() == [0x0101010101010101, 1, 0, 0, 0, 0]


def test_more_arguments_than_it_can_pass() -> None:
    tape = Tape()
    assert tape.add(address("abs"), [0] * 128)
    tape.play(0, 1)
    assert not tape.add(address("abs"), [0] * 129)
    assert len(tape) == 1


@pytest.mark.parametrize(
    "scheme",
    [
        lowbit.OneBit(),
        lowbit.BinaryMoS(experts=3),
        lowbit.BipolarInt(3, group_size=32, asymmetric=True),
        lowbit.BipolarInt(2, activation_bits=4),
        lowbit.ChannelCodebook(clusters=9, rank=4),
        lowbit.ScalarCodebook(bits=3),
        lowbit.VectorCodebook(),
    ],
    ids=lambda scheme: type(scheme).__name__,
)
@torch.no_grad()
def test_an_operator_reads_what_is_there_when_it_is_played(scheme: lowbit.Scheme) -> None:
    layer = packed(scheme)
    x, other = torch.randn(3, 65), torch.randn(3, 65)
    expected = layer(other)
    tape = Tape()
    with tape.recording():
        result = layer(x)
    assert len(tape) == 1
    assert not tape.refusal
    before = result.clone()
    x.copy_(other)
    assert torch.equal(result, before)
    tape.play(0, 1)
    assert not torch.equal(result, before)
    assert torch.equal(result, expected)


@torch.no_grad()
def test_recording_ends_and_is_the_thread_s_own() -> None:
    tape = Tape()
    with tape.recording():
        pass
    packed(lowbit.OneBit())(torch.ones(1, 65))
    assert len(tape) == 0


@torch.no_grad()
def test_copies_are_refused() -> None:
    layer = packed(lowbit.OneBit())
    x = torch.randn(2, 130)[:, ::2]  # no row without gaps
    tape = Tape()
    with tape.recording():
        layer(x)
    assert "strides" in tape.refusal


def test_every_call_is_timed() -> None:
    x = torch.zeros(1 << 22, dtype=torch.uint8)
    tape = Tape()
    for size in (1, len(x)):
        tape.add(address("memset"), [x.data_ptr(), 1, size])
    times = [tape.time(0, 2) for _ in range(5)]
    assert all(0 <= small < large for small, large in times)
