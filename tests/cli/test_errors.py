"""Every failure is one line on stderr: exit code 2 for wrong usage, 1 for the rest; nothing on stdout."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest


def fails(result, code, *parts):
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("generate",), ("info", "--nonsense"), ("eval", "x", "--tokens", "0")]
)
def test_usage(run, arguments):
    fails(run(*arguments), 2, "--help")


def test_no_command_shows_the_help(run):
    result = run()
    assert result.exit_code == 2
    assert "quantize" in result.stdout


@pytest.mark.parametrize("command", ["generate", "eval", "explain", "bench"])
def test_missing_model(run, command, tmp_path):
    options = ("--prompt", "x") if command == "generate" else ()
    fails(run(command, tmp_path / "none", *options), 1, "does not exist", "gemma3-270m")


def test_transformers_is_not_installed(run, tiny_model, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(run("eval", tiny_model), 1, "pip install 'lowbit[transformers]'")


@pytest.mark.parametrize("command", ["generate", "bench"])
def test_an_empty_prompt(run, command, tiny_model):
    fails(run(command, tiny_model, "--prompt", ""), 2, "the prompt is empty")


def test_a_directory_that_is_no_model(run, tmp_path):
    fails(run("generate", tmp_path, "--prompt", "x"), 1, "not a model", "allowed")


def test_json_errors_leave_stdout_empty(run, tmp_path):
    fails(run("eval", tmp_path / "none", "--json"), 1, "does not exist")


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("nonsense", "unknown scheme 'nonsense'"),
        ("one_bit:experts=3", "no field 'experts'"),
        ("bipolar_int:weight_bits=nine", "is not int"),
        ("bipolar_int:weight_bits=9", "1..8"),
        ("bipolar_int:weight_bits", "is not key=value"),
        ("bipolar_int:group_size=32,group_size=64", "given twice"),
        ("bipolar_int:asymmetric=maybe", "is not bool"),
    ],
)
def test_bad_schemes(run, tiny_model, tmp_path, spec, complaint):
    fails(run("quantize", tiny_model, tmp_path / "out", "--scheme", spec), 2, complaint)


def test_options_that_mean_nothing_for_the_scheme(run, tiny_model, tmp_path):
    arguments = ("quantize", tiny_model, tmp_path / "out", "--scheme")
    fails(run(*arguments, "one_bit", "--bits", 4), 2, "--bits means nothing for scheme one_bit")
    fails(run(*arguments, "bipolar_int:weight_bits=3", "--bits", 4), 2, "same field")
    fails(run(*arguments, "one_bit", "--override", "lm_head"), 2, "PATTERN=SCHEME")


def test_a_scheme_given_twice_for_one_pattern(run, tiny_model, tmp_path):
    arguments = (
        "quantize",
        tiny_model,
        tmp_path / "out",
        "--scheme",
        "one_bit",
        "--override",
        "lm_head=one_bit",
    )
    fails(run(*arguments, "--head-scheme", "bipolar_int"), 2, "'lm_head' is given twice")
    fails(run(*arguments, "--override", "lm_head=bipolar_int"), 2, "'lm_head' is given twice")


def test_generate_checks_before_it_writes(run, tiny_model):
    fails(run("generate", tiny_model, "--prompt", "the", "--top-p", 2), 1, "top_p")


def test_bad_dtype(run, tiny_model):
    fails(run("eval", tiny_model, "--dtype", "int8"), 2, "unknown dtype 'int8'", "bfloat16")


def test_quantize_never_writes_over_anything(run, tiny_model, tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    fails(run("quantize", tiny_model, tmp_path, "--scheme", "one_bit"), 1, "exists already")
    assert kept.read_text() == "mine"


def test_bench_refuses_what_it_cannot_compare(run, tiny_model, packed_model):
    fails(run("bench", packed_model, "--scheme", "one_bit"), 2, "lowbit checkpoint")
    fails(run("bench", tiny_model, "--against", tiny_model), 2, "MODEL itself")
    fails(run("bench", tiny_model, "--scheme", "one_bit", "--scheme", "one-bit"), 2, "given twice")


def test_eval_of_missing_and_short_texts(run, tiny_model, tmp_path):
    missing = run("eval", tiny_model, "--text", tmp_path / "none.txt")
    fails(missing, 1, "cannot read the text", "No such file")
    assert missing.stderr.count("none.txt") == 1
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    fails(run("eval", tiny_model, "--text", empty), 1, "too short")


def test_inspect_of_damaged_files(run, tiny_model, tmp_path):
    whole = (tiny_model / "model.safetensors").read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    for content in (
        b"",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 8) + b"nonsense",
        whole[:-100],
        whole + b"more",
    ):
        damaged.write_bytes(content)
        fails(run("inspect", damaged), 1, "damaged.safetensors' is truncated or corrupt")
    fails(run("inspect", tmp_path / "none"), 1, "nothing to inspect")
    damaged.write_bytes(struct.pack("<Q", 2) + b"{}")
    fails(run("inspect", damaged), 1, "no tensors")


def test_inspect_of_an_unknown_format_version(run, packed_model, tmp_path):
    config = json.loads((packed_model / "config.json").read_text())
    config["quantization_config"]["format_version"] = 99
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((packed_model / "model.safetensors").read_bytes())
    fails(run("inspect", tmp_path), 1, "config.json", "format_version", "99")


def test_debug_shows_the_traceback(run, tmp_path):
    result = run("--debug", "inspect", tmp_path / "none")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_exit_code_and_streams_of_the_real_command(tmp_path):
    code = "import sys; from lowbit.cli import main; sys.argv = ['lowbit', 'inspect', sys.argv[1]]; main()"
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "none"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: nothing to inspect")
    assert len(result.stderr.splitlines()) == 1
