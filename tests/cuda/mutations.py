"""Breaks the kernels one place at a time and sees the tests fail: `make cuda-mutations`, some minutes.

A mutation is made in a copy of the sources. What it touches is compiled onto the emulated device, by the
commands of the build, and linked to the rest of the build as another library, which the tests load instead.
First all of it unbroken, in the same way: where that fails, a mutation that is caught means nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "emulated"
KIND = "_mutated"


@dataclass(frozen=True)
class Mutation:
    what: str
    file: str  # below csrc/cuda
    before: str
    after: str
    units: tuple[str, ...]  # that see it, below csrc/cuda
    tests: tuple[str, ...]  # that must fail, as pytest takes them


WHOLE = ("bits/gemv_whole.cu",)
GROUPED = (
    "bits/gemv_by_row.cu",
    "bits/gemv_by_128.cu",
    "bits/gemv_by_128_pairs.cu",
    "bits/gemv_by_32.cu",
)
EXPANSION, EXPANDED = ("codebook/matmul.cu",), ("tests/cuda/test_codebook_matmul.py",)
BITS = "tests/cuda/test_bits.py"
LOOPS = (f"{BITS}::test_every_loop",)
STAGED, SUBNORMAL = ("activations/prologue.cu", "bits/gemv_by_128.cu"), (f"{BITS}::test_one_bit_by_128",)
ROWS = (f"{BITS}::test_rows_that_share_a_block", f"{BITS}::test_blocks_that_share_rows")

MUTATIONS = (
    Mutation(
        "no barrier before a chunk of columns is read", "bits/chunks.h",
        "cp_async_wait<0>();\n    __syncthreads();", "cp_async_wait<0>();", WHOLE, ROWS,
    ),
    Mutation(
        "no wait for the copy of a chunk", "bits/chunks.h",
        "cp_async_wait<0>();\n    __syncthreads();", "__syncthreads();", WHOLE, ROWS,
    ),
    Mutation(
        "no barrier before sums of a block are read", "bits/meeting.h",
        "    }\n    __syncthreads();", "    }", WHOLE + GROUPED, ROWS,
    ),
    Mutation(
        "columns not exchanged", "bits/chunks.h",
        "(at_once_ == 1 ? 16 : 0)", "0", WHOLE, LOOPS,
    ),
    Mutation(
        "the second tile of columns copied from the first", "bits/chunks.h",
        "from + next_tile_", "from", WHOLE, LOOPS,
    ),
    Mutation(
        "four to seven warps copy columns as eight do", "bits/chunks.h",
        "place.row_warps < 8 ? 4 : 8", "8", WHOLE, (f"{BITS}::test_any_number_of_warps_copies_columns",),
    ),
    Mutation(
        "two registers of a column fragment exchanged", "bits/fragments.h",
        "b[2 * half][0] = raw.x, b[2 * half][1] = raw.y;", "b[2 * half][0] = raw.y, b[2 * half][1] = raw.x;",
        WHOLE, LOOPS,
    ),
    Mutation(
        "two registers of a weight fragment exchanged", "bits/fragments.h",
        "a[1] = words.y & mask;\n  a[2] = words.z", "a[2] = words.y & mask;\n  a[1] = words.z", WHOLE, LOOPS,
    ),
    Mutation(
        "columns a lane further", "activations/prologue.cu",
        "16 * (o % 4) +", "16 * ((o + 1) % 4) +", ("activations/prologue.cu",), LOOPS,
    ),
    Mutation(
        "halves of a group of columns exchanged", "activations/prologue.cu",
        "kHalfGroupBytes * (o / 8)", "kHalfGroupBytes * (1 - o / 8)", ("activations/prologue.cu",), LOOPS,
    ),
    Mutation(
        "a part of a row ends a span early", "bits/params.h",
        "spans * (part + 1) / parts}", "(spans * (part + 1) - 1) / parts}", WHOLE + GROUPED, ROWS,
    ),
    Mutation(
        "blocks that share rows: one too few is waited for", "bits/meeting.h",
        "static_cast<uint32_t>(blocks - 1)", "static_cast<uint32_t>(blocks - 2)", WHOLE + GROUPED, ROWS,
    ),
    Mutation(
        "sums of blocks in ascending order", "bits/meeting.h",
        "return min(parts & -parts, kMaxWarps) / partition.input_warps;", "return parts > 0;", GROUPED,
        (f"{BITS}::test_parts_add_up_in_one_order",),
    ),
    Mutation(
        "the second token has the scales of the first", "bits/scales.h",
        "words_[0] + (word + i)", "words_[0] + word", GROUPED, LOOPS,
    ),
    Mutation(
        "the second column of a token counts 255 times", "bits/scales.h",
        "256 * high + low", "255 * high + low", GROUPED, LOOPS,
    ),
    Mutation(
        "sums start from half of what they can lack", "activations/columns.h",
        "start << (field | 1)", "start << (field | 1) >> 2", STAGED, SUBNORMAL,
    ),
    Mutation(
        "a last group of few inputs without the share of its sums", "bits/loops.h",
        "if (rest) y[c][i] =", "if (false) y[c][i] =", STAGED, SUBNORMAL,
    ),
    Mutation(
        "scales that are divided by twice the range of the token", "activations/prologue.cu",
        "(254u << 23) - power_bits(amax)", "(253u << 23) - power_bits(amax)", STAGED, SUBNORMAL,
    ),
    Mutation(
        "a span of weights that was not loaded", "bits/loops.h",
        "load_if(following < spans.end, words)", "load_if(following + 1 < spans.end, words)", GROUPED,
        (f"{BITS}::test_every_partition",),
    ),
    Mutation(
        "rows of vectors end where their codes do", "codebook/matmul.cu",
        "step * kStepPositions * kSize < p.x.row_inputs", "step < steps", EXPANSION, EXPANDED,
    ),
    Mutation(
        "no barrier before outliers are added to expanded rows", "codebook/matmul.cu",
        "if (weight.outlier_offsets == nullptr) return;\n  __syncthreads();",
        "if (weight.outlier_offsets == nullptr) return;", EXPANSION, EXPANDED,
    ),
    Mutation(
        "entries of eight codebooks overflow", "codebook/matmul.cu",
        "static_cast<float>(1 << shift);\n  if", "1.0f;\n  if", EXPANSION, EXPANDED,
    ),
)  # fmt: skip


def commands() -> tuple[dict[str, dict[str, str]], str]:
    """By source below csrc/cuda, how it is compiled onto the emulated device; and the folder of the build."""
    for path in sorted((ROOT / "build").glob("*/compile_commands.json")):
        everything = json.loads(path.read_text())
        entries = [entry for entry in everything if "/lowbit_emulated.dir/" in entry["output"]]
        if entries:
            start = f"{ROOT}/csrc/cuda/"
            return {entry["file"].removeprefix(start): entry for entry in entries}, str(path.parent)
    raise SystemExit("the emulated device is not built: make build")


def nothing() -> Mutation:
    """Every source and every test of the mutations, and no change."""
    units = dict.fromkeys(unit for mutation in MUTATIONS for unit in mutation.units)
    tests = dict.fromkeys(test for mutation in MUTATIONS for test in mutation.tests)
    return Mutation("nothing", WHOLE[0], "", "", tuple(units), tuple(tests))


def survives(mutation: Mutation, units: dict[str, dict[str, str]], folder: str) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary) / "csrc"
        shutil.copytree(ROOT / "csrc", sources)
        path = sources / "cuda" / mutation.file
        text = path.read_text()
        if mutation.before and text.count(mutation.before) != 1:
            raise SystemExit(f"{mutation.file} has {mutation.before!r} {text.count(mutation.before)} times")
        path.write_text(text.replace(mutation.before, mutation.after) if mutation.before else text)
        objects = {unit: entry["output"] for unit, entry in units.items()}
        for unit in mutation.units:
            objects[unit] = f"{temporary}/{unit.replace('/', '_')}.o"
            command = units[unit]["command"].replace(f"{ROOT}/csrc", str(sources)).split(" -o ")[0]
            source = str(sources / "cuda" / unit)
            subprocess.run([*shlex.split(command), "-o", objects[unit], "-c", source], cwd=folder, check=True)
        device = Path(folder, "csrc", "emulated", "CMakeFiles", "emulated_device.dir").rglob("*.o")
        library = BUILD / f"liblowbit_emulated{KIND}.so"
        try:
            subprocess.run(["c++", "-shared", "-o", library, *objects.values(), *device], check=True)
            run = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests]
            environment = {**os.environ, "LOWBIT_EMULATED_KIND": KIND}
            done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
        finally:
            library.unlink(missing_ok=True)
    if done.returncode > 1:  # below 0: the device gave up, which is as good as a test that fails
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode == 0


def main() -> int:
    units, folder = commands()
    if not survives(nothing(), units, folder):
        raise SystemExit("the tests fail on kernels that nothing was done to")
    print("passes    nothing is broken", flush=True)
    survivors = 0
    for mutation in MUTATIONS:
        survived = survives(mutation, units, folder)
        survivors += survived
        print(f"{'SURVIVES' if survived else 'caught':8}  {mutation.what}", flush=True)
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main())
