"""A TFLite file as objects that can be changed, in the terms of TensorFlow's own schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.errors import InputError, ModelError, nearest
from onnxgraft.files import existing_file
from onnxgraft.files.limits import BUFFER_BYTES
from onnxgraft.graph.names import free
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from onnxgraft.stages.convert.tflite.reaching import FLEX, check_lite_operators
from onnxgraft.stages.convert.tflite.sparse import dense
from onnxgraft.stages.convert.tflite.survey import check_tflite, sound

__all__ = ["BODIES", "Lite", "names_of", "read_tflite", "text"]

# Of an operator's options: the graphs that it runs.
BODIES = (
    "bodySubgraphIndex", "condSubgraphIndex", "elseSubgraphIndex", "initSubgraphIndex", "subgraph",
    "thenSubgraphIndex",
)  # fmt: skip

# What a FlatBuffer of this schema has in its bytes 4 to 8.
_MAGIC = b"TFL3"
# Of these types a constant's bytes are plain numbers.
_PLAIN = (
    "FLOAT16", "FLOAT32", "FLOAT64", "INT8", "INT16", "INT32", "INT64",
    "UINT8", "UINT16", "UINT32", "UINT64", "BOOL", "COMPLEX64", "COMPLEX128",
)  # fmt: skip


# Options that are lists, and may be left out.
_LISTS = ("newShape", "squeezeDims")


class Lite:
    """A TFLite model.

    Attributes:
        file: Where it was read.
        schema: TensorFlow's classes for what is in such a file.
        model: What is in it: changed in place.
        main: The graph that is run; the others are bodies of If and While, or of other signatures.
    """

    def __init__(self, file: Path, data: bytes) -> None:
        from tensorflow.lite.python import schema_py_generated as schema

        self.file = file
        self.schema: Any = schema
        with sound(file):
            self.model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
            self.main = self.model.subgraphs[0]
            self._complete()
            self._name_tensors()
        self._operators = names_of(schema.BuiltinOperator)
        self._types = names_of(schema.TensorType)
        # Operators of later codes are this package's own.
        self._given = len(self.model.operatorCodes)

    def _complete(self) -> None:
        """Give each list that may be left out of a file its empty form."""
        self.model.operatorCodes = self.model.operatorCodes or []
        for graph in self.model.subgraphs:
            graph.tensors, graph.operators = graph.tensors or [], graph.operators or []
            graph.inputs, graph.outputs = _numbers(graph.inputs), _numbers(graph.outputs)
            graph.outputs = (
                list(dict.fromkeys(graph.outputs)) if graph is self.main else graph.outputs
            )
            for operator in graph.operators:
                operator.inputs = _numbers(operator.inputs)
                operator.outputs = _numbers(operator.outputs)
                for name in _LISTS:
                    if getattr(operator.builtinOptions, name, ()) is None:
                        setattr(operator.builtinOptions, name, [])
                for index in (*operator.inputs, *operator.outputs):
                    if not -1 <= index < len(graph.tensors):
                        raise ValueError(f"an operator names the tensor {index}")

    def _name_tensors(self) -> None:
        """Give each tensor and graph a name of its own: TFLite tells them apart by number."""
        taken: set[str] = set()
        for graph in self.model.subgraphs:
            ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
            seen: set[int] = set()
            for tensor in (*ends, *graph.tensors):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    tensor.name = free(taken, text(tensor.name) or "tensor")
        graphs: set[str] = set()
        for graph in self.model.subgraphs:
            graph.name = free(graphs, text(graph.name) or "graph")

    def begin_at(self, signature: str) -> None:
        """Let the main graph be that of a signature.

        Raises:
            InputError: The file has no such signature.
        """
        found = self.signatures()
        if signature not in found:
            raise InputError(
                f"{self.file}: has no signature {signature!r}; {nearest(signature, found)}"
            )
        graphs, index = self.model.subgraphs, found[signature]
        graphs[0], graphs[index] = graphs[index], graphs[0]
        self.main = graphs[0]
        swapped = {0: index, index: 0}
        for graph in graphs:
            for operator in graph.operators:
                for name in BODIES:
                    number = getattr(operator.builtinOptions, name, None)
                    if number in swapped:
                        setattr(operator.builtinOptions, name, swapped[number])

    def signatures(self) -> dict[str, int]:
        """Return the names of the signatures, each with the number of its graph."""
        told = self.model.signatureDefs or []
        return {text(entry.signatureKey): int(entry.subgraphIndex) for entry in told}

    def kind(self, operator: Any) -> str:
        """Return an operator's name: ``CONV_2D``, or that of a custom operator."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        number = max(code.deprecatedBuiltinCode, code.builtinCode)
        name = self._operators.get(number, f"operator {number}")
        if name != "CUSTOM":
            return name
        name = self.custom(operator)
        mine = operator.opcodeIndex >= self._given
        taken = name in self._operators.values() or name.startswith("GRAFT_")
        return f"custom {name}" if taken and not mine else name

    def is_custom(self, operator: Any) -> bool:
        """Tell whether an operator is none of TensorFlow Lite's own."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        number = max(code.deprecatedBuiltinCode, code.builtinCode)
        return self._operators.get(number) == "CUSTOM"

    def custom(self, operator: Any) -> str:
        """Return what a custom operator is called."""
        return text(self.model.operatorCodes[operator.opcodeIndex].customCode)

    def is_known(self, kind: str) -> bool:
        """Tell whether an operator is of TensorFlow Lite's schema."""
        return kind in self._operators.values()

    @property
    def has_flex(self) -> bool:
        """Whether it has operators of TensorFlow's own."""
        return any(text(code.customCode).startswith(FLEX) for code in self.model.operatorCodes)

    @property
    def is_quantized(self) -> bool:
        """Whether it has tensors of integers that stand for other numbers."""
        return any(
            self.scales(tensor) is not None
            for graph in self.model.subgraphs
            for tensor in graph.tensors
        )

    def scales(self, tensor: Any) -> tuple[Array, Array] | None:
        """Return the scales and zero points of a tensor that has some."""
        told = tensor.quantization
        if told is None or told.scale is None or not len(told.scale):
            return None
        scale = np.asarray(told.scale, np.float32)
        zero = np.zeros(1, np.int64) if told.zeroPoint is None else np.asarray(told.zeroPoint)
        return scale, np.broadcast_to(zero.astype(np.int64), scale.shape)

    def type_of(self, tensor: Any) -> str:
        """Return a tensor's type, such as ``FLOAT32``."""
        return self._types.get(tensor.type, f"type {tensor.type}")

    def set_type(self, tensor: Any, name: str) -> None:
        """Change a tensor's type."""
        tensor.type = getattr(self.schema.TensorType, name)

    def shape(self, tensor: Any) -> list[int]:
        """Return the sizes that the file has for a tensor."""
        return _numbers(tensor.shape)

    def is_constant(self, tensor: Any) -> bool:
        """Tell whether a tensor's numbers are in the file."""
        data = self.model.buffers[tensor.buffer].data if tensor.buffer else None
        return data is not None and len(data) > 0

    def constant(self, tensor: Any) -> Array | None:
        """Return the numbers of a constant, dense; None where it is none, or holds strings."""
        if not self.is_constant(tensor):
            return None
        data = self.model.buffers[tensor.buffer].data
        kind, shape = self.type_of(tensor), _numbers(tensor.shape)
        raw = np.asarray(data, np.uint8)
        try:
            if kind in ("INT4", "UINT4"):
                values = _nibbles(raw, kind == "INT4")
                values = values if tensor.sparsity is not None else values[: int(np.prod(shape))]
            elif kind == "BFLOAT16":
                values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            elif kind in _PLAIN:
                values = raw.view(np.dtype(kind.lower()))
            else:
                return None
            if tensor.sparsity is not None:
                return dense(values, shape, tensor.sparsity)
            return values.reshape(shape)
        except ValueError as error:
            raise ModelError(
                f"{self.file}: the constant {tensor.name!r} does not fit its shape: {error}"
            ) from error

    def add_constant(self, value: Array, name: str, graph: Any = None) -> int:
        """Add a constant to a graph, the main one unless it is named, and return its number."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        index = self.add_tensor(value.dtype.name.upper(), value.shape, name, graph)
        (graph or self.main).tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def add_tensor(self, kind: str, shape: Any, name: str, graph: Any = None) -> int:
        """Add a tensor to a graph and return its number."""
        graph = graph or self.main
        tensor = self.schema.TensorT()
        self.set_type(tensor, kind)
        tensor.shape = _numbers(shape)
        tensor.name = free({other.name for g in self.model.subgraphs for other in g.tensors}, name)
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def rename(self, tensor: Any, wish: str) -> str:
        """Give a tensor a name, or one like it where it is taken, and return that."""
        others = (t for g in self.model.subgraphs for t in g.tensors if t is not tensor)
        tensor.name = free({other.name for other in others}, wish)
        return str(tensor.name)

    def like(self, index: int, name: str, graph: Any = None) -> int:
        """Add a tensor of the type and shape of another, and return its number."""
        graph = graph or self.main
        model = graph.tensors[index]
        added = self.add_tensor(self.type_of(model), model.shape, name, graph)
        tensor = graph.tensors[added]
        tensor.shapeSignature, tensor.quantization = model.shapeSignature, model.quantization
        return added

    def copied(self, index: int, name: str) -> int:
        """Add a copy of a tensor of the main graph under a name of its own; return its number."""
        target = self.like(index, name)
        self.main.operators.append(self.operator("GRAFT_COPY", [index], [target]))
        return target

    def operator(
        self, kind: str, inputs: list[int], outputs: list[int], options: Any = None,
        version: int = 1,
    ) -> Any:  # fmt: skip
        """Return a new operator; ``options`` are its table, or a dict of a custom operator."""
        code = self.schema.OperatorCodeT()
        number = getattr(self.schema.BuiltinOperator, kind, None)
        code.builtinCode = self.schema.BuiltinOperator.CUSTOM if number is None else number
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.customCode = kind if number is None else None
        code.version = version
        self.model.operatorCodes.append(code)
        made = self.schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = inputs, outputs
        if number is None:
            from flatbuffers import flexbuffers

            made.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options or {})), np.uint8)
        elif options is not None:
            made.builtinOptions = options
            name = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
        return made

    def output_names(self) -> list[str]:
        """Return what the main graph's outputs are called; one that is an input too has another."""
        taken = {tensor.name for tensor in self.main.tensors}
        return [
            free(taken, f"{self.main.tensors[index].name}/output")
            if index in self.main.inputs
            else str(self.main.tensors[index].name)
            for index in self.main.outputs
        ]

    def find(self, name: str) -> int:
        """Return the number of a tensor of the main graph.

        Raises:
            InputError: It has none of that name.
        """
        names = [tensor.name for tensor in self.main.tensors]
        if name not in names:
            made = {self.main.tensors[i].name for op in self.main.operators for i in op.outputs}
            raise InputError(f"{self.file}: no tensor is called {name!r}; {nearest(name, made)}")
        return names.index(name)

    def packed(self) -> bytes:
        """Return the model as a file."""
        import flatbuffers

        used = {tensor.buffer for graph in self.model.subgraphs for tensor in graph.tensors}
        for number, buffer in enumerate(self.model.buffers):
            if number not in used:
                buffer.data = None
        self.model.metadata = self.model.signatureDefs = None
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=_MAGIC)
        return bytes(builder.Output())


def read_tflite(path: str | os.PathLike[str], signature: str | None = None) -> Lite:
    """Return the model of a file.

    Args:
        path: The file.
        signature: The signature whose graph is run; None takes the first graph.

    Raises:
        InputError: It has no such signature.
        ModelError: It is no TFLite model, is damaged, or has operators that reach out of it.
    """
    file = existing_file(path, "the TFLite model", BUFFER_BYTES)
    data = file.read_bytes()
    if data[4:8] != _MAGIC:
        raise ModelError(f"{file}: not a TFLite model")
    tensorflow()
    check_tflite(file, data)
    lite = Lite(file, data)
    check_lite_operators(lite)
    if signature is not None:
        lite.begin_at(signature)
    return lite


def names_of(table: Any) -> dict[int, str]:
    """Return the names of an enumeration of the schema."""
    return {number: name for name, number in vars(table).items() if isinstance(number, int)}


def _numbers(found: Any) -> list[int]:
    return [] if found is None else [int(number) for number in found]


def text(found: Any) -> str:
    """Return a string of the file."""
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found or "")


def _nibbles(raw: Array, signed: bool) -> Array:
    """Return the four-bit numbers that share bytes, the lower half first."""
    halves = np.stack([raw & 15, raw >> 4], 1).reshape(-1)
    if not signed:
        return halves
    return ((halves ^ 8).astype(np.int16) - 8).astype(np.int8)
