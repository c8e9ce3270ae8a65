"""_shapes: symbolic shapes and values, held against what onnxruntime really computes."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from onnxgraft.graph.dims import Dim
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array
from tests.conftest import model_of
from tests.surgery.helpers import infer, normal

N, H = ("N",), ("H",)
BATCHES = (1, 3)


# Dimensions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "product"),
    [
        (Dim(2), Dim(3), Dim(6)),
        (Dim(1, N), Dim(3), Dim(3, N)),
        (Dim(2, N), Dim(3, N), Dim(6, ("N", "N"))),
        (Dim(2, N), Dim(3, H), Dim(6, ("H", "N"))),
    ],
    ids=["numbers", "symbol_number", "square", "two_symbols"],
)
def test_a_product_multiplies_numbers_and_joins_symbols(a: Dim, b: Dim, product: Dim) -> None:
    assert a.times(b) == product
    assert b.times(a) == product


@pytest.mark.parametrize(
    ("a", "b", "quotient"),
    [
        (Dim(6), Dim(3), Dim(2)),
        (Dim(6, N), Dim(3), Dim(2, N)),
        (Dim(6, ("H", "N")), Dim(3, N), Dim(2, H)),
        (Dim(6, ("N", "N")), Dim(1, N), Dim(6, N)),
        (Dim(6, N), Dim(6, N), Dim(1)),
        (Dim(7), Dim(2), None),
        (Dim(6, N), Dim(2, H), None),
        (Dim(6), Dim(2, N), None),
        (Dim(6, N), Dim(2, ("N", "N")), None),
        (Dim(6), Dim(0), None),
    ],
    ids=[
        "numbers", "symbol_number", "symbol_taken", "one_of_two", "itself", "remainder",
        "other_symbol", "no_symbol", "too_few", "by_zero",
    ],
)  # fmt: skip
def test_a_quotient_is_exact_or_unknown(a: Dim, b: Dim, quotient: Dim | None) -> None:
    assert a.over(b) == quotient


@pytest.mark.parametrize(
    ("dim", "text"),
    [(Dim(5), "5"), (Dim(1, N), "N"), (Dim(6, ("H", "N")), "H*N*6"), (Dim(1), "1"), (Dim(0), "0")],
    ids=["number", "symbol", "both", "one", "zero"],
)
def test_a_dimension_is_written_as_onnx_takes_it(dim: Dim, text: str) -> None:
    assert str(dim) == text


def test_only_a_dimension_without_symbols_is_fixed() -> None:
    assert Dim(3).fixed
    assert not Dim(3, N).fixed


# Values of shape tensors ----------------------------------------------------------------------


NUMBERS: dict[str, Array] = {
    "k0": np.array([0]),
    "k1": np.array([1]),
    "k2": np.array([2]),
    "k3": np.array([3]),
    "k4": np.array([4]),
    "m1": np.array([-1]),
    "m2": np.array([-2]),
    "m3": np.array([-3]),
    "m4": np.array([-4]),
    "m9": np.array([-9]),
    "s0": np.array(0),
    "s2": np.array(2),
    "sm1": np.array(-1),
    "picks": np.array([2, 0, -1]),
    "k24": np.array([2, 4, 2, 1]),
    "top": np.array([np.iinfo(np.int64).max]),
    "low": np.array([np.iinfo(np.int64).min]),
}

# x is (N, 6, 4, 5). Each fragment computes v from s = Shape(x).
VALUES = {
    "shape": "v = Identity(s)",
    "shape_start": "v = Shape<start=1>(x)",
    "shape_start_end": "v = Shape<start=-3, end=-1>(x)",
    "shape_end": "v = Shape<end=2>(x)",
    "slice": "v = Slice(s, k1, k3)",
    "slice_to_the_end": "v = Slice(s, k2, top)",
    "slice_negative_start": "v = Slice(s, m2, top)",
    "slice_negative_end": "v = Slice(s, k0, m1)",
    "slice_far_start": "v = Slice(s, m9, k2)",
    "slice_axis": "v = Slice(s, k1, k3, k0)",
    "slice_negative_axis": "v = Slice(s, k1, k3, m1)",
    "slice_step_two": "v = Slice(s, k0, top, k0, k2)",
    "slice_backwards": "v = Slice(s, m1, low, k0, m1)",
    "slice_backwards_from_top": "v = Slice(s, top, low, k0, m1)",
    "slice_backwards_some": "v = Slice(s, k3, k0, k0, m1)",
    "slice_backwards_negative_end": "v = Slice(s, m1, m3, k0, m1)",
    "slice_backwards_end_minus_four": "v = Slice(s, m1, m4, k0, m1)",
    "slice_backwards_by_two": "v = Slice(s, k3, low, k0, m2)",
    "slice_backwards_from_before_the_start": "v = Slice(s, m9, low, k0, m1)",
    "slice_empty": "v = Slice(s, k2, k1)",
    "gather": "v = Gather(s, k2)",
    "gather_scalar": "v = Gather(s, s2)",
    "gather_negative": "v = Gather(s, sm1)",
    "gather_many": "v = Gather(s, picks)",
    "concat": "a = Slice(s, k0, k1)\n b = Slice(s, k3, top)\n v = Concat<axis=0>(a, m1, b)",
    "unsqueeze": "a = Gather(s, s0)\n v = Unsqueeze(a, k0)",
    "squeeze": "a = Slice(s, k0, k1)\n v = Squeeze(a, k0)",
    "squeeze_no_axes": "a = Slice(s, k2, k3)\n v = Squeeze(a)",
    "reshape_to_vector": "a = Gather(s, s2)\n v = Reshape(a, m1)",
    "cast_int32": "v = Cast<to=6>(s)",
    "cast_there_and_back": "a = Cast<to=6>(s)\n v = Cast<to=7>(a)",
    "mul_by_constant": "a = Gather(s, k0)\n v = Mul(a, k4)",
    "mul_by_dimension": "a = Gather(s, k0)\n b = Gather(s, k1)\n v = Mul(a, b)",
    "mul_broadcast": "v = Mul(s, k2)",
    "mul_broadcast_scalar": "v = Mul(s2, s)",
    "div": "a = Gather(s, k1)\n v = Div(a, k2)",
    "div_of_the_batch_times_four": "a = Mul(s, k4)\n v = Div(a, k24)",
    "add": "a = Gather(s, k1)\n v = Add(a, k4)",
    "add_the_batch_to_itself": "a = Gather(s, k0)\n v = Add(a, a)",
    "sub": "a = Gather(s, k1)\n v = Sub(a, k4)",
    "reduce_prod": "a = Slice(s, k1, top)\n v = ReduceProd<keepdims=1>(a)",
    "reduce_prod_scalar": "v = ReduceProd<keepdims=0>(s)",
}  # fmt: skip


def shape_model(body: str) -> Model:
    """Return a model that computes v, and hands its elements out as a vector."""
    constants = {n: v for n, v in NUMBERS.items() if n in body or n == "m1"}
    return model_of(
        f"""agraph (float[N,6,4,5] x) => (int64[K] elements) {{
            s = Shape(x)
            {body}
            whole = Cast<to=7>(v)
            elements = Reshape(whole, m1)
        }}""",
        constants,
    )


def number(dim: Dim, batch: int) -> int:
    assert set(dim.symbols) <= {"N"}
    return dim.number * math.prod([batch] * len(dim.symbols))


@pytest.mark.parametrize("case", VALUES)
def test_a_shape_tensor_has_the_value_that_onnxruntime_computes(case: str) -> None:
    model = shape_model(VALUES[case])
    value = Shapes(model.graph).value(model.graph.tensors()["v"])
    assert value is not None
    assert None not in value
    for batch in BATCHES:
        real = infer(model, {"x": normal(batch, 6, 4, 5)})["elements"]
        assert [number(dim, batch) for dim in value if dim is not None] == real.tolist()


@pytest.mark.parametrize(
    "body",
    [
        "a = Gather(s, k0)\n v = Div(a, k2)",
        "a = Gather(s, k0)\n v = Add(a, k1)",
        "a = Gather(s, k1)\n v = Div(a, k4)",
    ],
    ids=["half_the_batch", "batch_plus_one", "rounded"],
)
def test_an_element_that_no_product_is_stays_unknown(body: str) -> None:
    model = shape_model(body)
    assert Shapes(model.graph).value(model.graph.tensors()["v"]) == (None,)


@pytest.mark.parametrize(
    "body",
    ["a = Cast<to=1>(s)\n v = Cast<to=7>(a)", "a = NonZero(s)\n v = Reshape(a, m1)"],
    ids=["through_float", "data"],
)
def test_a_value_that_is_not_followed_is_unknown(body: str) -> None:
    model = shape_model(body)
    assert Shapes(model.graph).value(model.graph.tensors()["v"]) is None


# Shapes ---------------------------------------------------------------------------------------


CONSTANTS: dict[str, Array] = {
    **NUMBERS,
    "flat": np.array([-1, 120]),
    "copied": np.array([0, 0, -1]),
    "copied_free": np.array([0, -1]),
    "rows": np.array([-1, 5]),
    "mixed": np.array([0, 3, 2, -1]),
    "fixed_tail": np.array([-1, 2, 60]),
    "swapped": np.array([4, -1, 5, 0]),
    "ones": np.array([1, 1, 1, 1]),
    "grown": np.array([2, 1, 6, 4, 5]),
    "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]),
    "crop": np.array([1, 2]),
    "crop_end": np.array([3, 9]),
    "crop_axes": np.array([2, 3]),
    "w": normal(8, 6, 3, 3),
    "wt": normal(6, 2, 2, 2),
    "m": normal(5, 7),
    "row": normal(5),
    "full": normal(1, 6, 1, 1),
    "zero": np.array(0, np.float32),
    "one_float": np.array(1, np.float32),
}

SHAPED = {
    "reshape_batch_free": "y = Reshape(x, flat)",
    "reshape_zeros_and_free": "y = Reshape(x, copied)",
    "reshape_zero_and_free": "y = Reshape(x, copied_free)",
    "reshape_rows": "y = Reshape(x, rows)",
    "reshape_mixed": "y = Reshape(x, mixed)",
    "reshape_fixed_tail": "y = Reshape(x, fixed_tail)",
    "reshape_twice": "a = Reshape(x, rows)\n y = Reshape(a, flat)",
    "reshape_to_own_shape": "s = Shape(x)\n a = Reshape(x, rows)\n y = Reshape(a, s)",
    "reshape_computed": """s = Shape(x)
        n = Slice(s, k0, k1)
        c = Gather(s, k3)
        t = Concat<axis=0>(n, m1, c)
        y = Reshape(x, t)""",
    "reshape_reversed": "s = Shape(x)\n t = Slice(s, m1, low, k0, m1)\n y = Reshape(x, t)",
    "flatten": "y = Flatten(x)",
    "expand": "y = Expand(x, grown)",
    "expand_same": "y = Expand(x, ones)",
    "expand_to_shape": "s = Shape(x)\n y = Expand(full, s)",
    "constant_of_shape": "s = Shape(x)\n y = ConstantOfShape(s)",
    "transpose": "y = Transpose<perm=[0,3,1,2]>(x)",
    "conv": "y = Conv<pads=[1,1,0,0], strides=[2,1]>(x, w)",
    "conv_transpose": "y = ConvTranspose<strides=[2,2], group=2>(x, wt)",
    "max_pool": "y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)",
    "pad": "y = Pad(x, pads)",
    "slice": "y = Slice(x, crop, crop_end, crop_axes)",
    "concat": "y = Concat<axis=1>(x, x)",
    "concat_of_reshaped": "a = Reshape(x, rows)\n y = Concat<axis=1>(a, a)",
    "matmul": "y = MatMul(x, m)",
    "gemm": "a = Reshape(x, rows)\n y = Gemm(a, m)",
    "add_row": "y = Add(row, x)",
    "add_full": "y = Add(x, full)",
    "where": "c = Greater(x, zero)\n y = Where(c, x, one_float)",
    "reduce": "y = ReduceMean<axes=[2,3]>(x)",
    "reduce_without_keepdims": "y = ReduceMean<axes=[1,-1], keepdims=0>(x)",
    "softmax": "y = Softmax(x)",
    "batch_merged_and_parted": """a = Reshape(x, rows)
        b = Relu(a)
        s = Shape(x)
        y = Reshape(b, s)""",
}  # fmt: skip


def tensor_model(body: str) -> Model:
    """Return a model that computes y, and hands its shape out."""
    return model_of(
        f"agraph (float[N,6,4,5] x) => (int64[K] real) {{ {body}\n real = Shape(y) }}",
        {name: value for name, value in CONSTANTS.items() if name in body},
    )


@pytest.mark.parametrize("case", SHAPED)
def test_a_tensor_has_the_shape_that_onnxruntime_computes(case: str) -> None:
    model = tensor_model(SHAPED[case])
    shape = Shapes(model.graph).shape(model.graph.tensors()["y"])
    assert shape is not None
    for batch in BATCHES:
        real = infer(model, {"x": normal(batch, 6, 4, 5)})["real"]
        assert [number(dim, batch) for dim in shape] == real.tolist()


@pytest.mark.parametrize("axis", [2, -1])
def test_a_flatten_that_takes_the_batch_in_leaves_only_that_dimension_open(axis: int) -> None:
    model = tensor_model(f"y = Flatten<axis={axis}>(x)")
    shape = Shapes(model.graph).shape(model.graph.tensors()["y"])
    assert shape is not None
    for batch in BATCHES:
        rows, columns = infer(model, {"x": normal(batch, 6, 4, 5)})["real"]
        assert not shape[0].fixed and shape[0] != Dim(1, N)
        assert shape[0].symbols != N or number(shape[0], batch) == rows
        assert shape[1] == Dim(int(columns))


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (18, "y = GroupNormalization <num_groups = 2> (x, s, s)"),
        (21, "y = GroupNormalization <num_groups = 1> (x, s, s)"),
        (17, "y = MeanVarianceNormalization (x)"),
    ],
)
def test_what_onnx_has_no_rule_for_has_the_shape_and_the_type_of_what_it_reads(
    opset: int, body: str
) -> None:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> n (float[N, 2, 5] x, float[2] s) => '
    proto = onnx.parser.parse_model(f"{text} (float[] y) {{ {body} }}")
    model = Model.from_onnx(proto, Source("test.onnx", "onnx", ""))
    shapes, y = Shapes(model.graph), model.graph.tensors()["y"]
    assert shapes.shape(y) == shapes.shape(model.graph.inputs[0])
    assert shapes.element(y) == onnx.TensorProto.FLOAT


def test_two_free_dimensions_stay_apart() -> None:
    model = model_of(
        "agraph (float[N,H,W,3] x) => (float[A,B] y) { y = Reshape(x, rows) }",
        {"rows": np.array([-1, 3])},
    )
    shape = Shapes(model.graph).shape(model.graph.outputs[0])
    assert shape == (Dim(1, ("H", "N", "W")), Dim(3))


def test_dimensions_without_a_name_are_all_different() -> None:
    model = model_of("agraph (float[?,?] x, float[?,?] z) => (float[A,B] y) { y = Relu(x) }")
    shapes = Shapes(model.graph)
    known = [shapes.shape(tensor) for tensor in model.graph.inputs]
    dims = [dim for shape in known if shape is not None for dim in shape]
    assert len(set(dims)) == 4
    assert shapes.shape(model.graph.outputs[0]) == known[0]


def test_an_input_of_unknown_rank_has_no_shape() -> None:
    model = model_of("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    model.graph.inputs[0].shape = None
    shapes = Shapes(model.graph)
    assert shapes.shape(model.graph.inputs[0]) is None
    assert shapes.shape(model.graph.outputs[0]) is None


def test_a_reshape_that_does_not_come_out_even_has_an_unknown_dimension() -> None:
    model = model_of(
        "agraph (float[N,5] x) => (float[A,B] y) { y = Reshape(x, threes) }",
        {"threes": np.array([-1, 3])},
    )
    shape = Shapes(model.graph).shape(model.graph.outputs[0])
    assert shape is None or not shape[0].fixed


def test_a_reshape_of_a_foreign_domain_is_another_operator_and_has_no_shape() -> None:
    model = model_of("agraph (float[N,4] x) => (float[N,4] y) { r = Relu(x)\n y = Neg(r) }")
    model.graph.nodes[0].domain = "com.example"
    model.graph.nodes[0].op = "Reshape"
    shapes = Shapes(model.graph)
    assert shapes.shape(model.graph.outputs[0]) is None


def test_the_dtype_of_a_tensor_is_followed() -> None:
    model = model_of(
        """agraph (float[N,4] x) => (int64[K] s, double[N,4] d, bool[N,4] g) {
            s = Shape(x)
            d = Cast<to=11>(x)
            g = Greater(x, x)
        }"""
    )
    shapes = Shapes(model.graph)
    assert [np.dtype(shapes.dtype(t)).name for t in model.graph.outputs] == [
        "int64", "float64", "bool",
    ]  # fmt: skip


def test_a_long_constant_is_data_and_has_no_value() -> None:
    model = model_of(
        "agraph (int64[N,100] x) => (int64[N,100] y) { y = Add(x, k) }", {"k": np.arange(100)}
    )
    shapes = Shapes(model.graph)
    assert shapes.value(model.graph.nodes[0].inputs[1]) is None
    assert math.prod(d.number for d in shapes.shape(model.graph.nodes[0].inputs[1]) or ()) == 100
