"""The comparison of whole models on a tiny one: every figure is there, and files are whole."""

from __future__ import annotations

import json

import model_level
import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from lowbit.errors import CheckpointError
from lowbit.models import gguf_file
from rivals import Missing, llama_cpp

from tests.native import needs_native
from tests.tiny_llama import tiny_model  # noqa: F401 (a fixture)


@needs_native
def test_script(tmp_path, tiny_model, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(model_level, "PREFILL_TOKENS", 24)
    arguments = [str(tiny_model), "--scheme", "one_bit", "--new-tokens", "3", "--rounds", "2"]
    arguments += ["--contexts", "8,70", "--batches", "1", "--output", str(tmp_path)]
    assert model_level.main(arguments) == 0
    found = json.loads((tmp_path / "model_level.json").read_text())["model_level"]
    ways = ("generate", "in_generate", "fast_decode")
    names = [f"{model}, {way}" for model in ("original", "one_bit") for way in ways]
    assert list(found["runners"]) == names
    for figures in found["runners"].values():
        assert len(figures["decode"]) == len(figures["prefill"]) == 2
        assert min(figures["decode"] + figures["prefill"]) > 0
    assert found["runners"][names[3]]["weight_bytes"] < found["runners"][names[0]]["weight_bytes"]
    assert set(found["missing"]) == {"llama.cpp Q4_0, pure", "llama.cpp Q1_0, pure"}
    split = found["split"]["one_bit"]
    assert min(split["linears"], split["attention"], split["rest"]) > 0
    assert set(found["context"]["one_bit"]) == {"8", "70"}
    assert set(found["batch"]["one_bit"]) == {"1"}
    text = (tmp_path / "model_level.md").read_text()
    for name in names:
        assert f"| {name} |" in text
    assert model_level.main([str(tmp_path / "nothing")]) == 1
    with pytest.raises(SystemExit):
        model_level.main([str(tiny_model), "--new-tokens", "1"])
    assert "error:" in capsys.readouterr().err


def test_llama_cpp_takes_its_turn(tmp_path, monkeypatch):
    steps = []

    class Decoder:
        def __init__(self, path, *, threads, context):
            steps.append((path.name, threads, context))

        def prefill(self, ids):
            steps.append(len(ids))
            return 7

        def step(self, token):
            steps.append(token)
            return token + 1

    monkeypatch.setattr(llama_cpp, "Decoder", Decoder)
    path = tmp_path / "a.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("one", np.zeros((3, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    runner = model_level.LlamaCpp(path, 2, 64)
    assert runner.weight_bytes == 48, "tensors alone, as for the others"
    assert runner.decode(torch.zeros(1, 5, dtype=torch.int64), 3) > 0
    assert steps == [("a.gguf", 2, 64), 5, 7, 8]


def test_what_llama_cpp_cannot_run_is_named(tmp_path, monkeypatch):
    def refuses(*arguments):
        raise Missing("no such type")

    monkeypatch.setattr(llama_cpp, "quantize_model", refuses)
    missing = {}
    source = tmp_path / "model.gguf"
    source.write_bytes(b"")
    assert model_level.llama_runners(str(source), tmp_path, 64, missing) == {}
    assert missing == {f"llama.cpp {kind}, pure": "no such type" for kind in model_level.LLAMA_TYPES}


def test_only_gguf_files_are_gguf_files(tiny_model):  # noqa: F811
    with pytest.raises(CheckpointError, match="is no GGUF file"):
        gguf_file(tiny_model)
