"""KServe's v2 protocol over HTTP, as bytes: what a request feeds, and how outputs are answered.

The Open Inference Protocol with its binary tensor extension, which Triton speaks too:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol. Whatever a
client gets wrong is an `InputError` with a sentence.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgraft.data.casting import cast
from onnxgraft.errors import InputError, nearest, printable
from onnxgraft.files import check_json, parse_json
from onnxgraft.files.limits import REQUEST_MEMORY, shape_fault
from onnxgraft.graph.tensors import Array, Outputs, TensorSpec

__all__ = [
    "BYTES", "DATATYPES", "HEADER", "Request", "datatype_of", "parts", "read_request", "written",
]  # fmt: skip

# numpy's name of a type -> the protocol's.
DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16",
    "float32": "FP32", "float64": "FP64", "bfloat16": "BF16",
}  # fmt: skip
# What an image file is sent as, for an input that takes pictures.
BYTES = "BYTES"
# How many bytes of a body are JSON, where tensors follow it.
HEADER = "Inference-Header-Content-Length"
# Before each element of BYTES stands its length.
_LENGTH = struct.Struct("<I")
# Whole numbers of a request are below it: those of the machine, of which none is too long to print.
_WHOLE = 1 << 63
# A value of JSON takes so many bytes, as `check_json` counts.
_VALUE = 40

# Makes feeds of encoded images for an input.
Prepare = Callable[[TensorSpec, Sequence[bytes]], Array]


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        feeds: By input name.
        outputs: Those that are wanted, and whether as binary data.
        id: Which the answer repeats; empty if there is none.
    """

    feeds: dict[str, Array]
    outputs: dict[str, bool]
    id: str = ""


def datatype_of(spec: TensorSpec) -> str:
    """Return the protocol's name of a tensor's type.

    Raises:
        InputError: It has none.
    """
    if spec.dtype not in DATATYPES:
        raise InputError(f"{spec} is of a type that the v2 protocol has no name for")
    return DATATYPES[spec.dtype]


def parts(body: bytes, header: str | None) -> tuple[bytes, bytes]:
    """Return the JSON of a request's body, and the tensors behind it.

    Args:
        body: All of it.
        header: What the client says of the JSON's length; None if all is JSON.

    Raises:
        InputError: There is no such length.
    """
    if header is None:
        return body, b""
    digits = header.isascii() and header.isdigit() and len(header) < len(str(_WHOLE))
    if not digits or int(header) > len(body):
        raise InputError(f"{HEADER} is {_shown(header)}, and the body has {len(body)} bytes")
    return body[: int(header)], body[int(header) :]


def read_request(
    text: bytes,
    binary: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    prepare: Prepare,
) -> Request:
    """Return what a request asks for.

    Args:
        text: JSON.
        binary: The tensors that stand behind it.
        inputs: Of the engine.
        outputs: Likewise.
        prepare: Makes what is fed of image files, which come as BYTES.

    Raises:
        InputError: It is none of the protocol, or its tensors do not fit the inputs.
    """
    document = _document(text)
    listed = _objects(document, "inputs")
    if not listed:
        raise InputError("the request has no inputs")
    known = {spec.name: spec for spec in inputs}
    feeds: dict[str, Array] = {}
    at = 0
    for entry in listed:
        name = _name(entry)
        if name not in known:
            raise InputError(f"no input is called {_shown(name)}; {nearest(name, known)}")
        if name in feeds:
            raise InputError(f"the input {name!r} is given twice")
        data = None
        if "binary_data_size" in _parameters(entry):
            if "data" in entry:
                raise InputError(f"{name}: has data and binary_data_size; give one of them")
            size = _whole(_parameters(entry)["binary_data_size"], f"{name}: binary_data_size")
            data, at = binary[at : at + size], at + size
            if len(data) < size:
                raise InputError(f"{name}: {size} bytes are told, and {len(data)} follow the JSON")
        feeds[name] = _fed(known[name], entry, data, prepare)
    if at != len(binary):
        raise InputError(f"{len(binary) - at} bytes follow the tensors that the JSON tells of")
    missing = [str(spec) for spec in inputs if spec.name not in feeds]
    if missing:
        raise InputError(f"the input {', '.join(missing)} was not given")
    told = document.get("id", "")
    return Request(feeds, _wanted(document, outputs), told if isinstance(told, str) else "")


def written(
    model: str, request: Request, outputs: Outputs, specs: Sequence[TensorSpec]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and how much of it is JSON; None where all is.

    Args:
        model: Its name.
        request: That is answered.
        outputs: What the engine says.
        specs: Of the engine's outputs.

    Raises:
        InputError: JSON is wanted, and has no such numbers, or not so many.
    """
    told: list[dict[str, Any]] = []
    tensors: list[bytes] = []
    for spec in specs:
        if spec.name not in request.outputs:
            continue
        value = outputs[spec.name]
        # The type that the array has: numpy has no bfloat16, and such an output is float32.
        about: dict[str, Any] = {
            "name": spec.name, "datatype": DATATYPES[value.dtype.name], "shape": list(value.shape),
        }  # fmt: skip
        if request.outputs[spec.name]:
            tensors.append(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
            about["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            REQUEST_MEMORY.check(_VALUE * value.size, spec.name, "ask for binary_data")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise InputError(
                    f"{spec.name} has values that are no finite numbers, which JSON can't hold; "
                    "ask for binary_data"
                )
            about["data"] = value.reshape(-1).tolist()
        told.append(about)
    answer: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": told}
    if request.id:
        answer["id"] = request.id
    text = json.dumps(answer, allow_nan=False).encode()
    return b"".join([text, *tensors]), len(text) if tensors else None


def _document(text: bytes) -> dict[str, Any]:
    try:
        check_json(text, REQUEST_MEMORY)
    except ValueError as error:
        raise InputError(f"the request: {error}; send tensors as binary data") from error
    try:
        document = parse_json(text)
    except ValueError as error:
        raise InputError(f"the request is no JSON ({printable(str(error), 200)})") from error
    if not isinstance(document, dict):
        raise InputError("the request is JSON, but no object")
    return document


def _objects(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{key} is no list of objects")
    return found


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise InputError(f"the name of a tensor is {_shown(name)}, and no text")
    return name


def _parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise InputError("parameters is no object")
    return found


def _whole(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _WHOLE:
        raise InputError(f"{what} is {_shown(value)}, and no whole number from 0 on")
    return value


def _shown(value: object) -> str:
    return printable(repr(value), 80)


def _fed(
    spec: TensorSpec, entry: Mapping[str, Any], binary: bytes | None, prepare: Prepare
) -> Array:
    """Return what an input is fed."""
    axes = entry.get("shape")
    if not isinstance(axes, list):
        raise InputError(f"{spec.name}: shape is {_shown(axes)}, and no list of whole numbers")
    shape = tuple(_whole(axis, f"{spec.name}: an axis") for axis in axes)
    fault = shape_fault(shape)
    if fault is not None:
        raise InputError(f"{spec.name}: shape {fault}")
    datatype = entry.get("datatype")
    if datatype == BYTES:
        if binary is None or len(shape) != 1:
            raise InputError(
                f"{spec.name}: images are sent as BYTES of shape [1], in the binary extension"
            )
        return prepare(spec, _elements(spec.name, binary, shape[0]))
    if datatype != datatype_of(spec):
        raise InputError(
            f"{spec.name}: is {datatype_of(spec)}, and {_shown(datatype)} was given; an image file "
            "is given as BYTES"
        )
    if not spec.accepts(shape):
        raise InputError(f"the input {spec} was given the shape {list(shape)}")
    return _binary(spec, shape, binary) if binary is not None else _listed(spec, shape, entry)


def _binary(spec: TensorSpec, shape: tuple[int, ...], data: bytes) -> Array:
    if spec.dtype == "bfloat16":
        raise InputError(f"{spec.name}: is BF16, of which no arrays can be fed here")
    dtype = np.dtype(spec.dtype)
    if len(data) != dtype.itemsize * math.prod(shape):
        raise InputError(
            f"{spec.name}: {list(shape)} of {datatype_of(spec)} are "
            f"{dtype.itemsize * math.prod(shape)} bytes, and {len(data)} were given"
        )
    if dtype.kind == "b" and data.strip(b"\0\1"):
        raise InputError(f"{spec.name}: BOOL has a byte of 0 or 1 for each value")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _listed(spec: TensorSpec, shape: tuple[int, ...], entry: Mapping[str, Any]) -> Array:
    found, values = _flat(spec.name, entry.get("data"))
    if found != shape and found != (math.prod(shape),):
        raise InputError(f"{spec.name}: {list(shape)} are told, and the data are {found}")
    if not {int, float, bool}.issuperset(map(type, values)):
        raise InputError(f"{spec.name}: data have values that are no real numbers")
    return cast(np.asarray(values), spec, spec.name, "send such values").reshape(shape)


def _flat(name: str, data: object) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of lists in lists, and the values in them.

    NumPy's own way takes a list of texts for an array of texts, each as long as the longest.
    """
    shape: list[int] = []
    level: list[Any] = [data]
    while level and isinstance(level[0], list):
        if not all(isinstance(one, list) and len(one) == len(level[0]) for one in level):
            raise InputError(f"{name}: data are lists of different lengths")
        shape.append(len(level[0]))
        level = [value for one in level for value in one]
    return tuple(shape), level


def _elements(name: str, data: bytes, count: int) -> list[bytes]:
    """Return the elements of BYTES."""
    found: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(data) and len(found) < count:
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            break
        found.append(data[at : at + size])
        at += size
    if len(found) != count or at != len(data):
        raise InputError(f"{name}: has not the {count} elements of BYTES that its shape tells")
    return found


def _wanted(document: Mapping[str, Any], outputs: Sequence[TensorSpec]) -> dict[str, bool]:
    """Return the outputs that are asked for; all of them where none are named."""
    usual = _parameters(document).get("binary_data_output") is True
    named = _objects(document, "outputs")
    known = [spec.name for spec in outputs]
    wanted = {}
    for entry in named:
        name = _name(entry)
        if name not in known:
            raise InputError(f"no output is called {_shown(name)}; {nearest(name, known)}")
        parameters = _parameters(entry)
        if parameters.get("classification"):
            raise InputError(f"{name}: classification is an extension that is not served here")
        wanted[name] = parameters.get("binary_data", usual) is True
    return wanted or dict.fromkeys(known, usual)
