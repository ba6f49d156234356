"""Barriers, shared memory and the order of threads on the emulated device."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulated.device import Device, DeviceError

NONE, MISSING, DIVERGENT, EXITED = range(4)


def reverse(device: Device, bug: int, blocks: int = 3) -> bool:
    x = np.arange(64 * blocks, dtype=np.int32)
    y = device.empty(64 * blocks, np.int32)
    device.run("test_reverse", device.array(x), y, blocks, bug)
    return np.array_equal(y.numpy().reshape(blocks, 64), x.reshape(blocks, 64)[:, ::-1])


def test_barrier_orders_shared_memory(planted: Device) -> None:
    assert reverse(planted, NONE)


def test_missing_barrier_gives_wrong_results(planted: Device) -> None:
    assert not reverse(planted, MISSING)


def test_divergent_barrier_is_a_deadlock(planted: Device) -> None:
    with pytest.raises(
        DeviceError, match=r"deadlock in block \(\d, 0, 0\): threads 0-39 wait at __syncthreads"
    ):
        reverse(planted, DIVERGENT)
    assert "threads 40-63 wait at __syncwarp with mask 0xffffffff" in planted.error()
    assert reverse(planted, NONE)  # the device is as good as before


def test_barrier_without_an_exited_thread_is_a_deadlock(planted: Device) -> None:
    with pytest.raises(
        DeviceError, match="threads 0-16 wait at __syncthreads, thread 17 exited, threads 18-63 wait"
    ):
        reverse(planted, EXITED)


@pytest.mark.parametrize("dynamic", [0, 1])
def test_shared_memory_is_poisoned_for_every_block(planted: Device, dynamic: int) -> None:
    poison = np.uint32(0xCBCBCBCB).astype(np.int32)
    y = planted.empty(3, np.int32)
    planted.run("test_sum_shared", y, 3, 32, dynamic)
    assert (y.numpy() == 32).all()
    planted.run("test_sum_shared", y, 3, 31, dynamic)
    assert (y.numpy() == 31 + poison).all()


def test_shared_arrays_are_separate_and_aligned(planted: Device) -> None:
    y = planted.empty(32, np.int32)
    planted.run("test_separate_arrays", y)
    assert (y.numpy() == 4 + 5 + 6).all()


def test_places_and_order(planted: Device, request: pytest.FixtureRequest) -> None:
    y = planted.empty((12, 48, 6), np.uint32)
    order = planted.array(np.zeros(1 + 12 * 32, np.uint32))
    planted.run("test_places", y, order)
    blocks = [(x, y, z) for z in range(2) for y in range(3) for x in range(2)]
    threads = [(x, y, z) for z in range(2) for y in range(3) for x in range(8)]
    assert y.numpy().tolist() == [[[*b, *t] for t in threads] for b in blocks]
    arrived = order.numpy()[1:].tolist()
    descending = request.node.callspec.params["planted"] == "reversed"
    assert arrived == sorted(arrived, reverse=descending)
