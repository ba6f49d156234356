"""Settings shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.interpreter import call_with_room, fuse_multiply_add_once, patch_language_once

# Without a GPU Triton interprets its kernels. It reads this when it is imported, which torch does only later.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    patch_language_once()
    fuse_multiply_add_once()

# No deadlines: time says nothing about correctness. Derandomised: a run can be repeated.
settings.register_profile(
    "lowbit", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lowbit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    pyfuncitem.obj = partial(call_with_room, pyfuncitem.obj)
    return (yield)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
