"""TensorFlow's operators that are written here, each against TensorFlow itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import isfunction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.lower import operators
from onnxgraft.stages.convert.tensorflow.lower.operators import OPERATORS

tf = pytest.importorskip("tensorflow")

RNG = np.random.default_rng(0)


def outputs(folder: Path, build: Callable[[], Any], **feeds: Array) -> tuple[Array, Array]:
    """Return what TensorFlow and the converted graph compute of ``build``."""
    with tf.Graph().as_default() as graph:
        tf.identity(build(), name="out")
        (folder / "x.pb").write_bytes(graph.as_graph_def().SerializeToString())
    named = {f"{name}:0": value for name, value in feeds.items()}
    model, _ = Original.of(folder / "x.pb").lower()
    with Original.of(folder / "x.pb").run() as reference, OnnxRuntime(model.to_onnx()) as session:
        return reference.infer(named)["out:0"], session.infer(named)["out:0"]


def x(*shape: int | None, dtype: Any = None, name: str = "x") -> Any:
    return tf.compat.v1.placeholder(dtype or tf.float32, shape, name)


def numbers(*shape: int) -> Array:
    """Return whole numbers on both sides of 0, without 0."""
    return (RNG.integers(1, 9, shape) * RNG.choice([-1, 1], shape)).astype(np.int32)


WIDE = np.concatenate([
    [0.0, -0.0, 1e-7, -1e-7, 1e-3, -1e-3, 0.4, 0.5, 0.6, 3.0, 20.0, 80.0],
    -RNG.random(4),
]).astype(np.float32)[None]

FUNCTIONS = {
    "Erf": lambda v: tf.math.erf(v),
    "Erfc": lambda v: tf.math.erfc(v),
    "Expm1": lambda v: tf.math.expm1(v),
    "Log1p": lambda v: tf.math.log1p(v),
    "Gelu": lambda v: tf.nn.gelu(v, approximate=False),
    "Gelu_approximate": lambda v: tf.nn.gelu(v, approximate=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_one_value_is_tensorflow_s(tmp_path: Path, name: str) -> None:
    theirs, mine = outputs(tmp_path, lambda: FUNCTIONS[name](x(None, WIDE.size)), x=WIDE)
    # Relative, so that small values near 0 count; 1 - erf(x) cancels where erfc(x) is small.
    absolute = 1e-6 if name in ("Erfc", "Gelu", "Gelu_approximate") else 1e-12
    np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=absolute)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("xlogy", lambda a, b: tf.math.xlogy(a, b)),
        ("xlog1py", lambda a, b: tf.math.xlog1py(a, b)),
        ("xdivy", lambda a, b: tf.math.xdivy(a, b)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_zero_times_what_is_not_finite_is_zero(tmp_path: Path, name: str, build: Any) -> None:
    a = np.array([[0.0, 0.0, 2.0, -1.0]], np.float32)
    b = np.array([[0.0, -3.0, 0.5, 2.0]], np.float32)
    theirs, mine = outputs(tmp_path, lambda: build(x(None, 4), x(None, 4, name="y")), x=a, y=b)
    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def broken(value: Any) -> Any:
    """Return NaN wherever ``value`` is finite."""
    return tf.math.log(-tf.abs(value) - 1)


SELECTS = {
    "scalar": lambda v: tf.raw_ops.Select(condition=tf.reduce_sum(v) < 1e9, x=v, y=broken(v)),
    "row": lambda v: tf.raw_ops.Select(condition=tf.reduce_sum(v, 1) < 1e9, x=v, y=broken(v)),
    "element": lambda v: tf.raw_ops.Select(condition=v < 1e9, x=v, y=broken(v)),
    "v2": lambda v: tf.where(v < 1e9, v, broken(v)),
    "v2_broadcast": lambda v: tf.where(tf.reduce_sum(v, 1, keepdims=True) < 1e9, v, broken(v)),
    "v2_infinite": lambda v: tf.where(v < 1e9, v, v / 0.0),
}


@pytest.mark.parametrize("kind", SELECTS)
def test_a_select_of_data_selects(tmp_path: Path, kind: str) -> None:
    value = RNG.standard_normal((3, 5)).astype(np.float32)
    theirs, mine = outputs(tmp_path, lambda: SELECTS[kind](x(None, 5)), x=value)
    np.testing.assert_array_equal(theirs, value)
    np.testing.assert_array_equal(mine, value)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "floats"])
@pytest.mark.parametrize("name", ["FloorDiv", "FloorMod"])
def test_a_division_rounds_downwards(tmp_path: Path, name: str, whole: bool) -> None:
    kind = tf.int32 if whole else tf.float32
    build = {"FloorDiv": tf.math.floordiv, "FloorMod": tf.math.floormod}[name]
    a, b = (numbers(4, 6).astype(kind.as_numpy_dtype) for _ in "ab")
    theirs, mine = outputs(
        tmp_path, lambda: build(x(None, 6, dtype=kind), x(None, 6, dtype=kind, name="y")), x=a, y=b
    )
    np.testing.assert_array_equal(mine, theirs)


def test_the_rank_of_an_input_of_any_rank(tmp_path: Path) -> None:
    value = numbers(2, 3, 4).astype(np.float32)

    def build() -> Any:
        free = tf.compat.v1.placeholder(tf.float32, [None, None, None], "x")
        return tf.raw_ops.Tile(input=[tf.rank(free)], multiples=[tf.shape(free)[0]])

    theirs, mine = outputs(tmp_path, build, x=value)
    np.testing.assert_array_equal(mine, theirs)


# Where each operator of the table is tested; TFLite's by its own interpreter.
TESTED = {
    "Erfc": "test_a_function_of_one_value_is_tensorflow_s",
    "Expm1": "test_a_function_of_one_value_is_tensorflow_s",
    "FloorDiv": "test_a_division_rounds_downwards",
    "FloorMod": "test_a_division_rounds_downwards",
    "Log1p": "test_a_function_of_one_value_is_tensorflow_s",
    "Rank": "test_the_rank_of_an_input_of_any_rank",
    "Select": "test_a_select_of_data_selects",
    "SelectV2": "test_a_select_of_data_selects",
    "TFL_GELU": "tests/convert/test_formats.py",
    "Xdivy": "test_zero_times_what_is_not_finite_is_zero",
    "Xlog1py": "test_zero_times_what_is_not_finite_is_zero",
    "Xlogy": "test_zero_times_what_is_not_finite_is_zero",
}


@pytest.mark.parametrize("name", sorted({*OPERATORS, *TESTED}))
def test_every_operator_has_a_test(name: str) -> None:
    assert name in OPERATORS, f"{name} has no line in OPERATORS"
    assert name in TESTED, f"write a test of {name} against TensorFlow, and its line in TESTED"
    assert TESTED[name] in globals() or name == "TFL_GELU"


def test_every_handler_has_its_line() -> None:
    names = [name for name, value in vars(operators).items() if isfunction(value)]
    code = Path(operators.__file__).read_text()
    unused = [name for name in names if len(re.findall(rf"\b{name}\b", code)) == 1]
    assert not unused, f"no line in OPERATORS leads to {unused}"
