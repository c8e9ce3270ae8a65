"""What all subcommands share: output, ``--json``, errors and exit statuses."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ParamSpec, Protocol

import typer
from rich.console import Console
from typer.core import TyperCommand

from onnxgraft.errors import EngineWarning, InputError, NotSupportedError, OnnxgraftError
from onnxgraft.files import (
    cache_folder,
    check_place,
    existing_file,
    json_text,
    places,
    read_toml,
)
from onnxgraft.files.limits import SETTINGS_BYTES
from onnxgraft.progress import logger, reporting

__all__ = ["EVERYTHING", "Json", "Result", "app", "main", "subcommand"]

P = ParamSpec("P")

app = typer.Typer(
    name="onnxgraft",
    help="Take a trained network to a deployable INT8 engine, and prove it at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

EXIT_FAILED = 1
# What sysexits.h calls EX_SOFTWARE: none of the statuses that mean something to a script.
EXIT_INTERNAL = 70
TRACEBACK = "ONNXGRAFT_TRACEBACK"
# What --trust without a name stands for; no word of a command line has a NUL in it.
EVERYTHING = "\0"

LIMITS = "Limits"
_LIMITS = {
    "max_memory": Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory limit, for example 2GB.", rich_help_panel=LIMITS),
    ],
    "max_seconds": Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time limit in seconds.", rich_help_panel=LIMITS),
    ],
}
TELLING = "Messages"
# What every subcommand takes beside its own parameters, and what it says while it works.
_TELLING = {
    "verbose": Annotated[
        bool,
        typer.Option(
            "-v", "--verbose", help="Also say what is decided.", rich_help_panel=TELLING,
        ),
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", help="Say nothing but errors and the result.",
            rich_help_panel=TELLING,
        ),
    ],
    "log_file": Annotated[
        Path | None,
        typer.Option(
            "--log-file", metavar="FILE", help="File for all messages, with times.",
            rich_help_panel=TELLING,
        ),
    ],
}  # fmt: skip
# The parameters that name what is written.
_WRITTEN = (
    "cache_out", "layers", "log_file", "out", "report", "save_inputs", "save_outputs",
    "timing_cache",
)  # fmt: skip
# Options that list tensors.
_LISTS = ("--inputs", "--outputs", "--candidate-outputs")
_guarding = False


class Result(Protocol):
    """What a command's function returns."""

    @property
    def passed(self) -> bool:
        """False if a comparison failed its tolerance: exit status 1."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""


Show = Callable[[Any, Console], None]


def subcommand(show: Show, *, example: str) -> Callable[[Callable[P, Result]], Callable[P, None]]:
    """Return what registers a function as a subcommand: its parameters are options.

    An `OnnxgraftError` becomes one sentence on standard error and its exit status.

    Args:
        show: Prints the result for a person.
        example: A command line for the help.
    """

    def register(function: Callable[P, Result]) -> Callable[P, None]:
        name = function.__name__.replace("_", "-")

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            limits = {option: kwargs.pop(option, None) for option in _LIMITS}
            telling = {option: kwargs.pop(option, None) for option in _TELLING}
            with _errors_reported(name):
                status = _guard(name, limits, {**kwargs, **telling})
                if status is not None:
                    raise typer.Exit(status)
                with places(), _telling(name, telling), _warnings_reported():
                    result = function(*args, **kwargs)
            if kwargs.get("as_json"):
                print(json_text(result.to_json()))
            else:
                show(result, Console())
            if not result.passed:
                raise typer.Exit(EXIT_FAILED)

        more = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for option, kind in (_LIMITS | _TELLING).items()
        ]
        signature = inspect.signature(function, eval_str=True)
        parameters = [_named(each) for each in (*signature.parameters.values(), *more)]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, cls=_Command, epilog=f"Example: {example}")(run)
        return run

    return register


def _named(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter whose option has its name said.

    typer 0.27 calls an option by its metavar, where that is the name in capitals.
    """
    kind, *told = typing.get_args(parameter.annotation) or (None,)
    if not told or not isinstance(told[0], typer.models.OptionInfo):
        return parameter
    option = copy.copy(told[0])
    # A first name is its default here, until typer reads the annotation.
    if option.metavar is None or option.param_decls or isinstance(option.default, str):
        return parameter
    option.param_decls = (f"--{parameter.name.replace('_', '-')}",)
    return parameter.replace(annotation=Annotated[kind, option])


@contextlib.contextmanager
def _telling(name: str, asked: Mapping[str, Any]) -> Iterator[None]:
    """Let the command tell what it does, as much as was asked for, and its errors in the file."""
    if asked["verbose"] and asked["quiet"]:
        raise InputError("-v says more and -q says less; leave one of them out")
    file = asked["log_file"]
    if file is not None and file.exists() and not file.is_file():
        raise InputError(f"--log-file {file}: is no file that can be appended to; name another")
    check_place(file)
    with reporting(name, verbose=bool(asked["verbose"]), quiet=bool(asked["quiet"]), file=file):
        yield


@contextlib.contextmanager
def _warnings_reported() -> Iterator[None]:
    """Tell our own warnings as sentences, each once."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, EngineWarning):
            logger.warning("%s", message)
        else:
            usual(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("once", EngineWarning)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _errors_reported(name: str) -> Iterator[None]:
    """Turn whatever goes wrong in a command into a sentence and an exit status."""
    try:
        yield
    except typer.Exit:
        raise
    except OnnxgraftError as error:
        print(f"onnxgraft {name}: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_status) from error
    except KeyboardInterrupt:
        print(f"onnxgraft {name}: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    except MemoryError as error:
        print(
            f"onnxgraft {name}: memory ran out; allow more with --max-memory, or take a "
            "smaller model, batch or --workers", file=sys.stderr,
        )  # fmt: skip
        raise typer.Exit(InputError.exit_status) from error
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        print(
            f"onnxgraft {name}: internal error, {type(error).__name__}: {error}; "
            f"please report it with the traceback that {TRACEBACK}=1 shows",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_INTERNAL) from error


class _Command(TyperCommand):
    """A subcommand whose ``--trust`` may have a name, as GNU's optional arguments do: after ``=``.

    The word that follows a ``--trust`` alone is what it was without: a file, or another option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        words = [f"{word}={EVERYTHING}" if word == "--trust" else word for word in args[:end]]
        return super().parse_args(ctx, _joined(words) + args[end:])


def _joined(words: list[str]) -> list[str]:
    """Make one list of the tensors of an option that is given more than once.

    >>> _joined(["net", "--outputs", "a", "--outputs=b,c"])
    ['net', '--outputs=a,b,c']
    """
    kept: list[str] = []
    places: dict[str, int] = {}
    left = iter(words)
    for word in left:
        name, sign, value = word.partition("=")
        following = None if sign or name not in _LISTS else next(left, None)
        if name not in _LISTS or not (sign or following is not None):
            kept.append(word)
        elif name in places:
            kept[places[name]] += f",{value if sign else following}"
        else:
            places[name] = len(kept)
            kept.append(word if sign else f"{name}={following}")
    return kept


def main() -> None:
    """Run the command line, the subcommand in a process of its own."""
    global _guarding
    _guarding = True
    app()


def _guard(name: str, limits: Mapping[str, Any], given: Mapping[str, Any]) -> int | None:
    """Go on in a process that is watched; where it was, return its exit status when it ended."""
    memory, seconds = limits["max_memory"], limits["max_seconds"]
    if not _guarding or sys.platform != "linux":
        if memory is not None or seconds is not None:
            raise NotSupportedError("--max-memory and --max-seconds work on Linux alone")
        return None
    from onnxgraft.sandbox.guard import Allowance, byte_size, guarded

    if seconds is not None and not seconds > 0:
        raise InputError(f"--max-seconds {seconds:g}: a number of seconds above 0")
    size = None if memory is None else byte_size(memory)
    return guarded(Allowance(size, seconds, _places(name, given)))


def _places(name: str, given: Mapping[str, Any]) -> tuple[Path, ...] | None:
    """Return what a subcommand was told to write; None where it may write anything.

    The user's own code may, and a cluster's processes have to connect.
    """
    texts = [str(value) for value in given.values() if isinstance(value, str | Path)]
    if given.get("ray") or any(".py:" in text for text in texts):
        return None
    places = [given[key] for key in _WRITTEN if isinstance(given.get(key), Path)]
    if name == "bench" and given.get("record"):
        places += given["engines"]
    if name == "validate":  # an engine's passport takes the result
        places.append(given["candidate"])
    if name in ("build", "deploy") and Path("/dev/nvidia0").exists():
        # TensorRT's timings, which have to have their folder before the sandbox closes.
        folder = cache_folder()
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            places.append(folder / "timings")
    if name == "init":
        places.append(given["out"].with_name("recipe.schema.json"))
    if name == "deploy":
        places += _timing_cache(given["recipe"])
    if name == "deploy" and given.get("out") is None:
        places.append(Path("here"))
    return tuple(places)


def _timing_cache(recipe: Path) -> list[Path]:
    """Return the file in which TensorRT keeps its timings, where a recipe names one."""
    try:
        build = read_toml(existing_file(recipe, "the recipe", SETTINGS_BYTES))["build"]
        file = Path(build["tensorrt"]["timing_cache"])
        outside = file.is_absolute() or ".." in file.parts
        return [] if outside else [recipe.parent / file]
    except (OnnxgraftError, ValueError, LookupError, TypeError):
        return []  # what is wrong with it is told when it is read
