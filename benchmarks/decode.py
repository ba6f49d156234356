"""A language model beside its low-bit versions: size, perplexity, decode speed, memory, and what they write.

    python benchmarks/decode.py MODEL --scheme bipolar_int:group_size=32 --scheme binary_mos [--include-head]

All versions live in one process and decode in turn; memory is measured in a process of its own for each.
Leaves decode.json, decode.md and decode.png in --output. ``benchmarks/demo.py`` is this with the demo's model
and schemes.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lowbit
from lowbit.cli.convert import convert
from lowbit.cli.output import quiet_libraries
from lowbit.cli.schemes import SCHEME_HELP, parse_scheme, scheme_label
from lowbit.environment import describe, disturbance, environment
from lowbit.generation import generate_text
from lowbit.measure import DecodeSpeed, decode_speed, weight_size
from lowbit.memory import PeakMemory, peak_memory
from lowbit.models import DTYPES, load
from lowbit.perplexity import Perplexity, perplexity
from lowbit.report import size
from lowbit.schemes import Scheme
from report import markdown_table, write_json
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

PROMPT = "The capital of France is"
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Version:
    """One line of the table: a scheme and where it applies, or the original."""

    name: str
    scheme: Scheme | None = None
    skip: tuple[str, ...] = ()
    overrides: Mapping[str, Scheme] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What is measured, and how long."""

    dtype: str = "bfloat16"
    perplexity_tokens: int = 4096
    new_tokens: int = 64
    rounds: int = 3
    prompt: str = PROMPT
    sample_tokens: int = 40


@dataclass(frozen=True)
class Measured:
    """One version's figures."""

    name: str
    scheme: dict[str, object] | None
    bits_per_weight: float
    weight_bytes: int
    quality: Perplexity
    speed: DecodeSpeed
    times_faster: float
    memory: PeakMemory
    text: str

    @property
    def perplexity(self) -> float:
        return self.quality.value

    @property
    def tokens_per_second(self) -> float:
        return self.speed.tokens_per_second

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "scheme": self.scheme,
            "bits_per_weight": self.bits_per_weight,
            "weight_bytes": self.weight_bytes,
            "perplexity": self.perplexity,
            **self.speed.to_dict(),
            "times_faster": self.times_faster,
            "memory": {**vars(self.memory), "decode_above_imports": self.memory.decode_above_imports},
            "text": self.text,
        }


class Stages:
    """Progress bars on stderr, one per stage and numbered; plain lines where stderr is no terminal."""

    def __init__(self, versions: Sequence[Version]) -> None:
        # Loading and decoding; of each version its memory and perplexity, and of a low-bit one its making.
        self._total = 2 + sum(2 + (version.scheme is not None) for version in versions)
        self._begun = 0
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextmanager
    def stage(self, description: str) -> Iterator[Step]:
        self._begun += 1
        description = f"{self._begun} of {self._total}: {description}"
        if not self._console.is_terminal:
            self._console.print(description)
        task = self._bar.add_task(description, total=None)
        yield lambda done, total: self._bar.update(task, completed=done, total=total)
        self._bar.update(task, completed=1, total=1)


def measure(source: str, versions: Sequence[Version], settings: Settings, stages: Stages) -> list[Measured]:
    """Figures of every version of the model at ``source``; the first is what the others are held against."""
    quiet_libraries()
    with stages.stage(f"Loading {source}"):
        original = load(source, dtype=DTYPES[settings.dtype])
    models = {}
    memory = {}
    with tempfile.TemporaryDirectory(prefix="lowbit-decode-") as scratch:
        for index, version in enumerate(versions):
            directory: str | Path = source
            models[version.name] = original.model
            if version.scheme is not None:
                directory = Path(scratch) / str(index)
                with stages.stage(f"Converting to {version.name}") as step:
                    model = copy.deepcopy(original.model)
                    convert(model, version.scheme, step, skip=version.skip, overrides=version.overrides)
                    lowbit.save_pretrained(model, directory)
                    original.tokenizer.save_pretrained(directory)
                    models[version.name] = model
            with stages.stage(f"Memory of {version.name}"):
                memory[version.name] = peak_memory(directory, dtype=settings.dtype)
    texts, quality = {}, {}
    for name, model in models.items():
        with stages.stage(f"Perplexity of {name}") as step:
            quality[name] = perplexity(
                model, original.tokenizer, max_tokens=settings.perplexity_tokens, progress=step
            )
            texts[name] = generate_text(
                model, original.tokenizer, settings.prompt, max_new_tokens=settings.sample_tokens
            ).text
    with stages.stage("Decoding, in turn") as step:
        ids = original.tokenizer(settings.prompt, return_tensors="pt")["input_ids"]
        speeds = decode_speed(
            models, ids, new_tokens=settings.new_tokens, rounds=settings.rounds, progress=step
        )
    measured = []
    for version in versions:
        weights = weight_size(models[version.name])
        measured.append(
            Measured(
                name=version.name,
                scheme=None if version.scheme is None else version.scheme.to_config(),
                bits_per_weight=weights.bits_per_weight,
                weight_bytes=weights.bytes,
                quality=quality[version.name],
                speed=speeds[version.name],
                times_faster=speeds[version.name].times_faster_than(speeds[versions[0].name]),
                memory=memory[version.name],
                text=texts[version.name],
            )
        )
    return measured


COLUMNS = ("model", "bits/weight", "MB", "perplexity", "tokens/s", "x faster", "peak MB", "of it model")


def rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Cells of the table, one row per version."""
    return [
        (
            m.name,
            f"{m.bits_per_weight:.2f}",
            f"{m.weight_bytes / 1e6:.1f}",
            f"{m.perplexity:.2f}" if m.perplexity < 1e5 else f"{m.perplexity:.1e}",
            f"{m.tokens_per_second:.1f}",
            f"{m.times_faster:.2f}",
            f"{m.memory.decode_peak / 1e6:.0f}",
            f"{m.memory.decode_above_imports / 1e6:.0f}",
        )
        for m in measured
    ]


@dataclass(frozen=True)
class Result:
    """Everything a run leaves; ``stamp`` is the environment before it began."""

    title: str
    measured: Sequence[Measured]
    settings: Settings
    stamp: dict[str, object]
    note: str = ""

    @property
    def remarks(self) -> list[str]:
        """Paragraphs below the table."""
        found = (disturbance(self.stamp), how(self.measured, self.settings), self.note)
        return [text for text in found if text]


def write(output: Path, stem: str, result: Result) -> None:
    """STEM.json, STEM.md and STEM.png in ``output``."""
    from report.demo_plot import plot_demo

    measured, machine = result.measured, describe(result.stamp)
    document = {
        "title": result.title,
        "versions": [m.to_dict() for m in measured],
        "perplexity_definition": measured[0].quality.definition,
        "settings": vars(result.settings),
        "note": result.note,
        "environment": result.stamp,
    }
    write_json(output / f"{stem}.json", document)
    samples = "\n".join(f"* **{m.name}**: {result.settings.prompt}{_one_line(m.text)}" for m in measured)
    table = markdown_table(COLUMNS, rows(measured))
    text = "\n\n".join((f"# {result.title}", table, *result.remarks, samples, machine))
    (output / f"{stem}.md").write_text(text + "\n", encoding="utf-8")
    plot_demo(output / f"{stem}.png", measured, result.title, machine)


def how(measured: Sequence[Measured], settings: Settings) -> str:
    """How the figures were obtained."""
    quality = measured[0].quality
    imports = size(measured[0].memory.imports)
    return (
        f"MB: weights in memory. Perplexity: {quality.definition}; text: Python's `pydoc_data.topics`. "
        f"Tokens per second: greedy decoding at batch 1 by transformers' `generate`, {settings.new_tokens} "
        f"tokens; medians of {settings.rounds} rounds in which all versions take turns. Peak MB: resident "
        f"while decoding, in a process of its own; {imports} of it are Python, torch and transformers before "
        "any weight."
    )


def show(console: Console, result: Result) -> None:
    """The same on the terminal."""
    table = Table(
        title=result.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, name in enumerate(COLUMNS[:-1]):  # what fits 80 columns
        table.add_column(name.removesuffix("/weight"), justify="right" if index else "left", no_wrap=True)
    for row in rows(result.measured):
        table.add_row(*row[:-1])
    console.print(table)
    for m in result.measured:
        sample = textwrap.shorten(result.settings.prompt + _one_line(m.text), 300)
        console.print(f"[bold]{m.name}[/bold]: {escape(sample)}")
    for paragraph in result.remarks:
        console.print("\n" + escape(paragraph), style="dim")


def _one_line(text: str) -> str:
    return " " * text[:1].isspace() + " ".join(text.split())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--scheme", action="append", default=[], help=SCHEME_HELP)
    parser.add_argument(
        "--include-head", action="store_true", help="convert lm_head and a tied embedding too"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--new-tokens", type=int, default=Settings.new_tokens)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--perplexity-tokens", type=int, default=20_480)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    settings = Settings(
        dtype=arguments.dtype,
        perplexity_tokens=arguments.perplexity_tokens,
        new_tokens=arguments.new_tokens,
        rounds=arguments.rounds,
    )
    skip = () if arguments.include_head else ("lm_head",)
    versions = [Version(f"{arguments.dtype} original")]
    for spec in arguments.scheme:
        scheme = parse_scheme(spec)
        versions.append(Version(scheme_label(scheme), scheme, skip))
    stamp = environment()
    with Stages(versions) as stages:
        measured = measure(arguments.model, versions, settings, stages)
    result = Result(f"{arguments.model}: decoding on a CPU", measured, settings, stamp)
    write(arguments.output, "decode", result)
    show(Console(), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
