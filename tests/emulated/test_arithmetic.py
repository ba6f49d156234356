"""Built-in arithmetic of the emulated device, against NumPy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.emulated.device import Device


def prmt(a: int, b: int, selector: int) -> int:
    pool = (b << 32 | a).to_bytes(8, "little")
    result = []
    for i in range(4):
        nibble = selector >> (4 * i) & 15
        byte = pool[nibble & 7]
        result.append((255 if byte >= 128 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(result), "little")


def signed(a: int) -> int:
    return a - (1 << 32) if a >> 31 else a


def dot(a: int, b: int, c: int, dtype: type) -> int:
    words = [np.array([w], np.uint32).view(dtype).astype(np.int64) for w in (a, b)]
    return int((words[0] * words[1]).sum()) + c


def expected(a: int, b: int, c: int) -> list[int]:
    pair = b << 32 | a
    results = [
        a.bit_count(),
        32 - a.bit_length(),
        (a & -a).bit_length(),
        int(f"{a:032b}"[::-1], 2),
        prmt(a, b, c),
        pair << (c & 31) >> 32,
        pair >> (c & 31),
        pair << min(c & 63, 32) >> 32,
        pair >> min(c & 63, 32),
        dot(a, b, c, np.int8),
        dot(a, b, c, np.uint8),
        a * b >> 32,
        signed(a) * signed(b) >> 32,
        min(a, b),
        min(signed(a), signed(b)),
        max(signed(a), signed(b)),
        a & b | c,
        a ^ (b & c),
        a >> (c & 31),
        a.bit_count() + b.bit_count(),
    ]
    return [r & 0xFFFFFFFF for r in results]


def test_integers(planted: Device) -> None:
    x = np.random.default_rng(0).integers(0, 1 << 32, (200, 3), np.uint32)
    x[:4] = [[0, 0, 0], [0xFFFFFFFF] * 3, [0x80000000, 0x80808080, 32], [1, 0x7F7F7F7F, 0x89AB]]
    y = planted.empty((200, 20), np.uint32)
    planted.run("test_integers", planted.array(x), y, 200)
    assert y.numpy().tolist() == [expected(*row) for row in x.tolist()]


def test_halves_round_as_the_formats_do(planted: Device) -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 30.0, 0.01])
    x[0] = torch.tensor([65504.0, 65504.0, -65504.0])
    y = planted.empty((300, 12), np.float32)
    planted.run("test_halves_arithmetic", planted.array(x), y, 300)
    result = y.tensor()
    for offset, dtype in ((0, torch.float16), (4, torch.bfloat16)):
        a, b, c = x.to(dtype).T.double()
        exact = torch.stack([a + b, a * b, a * b + c, a - b], 1)
        assert torch.equal(result[:, offset : offset + 4], exact.to(dtype).float())
    a, b, c = x.half().T.double()
    assert torch.equal(result[:, 8:10], torch.stack([a * c + b, b * c + a], 1).half().float())
    a = x[:, 0].double()
    assert torch.equal(result[:, 10:], torch.stack([a.round(), a.trunc()], 1).float())


def test_atomics(planted: Device, request: pytest.FixtureRequest) -> None:
    total = planted.array(np.array([7], np.int32))
    extremes = planted.array(np.array([99, 0, 0, 0xFFF, 1, 20, 0, 0], np.uint32))
    wide = planted.array(np.zeros(1, np.uint64))
    planted.run("test_atomics", total, extremes, wide)
    assert total.numpy()[0] == 7 + sum(range(144)) - 1440
    # Each thread i turns i into i + 1: all above 19 in ascending order, the 20th alone in descending order.
    compared = 144 if request.node.callspec.params["planted"] == "forward" else 21
    assert extremes.numpy().tolist() == [5, 148, 0xFFFFFFFF, 0xF00, 77, compared, 0, 1]
    assert wide.numpy()[0] == 144 << 33
