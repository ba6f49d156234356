"""One thread: these tensors are tiny, and waiting for a second thread takes longer than the work."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_restore_threads: None) -> None:
    torch.set_num_threads(1)
