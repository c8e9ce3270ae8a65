"""TensorFlow's operators that are written here, each against TensorFlow itself."""

from __future__ import annotations

import re
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow import lower
from onnxgraft.stages.convert.tensorflow.lower.operators import OPERATORS
from onnxgraft.stages.convert.tensorflow.lower.writing import own_tables
from tests.convert.one_operator import outputs, x

tf = pytest.importorskip("tensorflow")

RNG = np.random.default_rng(0)


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


def test_log1p_of_float64_keeps_its_digits(tmp_path: Path) -> None:
    """onnxruntime has no Atanh of it."""
    value = np.array(
        [[0, 1e-300, 1e-17, -1e-9, 1e-3, -0.4, 0.5, 20, 1e300, np.inf, -1]], np.float64
    )
    theirs, mine = outputs(
        tmp_path, lambda: tf.math.log1p(x(1, value.size, dtype=tf.float64)), x=value
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-15)


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


# Beyond what float32 counts, and the lowest of all.
EXTREME = [-(2**31), -(2**31) + 1, -(2**24) - 1, -1, 0, 2**24 + 1, 2**31 - 1]


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("name", ["FloorDiv", "FloorMod"])
def test_a_division_of_extreme_whole_numbers_is_exact(tmp_path: Path, name: str, kind: str) -> None:
    build = {"FloorDiv": tf.math.floordiv, "FloorMod": tf.math.floormod}[name]
    a, b = (v.reshape(1, -1).astype(kind) for v in np.meshgrid(EXTREME, [2, 3, -3, 7, 2**24]))
    free = [(1, a.size), getattr(tf, kind)]
    theirs, mine = outputs(
        tmp_path, lambda: build(x(*free[0], dtype=free[1]), x(*free[0], dtype=free[1], name="y")),
        x=a, y=b,
    )  # fmt: skip
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_a_division_of_the_lowest_narrow_number_is_exact(tmp_path: Path, kind: str) -> None:
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    a, b = (v.reshape(1, -1).astype(kind) for v in np.meshgrid([low, -1, high], [2, 3, -3, 7]))
    free = [(1, a.size), getattr(tf, kind)]
    theirs, mine = outputs(
        tmp_path, lambda: x(*free[0], dtype=free[1]) // x(*free[0], dtype=free[1], name="y"),
        x=a, y=b,
    )  # fmt: skip
    np.testing.assert_array_equal(mine, theirs)


def test_what_is_left_of_a_division_of_large_floats_is_exact(tmp_path: Path) -> None:
    a, b = (
        v.reshape(1, -1).astype(np.float32)
        for v in np.meshgrid([1e8, -1e8, 1e4, -1e4, 12345.678, -5, 0], [3, -3, 0.7, -0.7, 1e-3])
    )
    theirs, mine = outputs(
        tmp_path, lambda: tf.math.floormod(x(1, a.size), x(1, a.size, name="y")), x=a, y=b
    )
    np.testing.assert_array_equal(mine, theirs)


def test_an_angle_is_in_its_quadrant_with_zeros_and_infinities_too(tmp_path: Path) -> None:
    ends = [0.0, -0.0, 1.0, -2.0, 1e-30, -1e-30, 1e30, np.inf, -np.inf]
    y, b = (v.reshape(1, -1).astype(np.float32) for v in np.meshgrid(ends, ends))
    theirs, mine = outputs(
        tmp_path, lambda: tf.math.atan2(x(1, y.size), x(1, y.size, name="y")), x=y, y=b
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-37)


def test_the_rank_of_an_input_of_any_rank(tmp_path: Path) -> None:
    value = numbers(2, 3, 4).astype(np.float32)

    def build() -> Any:
        free = tf.compat.v1.placeholder(tf.float32, [None, None, None], "x")
        return tf.raw_ops.Tile(input=[tf.rank(free)], multiples=[tf.shape(free)[0]])

    theirs, mine = outputs(tmp_path, build, x=value)
    np.testing.assert_array_equal(mine, theirs)


def test_what_is_left_of_a_division_towards_0(tmp_path: Path) -> None:
    a, b = (numbers(4, 6).astype(np.float32) for _ in "ab")
    theirs, mine = outputs(
        tmp_path, lambda: tf.raw_ops.TruncateMod(x=x(None, 6), y=x(None, 6, name="y")), x=a, y=b
    )
    np.testing.assert_array_equal(mine, theirs)


def test_a_product_with_zero_is_zero(tmp_path: Path) -> None:
    a = np.array([[np.inf, np.nan, 2.0, 3.0]], np.float32)
    b = np.array([[0.0, 0.0, 0.0, 2.0]], np.float32)
    theirs, mine = outputs(
        tmp_path, lambda: tf.math.multiply_no_nan(x(1, 4), x(1, 4, name="y")), x=a, y=b
    )
    np.testing.assert_array_equal(mine, theirs)


BITS = {
    "BitwiseAnd": lambda v: tf.bitwise.bitwise_and(v, 6),
    "BitwiseOr": lambda v: tf.bitwise.bitwise_or(v, 6),
    "BitwiseXor": lambda v: tf.bitwise.bitwise_xor(v, 6),
    "Invert": lambda v: tf.bitwise.invert(v),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_are_taken_one_by_one(tmp_path: Path, name: str) -> None:
    value = numbers(4, 6)
    theirs, mine = outputs(tmp_path, lambda: BITS[name](x(None, 6, dtype=tf.int32)), x=value)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
@pytest.mark.parametrize("way", ["left", "right"])
def test_bits_are_shifted(tmp_path: Path, way: str, kind: str) -> None:
    def build() -> Any:
        shift = getattr(tf.bitwise, f"{way}_shift")
        return shift(x(None, dtype=kind), x(None, dtype=kind, name="y"))

    limits = np.iinfo(kind)
    values = [limits.min, limits.min + 1, limits.max // 3, 0, 1, 3, limits.max - 1, limits.max]
    a = np.repeat(np.array(values, kind), 5)
    b = np.tile(np.array([0, 1, 3, limits.bits - 2, limits.bits - 1], kind), len(values))
    theirs, mine = outputs(tmp_path, build, x=a, y=b)
    assert mine.dtype == theirs.dtype
    np.testing.assert_array_equal(mine, theirs)


LIKE = {
    "read_beside": lambda v: tf.where(v[:1] > 0, v, tf.zeros_like(v)),
    "read_alone": lambda v: tf.where(v[:1] > 0, v[:1], tf.zeros_like(v)),
    "an_output": lambda v: tf.ones_like(v),
    "of_ones": lambda v: v + tf.ones_like(v),
}


@pytest.mark.parametrize("kind", LIKE)
def test_zeros_like_a_tensor_have_its_shape(tmp_path: Path, kind: str) -> None:
    value = RNG.standard_normal((3, 4)).astype(np.float32)
    theirs, mine = outputs(tmp_path, lambda: LIKE[kind](x(None, 4)), x=value)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("keep", [False, True], ids=["dropped", "kept"])
def test_a_norm_over_axes(tmp_path: Path, keep: bool) -> None:
    value = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    theirs, mine = outputs(
        tmp_path,
        lambda: tf.math.reduce_euclidean_norm(x(None, 3, 4), [0, -1], keepdims=keep),
        x=value,
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


# Of 8 bits and with 0 within, QuantizeLinear does it; the others it can't.
FAKES = {
    "bytes": (-0.3, 3.1, 8, False),
    "narrow": (-3.0, 3.0, 8, True),
    "four_bits": (-0.3, 3.1, 4, False),
    "above_0": (0.3, 3.1, 8, False),
    "below_0": (-3.1, -0.3, 8, False),
}


@pytest.mark.parametrize("kind", FAKES)
def test_fake_quantization_rounds_to_the_same_steps(tmp_path: Path, kind: str) -> None:
    value = 2 * RNG.standard_normal((4, 50)).astype(np.float32)
    theirs, mine = outputs(
        tmp_path,
        lambda: tf.quantization.fake_quant_with_min_max_vars(x(None, 50), *FAKES[kind]),
        x=value,
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_fake_quantization_by_channels(tmp_path: Path) -> None:
    value = 2 * RNG.standard_normal((50, 3)).astype(np.float32)
    theirs, mine = outputs(
        tmp_path,
        lambda: tf.quantization.fake_quant_with_min_max_vars_per_channel(
            x(None, 3), [-1.0, -2.0, -0.1], [1.0, 2.0, 3.0], narrow_range=True
        ),
        x=value,
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
def test_the_shapes_of_several_tensors(tmp_path: Path, free: bool) -> None:
    size = None if free else 3
    a, b = np.zeros((3, 2), np.float32), np.zeros((4, 3), np.float32)
    theirs, mine = outputs(
        tmp_path,
        lambda: tf.concat(
            tf.raw_ops.ShapeN(input=[x(size, 2), x(4, size, name="y")], out_type=tf.int32), 0
        ),
        x=a,
        y=b,
    )
    np.testing.assert_array_equal(mine, theirs)


def test_what_a_handler_raises_names_the_operator(tmp_path: Path) -> None:
    """A depthwise convolution whose kernel's channels nothing records."""

    def build() -> Any:
        kernel = tf.compat.v1.placeholder(tf.float32, [3, 3, None, 1], "y")
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x(None, 8, 8, None), filter=kernel, strides=[1, 1, 1, 1], padding="SAME"
        )

    with pytest.raises(NotSupportedError, match=r"DepthwiseConv2dNative \(.*\) can't be converted"):
        outputs(tmp_path, build, x=RNG.random((1, 8, 8, 2)), y=RNG.random((3, 3, 2, 1)))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("kind", ["int32", "int64", "float32"])
def test_several_tensors_are_added_up(tmp_path: Path, kind: str, count: int) -> None:
    def build() -> Any:
        value = x(None, 3, dtype=tf.as_dtype(kind))
        return tf.raw_ops.AddN(inputs=[value, *[value * tf.cast(2, value.dtype)] * (count - 1)])

    value = np.array([[1, -2, 2**24 + 1]], kind)
    theirs, mine = outputs(tmp_path, build, x=value)
    np.testing.assert_array_equal(mine, theirs)


# Where each operator of the table is tested; TFLite's by its own interpreter.
TESTED = {
    "Add": "tests/convert/test_operators_images.py",
    "AddN": "test_several_tensors_are_added_up",
    "AddV2": "tests/convert/test_operators_images.py",
    "AdjustSaturation": "tests/convert/test_operators_images.py",
    "Angle": "tests/convert/test_operators_images.py",
    "BitwiseAnd": "test_bits_are_taken_one_by_one",
    "BitwiseOr": "test_bits_are_taken_one_by_one",
    "BitwiseXor": "test_bits_are_taken_one_by_one",
    "Bucketize": "tests/convert/test_operators_places.py",
    "Cast": "tests/convert/test_operators_images.py",
    "Complex": "tests/convert/test_operators_images.py",
    "ComplexAbs": "tests/convert/test_operators_images.py",
    "ConcatV2": "tests/convert/test_operators_images.py",
    "Conj": "tests/convert/test_operators_images.py",
    "CropAndResize": "tests/convert/test_operators_images.py",
    "DenseBincount": "tests/convert/test_operators_places.py",
    "Einsum": "tests/convert/test_operators_images.py",
    "Erfc": "test_a_function_of_one_value_is_tensorflow_s",
    "EuclideanNorm": "test_a_norm_over_axes",
    "ExpandDims": "tests/convert/test_operators_images.py",
    "Atan2": "test_an_angle_is_in_its_quadrant_with_zeros_and_infinities_too",
    "Expm1": "test_a_function_of_one_value_is_tensorflow_s",
    "ExtractImagePatches": "tests/convert/test_operators_images.py",
    "FFT": "tests/convert/test_operators_images.py",
    "FFT2D": "tests/convert/test_operators_images.py",
    "FakeQuantWithMinMaxVars": "test_fake_quantization_rounds_to_the_same_steps",
    "FakeQuantWithMinMaxVarsPerChannel": "test_fake_quantization_by_channels",
    "FloorDiv": "test_a_division_rounds_downwards",
    "FloorMod": "test_a_division_rounds_downwards",
    "GatherV2": "tests/convert/test_operators_images.py",
    "Greater": "tests/convert/test_operators_places.py",
    "HSVToRGB": "tests/convert/test_operators_images.py",
    "IFFT": "tests/convert/test_operators_images.py",
    "IFFT2D": "tests/convert/test_operators_images.py",
    "IRFFT": "tests/convert/test_operators_images.py",
    "IRFFT2D": "tests/convert/test_operators_images.py",
    "Imag": "tests/convert/test_operators_images.py",
    "Invert": "test_bits_are_taken_one_by_one",
    "InvertPermutation": "tests/convert/test_operators_places.py",
    "LeftShift": "test_bits_are_shifted",
    "Less": "tests/convert/test_operators_places.py",
    "Log1p": "test_a_function_of_one_value_is_tensorflow_s",
    "LowerBound": "tests/convert/test_operators_places.py",
    "MatrixBandPart": "tests/convert/test_operators_places.py",
    "MatrixDiagV3": "tests/convert/test_operators_places.py",
    "MatrixSetDiagV3": "tests/convert/test_operators_places.py",
    "MaxPoolWithArgmax": "tests/convert/test_operators_images.py",
    "Mean": "tests/convert/test_operators_images.py",
    "Mul": "tests/convert/test_operators_images.py",
    "MulNoNan": "test_a_product_with_zero_is_zero",
    "Neg": "tests/convert/test_operators_images.py",
    "NonMaxSuppressionV5": "tests/convert/test_operators_images.py",
    "OneHot": "tests/convert/test_operators_places.py",
    "OnesLike": "test_zeros_like_a_tensor_have_its_shape",
    "Pack": "tests/convert/test_operators_images.py",
    "Pad": "tests/convert/test_operators_images.py",
    "RFFT": "tests/convert/test_operators_images.py",
    "RFFT2D": "tests/convert/test_operators_images.py",
    "RGBToHSV": "tests/convert/test_operators_images.py",
    "Rank": "test_the_rank_of_an_input_of_any_rank",
    "Real": "tests/convert/test_operators_images.py",
    "Reshape": "tests/convert/test_operators_images.py",
    "ResizeArea": "tests/convert/test_operators_images.py",
    "ResizeBicubic": "tests/convert/test_operators_images.py",
    "ResizeBilinear": "tests/convert/test_operators_images.py",
    "ResizeNearestNeighbor": "tests/convert/test_operators_images.py",
    "ReverseSequence": "tests/convert/test_operators_places.py",
    "ReverseV2": "tests/convert/test_operators_images.py",
    "RightShift": "test_bits_are_shifted",
    "ScaleAndTranslate": "tests/convert/test_operators_images.py",
    "ScatterNd": "tests/convert/test_operators_places.py",
    "SegmentMax": "tests/convert/test_operators_places.py",
    "SegmentMean": "tests/convert/test_operators_places.py",
    "SegmentMin": "tests/convert/test_operators_places.py",
    "SegmentProd": "tests/convert/test_operators_places.py",
    "SegmentSum": "tests/convert/test_operators_places.py",
    "Select": "test_a_select_of_data_selects",
    "SelectV2": "test_a_select_of_data_selects",
    "ShapeN": "test_the_shapes_of_several_tensors",
    "SparseSegmentMean": "tests/convert/test_operators_places.py",
    "SparseSegmentMeanWithNumSegments": "tests/convert/test_operators_places.py",
    "SparseSegmentSqrtN": "tests/convert/test_operators_places.py",
    "SparseSegmentSqrtNWithNumSegments": "tests/convert/test_operators_places.py",
    "SparseSegmentSum": "tests/convert/test_operators_places.py",
    "SparseSegmentSumWithNumSegments": "tests/convert/test_operators_places.py",
    "SparseSoftmaxCrossEntropyWithLogits": "tests/convert/test_operators_places.py",
    "Squeeze": "tests/convert/test_operators_images.py",
    "StridedSlice": "tests/convert/test_operators_images.py",
    "Sub": "tests/convert/test_operators_images.py",
    "Sum": "tests/convert/test_operators_images.py",
    "TFL_GELU": "tests/convert/test_formats.py",
    "TensorScatterMax": "tests/convert/test_operators_places.py",
    "TensorScatterMin": "tests/convert/test_operators_places.py",
    "Tile": "tests/convert/test_operators_images.py",
    "TopKV2": "tests/convert/test_operators_places.py",
    "Transpose": "tests/convert/test_operators_images.py",
    "TruncateMod": "test_what_is_left_of_a_division_towards_0",
    "UnsortedSegmentMax": "tests/convert/test_operators_places.py",
    "UnsortedSegmentMin": "tests/convert/test_operators_places.py",
    "UnsortedSegmentProd": "tests/convert/test_operators_places.py",
    "UnsortedSegmentSum": "tests/convert/test_operators_places.py",
    "UpperBound": "tests/convert/test_operators_places.py",
    "Xdivy": "test_zero_times_what_is_not_finite_is_zero",
    "Xlog1py": "test_zero_times_what_is_not_finite_is_zero",
    "Xlogy": "test_zero_times_what_is_not_finite_is_zero",
    "ZerosLike": "test_zeros_like_a_tensor_have_its_shape",
}


@pytest.mark.parametrize("name", sorted({*OPERATORS, *TESTED}))
def test_every_operator_has_a_test(name: str) -> None:
    assert name in OPERATORS, f"{name} has no line in OPERATORS"
    assert name in TESTED, f"write a test of {name} against TensorFlow, and its line in TESTED"
    assert TESTED[name] in globals() or Path(TESTED[name]).is_file()


def test_every_handler_is_used() -> None:
    folder = Path(next(iter(lower.__path__)))
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    for path in folder.glob("*.py"):
        module = import_module(f"{lower.__name__}.{path.stem}")
        names = [name for name, value in vars(module).items() if isfunction(value)]
        unused = [name for name in names if len(re.findall(rf"\b{name}\b", code)) == 1]
        assert not unused, f"nothing leads to {unused}"


def test_the_page_lists_as_refused_what_nothing_writes() -> None:
    """Where an operator is refused in some of its forms alone, a test of its own says so."""
    page = (Path(__file__).parents[2] / "docs/convert.md").read_text()
    rows = page.split("## What is refused of TensorFlow")[1].split("\n## ")[0].splitlines()
    no_function = [row for row in rows if row.startswith("|") and " with " not in row]
    names = {name for row in no_function for name in re.findall(r"`([A-Z]\w+)`", row.split("|")[1])}
    in_part = {"MaxPoolWithArgmax", "Complex", "RFFT", "LookupTableFindV2"}
    written = OPERATORS.keys() | set().union(*own_tables())
    assert len(names) > 20
    assert not (names - in_part) & written
