"""The compiled step: one token in, one token out, for any decoder of transformers."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from lowbit.decoding.attention import attention_of_a_token
from lowbit.decoding.cache import step_cache
from lowbit.decoding.fusion import FuseSiblings
from lowbit.decoding.replay import NotReplayableError, Recorder, Replay
from lowbit.decoding.sampling import most_likely
from lowbit.errors import BackendError
from lowbit.modules import QuantizedLinear

Compiled = Callable[..., Sequence[Tensor]]


def require_compiler() -> None:
    """Inductor writes C++ for everything around the layers.

    Raises:
        BackendError: there is no C++ compiler it can use.
    """
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except Exception as error:  # its type differs between versions of torch
        raise BackendError(
            "fast_decode compiles the model's step and needs a C++ compiler when it runs",
            found="none",
            allowed="g++ or clang++ on the PATH, or the one that the variable CXX names",
        ) from error


KEPT = 2  # recordings: each has memory of its own for all that a step computes


@dataclass
class Recording:
    """A step that was recorded.

    Attributes:
        given: its arguments, as `_arguments` lists them. The tokens are its own; the next ones go there.
        results: logits and most likely tokens; every replay leaves others.
    """

    given: list[Any]
    replay: Replay
    results: tuple[Tensor, Tensor]

    def is_of(self, given: Sequence[Any]) -> bool:
        """Whether a step with these arguments works on the same memory."""
        return all(
            now is before or (type(now) is int and now == before)
            for now, before in zip(given[1:], self.given[1:], strict=True)
        )

    def check(self) -> None:
        """Repeats the step, which writes the same keys and values to the same place.

        Raises:
            NotReplayableError: it leaves other results.
        """
        expected = [result.clone() for result in self.results]
        for result in self.results:
            result.zero_()
        self.replay.play()
        if not all(map(_same_bits, self.results, expected)):
            raise NotReplayableError("a replay leaves other results than the step that was recorded")


class CompiledStep:
    """The step of a model for one batch size. The first call compiles.

    torch.compile checks before every call that nothing it has seen of the model has changed, which takes
    longer than all of the model but its linear layers. Here the first call notes what the compiled code was
    given, and later ones call that code directly. Whether the model is still the one it was compiled for is
    for `is_current` to say, once per generation.

    One step for every number of positions that are read is recorded, and those after it are a replay: no
    Python runs between layers.

    Attributes:
        recordings: by positions read, the newest KEPT of them.
        latest: the recording of the last step.
        refusal: why steps are not recorded; None if they are.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.recordings: dict[int, Recording] = {}
        self.latest: Recording | None = None
        self.refusal: str | None = None
        self._compiled: Compiled | None = None
        self._graphs: list[Any] = []  # of Inductor, what `_compiled` runs in the end
        self._recorder: Recorder | None = None
        self._inputs: list[Any] = []  # of the compiled code; the places that change are filled in every call
        self._places: list[tuple[int, int]] = []  # (position among the inputs, position among the arguments)
        self._outputs: tuple[int, int] = (0, 0)  # where logits and token are among the outputs
        self._parts, self._settings = _compiled_for(model)
        # Recordings hold addresses: what is there must not be freed, nor be given to other tensors.
        self._memory = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]

    def is_current(self) -> bool:
        """Whether modules, tensors, hooks and settings of packed layers are those it was compiled for."""
        parts, settings = _compiled_for(self._model)
        same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        return same and settings == self._settings

    def __call__(
        self,
        tokens: Tensor,
        position: Tensor,
        position_ids: Tensor,
        seen: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            tokens: int64 [batch, 1].
            position: int64 [1], where the tokens go in the buffers.
            position_ids: int64 [batch, 1], what the model is told of it.
            seen: bool [batch, length], False where a prompt is padded.
            keys, values: buffers [batch, heads, capacity, width] of every layer, written in place.

            length and capacity may differ between calls, but not be equal in the first one.

        Returns:
            Logits [batch, vocabulary], good until the next call, and the most likely tokens,
            int64 [batch, 1].
        """
        if self._compiled is None:
            return self._compile(tokens, position, position_ids, seen, keys, values)
        given = _arguments(tokens, position, position_ids, seen, keys, values)
        recording = self.recordings.get(seen.shape[1])
        if recording is None or not recording.is_of(given):
            return self._record(given) if self.refusal is None else self._run(given)
        recording.given[0].copy_(tokens)
        recording.replay.play()
        self.latest = recording
        logits, token = recording.results
        return logits, token.clone()

    def _run(self, given: Sequence[Any]) -> tuple[Tensor, Tensor]:
        assert self._compiled is not None
        for place, argument in self._places:
            self._inputs[place] = given[argument]
        outputs = self._compiled(*self._inputs)
        logits, token = self._outputs
        return outputs[logits], outputs[token]

    def _record(self, given: list[Any]) -> tuple[Tensor, Tensor]:
        """Runs and records a step. The first one is replayed at once, and has to leave the same results."""
        # Recordings of other buffers keep those, and will not be asked for again.
        useful = [pair for pair in self.recordings.items() if pair[1].given[-1] is given[-1]]
        self.recordings = dict(useful[1 - KEPT :])
        self.latest = None
        given = [given[0].clone(), *given[1:]]
        try:
            if len(self._graphs) != 1:
                raise NotReplayableError(f"code in {len(self._graphs)} pieces")
            first = self._recorder is None
            if self._recorder is None:
                self._recorder = Recorder(self._graphs[0])
            with self._recorder.in_place() as replay:
                results = self._run(given)
            recording = Recording(given, replay, results)
            if first:
                recording.check()
        except NotReplayableError as reason:
            self.refusal = str(reason)
            return self._run(given)
        self.latest = self.recordings[given[3].shape[1]] = recording
        logits, token = results
        return logits, token.clone()

    def _compile(self, *step_arguments: Any) -> tuple[Tensor, Tensor]:
        calls: list[tuple[Compiled, Sequence[Any], Sequence[Tensor]]] = []

        def backend(graph: fx.GraphModule, examples: list[Any]) -> Compiled:
            compiled = _compile_graph(graph, examples, self._graphs)

            def noted(*inputs: Any) -> Sequence[Tensor]:
                outputs = compiled(*inputs)
                calls.append((compiled, inputs, outputs))
                return outputs

            return noted

        # Sizes that differ between models and batches are constants all the same: each has a step of its own.
        constant_sizes = torch._dynamo.config.patch(automatic_dynamic_shapes=False)
        with constant_sizes, attention_of_a_token(self._model.config.get_text_config(decoder=True)):
            logits, token = torch.compile(_step_of(self._model), fullgraph=True, backend=backend)(
                *step_arguments
            )
        ((compiled, inputs, outputs),) = calls
        given = _arguments(*step_arguments)
        self._inputs = list(inputs)
        self._places = [
            (place, argument)
            for place, value in enumerate(inputs)
            if (argument := _which(value, given)) is not None
        ]
        positions = {id(output): index for index, output in enumerate(outputs)}
        self._outputs = positions[id(logits)], positions[id(token)]
        self._compiled = compiled
        return logits, token


def _compiled_for(model: Any) -> tuple[list[object], list[object]]:
    """What compiled code of a model depends on: parts, told by identity, and values."""
    modules = list(model.modules())
    tensors = [*model.parameters(), *model.buffers()]
    functions = [
        function
        for module in modules
        for function in (
            vars(module).get("forward"),
            *module._forward_hooks.values(),
            *module._forward_pre_hooks.values(),
        )
    ]
    settings: list[object] = [tensor.data_ptr() for tensor in tensors]  # `model.to` moves them in place
    settings += [
        _plain_values(config) for config in (model.config, model.config.get_text_config(decoder=True))
    ]
    settings.append(torch.is_autocast_enabled("cpu"))
    for module in modules:
        settings.append(_plain_values(module))
        settings.append(module._numbers() if isinstance(module, QuantizedLinear) else None)
    return [*modules, *tensors, *functions], settings


def _plain_values(owner: object) -> dict[str, object]:
    return {
        name: value if isinstance(value, _SCALARS) else copy(value)
        for name, value in vars(owner).items()
        if name not in _OF_EVERY_MODULE and _is_plain(value)
    }


_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_SCALARS = (bool, int, float, str, type(None))


def _is_plain(value: object) -> bool:
    """Numbers, flags and names, and containers of them: what switches and scales of modules are."""
    if isinstance(value, _SCALARS):
        return True
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (list, tuple, set)) and all(map(_is_plain, value))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Also of NaN."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _step_of(model: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    def step(
        tokens: Tensor,
        position: Tensor,
        position_ids: Tensor,
        seen: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        logits = model(
            input_ids=tokens,
            attention_mask=seen,
            position_ids=position_ids,
            past_key_values=step_cache(keys, values, position, seen.shape[1]),
            use_cache=True,
        ).logits[:, -1]
        return logits, most_likely(logits)

    # torch.compile keeps its results with the code object: every compilation gets one of its own.
    return types.FunctionType(step.__code__.replace(), globals(), step.__name__, None, step.__closure__)


def _compile_graph(graph: fx.GraphModule, examples: list[Any], graphs: list[Any]) -> Compiled:
    """Compiles, and adds what Inductor makes of the graph to `graphs`."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    def inner_compile(*args: Any, **kwargs: Any) -> Any:
        graphs.append(compile_fx_inner(*args, **kwargs))
        return graphs[-1]

    patches: dict[str, Any] = {
        "post_grad_custom_pre_pass": FuseSiblings(),
        "size_asserts": False,
        "realize_opcount_threshold": 1,
        "cpp.threads": 1,
    }
    # From the cache of whole graphs, nothing of Inductor would be seen here.
    with torch._functorch.config.patch(enable_autograd_cache=False):
        compiled: Any = compile_fx(graph, examples, inner_compile, config_patches=patches)
    return cast(Compiled, compiled)


def _arguments(
    tokens: Tensor,
    position: Tensor,
    position_ids: Tensor,
    seen: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
) -> list[Any]:
    """All that may differ between two calls, flat: tensors and the two sizes."""
    return [tokens, position, position_ids, seen, seen.shape[1], keys[0].shape[2], *keys, *values]


def _which(value: object, given: Sequence[Any]) -> int | None:
    """The argument an input of the compiled code comes from; None for the model's own tensors.

    Tensors are told by identity, sizes by value.
    """
    for index, argument in enumerate(given):
        if value is argument or (isinstance(argument, int) and type(value) is int and value == argument):
            return index
    if not isinstance(value, Tensor):
        raise TypeError(f"the compiled step was given {value!r}, which is no argument of it")
    return None
