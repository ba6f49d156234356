"""`lowbit tune`, with a GPU and times that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lowbit import tuning
from lowbit.backends import triton_tune
from lowbit.cli import tune as command
from lowbit.triton_kernels import gpu as described
from lowbit.triton_kernels.gpu import gpu_of

GPU = "Some GPU"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_command(run, run_json, monkeypatch: pytest.MonkeyPatch) -> None:
    described.forget()
    monkeypatch.setattr(command, "device", lambda: CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    monkeypatch.setattr(triton_tune, "microseconds", lambda run: 2.0 if gpu_of(CPU).tuned else 5.0)
    shapes = ("--shapes", "64x256,64x256,32x256", "--dtype", "float32")
    document = run_json("tune", *shapes)
    assert [product["before"] for product in document["products"]] == [5.0, 5.0]
    assert [product["after"] for product in document["products"]] == [2.0, 2.0]
    assert len(tuning.load(GPU)) == 2
    assert Path(document["file"]) == tuning.path(GPU)
    text = run("tune", *shapes).stdout
    assert "scaled 64 x 256, 2 4" in text
    assert "kept in" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_command_without_a_gpu(run) -> None:
    result = run("tune", "--shapes", "64x64")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: tiles are measured on a GPU with Triton; found Triton ")
    assert result.stderr.count("\n") == 1
    assert not list(tuning.path(GPU).parent.glob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give MODEL or --shapes"),
        (("model", "--shapes", "1x1"), "give MODEL or --shapes"),
        (("--shapes", "64"), "'64' is no OUTxIN"),
        (("--shapes", "0x64"), "'0x64' is no OUTxIN"),
        (("--shapes", "64x64", "--scheme", "none"), "unknown scheme"),
        (("--shapes", "64x64", "--precision", "low"), "unknown --dtype"),
    ],
)
def test_command_used_wrongly(run, arguments: tuple[str, ...], message: str) -> None:
    result = run("tune", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
