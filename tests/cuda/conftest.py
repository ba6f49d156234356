"""The kernels of csrc/cuda on the emulated device."""

from __future__ import annotations

import pytest
import torch

from tests.emulated.device import emulated

__all__ = ["emulated"]


@pytest.fixture(autouse=True)
def _one_thread(_restore_threads: None) -> None:
    """The references' tensors are small: waiting for a second thread takes longer than their work."""
    torch.set_num_threads(1)
