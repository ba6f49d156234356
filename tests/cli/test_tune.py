"""`lowbit tune`, with a GPU and times that are made up."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from lowbit import tuning
from lowbit.backends import triton_tune
from lowbit.cli import tune as command
from lowbit.modules import make_linear
from lowbit.schemes import BipolarInt
from lowbit.triton_kernels import gpu as described
from lowbit.triton_kernels.gpu import gpu_of

GPU = "Some GPU"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def _some_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On which whatever was measured is faster."""
    described.forget()
    monkeypatch.setattr(command, "device", lambda: CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    monkeypatch.setattr(triton_tune, "microseconds", lambda run: 2.0 if gpu_of(CPU).tuned else 5.0)


def _products(document: dict) -> list[str]:
    return [product["product"] for product in document["products"]]


@pytest.mark.usefixtures("_some_gpu")
def test_command(run, run_json) -> None:
    shapes = ("--shapes", "64x256,64x256,32x256", "--dtype", "float32")
    document = run_json("tune", *shapes)
    assert [product["before"] for product in document["products"]] == [5.0, 5.0]
    assert [product["after"] for product in document["products"]] == [2.0, 2.0]
    assert len(tuning.load(GPU)) == 2
    assert Path(document["file"]) == tuning.path(GPU)
    text = run("tune", *shapes).stdout
    assert "scaled 64 x 256, 4 bits, 2 columns, groups of 128" in text
    assert "kept in" in text


@pytest.mark.usefixtures("_some_gpu")
def test_what_is_no_longer_faster_is_forgotten(run, run_json, monkeypatch: pytest.MonkeyPatch) -> None:
    (other,) = _products(run_json("tune", "--shapes", "32x256"))
    run_json("tune", "--shapes", "64x256")
    assert len(tuning.load(GPU)) == 2
    monkeypatch.setattr(triton_tune, "microseconds", lambda run: 5.0)
    assert "as it was" in run("tune", "--shapes", "64x256").stdout
    assert list(tuning.load(GPU)) == [other]


@pytest.mark.usefixtures("_some_gpu")
def test_what_was_measured_before_an_end_is_kept(run, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = []

    def time(run: partial) -> float:
        layers.append(run.func.out_features)
        if layers[-1] == 32:
            raise KeyboardInterrupt
        return 2.0 if gpu_of(CPU).tuned else 5.0

    monkeypatch.setattr(triton_tune, "microseconds", time)
    assert run("tune", "--shapes", "64x256,32x256").exit_code != 0
    assert set(layers) == {64, 32}
    (product,) = tuning.load(GPU)
    assert " 64 x 256" in product


@pytest.mark.usefixtures("_some_gpu")
def test_why_tiles_are_impossible_is_told(run, run_json, monkeypatch: pytest.MonkeyPatch) -> None:
    def time(run: object) -> float:
        if any(tiles.rows == 64 for tiles in gpu_of(CPU).tuned.values()):
            raise torch.OutOfMemoryError("no memory\nat all")
        return 5.0

    monkeypatch.setattr(triton_tune, "microseconds", time)
    half = {"OutOfMemoryError: no memory": 16}
    shapes = ("--shapes", "64x256,32x256")
    assert [row["impossible"] for row in run_json("tune", *shapes)["products"]] == [half, half]
    assert "passed over, 32 times: OutOfMemoryError: no memory\n" in run("tune", *shapes).stdout


@pytest.mark.usefixtures("_some_gpu")
def test_activations_of_a_scheme(run_json) -> None:
    def product(*scheme: str) -> list[str]:
        return _products(run_json("tune", "--shapes", "64x256", "--scheme", ",".join(scheme)))

    whole_rows = ("bipolar_int:weight_bits=4", "group_size=-1")
    assert product(*whole_rows) == ["integers 64 x 256, 4 bits, 2 columns"]
    assert product(*whole_rows, "activation_bits=4") == ["integers 64 x 256, 4 bits, 1 columns"]


@pytest.mark.usefixtures("_some_gpu")
def test_layers_of_a_model_are_measured_as_they_compute(run_json, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = BipolarInt(weight_bits=4, activation_bits=4, group_size=-1)
    packed = scheme.quantize(torch.randn(64, 256))

    def layers(model: str, dtype: str) -> list:
        modules = [make_linear(packed, scheme=scheme) for _ in range(4)]
        modules[1].active_bits = 2
        modules[2].activation_bits = 0
        modules[3].activation_bits, modules[3].precision = 0, "exact"
        return modules

    monkeypatch.setattr(command, "_layers", layers)
    shape = "64 x 256"
    quantised = [
        f"integers {shape}, 4 bits, 1 columns",
        f"integers {shape}, 1+1 bits, 1 columns",
    ]
    own = [f"integers {shape}, 4 bits, 2 columns", f"exact {shape}, 4 bits, 1 columns"]
    assert _products(run_json("tune", "model")) == quantised + own
    fast = [f"scaled {shape}, 4 bits, 1 columns, fast"]
    assert _products(run_json("tune", "model", "--precision", "fast")) == quantised + fast


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
