"""The parameters that subcommands share, and the reading of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from onnxgraft.cli._app import EVERYTHING, say
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.files.trust import Trust

__all__ = [
    "Data",
    "FreezeBatchnorm",
    "Images",
    "Inputs",
    "Layout",
    "MethodName",
    "ModelFile",
    "OnnxFile",
    "Out",
    "Outputs",
    "PrecisionName",
    "PreprocessFile",
    "Signature",
    "TargetName",
    "Trusted",
    "Values",
    "Weights",
    "not_yet",
    "numbers",
    "preprocess_of",
    "print_verdicts",
    "range_option",
    "split",
    "trust_of",
]


# As the stages have them, which would take long to import.
Layout = Literal["keep", "nchw", "nhwc"]
MethodName = Literal["entropy", "minmax", "percentile", "mse"]
TargetName = Literal["tensorrt", "openvino", "onnxruntime"]
PrecisionName = Literal["fp32", "tf32", "fp16", "bf16", "int8"]

ModelFile = Annotated[
    Path, typer.Argument(help="A TensorFlow or Keras model, a prototxt or an ONNX file.")
]
OnnxFile = Annotated[Path, typer.Argument(help="An ONNX file.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="What to write.")]
Weights = Annotated[Path | None, typer.Option(help="A Caffe network's weights.")]
Inputs = Annotated[str | None, typer.Option(help="Where to cut the beginning: a:0,b:0[1,8,8,3].")]
Outputs = Annotated[str | None, typer.Option(help="Where to cut the end: c:0,d:0.")]
Values = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="Set a placeholder or a constant.")
]
Signature = Annotated[str | None, typer.Option(help="Of a SavedModel.")]
FreezeBatchnorm = Annotated[
    bool,
    typer.Option("--freeze-batchnorm", help="Let batch norms in training mode use stored values."),
]
Trusted = Annotated[
    list[str],
    typer.Option(
        "--trust",
        metavar="[=NAME]",
        help="Load a Keras file that brings code, or an engine without a passport; --trust=NAME "
        "allows what is called so and nothing else.",
    ),
]
Data = Annotated[str, typer.Option(help="A folder of images, a list file or an .npz.")]
PreprocessFile = Annotated[
    Path | None, typer.Option("--preprocess", help="A TOML file with a \\[preprocess] table.")
]
Images = Annotated[int | None, typer.Option(help="How many samples; all if not given.")]


def not_yet(option: str, used: object) -> None:
    if used:
        raise NotSupportedError(f"{option} can't be used yet")


def split(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in split(text))
    except ValueError as error:
        raise InputError(f"{text!r} is not a list of whole numbers such as 1,4,16") from error


def range_option(item: str) -> tuple[str, tuple[float, float]]:
    """Read ``T=LOW:HIGH``, or ``T=AMAX`` for a range from -AMAX to AMAX."""
    name, sign, text = item.rpartition("=")
    low, colon, high = text.partition(":")
    try:
        if not (name and sign):
            raise ValueError
        bounds = (float(low), float(high)) if colon else (-float(low), float(low))
    except ValueError as error:
        raise InputError(f"--set-range {item}: write T=LOW:HIGH or T=AMAX") from error
    if not bounds[0] < bounds[1]:
        raise InputError(f"--set-range {item}: the range is empty")
    return name, bounds


def trust_of(given: list[str]) -> Trust:
    """Return what ``--trust`` and ``--trust=NAME`` say."""
    if "" in given:
        raise InputError("--trust= names nothing; write --trust, or --trust=NAME")
    return EVERYTHING in given or tuple(given)


def preprocess_of(path: Path | None) -> Any:
    from onnxgraft.commands import read_preprocess

    return None if path is None else read_preprocess(path)


def print_verdicts(console: Console, verdicts: list[Any]) -> None:
    """Print the worst comparison of each output."""
    worst: dict[str, Any] = {}
    for verdict in sorted(verdicts, key=lambda v: v.max_abs / v.tolerance):
        worst[verdict.output] = verdict
    for verdict in worst.values():
        mark = "[green]pass[/]" if verdict.passed else "[red]FAIL[/]"
        console.print(mark, end=" ")
        say(console, f"{verdict.output}: differs by at most {verdict.max_abs:.1e}, "
                     f"{verdict.tolerance:.1e} allowed")  # fmt: skip
