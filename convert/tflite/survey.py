"""What reading a TFLite model would take: in a FlatBuffer, many can share one table."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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

__all__ = ["UNIONS", "check_tflite", "sound"]

# What tf2onnx makes of operators and tensors, in bytes (measured), and what TensorFlow's classes
# make of any table, and lists of a number.
_OPERATOR, _TENSOR, _OBJECT, _NUMBER = 9000, 2000, 700, 64
# The members of tables that are one of several tables, and the enumerations that say which.
UNIONS = {
    "ArrayIndices": "SparseIndexVector", "ArraySegments": "SparseIndexVector",
    "BuiltinOptions": "BuiltinOptions", "BuiltinOptions2": "BuiltinOptions2",
    "Details": "QuantizationDetails",
}  # fmt: skip
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
        # What each table takes as objects, by its place and class: it may be listed often.
        self._known: dict[tuple[int, type], int] = {}

    def walk(self, model: Any) -> None:
        if getattr(model, "ExternalBufferGroupsLength", int)():
            raise ModelError(f"{self._file}: its weights are in other files, which are not read")
        self._take(self._objects(model))
        for index in range(model.SubgraphsLength()):
            graph = model.Subgraphs(index)
            nodes = 1 + graph.OperatorsLength()
            self._operators = self._count(NODES, self._operators + nodes)
            self._take(_OPERATOR * nodes)
            for place in range(graph.TensorsLength()):
                self._tensors = self._count(TENSORS, self._tensors + 1)
                self._tensor(model, graph.Tensors(place))

    def _objects(self, table: Any) -> int:
        """Return what a table takes as an object, with all that it leads to.

        Tables do not nest in themselves, by the schema.
        """
        kind = table.__class__
        key = (table._tab.Pos, kind)
        if key in self._known:
            return self._known[key]
        members = _members(kind)
        taken: int = _OBJECT + _NUMBER * sum(
            getattr(table, f"{name}Length")() for name in members.lists
        )
        for name in members.tables:
            for index in range(getattr(table, f"{name}Length")()):
                taken += self._found(getattr(table, name)(index))
                self._count(STRUCTURE_BYTES, taken)
        for name in members.single:
            found = getattr(table, name)()
            if name in UNIONS and found is not None:
                found = self._chosen(found, name, getattr(table, f"{name}Type")())
            taken += self._found(found)
        self._known[key] = self._count(STRUCTURE_BYTES, taken)
        return taken

    def _found(self, value: Any) -> int:
        """Return what a text or table takes; a number costs nothing beside its table."""
        if isinstance(value, bytes):
            return 4 * len(value)
        return self._objects(value) if hasattr(value, "_tab") else 0

    def _chosen(self, table: Any, name: str, number: int) -> Any:
        """Return a member of a union as what its type says it is."""
        kind = getattr(self._schema, _chosen(self._schema, UNIONS[name]).get(number, ""), None)
        if kind is None:
            return None
        found = kind()
        found.Init(table.Bytes, table.Pos)
        return found

    def _tensor(self, model: Any, tensor: Any) -> None:
        name = tensor.Name() or b""
        self._count(NAME_BYTES, len(name))
        self._count(AXES, tensor.ShapeLength())
        self._take(_TENSOR)
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


class _Members(NamedTuple):
    """What a class of the schema reads, by the names of its methods.

    Attributes:
        lists: Lists of numbers.
        tables: Lists of tables or texts.
        single: Tables, texts and numbers.
    """

    lists: tuple[str, ...]
    tables: tuple[str, ...]
    single: tuple[str, ...]


@functools.cache
def _members(kind: type) -> _Members:
    names = {name for name in vars(kind) if name[0].isupper() and name != "Init"}
    listed = {name.removesuffix("Length") for name in names if name.endswith("Length")} & names
    # A buffer's bytes stay in the file.
    numbers = {name for name in listed if f"{name}AsNumpy" in names and kind.__name__ != "Buffer"}
    single = {
        name
        for name in names - listed
        if not name.startswith("GetRootAs")
        and not name.endswith(("Length", "AsNumpy", "IsNone", "BufferHasIdentifier"))
    }
    others = {name for name in listed if f"{name}AsNumpy" not in names}
    return _Members(*(tuple(sorted(part)) for part in (numbers, others, single)))


@functools.cache
def _chosen(schema: Any, union: str) -> dict[int, str]:
    """Return the members of a union, by their number."""
    entries = vars(getattr(schema, union)).items()
    return {number: name for name, number in entries if isinstance(number, int)}
