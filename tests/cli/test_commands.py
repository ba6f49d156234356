"""What each command prints, as text and as JSON."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import lowbit
import lowbit.models
import pytest
from lowbit.cli.output import progress
from lowbit.memory import PeakMemory

SPEED = {"tokens_per_second", "ms_per_token", "ms_per_token_min", "ms_per_token_max", "ms_per_token_rounds"}


def test_version(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"lowbit {lowbit.__version__}\n"


def test_help_lists_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0
    for name in ("info", "quantize", "inspect", "generate", "bench", "eval", "explain", "tune"):
        assert name in result.stdout
        assert run(name, "--help").exit_code == 0


def test_info(run, run_json):
    document = run_json("info")
    assert document["lowbit"] == lowbit.__version__
    assert document["backends"]["torch"]["ok"] is True
    assert {"cpu", "caches", "versions", "torch_threads", "load_average"} <= set(document["environment"])
    text = run("info").stdout
    assert "torch" in text
    assert "backends" in text


def test_quantize_reports_every_layer(run_json, tiny_model, tmp_path):
    (tmp_path / "out").mkdir()  # an empty directory is as good as none
    document = run_json("quantize", tiny_model, tmp_path / "out", "--scheme", "binary-mos:experts=2")
    assert document["scheme"] == {"format": "binary_mos", "experts": 2, "scale_dtype": "float16"}
    assert document["total"]["layers"] == 14
    assert list(document["skipped"]) == ["lm_head"]
    assert {"name", "shape", "scheme", "bits_per_weight", "relative_error"} <= set(document["layers"][0])
    assert document["file_bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size


def test_long_work_says_how_far_it_is_where_stderr_is_no_terminal(run, tiny_model, tmp_path, monkeypatch):
    arguments = ("quantize", tiny_model, tmp_path / "out", "--scheme", "one_bit")
    assert run(*arguments).stderr == ""
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr("lowbit.cli.output.SECONDS_BETWEEN_LINES", 1e-3)
    lines = run(*arguments).stderr.splitlines()
    form = r"(Loading .*|Converting to one_bit|Saving .*): (\d+ of 14, )?\d+ s"
    assert all(re.fullmatch(form, line) for line in lines)
    assert any(re.search("one_bit: [1-9].* of 14, ", line) for line in lines)


def test_lines_of_work_without_steps_end_with_it(capsys, monkeypatch):
    monkeypatch.setattr("lowbit.cli.output.SECONDS_BETWEEN_LINES", 0.02)
    with progress("Compiling"):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(re.fullmatch(r"Compiling: \d+ s", line) for line in lines)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_quantize_writes_a_whole_model(packed_model):
    names = {path.name for path in packed_model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    model = lowbit.load_pretrained(packed_model)
    assert model.lm_head.bits == 8
    assert model.model.layers[0].mlp.up_proj.bits == 4


def test_quantize_with_overrides_and_skip(run_json, tiny_model, tmp_path):
    document = run_json(
        *("quantize", tiny_model, tmp_path / "out", "--scheme", "one_bit", "--skip", "*.k_proj"),
        *("--override", "*.down_proj=scalar_codebook:bits=3"),
    )
    schemes = {layer["name"].split(".")[-1]: layer["scheme"] for layer in document["layers"]}
    assert schemes["down_proj"] == "scalar_codebook"
    assert schemes["up_proj"] == "one_bit"
    assert "k_proj" not in schemes


def test_inspect_a_checkpoint(run, run_json, packed_model):
    document = run_json("inspect", packed_model)
    layers = {layer["name"]: layer for layer in document["layers"]}
    up = layers["model.layers.0.mlp.up_proj"]
    assert up["scheme"] == "bipolar_int:weight_bits=4,group_size=32"
    assert up["shape"] == "96 x 64"
    assert up["bits_per_weight"] == 4.5
    assert up["bytes"] == 96 * 64 * 4.5 / 8
    assert layers["lm_head"]["scheme"] == "bipolar_int:weight_bits=8,group_size=32"
    assert layers["model.embed_tokens"]["scheme"] == "bf16"
    assert document["total"]["bytes"] == sum(layer["bytes"] for layer in document["layers"])
    text = run("inspect", packed_model).stdout
    assert "model.layers.1.self_attn.q_proj" in text
    assert "4.500" in text


def test_inspect_agrees_with_the_modules(run_json, packed_model):
    model = lowbit.load_pretrained(packed_model)
    for layer in run_json("inspect", packed_model)["layers"]:
        module = model.get_submodule(layer["name"])
        if hasattr(module, "bits_per_weight"):
            assert layer["bits_per_weight"] == pytest.approx(module.bits_per_weight)


def test_inspect_an_ordinary_model_and_a_single_file(run_json, tiny_model):
    whole = run_json("inspect", tiny_model)
    alone = run_json("inspect", tiny_model / "model.safetensors")
    assert whole["layers"] == alone["layers"]
    assert whole["total"]["bits_per_weight"] == 16.0


@pytest.mark.parametrize("packed", [False, True])
def test_generate(run, run_json, tiny_model, packed_model, packed):
    source = packed_model if packed else tiny_model
    arguments = ("generate", source, "--prompt", "the capital of", "--max-new-tokens", 6)
    document = run_json(*arguments)
    assert document["prompt_tokens"] == 4
    assert 1 <= document["new_tokens"] <= 6
    result = run(*arguments)
    assert result.stdout == "the capital of" + document["text"] + "\n"
    assert "tokens/s" in result.stderr


def test_generate_samples_repeatably(run_json, tiny_model):
    arguments = ("generate", tiny_model, "-p", "the capital", "--temperature", 1.5, "--max-new-tokens", 12)
    first, again = (run_json(*arguments, "--seed", 1)["text"] for _ in range(2))
    others = {run_json(*arguments, "--seed", seed)["text"] for seed in (2, 3, 4)}
    assert first == again
    assert others != {first}


def test_eval_states_its_definition(run, run_json, tiny_model):
    document = run_json("eval", tiny_model, "--tokens", 200, "--window", 32)
    assert document["windows"] == 6
    assert document["positions"] == 6 * 31
    assert document["bos"] is True
    assert "6 windows of BOS and 31 tokens" in document["definition"]
    text = run("eval", tiny_model, "--tokens", 200, "--window", 32).stdout
    assert f"{document['perplexity']:.4f}" in text
    assert document["definition"] in text


def test_eval_of_a_file(run_json, tiny_model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the capital of France is Paris . " * 10, encoding="utf-8")
    document = run_json("eval", tiny_model, "--text", text)
    assert document["tokens"] == 70
    assert document["windows"] == 1
    assert document["text"] == str(text)


def test_bench_alternates_original_and_schemes(run_json, tiny_model, monkeypatch):
    sources = []

    def fake_memory(source, *, dtype):
        sources.append(lowbit.models.source_kind(source))
        return PeakMemory(imports=1, peak=3, decode_peak=2)

    monkeypatch.setattr("lowbit.memory.peak_memory", fake_memory)
    document = run_json(
        *("bench", tiny_model, "--scheme", "bipolar_int:group_size=32", "--include-head"),
        *("--new-tokens", 4, "--rounds", 2),
    )
    original, packed = document["models"]
    assert document["baseline"] == original["model"] == str(tiny_model)
    assert packed["model"] == "bipolar_int:weight_bits=4,group_size=32"
    for row in (original, packed):
        assert set(row) >= SPEED | {"bits_per_weight", "weight_bytes", "memory", "times_faster"}
        assert len(row["ms_per_token_rounds"]) == 2
        assert row["memory"] == {"imports": 1, "peak": 3, "decode_peak": 2, "decode_above_imports": 1}
    assert sources == ["transformers", "lowbit"]
    assert original["times_faster"] == 1.0
    assert original["bits_per_weight"] == 16.0
    assert 4.5 < packed["bits_per_weight"] < 16  # the embedding is not tied and stays


def test_explain(run, run_json, packed_model):
    document = run_json("explain", packed_model)
    assert len(document["layers"]) == 15
    assert {"name", "backend", "kernel", "reason", "precision"} <= set(document["layers"][0])
    assert "planes_linear" in run("explain", packed_model).stdout


def test_no_output_is_left_of_a_refused_conversion(run, tiny_model, tmp_path):
    result = run("quantize", tiny_model, tmp_path / "out", "--scheme", "one_bit", "--skip", "*")
    assert result.exit_code == 1
    assert list(Path(tmp_path).iterdir()) == []


def test_bench_compare_says_what_got_slower(run, tmp_path):
    steady = [100.0, 101.0, 99.0, 100.0]
    for name, factor in (("a", 1), ("b", 2)):
        lines = {"one": {"cold": [factor * us for us in steady], "warm": steady}}
        (tmp_path / name).write_text(json.dumps({"lines": lines}))
    same = run("bench", "compare", tmp_path / "a", tmp_path / "a")
    assert same.exit_code == 0
    assert "0 of 2 slower" in same.stdout
    slower = run("bench", "compare", tmp_path / "a", tmp_path / "b", "--json")
    assert slower.exit_code == 1
    assert json.loads(slower.stdout)["slower"] == 1
