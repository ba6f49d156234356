"""Peak memory of decoding with a model, measured in a process of its own so that the figure means that model
only.

``python -m lowbit.memory SOURCE`` is that process: it loads the source, generates, and prints one JSON
object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lowbit.errors import CheckpointError
from lowbit.generation import decode_seconds
from lowbit.models import DTYPES, load_model, model_directory, source_kind

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class PeakMemory:
    """Resident bytes of one process, from its start to its last token.

    ``imports`` is what Python, torch, transformers and the model's code take before any weight;
    ``decode_peak`` the highest point after loading, ``peak`` the highest of all. Where the system cannot
    restart its high-water mark both are the same. There is no tokenizer in the process.
    """

    imports: int
    peak: int
    decode_peak: int

    @property
    def decode_above_imports(self) -> int:
        """What the model, its cache and its temporaries take while decoding."""
        return self.decode_peak - self.imports


def peak_memory(source: str | Path, *, dtype: str = "bfloat16", new_tokens: int = 32) -> PeakMemory:
    """Load ``source`` (see ``lowbit.models``) in a fresh process, generate greedily, and return its memory.

    Raises:
        CheckpointError: there is no such model, or the process failed; the message is then its last line.
    """
    source_kind(source)
    command = [
        sys.executable,
        "-m",
        "lowbit.memory",
        str(source),
        "--dtype",
        dtype,
        "--new-tokens",
        str(new_tokens),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise CheckpointError(f"measuring the memory of '{source}' failed: {lines[-1]}")
    return PeakMemory(**json.loads(result.stdout.splitlines()[-1]))


def _status(field: str) -> int | None:
    """Bytes of a ``Vm...`` line of /proc/self/status."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _peak() -> int:
    mark = _status("VmHWM")
    if mark is not None:
        return mark
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _restart_peak() -> None:
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")  # proc(5): VmHWM restarts at the present size


def _probe(source: str, dtype: torch.dtype, new_tokens: int) -> PeakMemory:
    _import_code(source, dtype)
    imports = _status("VmRSS") or _peak()
    model = load_model(source, dtype=dtype)
    load_peak = _peak()
    _restart_peak()
    decode_seconds(model, torch.ones(1, _PROMPT_TOKENS, dtype=torch.long), new_tokens)
    decode_peak = _peak()
    return PeakMemory(imports=imports, peak=max(load_peak, decode_peak), decode_peak=decode_peak)


def _import_code(source: str, dtype: torch.dtype) -> None:
    """Import what the architecture needs, by building it without weights (unknown for a GGUF file)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = model_directory(source, dtype)
    if directory is not None:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory, local_files_only=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m lowbit.memory")
    parser.add_argument("source")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--new-tokens", type=int, default=32)
    arguments = parser.parse_args()
    print(json.dumps(asdict(_probe(arguments.source, DTYPES[arguments.dtype], arguments.new_tokens))))
