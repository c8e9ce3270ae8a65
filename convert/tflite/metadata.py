"""What the metadata in a TFLite file tell of the images it takes.

They are a FlatBuffer of their own in one of the model's buffers, by the schema
``metadata_schema.fbs`` of TensorFlow Lite Support; of it is read

    ModelMetadata .subgraph_metadata = 3    SubGraphMetadata .input_tensor_metadata = 2
    TensorMetadata .content = 3, .process_units = 4
    Content .content_properties = 0, 1      ImageProperties .color_space = 0
    ProcessUnit .options = 0, 1             NormalizationOptions .mean = 0, .std = 1

where a union has two numbers: that of its type, and that of its table.

Given  NormalizationOptions { mean: [127.5], std: [127.5] }
Result (pixel - mean) / std, and for inputs of integers what stands for that
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.pictures import Told
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.stages.convert.tflite.survey import sound

__all__ = ["normalized_by", "told_in"]

_NAME = b"TFLITE_METADATA"
_IMAGE, _NORMALIZATION = 2, 1
_COLORS = {1: "rgb", 2: "gray"}
# Entries of a list that are looked at: inputs, units of preprocessing, channels.
_MOST = 64


def normalized_by(file: Path, inputs: Sequence[TensorSpec]) -> Told | None:
    """Return what the metadata of a TFLite file tell of its image; None where they tell nothing.

    Args:
        file: That was converted.
        inputs: Of the model that was made of it.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    try:
        data = file.read_bytes()
        with sound(file):
            model = schema.Model.GetRootAs(data, 0)
            for index in range(min(model.MetadataLength(), _MOST)):
                entry = model.Metadata(index)
                if entry.Name() == _NAME and entry.Buffer() < model.BuffersLength():
                    held = model.Buffers(entry.Buffer())
                    if held.DataLength():
                        return told_in(
                            held.DataAsNumpy().tobytes(), inputs, lambda at: _quantized(model, at)
                        )
    except (OnnxgraftError, OSError):  # what is wrong with the file is told where it is read
        return None
    return None


def told_in(
    data: bytes, inputs: Sequence[TensorSpec], quantized: Callable[[int], tuple[float, int] | None]
) -> Told | None:
    """Return what metadata tell of the first input that is an image; damaged ones raise anything.

    Args:
        data: The metadata.
        inputs: Of the model.
        quantized: Returns scale and zero point of an input, by its number.
    """
    for graph in itertools.islice(_Table.root(data).tables(3), 1):
        for place, tensor in enumerate(graph.tables(2)):
            content = tensor.table(3)
            if content is None or content.number(0, "uint8") != _IMAGE or place >= len(inputs):
                continue
            image = content.table(1)
            color = _COLORS.get(0 if image is None else image.number(0, "int8"))
            keys: dict[str, Any] = {"fit": True} | ({} if color is None else {"color": color})
            for unit in tensor.tables(4):
                options = unit.table(1) if unit.number(0, "uint8") == _NORMALIZATION else None
                if options is not None:
                    keys |= _normalized(options, inputs[place], quantized(place))
            return Told(keys, "the metadata of the TFLite file say so")
    return None


def _normalized(
    options: _Table, spec: TensorSpec, quantized: tuple[float, int] | None
) -> dict[str, Any]:
    """Return mean and std; of an integer input those that make its integers of pixels."""
    mean, std = options.floats(0), options.floats(1)
    usable = mean.size and std.size and np.isfinite([*mean, *std]).all() and (std > 0).all()
    if not usable:
        return {}
    if spec.kind == "f":
        if (std >= 1).all():
            return {"mean": mean.tolist(), "std": std.tolist()}
        return {"mean": mean.tolist(), "scale": (1 / std).tolist()}
    # (pixel - mean) / std = scale * (integer - zero), and an integer is a pixel, moved.
    scale, zero = quantized or (1.0, 0)
    moved = np.round(mean - zero * scale * std)
    fits = np.abs(scale * std - 1) < 1 / 64
    return {"mean": moved.tolist()} if fits.all() and moved.any() else {}


def _quantized(model: Any, place: int) -> tuple[float, int] | None:
    """Return scale and zero point of an input of the first graph, where it has them."""
    graph = model.Subgraphs(0)
    if place >= graph.InputsLength() or not 0 <= graph.Inputs(place) < graph.TensorsLength():
        return None
    found = graph.Tensors(graph.Inputs(place)).Quantization()
    if found is None or found.ScaleLength() != 1 or found.ZeroPointLength() != 1:
        return None
    return float(found.Scale(0)), int(found.ZeroPoint(0))


class _Table:
    """A table of a FlatBuffer, by the numbers of its fields; a place outside raises."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - self._value("<i4", place)
        self._size = self._value("<u2", self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """Return the table with which a buffer begins."""
        return cls(data, int(np.frombuffer(data, "<u4", 1)[0]))

    def number(self, field: int, dtype: str) -> int:
        """Return a number; 0 where it is not there."""
        at = self._at(field)
        return 0 if at is None else self._value(dtype, at)

    def table(self, field: int) -> _Table | None:
        """Return a table, if it is there."""
        at = self._at(field)
        return None if at is None else _Table(self._data, at + self._value("<u4", at))

    def tables(self, field: int) -> Iterator[_Table]:
        """Return the first tables of a list."""
        begin, count = self._list(field)
        for at in range(begin, begin + 4 * min(count, _MOST), 4):
            yield _Table(self._data, at + self._value("<u4", at))

    def floats(self, field: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the first numbers of a list."""
        begin, count = self._list(field)
        return np.frombuffer(self._data, "<f4", min(count, _MOST), begin).astype(np.float64)

    def _at(self, field: int) -> int | None:
        entry = 4 + 2 * field
        offset = self._value("<u2", self._fields + entry) if entry < self._size else 0
        return self._place + offset if offset else None

    def _list(self, field: int) -> tuple[int, int]:
        at = self._at(field)
        if at is None:
            return 0, 0
        begin = at + self._value("<u4", at)
        return begin + 4, self._value("<u4", begin)

    def _value(self, dtype: str, at: int) -> int:
        if at < 0:
            raise ValueError("a place before its beginning")
        return int(np.frombuffer(self._data, dtype, 1, at)[0])
