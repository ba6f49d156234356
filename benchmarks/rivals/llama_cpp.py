"""llama.cpp through the PyPI package that carries it: its products one by one, and whole models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import Candidate

from rivals import Missing, Problem, relative_error
from rivals.ggml import Ggml, Product

# Numbers of ``enum ggml_type``, which GGUF files hold: they do not change.
TYPES = {
    "F16": 1,
    "BF16": 30,
    "Q8_0": 8,
    "Q4_0": 2,
    "Q4_K": 12,
    "Q3_K": 11,
    "Q2_K": 10,
    "IQ1_S": 19,
    "TQ1_0": 34,
    "TQ2_0": 35,
    "Q1_0": 41,
}
# Quantisers are slow and speed does not depend on values: these rows are quantised and repeated.
_ROWS = 256


def package() -> Any:
    """The package's low-level interface.

    Raises:
        Missing: it is not installed, or does not load.
    """
    try:
        from llama_cpp import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise Missing(f"{error} (make rivals installs it)") from error
    return llama_cpp


@cache
def ggml(threads: int) -> Ggml:
    interface = package()
    _silence(interface)
    return Ggml(Path(interface.__file__).parent / "lib", threads)


def candidates(problem: Problem) -> list[Candidate]:
    """One product for every type, re-laid where llama.cpp has kernels for that, as it does by default."""
    known = package().GGML_TYPE_COUNT
    library = ggml(torch.get_num_threads())
    found = []
    for name, kind in TYPES.items():
        label = f"llama.cpp {name}"
        try:
            if kind >= known:
                raise Missing(f"this version has no {name}")
            found.append(_candidate(problem, library, label, kind))
        except Missing as reason:
            problem.leave_out(label, reason)
    return found


def _candidate(problem: Problem, library: Ggml, label: str, kind: int) -> Candidate:
    n, k = problem.shape.out_features, problem.shape.in_features
    some = library.quantize(kind, problem.weight()[:_ROWS].numpy())
    packed = np.ascontiguousarray(np.resize(some, (n, some.shape[1])))
    copies = problem.copies(packed.nbytes)
    x = problem.x.numpy()
    try:
        product = Product(library, kind, packed, x, copies, repack=True)
        label = f"{label} repacked"
    except Missing:
        product = Product(library, kind, packed, x, copies, repack=False)
    product(0)
    exact = problem.x.double() @ torch.from_numpy(library.dequantize(kind, some, k)).double().T
    error = relative_error(torch.from_numpy(product.result(0))[:, : len(some)], exact)
    return Candidate(
        label,
        [partial(product, copy) for copy in range(copies)],
        problem.traffic(packed.nbytes, 4),
        bits_per_weight=8.0 * packed.nbytes / problem.shape.weights,
        activation_error=error,
    )


def quantize_model(source: str | Path, target: str | Path, name: str, threads: int) -> None:
    """A *pure* GGUF file: every matrix of ``source``, embedding and head included, in type ``name``.

    Args:
        name: ``Q4_0``, ``Q1_0``, ...; weights of ``source`` that are quantised already are quantised again.

    Raises:
        Missing: the package or the type is not there, or llama.cpp refuses.
    """
    interface = package()
    kind = getattr(interface, f"GGML_TYPE_{name}", None)
    file_type = getattr(interface, f"LLAMA_FTYPE_MOSTLY_{name}", None)
    if kind is None or file_type is None:
        raise Missing(f"this version of the package has no {name}")
    parameters = interface.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype = threads, file_type
    parameters.token_embedding_type = parameters.output_tensor_type = kind
    parameters.allow_requantize = parameters.pure = True
    _silence(interface)
    status = interface.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
    if status != 0:
        raise Missing(f"llama_model_quantize: status {status}")


class Decoder:
    """A GGUF model in this process, for timings at batch 1 beside other models in the same run.

    Args:
        path: a GGUF file.
        context: positions its cache holds.

    Raises:
        Missing: the package is not there, or llama.cpp cannot load the file.
    """

    def __init__(self, path: str | Path, *, threads: int, context: int = 1024) -> None:
        self._interface = interface = package()
        _silence(interface)
        interface.llama_backend_init()
        self._model = interface.llama_model_load_from_file(
            str(path).encode(), interface.llama_model_default_params()
        )
        if self._model is None:
            raise Missing(f"llama.cpp cannot load '{path}'")
        parameters = interface.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = context
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = interface.llama_init_from_model(self._model, parameters)
        if self._context is None:
            interface.llama_model_free(self._model)
            raise Missing(f"llama.cpp cannot make a context of {context} positions")
        vocabulary = interface.llama_model_get_vocab(self._model)
        self._vocabulary_size = interface.llama_vocab_n_tokens(vocabulary)

    def prefill(self, ids: Sequence[int]) -> int:
        """Clears the cache, runs the prompt in one batch and gives the likeliest next token."""
        interface = self._interface
        interface.llama_memory_clear(interface.llama_get_memory(self._context), True)
        return self._run(ids)

    def step(self, token: int) -> int:
        """Runs one more token and gives the likeliest next one."""
        return self._run([token])

    def _run(self, ids: Sequence[int]) -> int:
        interface = self._interface
        tokens = (interface.llama_token * len(ids))(*ids)
        status = interface.llama_decode(self._context, interface.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise RuntimeError(f"llama_decode: status {status}")
        logits = interface.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary_size,)).argmax())

    def close(self) -> None:
        self._interface.llama_free(self._context)
        self._interface.llama_model_free(self._model)


_quiet: list[Any] = []  # keeps the callback alive as long as llama.cpp may call it


def _silence(interface: Any) -> None:
    if not _quiet:
        _quiet.append(interface.llama_log_callback(lambda level, text, data: None))
        interface.llama_log_set(_quiet[0], None)
