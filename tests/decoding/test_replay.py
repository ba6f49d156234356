"""Compiled code is replayed where that gives the same, and runs as it is where it does not."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lowbit
import pytest
import torch
from lowbit.decoding import FastDecoder, fast_decode
from lowbit.decoding.cache import BUCKET
from lowbit.decoding.replay import COMPILED, NotReplayableError, Recorder, Replay
from lowbit.errors import LowbitError
from torch import Tensor

from tests import tiny_models as models
from tests.native import needs_native

pytestmark = needs_native

W4 = lowbit.BipolarInt(4, group_size=32)
NEW_TOKENS = 12


def generated(model: torch.nn.Module, ids: Tensor) -> Tensor:
    model.generation_config.eos_token_id = None
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)


def decoder_of(skip: tuple[str, ...] = ()) -> FastDecoder:
    model = models.llama()
    lowbit.replace_linear(model, W4, skip=skip)
    return fast_decode(model)


def step(decoder: FastDecoder) -> Any:
    return decoder._steps[1]


@pytest.fixture(scope="module")
def decoder() -> FastDecoder:
    return decoder_of()


def test_one_recording_serves_all_prompts(decoder: FastDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = models.token_ids(1, 9)
    decoder.generate(ids, max_new_tokens=3)
    assert decoder.refusals == {}
    recording = step(decoder).recordings[BUCKET]
    assert set(recording.replay.names) == {
        COMPILED,
        "lowbit.siblings_linear.default",
        "lowbit.planes_linear.default",
        "lowbit.attention.default",
    }
    monkeypatch.setattr(step(decoder), "_run", None)  # Python's way would fail
    for prompt in (ids, models.token_ids(1, 5).flip(1)):
        result = decoder.generate(prompt, max_new_tokens=NEW_TOKENS, eos_token_id=())
        assert torch.equal(result, generated(decoder.model, prompt))
    assert step(decoder).recordings[BUCKET] is recording


def test_larger_buffers_drop_what_was_recorded(decoder: FastDecoder) -> None:
    ids = models.token_ids(1, 9)
    decoder.generate(ids, max_new_tokens=3)
    before = step(decoder).recordings[BUCKET]
    result = decoder.generate(ids, max_new_tokens=2 * BUCKET, eos_token_id=())
    assert step(decoder).recordings.keys() == {2 * BUCKET, 3 * BUCKET}  # the newest two
    assert before not in step(decoder).recordings.values()
    assert torch.equal(result[:, : 9 + NEW_TOKENS], generated(decoder.model, ids))


def test_a_layer_of_torch_runs_in_python() -> None:
    decoder = decoder_of(skip=("lm_head", "*down_proj"))
    ids = models.token_ids(1, 9)
    result = decoder.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=())
    assert torch.equal(result, generated(decoder.model, ids))
    assert decoder.refusals == {}
    assert "Python" in {name for name, _ in step(decoder).recordings[BUCKET].replay.time()}


def test_a_model_that_moved_is_compiled_again(decoder: FastDecoder) -> None:
    ids = models.token_ids(1, 9)
    decoder.generate(ids, max_new_tokens=3)
    before = step(decoder)
    norm = decoder.model.model.norm.weight
    norm.data = norm.data * -1  # the same parameter, in other memory
    result = decoder.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=())
    assert step(decoder) is not before
    assert torch.equal(result, generated(decoder.model, ids))


def test_timing_does_not_touch_memory_that_is_gone(decoder: FastDecoder) -> None:
    decoder.generate(models.token_ids(1, 9), max_new_tokens=3)
    before = step(decoder)
    table = decoder.model.model.embed_tokens.weight
    table.data = table.data.clone()
    assert {name for name, _ in decoder.time_step()} >= {COMPILED, "lowbit.attention.default"}
    assert step(decoder) is not before


def test_a_model_of_another_dtype(decoder: FastDecoder) -> None:
    decoder.generate(models.token_ids(1, 9), max_new_tokens=3)
    ids = models.token_ids(1, 9)
    decoder.model.to(torch.bfloat16)
    try:
        result = decoder.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=())
        assert torch.equal(result, generated(decoder.model, ids))
    finally:
        decoder.model.to(torch.float32)


def change_hook(model: torch.nn.Module) -> None:
    norm = model.model.norm
    norm._forward_hooks.clear()
    norm.register_forward_hook(lambda module, args, output: -output)


def change_number(model: torch.nn.Module) -> None:
    model.model.layers[0].self_attn.scaling *= 30


def change_forward(model: torch.nn.Module) -> None:
    norm = model.model.norm
    norm.forward = lambda x: -x


@pytest.mark.parametrize("change", [change_hook, change_number, change_forward])
def test_changes_are_noticed(change: Callable[[torch.nn.Module], None]) -> None:
    decoder = decoder_of()
    decoder.model.model.norm.register_forward_hook(lambda module, args, output: output)
    ids = models.token_ids(1, 9)
    before = decoder.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=())
    change(decoder.model)
    result = decoder.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=())
    assert torch.equal(result, generated(decoder.model, ids))
    assert not torch.equal(result, before)


def test_one_prompt_at_a_time(decoder: FastDecoder) -> None:
    class Streamer:
        def put(self, tokens: Tensor) -> None:
            decoder.generate(models.token_ids(1, 5), max_new_tokens=2)

        def end(self) -> None:
            """Nothing to do."""

    with pytest.raises(LowbitError, match="generating already"):
        decoder.generate(models.token_ids(1, 9), max_new_tokens=2, streamer=Streamer())
    decoder.generate(models.token_ids(1, 9), max_new_tokens=2)  # it is free again


def test_training_is_refused_whenever_it_begins(decoder: FastDecoder) -> None:
    decoder.model.train()
    try:
        with pytest.raises(LowbitError, match="evaluation mode"):
            decoder.generate(models.token_ids(1, 9), max_new_tokens=2)
    finally:
        decoder.model.eval()


def test_nan_is_the_same_again() -> None:
    decoder = decoder_of(skip=("lm_head",))
    decoder.model.lm_head.weight.data[5] = float("inf")
    decoder.generate(models.token_ids(1, 9), max_new_tokens=4, eos_token_id=())
    assert decoder.refusals == {}


def test_a_step_that_was_compiled_only_is_timed() -> None:
    decoder = decoder_of()
    decoder.generate(models.token_ids(1, 9), max_new_tokens=2, eos_token_id=())
    assert len(decoder.time_step()) > 10


def test_a_replay_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of()
    monkeypatch.setattr(Replay, "play", lambda replay: None)
    ids = models.token_ids(1, 9)
    result = decoder.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=())
    assert torch.equal(result, generated(decoder.model, ids))
    assert "leaves other results" in decoder.refusals[1]


def function_of(tmp_path: Path, body: str) -> Callable[[list[Any]], Any]:
    """Code as Inductor leaves it, in a file."""
    path = tmp_path / "generated.py"
    path.write_text(f"def call(args):\n{body}")
    names: dict[str, Any] = {"torch": torch, "cpp_fused_0": max}
    exec(compile(path.read_text(), str(path), "exec"), names)
    function = names["call"]
    assert isinstance(function, types.FunctionType)
    return function


class Graph:
    """Of Inductor, as far as a recorder sees it."""

    def __init__(self, code: Callable[[list[Any]], Any]) -> None:
        self.current_callable = code


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("    a, = args\n    if a: return (a,)\n", "a statement of kind If"),
        ("    a, = args\n    n = a.item()\n", r"a call of a\.item"),
        ("    a, = args\n    b = unknown(a)\n", "a call of unknown"),
        ("    while True: pass\n", "a statement of kind While"),
    ],
)
def test_code_that_may_not_do_the_same_again(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(NotReplayableError, match=reason):
        Recorder(Graph(function_of(tmp_path, body)))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("    a, = args\n    b = torch.ops.aten.size.int(a, 0)\n", "returns what is no tensor"),
        ("    cpp_fused_0(1, 1.5)\n", "an argument of float"),
    ],
)
def test_calls_that_cannot_be_recorded(tmp_path: Path, body: str, reason: str) -> None:
    graph = Graph(function_of(tmp_path, body))
    recorder = Recorder(graph)
    with recorder.in_place(), pytest.raises(NotReplayableError, match=reason):
        graph.current_callable([torch.ones(2)])


def test_results_of_python_go_where_they_were(tmp_path: Path) -> None:
    graph = Graph(
        function_of(tmp_path, "    a, b = args\n    c = torch.ops.aten.add.Tensor(a, b)\n    return (c,)\n")
    )
    recorder = Recorder(graph)
    a, b = torch.ones(2), torch.ones(2)
    with recorder.in_place() as replay:
        (result,) = graph.current_callable([a, b])
    a.fill_(5)
    replay.play()
    assert result.tolist() == [6, 6]


def test_code_that_is_none_of_inductor_s(tmp_path: Path) -> None:
    with pytest.raises(NotReplayableError, match="compiled code of type NoneType"):
        Recorder(object())
    graph = Graph(function_of(tmp_path, "    return args\n"))
    (tmp_path / "generated.py").unlink()
    with pytest.raises(NotReplayableError, match="cannot be read"):
        Recorder(graph)


def test_without_native_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowbit.decoding.replay._library.load", lambda: "installed without native kernels")
    with pytest.raises(NotReplayableError, match="installed without native kernels"):
        Recorder(Graph(function_of(tmp_path, "    return args\n")))
