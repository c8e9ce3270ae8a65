"""ONNX's external data: tensors whose bytes are in files beside the model, which are mapped."""

from __future__ import annotations

import math
import mmap
import os
import re
import stat
from pathlib import Path

import numpy as np
import onnx

from onnxgraft.errors import ModelError
from onnxgraft.files.limits import EXTERNAL_COPIES, EXTERNAL_GROWTH
from onnxgraft.graph.tensors import Array

__all__ = ["LARGE", "PACKED", "ExternalData", "view_of"]

# Smaller initializers stay in the message.
LARGE = 1 << 16
# Types that share bytes between elements, and their bits: they stay in the message.
PACKED = {
    "INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "FLOAT6E2M3": 6,
    "FLOAT6E3M2": 6,
}  # fmt: skip
_NUMBER = re.compile("[0-9]{1,19}")
# So much more than the files' size the tensors may always have.
_FREE = 64 << 20


def view_of(tensor: onnx.TensorProto, raw: memoryview) -> Array | None:
    """Return the bytes of a tensor as an array; None where they are not as many as they must."""
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError):
        return None
    if kind in PACKED or dtype.hasobject or any(dim < 0 for dim in tensor.dims):
        return None
    if math.prod(tensor.dims) * dtype.itemsize != len(raw):
        return None
    return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(tensor.dims).view(dtype)


class ExternalData:
    """The files that a model's tensors lie in, each mapped once.

    Args:
        model: The model's file.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        self._files: dict[str, memoryview] = {}
        self._copied = self._referred = 0

    def take(self, tensor: onnx.TensorProto, *, mapped: bool) -> Array | None:
        """Make a tensor one that is stored in the model.

        Args:
            tensor: Gets its bytes, but for those that are returned.
            mapped: Return what is large as a view of the file, and leave the tensor without data.

        Raises:
            ModelError: The file is missing or not where it may be (in the model's folder or below
                it, a file of its own), or the tensors together are far larger than their files.
        """
        name = tensor.name or "a constant"
        raw = self._bytes(tensor, name)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        self._referred += len(raw)
        size = sum(map(len, self._files.values()))
        if self._referred > EXTERNAL_GROWTH.most * size + _FREE:
            times = math.ceil(self._referred / size)
            raise ModelError(
                f"{self._model}: {EXTERNAL_GROWTH.refusal(times)}: many tensors share the bytes of "
                f"{name!r}; export the network again"
            )
        value = view_of(tensor, raw) if mapped and len(raw) >= LARGE else None
        if value is not None:
            return value
        self._copied += len(raw)
        if self._copied > EXTERNAL_COPIES.most:
            raise ModelError(
                f"{self._model}: {EXTERNAL_COPIES.refusal(self._copied)}; store them in the "
                "model, or as initializers"
            )
        tensor.raw_data = bytes(raw)  # the checker holds it against the shape and type
        return None

    def _bytes(self, tensor: onnx.TensorProto, name: str) -> memoryview:
        if 0 in tensor.dims:
            return memoryview(b"")  # of no bytes, whatever its file is
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location: str | bytes = entries.get("location", "")
        numbers = [entries.get("offset", "0"), entries.get("length", "0")]
        # Protobuf gives bytes for what is no UTF-8; and int() takes 1_0, " 1" and digits of all
        # scripts, too.
        if isinstance(location, bytes) or not all(map(_NUMBER.fullmatch, map(str, numbers))):
            raise ModelError(f"{self._model}: the external data of {name!r} are not at a place")
        offset, length = map(int, numbers)
        if location not in self._files:
            self._files[location] = _mapped(self._model, location, name)
        data = self._files[location]
        end = offset + length if "length" in entries else len(data)
        if not 0 <= offset <= end <= len(data):
            raise ModelError(
                f"{self._model}: {name!r} lies beyond the end of its file {location!r} "
                f"({len(data)} bytes)"
            )
        return data[offset:end]


def _mapped(model: Path, location: str, name: str) -> memoryview:
    """Map a file of external data, if it is one that the model may refer to."""
    folder = model.resolve().parent
    parts = Path(location).parts
    wrong = None
    if not parts or Path(location).is_absolute() or ".." in parts:
        wrong = "is not in the model's folder"
    path = folder
    for part in parts if wrong is None else ():
        path /= part
        if os.path.islink(path):  # not Path's own, which raises at names that are too long
            wrong = "is a link"
            break
    if wrong is None:
        try:
            found = path.stat()
        except (OSError, ValueError):
            wrong = "does not exist"
        else:
            if not stat.S_ISREG(found.st_mode):
                wrong = "is not a file"
            elif found.st_nlink > 1:
                wrong = "is a hard link, which other files share"
            elif found.st_size == 0:
                wrong = "is empty"
    if wrong is not None:
        raise ModelError(
            f"{model}: the external data of {name!r} are refused: {location!r} {wrong}; keep the "
            "file beside the model"
        )
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
