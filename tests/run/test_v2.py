"""Whatever a client sends is a request or a sentence, and what is answered can be read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.run.v2 import DATATYPES, Request, parts, read_request, written

INPUTS = (TensorSpec("x", "float32", ("N", 2)), TensorSpec("n", "int8", ()))
OUTPUTS = (TensorSpec("y", "float32", ("N", 2)),)
SOUND = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]},
        {"name": "n", "datatype": "INT8", "shape": [], "data": [7]},
    ],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    "id": "a",
}  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["x", "n", "y", "FP32", "INT8", "BYTES", 2**63, -1, 1e308]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"]),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


def prepare(spec: TensorSpec, files: Sequence[bytes]) -> Array:
    return np.zeros((len(files), 2), np.float32)


def read(body: bytes, header: str | None = None) -> Request:
    return read_request(*parts(body, header), INPUTS, OUTPUTS, prepare)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to each value in a document."""
    found = [path]
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(entry, (*path, key))
    return found


def test_a_sound_request_is_read() -> None:
    found = read(json.dumps(SOUND).encode())
    np.testing.assert_array_equal(found.feeds["x"], np.array([[1.5, 2.5]], np.float32))
    assert found.feeds["n"] == 7
    assert found.feeds["n"].dtype == np.int8
    assert (found.outputs, found.id) == ({"y": True}, "a")


@given(body=st.binary(max_size=60), header=st.none() | st.text(max_size=4) | st.just("2"))
def test_bytes_at_random_are_refused_in_a_sentence(body: bytes, header: str | None) -> None:
    with pytest.raises(InputError):
        read(body, header)


@given(place=st.sampled_from(places(SOUND)[1:]), value=VALUES)
def test_any_value_in_any_place_is_a_request_or_a_sentence(
    place: tuple[Any, ...], value: Any
) -> None:
    document = json.loads(json.dumps(SOUND))
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        found = read(json.dumps(document).encode())
    except InputError as error:
        assert str(error)
        return
    for spec in INPUTS:
        assert spec.accepts(found.feeds[spec.name].shape)
        assert found.feeds[spec.name].dtype == np.dtype(spec.dtype)


@pytest.mark.parametrize("kind", [kind for kind in DATATYPES if kind != "bfloat16"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_every_type_comes_back_as_it_was(kind: str, binary: bool) -> None:
    spec = TensorSpec("t", kind, (2, 3))
    rng = np.random.default_rng(0)
    value = rng.integers(0, 2 if kind == "bool" else 100, (2, 3)).astype(kind)
    if value.dtype.kind == "f":
        value = (value + rng.normal(size=(2, 3))).astype(kind)
    body, size = written("m", Request({}, {"t": binary}), {"t": value}, [spec])
    answer = json.loads(body[:size])
    entry = {**answer["outputs"][0]}
    request = json.dumps({"inputs": [entry]}).encode()
    tail = b"" if size is None else body[size:]
    found = read_request(*parts(request + tail, str(len(request))), [spec], [], prepare)
    assert found.feeds["t"].dtype == value.dtype
    np.testing.assert_array_equal(found.feeds["t"], value)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [([300, 1], "out of range"), ([1.5, 1], "no whole numbers"), ([-129, 0], "out of range"),
     ([2**70, 0], "no real numbers"), ([True, False], None)],
    ids=["large", "fraction", "small", "enormous", "booleans"],
)  # fmt: skip
def test_a_value_that_would_become_another_is_refused(
    data: list[Any], sentence: str | None
) -> None:
    spec = TensorSpec("t", "int8", (2,))
    entry = {"name": "t", "datatype": "INT8", "shape": [2], "data": data}
    body = json.dumps({"inputs": [entry]}).encode()
    if sentence is None:
        assert read_request(body, b"", [spec], [], prepare).feeds["t"].tolist() == [1, 0]
        return
    with pytest.raises(InputError, match=sentence):
        read_request(body, b"", [spec], [], prepare)


def asked(**changes: Any) -> bytes:
    """Return the sound request with another first input."""
    document = json.loads(json.dumps(SOUND))
    document["inputs"][0].update(changes)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("body", "header", "sentence"),
    [
        (b"{}", "9" * 5000, "Content-Length is '9999"),
        (asked(shape=[10**4000, 2]), None, "no whole number"),
        (asked(shape=[2**30, 2]), None, "are told, and the data are"),
        (asked(shape=[1] * 100), None, "axes of a tensor"),
        (asked(name="xy" * 300_000), None, "no input is called"),
        (asked(data=["a" * 100_000] + ["a"] * 100_000, shape=[50_000, 2]), None, "the data are"),
        (asked(data=["a" * 1000, "a"]), None, "no real numbers"),
        (asked(data=[{}, None]), None, "no real numbers"),
        (b'{"inputs": [' + b"{}," * 2_000_000 + b"{}]}", None, "send tensors as binary data"),
        (b'{"inputs": ' + b"[[]]" * 2_000_000 + b"}", None, "send tensors as binary data"),
    ],
    ids=["digits", "whole", "product", "axes", "name", "texts", "text", "values", "objects",
         "lists"],
)  # fmt: skip
def test_what_is_beyond_all_measure_is_a_sentence(
    body: bytes, header: str | None, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as told:
        read(body, header)
    assert len(str(told.value)) < 400


def test_an_input_is_given_as_json_or_as_binary_data_and_not_as_both() -> None:
    spec = TensorSpec("t", "int8", (2,))
    entry = {"name": "t", "datatype": "INT8", "shape": [2], "data": [1, 2],
             "parameters": {"binary_data_size": 2}}  # fmt: skip
    with pytest.raises(InputError, match="t: has data and binary_data_size; give one of them"):
        read_request(json.dumps({"inputs": [entry]}).encode(), b"\3\4", [spec], [], prepare)


def test_an_empty_input_of_an_absurd_shape_is_a_sentence() -> None:
    spec = TensorSpec("t", "float32", (None,) * 4)
    entry = {"name": "t", "datatype": "FP32", "shape": [0, *[2**31 - 1] * 3], "data": []}
    with pytest.raises(InputError, match="values in a tensor"):
        read_request(json.dumps({"inputs": [entry]}).encode(), b"", [spec], [], prepare)


def test_texts_are_no_array_of_the_longest() -> None:
    """NumPy would make one of 300 GB."""
    body = asked(data=["a" * 1_000_000] + ["a"] * 99_999, shape=[50_000, 2])
    with pytest.raises(InputError, match="no real numbers"):
        read(body)


def test_more_numbers_than_json_should_hold_are_answered_as_binary_data_alone() -> None:
    spec = TensorSpec("y", "uint8", (7_000_000,))
    value = {"y": np.zeros(spec.shape, np.uint8)}
    with pytest.raises(InputError, match=r"y takes more than 256 MB .*; ask for binary_data"):
        written("m", Request({}, {"y": False}), value, [spec])
    body, size = written("m", Request({}, {"y": True}), value, [spec])
    assert size is not None
    assert len(body) == size + 7_000_000
