"""A command and its function have one name, the same parameters and the same defaults."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest
from typer.models import OptionInfo

import onnxgraft
from onnxgraft import commands
from onnxgraft.cli import COMMANDS

# What the command line alone has: how to print, and limits of its process.
OF_THE_COMMAND_LINE = {
    "as_json", "log_file", "max_memory", "max_seconds", "quiet", "verbose",
}  # fmt: skip
# Required there and optional in Python, where a result can stay in memory.
WRITTEN = {("convert", "out"), ("calibrate", "out")}

each = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def plain(default: Any) -> Any:
    """Return a default; nothing has several forms: an empty list, no names, no trust."""
    return None if default in ([], (), False) else default


@each
def test_a_command_is_a_function_of_the_package(command: Callable[..., None]) -> None:
    function = getattr(onnxgraft, command.__name__)
    assert inspect.isfunction(function)
    assert function is getattr(commands, command.__name__)


@each
def test_names_and_their_order_are_the_same(command: Callable[..., None]) -> None:
    options = [name for name in parameters(command) if name not in OF_THE_COMMAND_LINE]
    assert options == list(parameters(getattr(commands, command.__name__)))


@each
def test_defaults_are_the_same(command: Callable[..., None]) -> None:
    name = command.__name__
    options, function = parameters(command), parameters(getattr(commands, name))
    for option, parameter in function.items():
        if (name, option) not in WRITTEN:
            assert plain(options[option].default) == plain(parameter.default), option


@each
def test_the_function_documents_every_parameter(command: Callable[..., None]) -> None:
    function = getattr(commands, command.__name__)
    described = inspect.getdoc(function) or ""
    missing = [name for name in parameters(function) if f"\n    {name}: " not in described]
    assert not missing
    assert "Raises:" in described


def test_public_names_are_there() -> None:
    assert onnxgraft.__all__ == sorted(onnxgraft.__all__)
    assert set(onnxgraft.__all__) <= set(dir(onnxgraft))
    for name in onnxgraft.__all__:
        assert getattr(onnxgraft, name) is not None


def test_what_dir_lists_is_public_or_private() -> None:
    rooms = {
        "cli", "commands", "data", "errors", "files", "graph", "notebook", "notices", "optional",
        "progress", "run", "sandbox", "stages", "targets", "terminal", "words",
    }  # fmt: skip
    modules = {"annotations", "late", "os", "TYPE_CHECKING"}
    shown = {name for name in dir(onnxgraft) if not name.startswith("_")}
    assert shown - rooms - modules == set(onnxgraft.__all__)


def test_stages_stay_importable_for_those_who_chain_objects() -> None:
    from onnxgraft.stages import convert, engine, quantize, surgery, validate

    assert all(map(inspect.ismodule, (convert, engine, quantize, surgery, validate)))


@each
def test_no_version_of_typer_names_an_option_by_its_metavar(command: Callable[..., None]) -> None:
    """What has a metavar says its name: typer 0.27 would take the metavar for it."""
    options = [get_args(parameter.annotation)[1:] for parameter in parameters(command).values()]
    named = [option for option, *_ in filter(None, options) if isinstance(option, OptionInfo)]
    assert [option for option in named if option.metavar]
    for option in named:
        assert not option.metavar or option.param_decls or isinstance(option.default, str)
