"""The typer application: its commands, and what every command does when it fails."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lowbit.errors import LowbitError


class _Group(TyperGroup):
    """One clear line on stderr for every error: exit code 2 for wrong usage, 1 for anything else.

    ``--debug`` shows the traceback as well.
    """

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(args=arguments, prog_name=prog_name or "lowbit", **extra)
        except typer.Abort:
            code = 130
        except Exception as error:
            if "--debug" in arguments[:1]:
                traceback.print_exc()
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    usage = getattr(
        error, "format_message", None
    )  # of typer's own errors: unknown options, missing arguments
    if usage is not None:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "lowbit"
        message = f"{_one_line(usage()).rstrip('.')} (see '{command} --help')"
        code = 2
    elif isinstance(error, LowbitError):
        message, code = _one_line(str(error)), 1
    else:
        message, code = (
            f"{type(error).__name__}: {_one_line(str(error))} ('lowbit --debug ...' shows where)",
            1,
        )
    print(f"error: {message}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _BenchGroup(TyperGroup):
    """``bench MODEL`` is short for ``bench model MODEL``: what names no command is a model."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["model", *args])


app = typer.Typer(
    name="lowbit",
    cls=_Group,
    help="Linear layers 1 to 8 bits wide: convert language models, look at them, run and measure them.",
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="First option: show the traceback of an error.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from lowbit import __version__

        typer.echo(f"lowbit {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _register() -> None:
    from lowbit.cli import bench, compare, evaluate, explain, generate, info, inspect, quantize, tune

    app.command("info")(info.info)
    app.command("quantize")(quantize.quantize)
    app.command("inspect")(inspect.inspect)
    app.command("generate")(generate.generate)
    timings = typer.Typer(
        cls=_BenchGroup,
        help="Speed, size and memory of MODEL (`bench MODEL` is `bench model MODEL`); or compare two runs.",
    )
    timings.command("model")(bench.bench)
    timings.command("compare")(compare.compare)
    app.add_typer(timings, name="bench")
    app.command("eval")(evaluate.evaluate)
    app.command("explain")(explain.explain)
    app.command("tune")(tune.tune)


_register()


def main() -> None:
    """Entry point of the ``lowbit`` command."""
    app()
