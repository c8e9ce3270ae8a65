"""What all subcommands share: output, ``--json``, errors and exit statuses."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console

from onnxgraft.errors import OnnxgraftError, printable
from onnxgraft.files import json_text

__all__ = ["Json", "Outcome", "app", "say", "subcommand"]

P = ParamSpec("P")

app = typer.Typer(
    name="onnxgraft",
    help="Take a trained network to a deployable INT8 engine, and prove it at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

EXIT_FAILED = 1
# What sysexits.h calls EX_SOFTWARE: none of the statuses that mean something to a script.
EXIT_INTERNAL = 70
TRACEBACK = "ONNXGRAFT_TRACEBACK"


@dataclass
class Outcome:
    """What a subcommand has to say.

    Attributes:
        data: What ``--json`` prints.
        text: Prints it for a person.
        passed: False if a comparison failed its tolerance: exit status 1.
    """

    data: dict[str, Any]
    text: Callable[[Console], None] = field(default=lambda console: None)
    passed: bool = True


def say(console: Console, text: str) -> None:
    """Print text that comes from files and models: in one line, without markup or control codes."""
    console.print(printable(text, sys.maxsize), highlight=False, markup=False, soft_wrap=True)


def subcommand(function: Callable[P, Outcome]) -> Callable[P, None]:
    """Register a function as a subcommand: its parameters are flags, its docstring the help.

    An `OnnxgraftError` becomes one sentence on standard error and its exit status.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            outcome = function(*args, **kwargs)
        except OnnxgraftError as error:
            print(f"onnxgraft {function.__name__}: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_status) from error
        except KeyboardInterrupt:
            print(f"onnxgraft {function.__name__}: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            print(
                f"onnxgraft {function.__name__}: internal error, {type(error).__name__}: {error}; "
                f"please report it with the traceback that {TRACEBACK}=1 shows",
                file=sys.stderr,
            )
            raise typer.Exit(EXIT_INTERNAL) from error
        if kwargs.get("as_json"):
            print(json_text(outcome.data))
        else:
            outcome.text(Console())
        if not outcome.passed:
            raise typer.Exit(EXIT_FAILED)

    app.command(function.__name__)(run)
    return run
