"""`import lowbit` is light, and its names come from the right places in any order."""

from __future__ import annotations

import subprocess
import sys

import lowbit
import pytest


def test_every_public_name_resolves() -> None:
    for name in lowbit.__all__:
        assert getattr(lowbit, name) is not None, name
    assert set(lowbit.__all__) <= set(dir(lowbit))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lowbit.nonsense


@pytest.mark.parametrize(
    "code",
    [
        "import lowbit, sys; assert 'torch' not in sys.modules",
        "import lowbit; lowbit.BinaryMoS(); import sys; assert 'torch' not in sys.modules",
        "import lowbit; lowbit.info(); lowbit.explain",
        "from lowbit import ops; from lowbit import backends, modules",
        "from lowbit import backends; from lowbit import ops",
        "import lowbit; lowbit.formats.Planes; lowbit.backends.cpu.tile_bits",
        "from lowbit import ops, modules; import sys; assert 'torch._dynamo' not in sys.modules",
        "from lowbit import load_pretrained, save_pretrained, replace_linear; import sys; "
        "assert 'transformers' not in sys.modules",
    ],
)
def test_in_a_fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
