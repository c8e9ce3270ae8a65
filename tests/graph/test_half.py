"""The graph in FP16, held against the float32 graph in onnxruntime."""

import re

import numpy as np
import onnx
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.half import to_half
from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of, outputs_of

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32) / 5


def kinds(model: Model) -> dict[str, str]:
    """Return the type of each tensor, as ONNX's own inference finds it."""
    inferred = onnx.shape_inference.infer_shapes(
        model.to_onnx(), check_type=True, strict_mode=True
    ).graph
    return {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }


GRAPHS = {
    "chain": "net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {"
    " c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c) }",
    "output_read_inside": "net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] c, float[N, 4, 8, 8] y)"
    " { c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c) }",
    "input_is_output_of_nothing_else": "net (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y,"
    " float[N, 3, 8, 8] z) { y = Relu(x)  z = Sigmoid(x) }",
    "kept_in_the_middle": "net (float[N, 3, 8, 8] x) => (float[N, 4, 1, 1] y) {"
    " c = Conv<pads=[1,1,1,1]>(x, w)  m = ReduceMean<axes=[2,3]>(c)  y = Relu(m) }",
    "kept_at_the_ends": "net (float[N, 3, 8, 8] x) => (float[N, 1, 8, 8] y) {"
    " m = ReduceMean<axes=[1]>(x)  y = Exp(m) }",
    "constant_beyond_fp16": "net (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) {"
    " r = Relu(x)  s = Mul(r, huge)  y = Mul(s, tiny) }",
    "resize": "net (float[N, 3, 8, 8] x) => (float[N, 4, 16, 16] y) {"
    " c = Conv<pads=[1,1,1,1]>(x, w)  r = Resize<mode=\"linear\">(c, , scales)  y = Relu(r) }",
    "cast_and_integers": "net (float[N, 3, 8, 8] x) => (int64[N, 1, 8, 8] y, float[N, 1, 8, 8] z) {"
    " y = ArgMax<axis=1>(x)  f = Cast<to=1>(y)  z = Relu(f) }",
}  # fmt: skip
CONSTANTS = {
    "w": W,
    "huge": np.array([1e6], np.float32),
    "tiny": np.array([1e-6], np.float32),
    "scales": np.array([1, 1, 2, 2], np.float32),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_outputs_and_their_types_stay(name: str) -> None:
    used = {key: value for key, value in CONSTANTS.items() if f" {key})" in GRAPHS[name]}
    model = model_of(GRAPHS[name], used)
    half, _ = to_half(model)
    onnx.checker.check_model(half.to_onnx(), full_check=True)
    assert half.inputs == model.inputs
    assert half.outputs == model.outputs
    expected, found = outputs_of(model), outputs_of(half)
    for key, value in expected.items():
        if value.dtype.kind == "i":  # an argmax may differ where two values are nearly one
            assert np.mean(found[key] == value) > 0.95
        elif name != "cast_and_integers":
            # float16 has 11 bits; a chain of three roundings, and sums of 27 products.
            np.testing.assert_allclose(found[key], value, rtol=0, atol=4e-3 * np.abs(value).max())


def test_layers_are_half_and_what_half_can_not_hold_is_not() -> None:
    model = model_of(GRAPHS["kept_in_the_middle"], {"w": W})
    found = kinds(to_half(model)[0])
    by_node = {
        node.op_type: found[node.input[0]] for node in to_half(model)[0].to_onnx().graph.node
    }
    assert by_node["Conv"] == by_node["Relu"] == "float16"
    assert by_node["ReduceMean"] == "float32"


def test_values_beyond_half_stay_float_between_the_layers_that_need_it() -> None:
    half, _ = to_half(model_of(GRAPHS["constant_beyond_fp16"],
                            {key: CONSTANTS[key] for key in ("huge", "tiny")}))  # fmt: skip
    assert kinds(half)["s"] == "float32"


def test_weights_become_half_once() -> None:
    model = model_of(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {"
        " a = Conv(x, w)  b = Conv(x, w)  y = Add(a, b) }",
        {"w": W},
    )
    stored = to_half(model)[0].to_onnx().graph.initializer
    assert [(entry.name, entry.data_type) for entry in stored] == [
        ("w/float16", onnx.TensorProto.FLOAT16)
    ]


def test_the_models_own_graph_is_not_touched() -> None:
    model = model_of(GRAPHS["chain"], {"w": W})
    before = model.to_onnx().SerializeToString(deterministic=True)
    to_half(model)
    assert model.to_onnx().SerializeToString(deterministic=True) == before


def test_a_graph_with_branches_is_refused() -> None:
    model = model_of(
        "net (float[N] x, bool flag) => (float[N] y) { y = If (flag) <"
        " then_branch = a () => (float[N] p) { p = Relu(x) },"
        " else_branch = b () => (float[N] q) { q = Abs(x) }> }"
    )
    with pytest.raises(NotSupportedError, match="holds a graph"):
        to_half(model)


# Whole numbers beyond 2,048 ---------------------------------------------------------------------

COUNTING = {
    "an_index": """net (float[N, 16] x) => (float[N] y) {
        a = MatMul(x, w)  i = ArgMax<axis = -1, keepdims = 0>(a)  f = Cast<to = 1>(i)
        k = Mul(f, stride)  j = Cast<to = 7>(k)  y = Gather(table, j) }""",
    "positions": """net (float[N, 3000, 16] x) => (float[N, 3000, 16] y) {
        s = Shape(x)  n = Gather(s, one)  r = Range(zero, n, one)  f = Cast<to = 1>(r)
        p = Mul(f, step)  q = Sin(p)  u = Unsqueeze(q, last)  a = Add(x, u)  y = MatMul(a, w) }""",
    "frequencies": """net (float[N, 16] x, float[N, 1] t) => (float[N, 16] y) {
        a = MatMul(t, frequency)  c = Cos(a)  b = Add(x, c)  y = MatMul(b, w) }""",
    "compared": """net (float[N, 16] x, int64[N, 16] i) => (float[N, 16] y) {
        f = Cast<to = 1>(i)  l = Less(f, bound)  a = MatMul(x, w)  y = Where(l, a, half) }""",
}


@pytest.mark.parametrize("name", COUNTING)
def test_what_counts_beyond_2048_stays_in_float32(name: str) -> None:
    rng = np.random.default_rng(4)
    constants = {
        "w": rng.normal(size=(16, 16)).astype(np.float32) / 4,
        "stride": np.float32(3001), "table": rng.normal(size=48016).astype(np.float32),
        "one": np.int64(1), "zero": np.int64(0), "last": np.array([-1]), "step": np.float32(1.7),
        "frequency": np.geomspace(0.1, 1, 16, dtype=np.float32)[None],
        "half": np.float32(0.5), "bound": np.float32(40001),
    }  # fmt: skip
    used = {
        key: v for key, v in constants.items() if re.search(rf"[(,] ?{key}[,)]", COUNTING[name])
    }
    model = model_of(COUNTING[name], used)
    half, report = to_half(model)
    assert report.layers
    feeds = {
        "x": rng.normal(size=(2, 3000, 16) if name == "positions" else (2, 16)),
        "t": np.array([[999.0], [3001.0]]), "i": 40000 + np.arange(32).reshape(2, 16) % 3,
    }  # fmt: skip
    fed = {spec.name: feeds[spec.name].astype(spec.dtype) for spec in model.inputs}
    with OnnxRuntime(model.to_onnx()) as single, OnnxRuntime(half.to_onnx()) as halved:
        expected, made = single.infer(fed)["y"], halved.infer(fed)["y"]
    # Of activations and weights that are rounded to 11 bits.
    assert np.abs(made - expected).max() <= 2.0**-9 * np.abs(expected).max()


def test_pixels_of_8_bits_are_cast_to_float16() -> None:
    model = model_of(
        "net (uint8[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {"
        " f = Cast<to = 1>(x)  m = Mul(f, k)  y = Conv<pads = [1,1,1,1]>(m, w) }",
        {"w": W, "k": np.array(1 / 255, np.float32)},
    )
    _, report = to_half(model)
    assert len(report.layers) == 3


def test_a_type_that_numpy_does_not_have_is_no_count() -> None:
    model = model_of(
        "net (float[N, 4] x) => (float[N, 4] y, bfloat16[N, 4] b) {"
        " b = Cast<to = 16>(x)  f = Cast<to = 1>(b)  y = Relu(f) }"
    )
    half, _ = to_half(model)
    assert half.outputs == model.outputs
