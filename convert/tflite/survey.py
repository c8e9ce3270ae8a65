"""What reading a TFLite model would take: in a FlatBuffer, many can share one table."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxgraft.errors import ModelError, OnnxgraftError
from onnxgraft.files.limits import (
    AXES,
    EXTERNAL_GROWTH,
    NAME_BYTES,
    NODES,
    STRUCTURE_BYTES,
    TENSOR_VALUES,
    TENSORS,
    Limit,
)

__all__ = ["check_tflite", "sound"]

# What tf2onnx makes of them, in bytes (measured), and of a number in a list.
_OPERATOR, _TENSOR, _NUMBER = 9000, 2000, 64
# So much more than the file the tensors may always have.
_FREE = 64 << 20


def check_tflite(file: Path, data: bytes) -> None:
    """Raise ModelError if a TFLite model holds more than is read, or has weights elsewhere.

    Args:
        file: For the message.
        data: What it holds.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    with sound(file):
        _Survey(file, len(data), schema).walk(schema.Model.GetRootAs(data, 0))


@contextlib.contextmanager
def sound(file: Path) -> Iterator[None]:
    """Raise ModelError for whatever a damaged file makes the block stumble over."""
    try:
        yield
    except OnnxgraftError:
        raise
    except Exception as error:  # the FlatBuffer reader raises whatever it meets
        reason = str(error) or type(error).__name__
        raise ModelError(
            f"{file}: can't convert the model: it is cut short or damaged ({reason})"
        ) from error


class _Survey:
    def __init__(self, file: Path, size: int, schema: Any) -> None:
        self._file = file
        self._size = size
        self._schema = schema
        self._operators = self._tensors = self._taken = self._values = 0
        self._options = {
            number: name
            for name, number in vars(schema.BuiltinOptions).items()
            if isinstance(number, int)
        }

    def walk(self, model: Any) -> None:
        if getattr(model, "ExternalBufferGroupsLength", int)():
            raise ModelError(f"{self._file}: its weights are in other files, which are not read")
        self._take(_NUMBER * (_lengths(model) + model.OperatorCodesLength()))
        for index in range(model.SubgraphsLength()):
            graph = model.Subgraphs(index)
            self._operators = self._count(NODES, self._operators + 1)
            self._take(_OPERATOR + _NUMBER * _lengths(graph))
            for place in range(graph.OperatorsLength()):
                self._operators = self._count(NODES, self._operators + 1)
                self._operator(graph.Operators(place))
            for place in range(graph.TensorsLength()):
                self._tensors = self._count(TENSORS, self._tensors + 1)
                self._tensor(model, graph.Tensors(place))

    def _operator(self, operator: Any) -> None:
        self._take(_OPERATOR + _NUMBER * _lengths(operator))
        kind = getattr(self._schema, self._options.get(operator.BuiltinOptionsType(), ""), None)
        table = operator.BuiltinOptions()
        if kind is not None and table is not None:
            options = kind()
            options.Init(table.Bytes, table.Pos)
            self._take(_NUMBER * _lengths(options))

    def _tensor(self, model: Any, tensor: Any) -> None:
        name = tensor.Name() or b""
        self._count(NAME_BYTES, len(name))
        self._count(AXES, tensor.ShapeLength())
        self._take(_TENSOR + 4 * len(name) + _NUMBER * _lengths(tensor))
        for part in (tensor.Quantization(), tensor.Sparsity()):
            self._take(_NUMBER * _lengths(part) if part is not None else 0)
        shape = [tensor.Shape(axis) for axis in range(tensor.ShapeLength())]
        self._count(TENSOR_VALUES, math.prod(max(dim, 1) for dim in shape))
        self._values += model.Buffers(tensor.Buffer()).DataLength()
        if self._values > EXTERNAL_GROWTH.most * self._size + _FREE:
            self._count(EXTERNAL_GROWTH, math.ceil(self._values / self._size))

    def _take(self, count: int) -> None:
        self._taken = self._count(STRUCTURE_BYTES, self._taken + count)

    def _count(self, limit: Limit, count: int) -> int:
        if count > limit.most:
            raise ModelError(f"{self._file}: {limit.refusal(count)}; export the network again")
        return count


def _lengths(table: Any) -> int:
    """Return how many elements all lists of a table have together."""
    return sum(getattr(table, name)() for name in _lists(table.__class__))


@functools.cache
def _lists(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.endswith("Length"))
