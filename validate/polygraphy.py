"""Inputs and outputs in Polygraphy's JSON: `polygraphy run` goes on from ours, and we from its.

Its files hold arrays as base64 of numpy's own format; nothing in them is executed.
"""

from __future__ import annotations

import contextlib
import io
import os
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxgraft.errors import InputError, reason_in
from onnxgraft.files import atomic, check_json, existing_file
from onnxgraft.files.limits import RECORDING_BYTES
from onnxgraft.files.typed import misread
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run.engine import Resource
from onnxgraft.words import several

__all__ = ["Recorded", "is_recording", "read_inputs", "save_inputs", "save_outputs"]

# How an array begins in a JSON: numpy's magic bytes in base64.
_NUMPY = b'"k05VTVBZ'


def is_recording(path: str | os.PathLike[str]) -> bool:
    """Tell whether a JSON is Polygraphy's: one whose arrays are base64 of numpy's own format."""
    file = Path(path)
    if file.suffix != ".json" or not file.is_file():
        return False
    with file.open("rb") as handle:
        return _NUMPY in handle.read(1 << 16)


def save_inputs(path: str | os.PathLike[str], feeds: Sequence[Feeds]) -> None:
    """Write feeds as ``polygraphy run --load-inputs`` reads them: a list of dictionaries."""
    from polygraphy.json import to_json

    _check_size(path, feeds)
    with atomic(path) as temporary:
        temporary.write_text(to_json([_arrays(path, entry) for entry in feeds]))


def save_outputs(path: str | os.PathLike[str], runs: Mapping[str, Sequence[Outputs]]) -> None:
    """Write outputs as ``polygraphy run --load-outputs`` reads them.

    Args:
        path: Of the JSON.
        runs: By the runner's name, its outputs for one set of feeds after the other.
    """
    from polygraphy.comparator import RunResults
    from polygraphy.comparator.struct import IterationResult
    from polygraphy.json import to_json

    _check_size(path, [entry for outputs in runs.values() for entry in outputs])
    results = RunResults([
        (
            name,
            [IterationResult(_arrays(path, outputs), runner_name=name) for outputs in iterations],
        )
        for name, iterations in runs.items()
    ])
    with atomic(path) as temporary:
        temporary.write_text(to_json(results))


def _check_size(path: str | os.PathLike[str], entries: Iterable[Mapping[str, Array]]) -> None:
    total = sum(value.nbytes for entry in entries for value in entry.values())
    if total > RECORDING_BYTES.most:
        raise InputError(
            f"{os.fspath(path)}: {total / 1e9:.1f} GB in a JSON are more than can be read again; "
            "take fewer samples with --images"
        )


def _parse(path: str | os.PathLike[str], what: str) -> object:
    from polygraphy.exception import PolygraphyException
    from polygraphy.json import from_json

    file = existing_file(path, what, RECORDING_BYTES)
    try:
        # What it prints besides raising an error would stand before the sentence, or in the JSON.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            text = file.read_text()
            check_json(text)
            return from_json(text)
    except (
        ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
        PolygraphyException, RecursionError, SyntaxError, TypeError, ValueError,
        tokenize.TokenError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{file}: not a JSON that Polygraphy wrote ({reason_in(error)})"
        ) from error


def read_inputs(path: str | os.PathLike[str]) -> list[dict[str, Array]]:
    """Read what ``polygraphy run --save-inputs`` or `save_inputs` wrote.

    Raises:
        InputError: It is something else.
    """
    found = _parse(path, "the inputs")
    if not isinstance(found, list) or not found:
        raise InputError(f"{os.fspath(path)}: is not a list of inputs as --save-inputs writes it")
    return [_arrays(path, entry) for entry in found]


def _arrays(path: str | os.PathLike[str], entry: object) -> dict[str, Array]:
    if not isinstance(entry, Mapping):
        raise InputError(f"{os.fspath(path)}: an entry is not a dictionary of arrays")
    arrays: dict[str, Array] = {}
    for name, value in entry.items():
        try:
            arrays[str(name)] = np.asarray(value)
        except (TypeError, ValueError) as error:  # lists in each other of unequal lengths
            raise InputError(f"{os.fspath(path)}: {str(name)!r} is not an array") from error
    return arrays


class Recorded(Resource):
    """The outputs that a run of Polygraphy saved, given back one after the other.

    Args:
        path: What ``polygraphy run --save-outputs`` or `save_outputs` wrote; of several runners in
            it, the last is taken.

    Raises:
        InputError: It is something else, or holds no outputs.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from polygraphy.comparator import RunResults

        found = _parse(path, "the outputs")
        if not isinstance(found, RunResults) or not len(found):
            raise InputError(
                f"{os.fspath(path)}: holds no outputs that `polygraphy run --save-outputs` wrote"
            )
        self.file = Path(path)
        try:
            runner, iterations = list(found.items())[-1]
            self.name = str(runner)
            self._runs = [_arrays(path, dict(iteration.items())) for iteration in iterations]
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"{os.fspath(path)}: its outputs are damaged ({misread(error)})"
            ) from error
        if not self._runs:
            raise InputError(f"{os.fspath(path)}: {runner} has no outputs in it")
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs = tuple(
            TensorSpec(name, value.dtype.name, value.shape) for name, value in self._runs[0].items()
        )
        self._next = 0

    def __len__(self) -> int:
        """Return for how many sets of feeds there are outputs."""
        return len(self._runs)

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the next recorded outputs; samples have to come in the recording's order."""
        if self._next == len(self._runs):
            raise InputError(
                f"{self.file}: holds outputs for {several(len(self._runs), 'sample')}, and there "
                "are more; use the inputs that it was recorded with"
            )
        self._next += 1
        return dict(self._runs[self._next - 1])
