"""The benchmark scripts on small work: their calls are right, and their files are whole."""

from __future__ import annotations

import json
import sys

import decode
import decode_floor
import demo
import kernels
import lowbit
import pytest
import torch
from lowbit.environment import environment
from lowbit.errors import BackendError
from lowbit.memory import PeakMemory
from PIL import Image
from rich.console import Console

from tests.native import needs_native
from tests.tiny_llama import tiny_model  # noqa: F401 (a fixture)


@pytest.mark.parametrize("entry", kernels.ENTRIES, ids=lambda entry: entry.name)
def test_unpacking_is_a_fair_rival(entry):
    packed = entry.make(96, 256)
    x = torch.randn(5, 256).bfloat16()
    expected = packed.linear(x.float())
    error = (kernels.unpack_and_multiply(packed, x) - expected).norm() / expected.norm()
    assert error < 2e-2


@needs_native
@pytest.mark.parametrize("entry", kernels.ENTRIES, ids=lambda entry: entry.name)
def test_what_is_timed_is_right(entry):
    kernels.check(entry, entry.make(96, 256), torch.randn(3, 256).bfloat16())


@needs_native
def test_a_wrong_kernel_is_not_timed(monkeypatch):
    entry = kernels.ENTRIES[0]
    monkeypatch.setattr(kernels, "operator_call", lambda packed, precision, x, y: lambda: y.zero_())
    with pytest.raises(BackendError, match="wrong result"):
        kernels.check(entry, entry.make(96, 256), torch.randn(3, 256).bfloat16())


@needs_native
def test_kernels_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "last_level_cache", lambda: 1 << 16)
    monkeypatch.setattr("timing.copies_needed", lambda *_: 2)
    monkeypatch.setattr(kernels, "copies_needed", lambda *_: 2)
    arguments = ["--shapes", "128x256", "--tokens", "1,9", "--rounds", "3", "--check-targets"]
    monkeypatch.setattr(sys, "argv", ["kernels.py", *arguments, "--output", str(tmp_path)])
    assert kernels.main() in (0, 1)
    document = json.loads((tmp_path / "kernels.json").read_text())
    assert document["environment"]["versions"]["lowbit"] == lowbit.__version__
    names = [result["name"] for result in document["results"] if result["tokens"] == 1]
    assert names == [kernels.READ, kernels.BF16, kernels.FP32, *(entry.name for entry in kernels.ENTRIES)]
    one = next(result for result in document["results"] if result["name"] == kernels.BINARY_MOS)
    assert one["cold"]["low"] <= one["cold"]["median"] <= one["cold"]["high"]
    assert len(document["targets"]) == 5
    text = (tmp_path / "kernels.md").read_text()
    assert "128 x 256 (out x in), M = 9" in text
    assert "unpack + torch bf16: W4 g128" in text
    assert capsys.readouterr().out.count("wanted") == 5
    Image.open(tmp_path / "kernels.png").verify()


def test_targets_are_met_or_missed():
    assert kernels.Target("", measured=8.0, wanted=8.0).met
    assert not kernels.Target("", measured=7.9, wanted=8.0).met


def test_decode_harness(tmp_path, tiny_model, monkeypatch, capsys):  # noqa: F811
    memory = PeakMemory(imports=100_000_000, peak=300_000_000, decode_peak=200_000_000)
    monkeypatch.setattr(decode, "peak_memory", lambda source, *, dtype: memory)
    settings = decode.Settings(
        perplexity_tokens=60, new_tokens=3, rounds=2, prompt="the capital", sample_tokens=4
    )
    versions = [decode.Version("original"), decode.Version("1 bit", lowbit.OneBit(), ("lm_head",))]
    with decode.Stages() as stages:
        measured = decode.measure(str(tiny_model), versions, settings, stages)
    result = decode.Result("A title", measured, settings, environment(), "A note.")
    decode.write(tmp_path, "x", result)
    decode.show(Console(), result)
    shown = capsys.readouterr().out
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
    bare = decode_floor.without_linears(model)
    assert not any(isinstance(module, torch.nn.Linear) for module in bare.modules())
    assert any(isinstance(module, torch.nn.Linear) for module in model.modules())
    ids = torch.tensor([[1, 5, 6]])
    logits = bare(ids).logits
    assert logits.shape == model(ids).logits.shape
    assert not logits.any()


def test_the_demo_packs_everything_and_keeps_its_promise():
    original, *packed = demo.VERSIONS
    assert original.scheme is None
    for version in packed:
        assert version.skip == ()
    widths = {
        version.name: version.scheme.quantize(torch.randn(64, 640)).bits_per_weight for version in packed
    }
    assert widths["W4 planes"] <= 4.5
