"""Kernels with planted bugs, in a library of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulated.device import Device, in_order, load


@pytest.fixture(params=["forward", "reversed"])
def planted(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The kernels of tests/emulated/*.cu, their threads and blocks running in either order."""
    yield from in_order(load("emulated_tests"), request.param)
