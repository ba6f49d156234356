"""The command line in this process, and a model for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lowbit.cli import app
from typer.testing import CliRunner, Result

from tests.tiny_llama import tiny_model  # noqa: F401 (a fixture)

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """`lowbit ARGUMENTS`."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def run_json(run: Run) -> Callable[..., Any]:
    """`lowbit ARGUMENTS --json`, which must succeed and print one JSON document on stdout."""

    def call(*arguments: object) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return call


@pytest.fixture(scope="session")
def packed_model(run: Run, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The tiny model at 4 bits, its head at 8."""
    output = tmp_path_factory.mktemp("packed") / "w4"
    result = run(
        *("quantize", tiny_model, output, "--scheme", "bipolar_int", "--bits", 4, "--group-size", 32),
        *("--head-scheme", "bipolar_int:weight_bits=8,group_size=32"),
    )
    assert result.exit_code == 0, result.stderr
    return output
