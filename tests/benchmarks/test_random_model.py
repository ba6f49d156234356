"""Models made from a configuration alone: packed throughout, and read as a whole beside every token."""

from __future__ import annotations

import json

import pytest
import random_model
import torch
from lowbit.modules import QuantizedLinear
from torch import nn

from tests.native import needs_native
from tests.tiny_llama import tiny_model  # noqa: F401 (a fixture)


@pytest.mark.parametrize("kind", random_model.KINDS)
def test_model_is_packed_and_computes(tiny_model, kind):  # noqa: F811
    model = random_model.random_model(tiny_model, random_model.KINDS[kind])
    layers = [part for part in model.modules() if isinstance(part, QuantizedLinear)]
    assert len(layers) == 2 * 7 + 1
    assert not any(isinstance(part, nn.Linear) for part in model.modules())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    logits = model(input_ids=torch.arange(5)[None]).logits
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
    assert (logits[0, 0] != logits[0, 1]).any()


@needs_native
def test_script(tmp_path, tiny_model, capsys):  # noqa: F811
    arguments = [str(tiny_model), "--new-tokens", "3", "--rounds", "2", "--output", str(tmp_path)]
    assert random_model.main([*arguments, "--kind", "one_bit"]) == 0
    document = json.loads((tmp_path / "random_model.json").read_text())
    found = document["random_model"]
    weights = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 96 * 64) + 64 * 64
    assert found["parameters"] == weights
    # Rows come in tiles of 64, and 2 bytes of scale for every input and every output.
    assert weights / 8 < found["weight_bytes"] < weights / 4
    assert len(found["decode"]) == 2
    assert len(found["reads"]) >= 4
    assert document["share"]["value"] > 0
    assert "| one_bit, fast_decode |" in (tmp_path / "random_model.md").read_text()
    assert random_model.main([str(tmp_path), "--output", str(tmp_path)]) == 1
    with pytest.raises(SystemExit):
        random_model.main(["--new-tokens", "1"])
    assert "error:" in capsys.readouterr().err


def test_share_is_of_the_best_loop():
    reads = {"slow": [4.0, 4.0, 4.0], "fast": [3.0, 3.0, 9.0]}
    result = random_model.Result("k", 8, 1, 0.0, [4.0, 6.0, 12.0], reads, random_model.Split(1.0, 0.5, 0.5))
    assert result.best_read == "fast"
    assert result.share.value == 0.75
