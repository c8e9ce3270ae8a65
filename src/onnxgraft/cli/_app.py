"""What all subcommands share: output, ``--json``, errors and exit statuses."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import os
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ParamSpec, Protocol

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from onnxgraft.cli._clashes import clashes
from onnxgraft.cli._completion import SHELLS, prepare, script
from onnxgraft.cli._failing import EXIT_INTERNAL, asks_json, errors_reported, failed, printing
from onnxgraft.commands._called import called
from onnxgraft.errors import (
    EngineWarning,
    InputError,
    NotSupportedError,
    OnnxgraftError,
    printable,
)
from onnxgraft.files import cache_folder, check_place, existing_file, json_text, places, read_toml
from onnxgraft.files.limits import SETTINGS_BYTES
from onnxgraft.files.remote import is_url
from onnxgraft.progress import logger, reporting
from onnxgraft.run.demand import allow

__all__ = ["EVERYTHING", "Json", "Result", "app", "main", "subcommand"]

P = ParamSpec("P")


class _Group(TyperGroup):
    """All commands: a command line that can't be understood is an object too, with ``--json``."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **how: Any) -> Any:
        prepare()
        words = list(sys.argv[1:] if args is None else args)
        try:
            with called(words), printing(""):
                return self._run(words, args, *more, **how)
        except typer.Exit as ended:
            sys.exit(ended.exit_code)

    def _run(self, words: Sequence[str], args: Sequence[str] | None, *more: Any, **how: Any) -> Any:
        if not asks_json(words):
            return super().main(args, *more, **how)
        try:
            status = super().main(args, *more, **{**how, "standalone_mode": False})
        except _UsageError as error:
            context = getattr(error, "ctx", None)
            name = "" if context is None or context.parent is None else context.info_name or ""
            failed(name, printable(error.format_message()), error.exit_code, as_json=True)
            status = error.exit_code
        sys.exit(status or 0)


# typer brings click along, or needs it, by its version.
_UsageError: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
app = typer.Typer(
    name="onnxgraft",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"onnxgraft {metadata.version('onnxgraft')}")
        raise typer.Exit


def _show_completion(shell: str | None) -> None:
    if shell is not None:
        print(script(shell))
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    show_completion: Annotated[
        str | None,
        typer.Option(
            metavar="SHELL",
            callback=_show_completion,
            is_eager=True,
            help=f"Print what makes a shell complete this command: {', '.join(SHELLS)}.",
        ),
    ] = None,
) -> None:
    """Take a trained network to a deployable INT8 engine, and prove it at every step."""


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

EXIT_FAILED = 1
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
        """False if a comparison failed its tolerance: exit status 1, or its ``exit_status``."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""


class _Output(Console):
    """Standard output, of which nothing more may be read."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


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
            as_json = bool(kwargs.get("as_json"))
            with _handing_over(), errors_reported(name, as_json=as_json):
                status = _guard(name, limits, {**kwargs, **telling})
                if status is not None:
                    raise typer.Exit(status)
                with places(), _telling(name, telling), _warnings_reported():
                    for clash in clashes():
                        logger.warning("%s", clash)
                    with _output_kept(as_json):
                        result = function(*args, **kwargs)
            status = 0 if result.passed else getattr(result, "exit_status", EXIT_FAILED)
            _hand_over(status)
            with printing(name):
                if as_json:
                    print(json_text(result.to_json()))
                else:
                    show(result, _Output())
            if status:
                raise typer.Exit(status)

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
def _handing_over() -> Iterator[None]:
    """Tell the process that watches this one what it ends with when something goes wrong.

    SystemExit is none of it: this package does not raise it, so a model or a function did.
    """
    try:
        yield
    except Exception as error:
        _hand_over(getattr(error, "exit_code", EXIT_INTERNAL))
        raise


def _hand_over(status: int) -> None:
    if _guarding:
        from onnxgraft.sandbox.guard import hand_over

        hand_over(status)


@contextlib.contextmanager
def _output_kept(as_json: bool) -> Iterator[None]:
    """Keep standard output for the JSON: what a library prints there goes to standard error."""
    if not as_json:
        yield
        return
    import ctypes

    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if os.name == "posix":  # what C has not written yet would come behind the JSON
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _telling(name: str, asked: Mapping[str, Any]) -> Iterator[None]:
    """Let the command tell what it does, as much as was asked for, and its errors in the file."""
    if asked["verbose"] and asked["quiet"]:
        raise InputError("-v says more and -q says less; leave one of them out")
    file = asked["log_file"]
    check_place(file)
    if file is not None and file.is_file() and not _is_text(file):
        raise InputError(f"--log-file {file}: is no text that can be added to; name another")
    with reporting(name, verbose=bool(asked["verbose"]), quiet=bool(asked["quiet"]), file=file):
        yield


def _is_text(file: Path) -> bool:
    """Tell whether a file is a text of no kind that onnxgraft reads or writes, as a log is."""
    from onnxgraft.graph.foreign import kind_of

    with open(file, "rb") as opened:
        return b"\0" not in opened.read(1 << 16) and not kind_of(file)


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


class _Command(TyperCommand):
    """A subcommand whose ``--trust`` may have a name, as GNU's optional arguments do: after ``=``.

    The word that follows a ``--trust`` alone is what it was without: a file, or another option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        words = [f"{word}={EVERYTHING}" if word == "--trust" else word for word in args[:end]]
        try:
            return super().parse_args(ctx, _joined(words) + args[end:])
        except _UsageError as error:
            if error.message.startswith("Got unexpected extra argument"):
                error.message += f"; {str(self.epilog).replace('Example', 'for example')}"
            raise


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
    _prepare_streams()
    app()


def _prepare_streams() -> None:
    """Let what the caller closed lead nowhere, and what its encoding lacks be written escaped.

    A file that is opened would take the place of what is closed.
    """
    for handle, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(handle, "w" if handle else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is


def _guard(name: str, limits: Mapping[str, Any], given: Mapping[str, Any]) -> int | None:
    """Go on in a process that is watched; where it was, return its exit status when it ended."""
    memory, seconds = limits["max_memory"], limits["max_seconds"]
    if not _guarding or sys.platform != "linux":
        if memory is not None or seconds is not None:
            raise NotSupportedError("--max-memory and --max-seconds work on Linux alone")
        if _guarding:
            allow(None)
        return None
    from onnxgraft.sandbox.guard import Allowance, byte_size, guarded

    if seconds is not None and not seconds > 0:
        raise InputError(f"--max-seconds {seconds:g}: a number of seconds above 0")
    size = None if memory is None else byte_size(memory)
    allow(size)
    ports = (given["port"],) if name == "serve" else ()
    return guarded(Allowance(size, seconds, _places(name, given), ports))


def _places(name: str, given: Mapping[str, Any]) -> tuple[Path, ...] | None:
    """Return what a subcommand was told to write; None where it may write anything.

    The user's own code may; a cluster's processes, ssh and storage have to connect.
    """
    texts = [str(value) for value in given.values() if isinstance(value, str | Path)]
    if given.get("ray") or given.get("hosts"):
        return None
    if any(".py:" in text or is_url(text) for text in texts):
        return None
    places = [given[key] for key in _WRITTEN if isinstance(given.get(key), Path)]
    if name == "bench" and (given.get("record") or given.get("p99")):
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
