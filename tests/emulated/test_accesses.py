"""Accesses out of bounds, misaligned or too early, and launches that a device refuses."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
import torch

from tests.emulated.device import Device, DeviceArray, DeviceError

POISON = 0xCBCBCBCB - (1 << 32)


def vectors(device: Device, n: int, front: bool = False) -> DeviceArray:
    return device.array(np.arange(n, dtype=np.int32), front=front)


def test_copy_within_bounds(planted: Device) -> None:
    y = planted.empty(64, np.int32)
    planted.run("test_copy", vectors(planted, 64), y, 2, 0, 0)
    assert y.numpy().tolist() == list(range(64))


@pytest.mark.parametrize(
    ("x_offset", "y_offset", "front", "report"),
    [
        (
            1,
            0,
            False,
            "thread (31, 0, 0) of block (1, 0, 0): out of bounds: reads byte 256 of a buffer of 256",
        ),
        (0, 4, False, "out of bounds: writes byte {} of a buffer of 256 bytes, past its end"),
        (-1, 0, True, "thread (0, 0, 0) of block (0, 0, 0): out of bounds: reads byte -4 of a buffer of 256"),
        (
            0,
            -1,
            True,
            "thread (0, 0, 0) of block (0, 0, 0): out of bounds: writes byte -4 of a buffer of 256",
        ),
        (0, -1, False, "out of bounds: the kernel wrote byte -4 of a buffer of 256 bytes, before its start"),
        (0, 1, True, "out of bounds: the kernel wrote byte 256 of a buffer of 256 bytes, past its end"),
        (1 << 40, 0, False, "which is no device memory"),
    ],
)
def test_overrun_of_global_memory(
    planted: Device,
    request: pytest.FixtureRequest,
    x_offset: int,
    y_offset: int,
    front: bool,
    report: str,
) -> None:
    descending = request.node.callspec.params["planted"] == "reversed"
    y = planted.empty(64, np.int32, front=front)
    with pytest.raises(DeviceError, match=re.escape(report.format(256 + 12 * descending))):
        planted.run("test_copy", vectors(planted, 64, front), y, 2, x_offset, y_offset)
    planted.run("test_copy", vectors(planted, 64), y, 2, 0, 0)
    assert y.numpy().tolist() == list(range(64))


def test_freed_and_host_memory(planted: Device) -> None:
    y = planted.empty(32, np.int32)
    address = vectors(planted, 1024).pointer
    gc.collect()
    with pytest.raises(DeviceError, match=r"out of bounds: reads"):
        planted.run("test_copy", address, y, 1, 0, 0)
    with pytest.raises(DeviceError, match="is no device memory"):
        planted.run("lowbit_emulated_free", address)


@pytest.mark.parametrize("kind", [0, 1])
def test_overrun_of_shared_memory(planted: Device, kind: int) -> None:
    y = planted.empty(1, np.int32)
    planted.run("test_touch_shared", y, kind, 19, 19)
    assert y.numpy().tolist() == [8]
    name = ["a shared array", "a dynamic shared memory"][kind]
    for read, write, report in [
        (20, 0, f"reads byte 80 of {name} of 80 bytes, past its end"),
        (0, 20, f"writes byte 80 of {name} of 80 bytes, past its end"),
        (0, -1, f"wrote byte -4 of {name} of 80 bytes, before its start"),
    ]:
        with pytest.raises(DeviceError, match=report):
            planted.run("test_touch_shared", y, kind, read, write)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (0, "load_stream"),
        (1, "load_cached"),
        (2, "source of cp_async_16"),
        (3, "destination of cp_async_16"),
        (4, "ldmatrix_x4"),
    ],
)
def test_wide_accesses(planted: Device, kind: int, name: str) -> None:
    x = planted.array(np.arange(80, dtype=np.uint8))
    y = planted.empty((4, 16), np.uint8)
    planted.run("test_wide", x, y, kind, 16)
    if kind < 3:
        assert np.array_equal(y.numpy(), np.arange(16, 80, dtype=np.uint8).reshape(4, 16))
    for offset in (4, 8):
        with pytest.raises(DeviceError, match=rf"misaligned: {name} at byte \d+ of a"):
            planted.run("test_wide", x, y, kind, offset)
    with pytest.raises(DeviceError, match=r"out of bounds|no shared memory"):
        planted.run("test_wide", x, y, kind, 48)


@pytest.mark.parametrize(("kind", "name"), [(5, "load_stream"), (6, "cp_async_16")])
def test_global_accesses_to_shared_memory(planted: Device, kind: int, name: str) -> None:
    with pytest.raises(DeviceError, match=f"{name} from shared memory"):
        planted.run("test_wide", planted.empty(64, np.uint8), planted.empty((4, 16), np.uint8), kind, 0)


NONE, NO_WAIT, NO_COMMIT, WAIT_TOO_LATE, NO_BARRIER_BEFORE, NO_BARRIER_AFTER = range(6)


@pytest.mark.parametrize(
    "bug", [NONE, NO_WAIT, NO_COMMIT, WAIT_TOO_LATE, NO_BARRIER_BEFORE, NO_BARRIER_AFTER]
)
def test_pipeline_of_asynchronous_copies(planted: Device, bug: int) -> None:
    tiles = np.random.default_rng(0).integers(-1000, 1000, (7, 32), np.int32)
    y = planted.empty(32, np.int32)
    planted.run("test_pipeline", planted.array(tiles), y, 7, 7, bug)
    assert np.array_equal(y.numpy(), tiles.sum(0)[::-1]) == (bug == NONE)


def test_invalid_copies_touch_nothing(planted: Device) -> None:
    tiles = np.ones((5, 32), np.int32)
    y = planted.empty(32, np.int32)
    planted.run("test_pipeline", planted.array(tiles), y, 8, 5, NONE)
    assert y.numpy().tolist() == [5] * 32
    with pytest.raises(
        DeviceError, match=r"out of bounds: reads byte \d+ of a buffer of 640 bytes, past its end"
    ):
        planted.run("test_pipeline", planted.array(tiles), y, 8, 6, NONE)


def test_copies_arrive_at_their_wait(planted: Device) -> None:
    y = planted.empty((4, 4), np.int32)
    planted.run("test_late_copy", planted.array(np.array([5, 6, 7, 8], np.int32)), y)
    assert y.numpy().tolist() == [[POISON] * 4, [POISON] * 4, [5, 6, 7, 8], [0] * 4]


def test_stack_overflow(planted: Device) -> None:
    with pytest.raises(DeviceError, match="stack overflow"):
        planted.run("test_overflow_stack", planted.array(np.array([-1, 0, 0], np.int32)))
    planted.run("test_overflow_stack", planted.array(np.array([3, 0, 0], np.int32)))


def test_limit_of_shared_memory(planted: Device) -> None:
    y = planted.empty(32, np.int32)
    planted.run("test_use_shared", y, 32, 223 << 10)
    assert y.numpy().tolist() == [3] * 32
    with pytest.raises(DeviceError, match=r"232449 bytes of dynamic shared memory; allowed: 232448"):
        planted.run("test_use_shared", y, 32, (227 << 10) + 1)
    with pytest.raises(DeviceError, match="4096 bytes of static and 228353 of dynamic"):
        planted.run("test_use_shared", y, 32, (223 << 10) + 1)
    planted.set_shared_limit(99)
    with pytest.raises(DeviceError, match=r"101377 bytes of dynamic shared memory; allowed: 101376"):
        planted.run("test_use_shared", y, 32, (99 << 10) + 1)


@pytest.mark.parametrize("threads", [0, 1025])
def test_impossible_blocks(planted: Device, threads: int) -> None:
    with pytest.raises(DeviceError, match=rf"kernel launch failed: a block of \({threads}, 1, 1\) threads"):
        planted.run("test_use_shared", planted.empty(1, np.int32), threads, 4096)


def test_impossible_grid(planted: Device) -> None:
    y = planted.empty(32, np.int32)
    with pytest.raises(DeviceError, match=r"kernel launch failed: a grid of \(0, 1, 1\) blocks"):
        planted.run("test_copy", y, y, 0, 0, 0)


def test_overlap_without_a_wait(planted: Device) -> None:
    y = planted.array(np.zeros(3, np.int32))
    planted.run("test_overlapping", y, 0, 0)
    planted.run("test_overlapping", y, 1, 3)
    assert y.numpy().tolist() == [1, 1, 1]
    with pytest.raises(DeviceError, match="overlaps the previous one never waits for it"):
        planted.run("test_overlapping", y, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (3, 5)])
def test_arrays(planted: Device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    host = torch.randint(0, 2, shape).to(dtype)
    array = planted.array(host)
    assert array.address % 16 == 0 or host.numel() == 0
    assert torch.equal(array.tensor(), host)
    strided = torch.randint(0, 9, (6, 4))[::2, 1:]
    assert torch.equal(planted.array(strided).tensor(), strided)
