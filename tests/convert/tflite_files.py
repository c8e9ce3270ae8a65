"""Small TFLite files, written with TensorFlow's own schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.graph.tensors import Array

__all__ = ["File", "numbers"]


def numbers(*shape: int, seed: int = 0) -> Array:
    """Return seeded normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def flex_options(kind: str) -> bytes:
    """Return the options of an operator that is one of TensorFlow's own."""
    from flatbuffers import flexbuffers
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    builder = flexbuffers.Builder()
    with builder.Vector():
        builder.String(kind)
        builder.String(NodeDef(name="flex", op=kind).SerializeToString().decode("ascii"))
    return bytes(builder.Finish())


class File:
    """A TFLite file with one graph."""

    def __init__(self) -> None:
        from tensorflow.lite.python import schema_py_generated as schema

        self.schema: Any = schema
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], "main"
        self.model.subgraphs = [self.graph]

    def tensor(
        self, name: str, shape: tuple[int, ...], kind: str = "FLOAT32", value: Array | None = None,
        scale: Any = None, axis: int = 0, **more: Any,
    ) -> int:  # fmt: skip
        """Add a tensor, a constant where it has a value, and return its number."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        tensor.type = getattr(self.schema.TensorType, kind)
        if value is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scale is not None:
            told = tensor.quantization = self.schema.QuantizationParametersT()
            told.scale = [float(step) for step in np.atleast_1d(scale)]
            told.zeroPoint, told.quantizedDimension = [0] * len(told.scale), axis
        for key, entry in more.items():
            setattr(tensor, key, entry)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def options(self, kind: str, **fields: Any) -> Any:
        """Return a table of options, such as ``Conv2D``."""
        table = getattr(self.schema, f"{kind}OptionsT")()
        for key, entry in fields.items():
            setattr(table, key, entry)
        return table

    def op(
        self, kind: str, inputs: list[int], outputs: list[int], options: Any = None,
        version: int = 1,
    ) -> None:  # fmt: skip
        """Add an operator; a custom one has its options as bytes or as a dict."""
        code, operator = self.schema.OperatorCodeT(), self.schema.OperatorT()
        number = getattr(self.schema.BuiltinOperator, kind, None)
        code.builtinCode = self.schema.BuiltinOperator.CUSTOM if number is None else number
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        if number is None:
            from flatbuffers import flexbuffers

            code.customCode = kind
            data = (
                options if isinstance(options, bytes) else bytes(flexbuffers.Dumps(options or {}))
            )
            operator.customOptions = np.frombuffer(data, np.uint8)
        elif options is not None:
            operator.builtinOptions = options
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        self.graph.operators.append(operator)

    def save(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        """Write the file and return its path."""
        import flatbuffers

        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path
