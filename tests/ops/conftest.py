"""Targets are loaded for the tests that run on them."""

from __future__ import annotations

import pytest
import torch
from lowbit.backends import cuda

from tests.ops import targets


@pytest.fixture(autouse=True)
def _loaded_target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    callspec = getattr(request.node, "callspec", None)
    target = callspec.params.get("target") if callspec else None
    if target is None:
        return
    failure = targets.load(target)
    if failure is not None and target.backend == "triton":
        pytest.skip(failure)
    # The marks have skipped what was not built: what was must load.
    assert failure is None
    if target is targets.EMULATED:
        monkeypatch.setattr(cuda, "_layouts", lambda: torch.ops.lowbit_emulated)
