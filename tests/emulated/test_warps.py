"""Shuffles and votes on the emulated device."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulated.device import Device, DeviceError

INDEX, XOR, DOWN, UP = range(4)
FULL = 0xFFFFFFFF


def source(kind: int, lane: int, operand: int, width: int) -> int:
    """Where the CUDA programming guide says that a lane's value comes from."""
    part, inside = lane // width * width, lane % width
    if kind == INDEX:
        return part + operand % width
    if kind == XOR:
        return lane ^ operand if (lane ^ operand) < part + width else lane
    moved = inside + operand if kind == DOWN else inside - operand
    return part + moved if 0 <= moved < width else lane


@pytest.mark.parametrize("bytes_", [4, 8])
@pytest.mark.parametrize("width", [32, 16, 8, 1])
@pytest.mark.parametrize("kind", [INDEX, XOR, DOWN, UP])
def test_shuffles(planted: Device, kind: int, width: int, bytes_: int) -> None:
    x = np.random.default_rng(kind).integers(0, 1 << 63, 64, np.uint64)
    if bytes_ == 4:
        x &= np.uint64(0x7F7FFFFF)  # passed as float: no signalling NaN
    for operand in (0, 1, 5, 8, 15, 31):
        y = planted.empty(64, np.uint64)
        planted.run("test_shuffles", planted.array(x), y, 64, kind, FULL, operand, width, bytes_)
        expected = [x[t // 32 * 32 + source(kind, t % 32, operand, width)] for t in range(64)]
        assert y.numpy().tolist() == expected, operand


def test_shuffle_among_some_lanes(planted: Device) -> None:
    x = np.arange(32, dtype=np.uint64)
    y = planted.array(np.full(32, 99, np.uint64))
    planted.run("test_shuffles", planted.array(x), y, 32, XOR, 0x000F00F0, 3, 32, 4)
    taking_part = [*range(4, 8), *range(16, 20)]
    assert y.numpy().tolist() == [lane ^ 3 if lane in taking_part else 99 for lane in range(32)]


def test_shuffle_in_a_short_last_warp(planted: Device) -> None:
    x, y = planted.array(np.arange(40, dtype=np.uint64)), planted.empty(40, np.uint64)
    planted.run("test_shuffles", x, y, 40, XOR, FULL, 4, 32, 4)
    assert y.numpy().tolist() == [t ^ 4 for t in range(40)]
    with pytest.raises(DeviceError, match="shuffles from lane 8, which takes no part"):
        planted.run("test_shuffles", x, y, 40, XOR, FULL, 8, 32, 4)


def test_two_groups_of_a_warp_work_apart(planted: Device) -> None:
    y = planted.empty(64, np.int32)
    planted.run("test_halves", y)
    lower, upper = np.arange(16), np.arange(16, 32)
    lower = np.full(16, lower.sum())
    for i in (8, 4, 2, 1):
        upper = upper + 2 * upper[np.arange(16) ^ i]
    sums = np.concatenate([lower, upper])
    assert np.array_equal(y.numpy(), np.tile(sums + 1000 * sums[::-1], 2))


def test_votes(planted: Device) -> None:
    y = planted.empty((64, 8), np.uint32)
    planted.run("test_votes", y)
    thirds = sum(1 << lane for lane in range(0, 32, 3))
    for thread, row in enumerate(y.numpy().tolist()):
        few = 0b10101010 if thread % 32 < 8 else 0
        assert row[:6] == [thirds, 0, 1, 0, 1, few]
        assert row[6] >> (thread % 32) & 1


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        (
            1,
            "deadlock in block .* 0-15 wait at a 4-byte shuffle .*ffff, threads 16-31 wait at __syncthreads",
        ),
        (2, r"calls a (vote|4-byte shuffle) .* but lane \d+ waits for it at a (4-byte shuffle|vote)"),
        (3, r"calls a 4-byte shuffle with mask 0xfffff.* but lane \d+ waits for it at a 4-byte shuffle"),
        (4, "deadlock in block .*threads 16-31 exited|lane 16 has exited"),
        (5, r"thread \(31, 0, 0\) .* calls a 4-byte shuffle with mask 0x7fffffff, in which its own lane 31"),
        (6, "shuffles from lane 16, which takes no part"),
    ],
)
def test_divergence_is_reported(planted: Device, bug: int, report: str) -> None:
    y = planted.empty(32, np.int32)
    with pytest.raises(DeviceError, match=report):
        planted.run("test_warp_bugs", y, bug)
    planted.run("test_warp_bugs", y, 0)
    assert y.numpy().tolist() == [lane ^ 1 for lane in range(32)]


def test_missing_syncwarp_gives_wrong_results(planted: Device) -> None:
    y = planted.empty(32, np.int32)
    planted.run("test_warp_bugs", y, 7)
    assert y.numpy().tolist() != [lane ^ 1 for lane in range(32)]
