"""The benchmark scripts on small work: their calls are right, and their files are whole."""

from __future__ import annotations

import json

import cuda_kernels
import decode
import decode_floor
import demo
import lowbit
import pytest
import torch
from lowbit.environment import environment
from lowbit.memory import PeakMemory
from lowbit.modules import make_linear
from PIL import Image
from report.tables import run_table
from rich.console import Console
from shapes import Shape

from tests.native import needs_native
from tests.tiny_llama import tiny_model  # noqa: F401 (a fixture)


@needs_native
def test_gpu_runs_are_runs_like_all_others(monkeypatch):
    """The script on a device that times nothing: its layers, bytes and tables are what they are on a GPU."""
    monkeypatch.setattr(cuda_kernels, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_kernels, "BIG", 1 << 10)
    monkeypatch.setattr(cuda_kernels, "TOKENS", (1, 3))
    monkeypatch.setattr(cuda_kernels, "copies", lambda nbytes: 2)
    monkeypatch.setattr(cuda_kernels, "captured", lambda calls: [call() for call in calls])
    monkeypatch.setattr(cuda_kernels, "microseconds", lambda graph, calls: 2.0)
    one, three = cuda_kernels.shape_runs(Shape(64, 256), {})
    assert (one.tokens, three.tokens) == (1, 3)
    assert one.bandwidth == (1 << 10) / 2e3
    bf16 = one.lines[cuda_kernels.BF16]
    assert bf16.bytes == 2 * (64 * 256 + 64 + 256)
    assert one.lines["W4 rows"].bits_per_weight < 4.5
    columns = run_table(three).columns
    assert "vs torch bf16" in columns
    assert "x read" not in columns


def test_decode_harness(tmp_path, tiny_model, monkeypatch, capsys):  # noqa: F811
    memory = PeakMemory(imports=100_000_000, peak=300_000_000, decode_peak=200_000_000)
    monkeypatch.setattr(decode, "peak_memory", lambda source, *, dtype: memory)
    settings = decode.Settings(
        perplexity_tokens=60, new_tokens=3, rounds=2, prompt="the capital", sample_tokens=4
    )
    versions = [decode.Version("original"), decode.Version("1 bit", lowbit.OneBit(), ("lm_head",))]
    with decode.Stages(versions) as stages:
        measured = decode.measure(str(tiny_model), versions, settings, stages)
    result = decode.Result("A title", measured, settings, environment(), "A note.")
    decode.write(tmp_path, "x", result)
    decode.show(Console(), result)
    shown, steps = capsys.readouterr()
    numbers = [line.split(":")[0] for line in steps.splitlines() if " of " in line]
    assert numbers == [f"{number} of 7" for number in range(1, 8)]
    assert "A title" in shown
    assert "A note." in shown
    document = json.loads((tmp_path / "x.json").read_text())
    original, one_bit = document["versions"]
    assert original["scheme"] is None
    assert one_bit["scheme"]["format"] == "one_bit"
    assert one_bit["bits_per_weight"] < original["bits_per_weight"] == 16
    assert one_bit["perplexity"] > 0
    assert len(one_bit["ms_per_token_rounds"]) == 2
    text = (tmp_path / "x.md").read_text()
    assert "A note." in text
    assert "| 1 bit |" in text
    Image.open(tmp_path / "x.png").verify()


def test_decode_floor(tmp_path, tiny_model, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(decode_floor, "read_bandwidth", lambda rounds: 10.0)
    arguments = [str(tiny_model), "--new-tokens", "3", "--rounds", "2", "--output", str(tmp_path)]
    assert decode_floor.main([*arguments, "--scheme", "one_bit"]) == 0
    floor = json.loads((tmp_path / "decode_floor.json").read_text())["decode_floor"]
    assert floor["reading"] == pytest.approx(floor["weight_bytes"] / 10e6)
    assert floor["floor"] == pytest.approx(floor["loop"] + floor["reading"])
    assert floor["times_faster"] == pytest.approx(floor["original"] / floor["low_bit"])
    assert "loop alone" in (tmp_path / "decode_floor.md").read_text()
    assert decode_floor.main([str(tmp_path / "nothing")]) == 1
    assert "error:" in capsys.readouterr().err


def test_the_loop_alone_has_no_linears(tiny_model):  # noqa: F811
    model = decode_floor.load(str(tiny_model)).model
    bare = decode_floor.with_linears(model, torch.nn.Linear, decode_floor.ReturnsZeros)
    assert not any(isinstance(module, torch.nn.Linear) for module in bare.modules())
    assert any(isinstance(module, torch.nn.Linear) for module in model.modules())
    ids = torch.tensor([[1, 5, 6]])
    logits = bare(ids).logits
    assert logits.shape == model(ids).logits.shape
    assert not logits.any()


@needs_native
def test_linears_that_only_read_touch_all_they_hold(monkeypatch):
    layer = make_linear(lowbit.OneBit().quantize(torch.randn(64, 96)))
    seen = []
    monkeypatch.setattr(torch, "max", seen.append)
    y = decode_floor.OnlyReads(layer)(torch.ones(2, 1, 96))
    assert y.shape == (2, 1, 64)
    assert not y.any()
    assert [words.nbytes for words in seen] == [layer.nbytes // 4 * 4]


def test_the_demo_packs_everything_and_keeps_its_promise():
    original, *packed = demo.VERSIONS
    assert original.scheme is None
    for version in packed:
        assert version.skip == ()
    widths = {
        version.name: version.scheme.quantize(torch.randn(64, 640)).bits_per_weight for version in packed
    }
    assert widths["W4 planes"] <= 4.5
