"""Values in the type of an input: none becomes another one, on any of the ways data take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.commands._infer import infer
from onnxgraft.data.casting import cast, check_recipe
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import as_samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec

BYTES = TensorSpec("x", "uint8", ("N", 4, 4, 3))
IDS = TensorSpec("ids", "int64", ("N", 4))
WHOLE = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def spec(dtype: str) -> TensorSpec:
    return TensorSpec("x", dtype, ("N",))


@pytest.mark.parametrize(
    ("values", "dtype", "told"),
    [
        (np.linspace(0, 1, 5), "uint8", "3 of 5 values are no whole numbers, such as 0.25"),
        (np.array([3.0, -100.0]), "uint8", "1 of 2 values are out of range, such as -100"),
        (np.array([300], np.int32), "uint8", "out of range, such as 300"),
        (np.array([2**31], np.int64), "int32", "out of range, such as 2147483648"),
        (np.array([2.0**63]), "int64", "out of range"),
        (np.array([-1], np.int8), "uint64", "out of range, such as -1"),
        (np.array([np.nan, 1.0]), "int32", "1 of 2 values are no whole numbers, such as nan"),
        (np.array([np.inf], np.float32), "int64", "no whole numbers, such as inf"),
        (np.array([0, 2]), "bool", "neither 0 nor 1, such as 2"),
        (np.array([70000.0, 1.0], np.float32), "float16", "1 of 2 values are more than float16"),
        (np.array([1e300]), "float32", "more than float32 holds"),
        (np.array([1j]), "float32", "values of complex128 are no real numbers"),
    ],
)
def test_a_value_that_would_become_another_is_refused(values: Any, dtype: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        cast(values, spec(dtype), "a.npz[3]", "do something")
    assert str(caught.value).startswith("a.npz[3]: ")
    assert told in str(caught.value)
    assert f"the input x (N) {dtype} takes " in str(caught.value)
    assert str(caught.value).endswith("; do something")


@given(
    st.lists(st.integers(-(2**63), 2**64 - 1) | st.integers(-300, 300), min_size=1, max_size=4),
    st.sampled_from(WHOLE), st.sampled_from([*WHOLE, "float32", "float64"]),
)  # fmt: skip
def test_a_cast_to_a_whole_number_is_exact_or_refused(
    numbers: list[int], wanted: str, given_as: str
) -> None:
    try:
        values = np.array(numbers, given_as)
    except OverflowError:
        return
    exact = [int(value) for value in values.tolist()]
    limits = np.iinfo(wanted)
    if all(limits.min <= value <= limits.max for value in exact):
        assert cast(values, spec(wanted), "x", "").tolist() == exact
    else:
        with pytest.raises(InputError, match="out of range"):
            cast(values, spec(wanted), "x", "")


def test_what_is_rounded_is_no_other_value() -> None:
    assert cast(np.array([0.1]), spec("float32"), "x", "").dtype == np.float32
    assert cast(np.array([-np.inf, np.nan]), spec("float16"), "x", "")[0] == -np.inf
    assert cast(np.array([3.0, 0.0]), spec("uint8"), "x", "").tolist() == [3, 0]
    assert cast(np.array([True]), spec("int8"), "x", "").tolist() == [1]


@pytest.mark.parametrize(
    ("recipe", "dtype", "told"),
    [
        (Preprocess(mean=(100.0,)), "uint8", "mean = [100.0]: of a pixel of 0, 3 of 3 values"),
        (Preprocess(scale=(1 / 255,)), "uint8", "no whole numbers"),
        (Preprocess(mean=(128.0, 128.0, 128.5)), "int8", "1 of 3 values are no whole numbers"),
        (Preprocess(mean=(1.0,), scale=(2.0,)), "int8", "and scale = [2.0]: of a pixel of 65,"),
    ],
)  # fmt: skip
def test_a_recipe_that_no_whole_number_input_can_hold_is_refused_by_its_line(
    recipe: Preprocess, dtype: str, told: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_recipe(recipe, TensorSpec("x", dtype, ("N", 4, 4, 3)))
    assert str(caught.value).startswith("[preprocess] ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        (Preprocess(), "uint8"),
        (Preprocess(mean=(128.0,)), "int8"),
        (Preprocess(mean=(128.0,), color="gray"), "int16"),
        (Preprocess(mean=(103.94, 116.78, 123.68), scale=(0.017,)), "float16"),
    ],
)
def test_a_recipe_that_fits_passes(recipe: Preprocess, dtype: str) -> None:
    check_recipe(recipe, TensorSpec("x", dtype, ("N", 4, 4, 3)))


def test_samples_refuse_the_recipe_before_any_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"\[preprocess\] mean = \[100\.0\]"):
        open_samples(tmp_path, [BYTES], Preprocess(mean=(100.0,)))
    floats = TensorSpec("x", "float32", ("N", 4, 4, 3))
    samples = open_samples(tmp_path, [floats], Preprocess(mean=(100.0,)))
    with pytest.raises(InputError, match=r"\[preprocess\] mean = \[100\.0\]"):
        as_samples(samples, [BYTES])


def test_an_image_that_does_not_fit_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 200, np.uint8))
    samples = open_samples(tmp_path, [TensorSpec("x", "int8", ("N", 4, 4, 3))])
    with pytest.raises(InputError, match=r"a\.png: 48 of 48 values are out of range, such as 200"):
        samples.at(0)


@pytest.mark.parametrize(
    "x", [np.array([[0.9, 1.9, 2.9, -0.5]], np.float32), np.array([[2.0**63] * 4])]
)
def test_ids_that_would_be_cut_name_their_row(tmp_path: Path, x: Array) -> None:
    np.savez(tmp_path / "a.npz", ids=x)
    with pytest.raises(InputError, match=r"a\.npz\[0\]: 4 of 4 values .* the input ids"):
        list(open_samples(tmp_path / "a.npz", [IDS]))


def test_infer_refuses_what_calibration_refuses(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (uint8[N, 4, 4, 3] x) => (float[N, 4, 4, 3] y) { y = Cast<to = 1>(x) }"""
    )
    onnx.save(graph, tmp_path / "m.onnx")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"\[preprocess\] mean = \[100\.0\]"):
        infer(tmp_path / "m.onnx", [tmp_path / "a.png"], preprocess=Preprocess(mean=(100.0,)))
    assert infer(tmp_path / "m.onnx", [tmp_path / "a.png"]).passed
