"""The exact reference of INT8 graphs, against a textbook evaluation in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.errors import InputError
from onnxgraft.graph.half import to_half
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run import exact as module
from onnxgraft.run.exact import exact, exact_graph
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of
from tests.run import textbook

# A result is a float32: its scale, its product with the sum and the bias are each rounded once.
CLOSE = 4 * 2.0**-24


def outputs(model: Model, feeds: dict[str, Array]) -> dict[str, Array]:
    with exact(model) as session:
        return session.infer(feeds)


def integers(rng: np.random.Generator, shape: tuple[int, ...], kind: str, most: int) -> Array:
    low = 0 if kind == "uint8" else -most
    return rng.integers(low, most + 1, shape).astype(kind)


def layer(
    rng: np.random.Generator, op: str, kind: str, zero: int, most: int, inputs: int, bias: str,
    group: int = 1,
) -> tuple[Model, dict[str, Array]]:  # fmt: skip
    """Return a layer between DequantizeLinear, and feeds for it."""
    outputs = 2 * group
    shape = {
        "Conv": (outputs, inputs // group, 3, 3), "ConvTranspose": (inputs, outputs // group, 3, 3),
        "Gemm": (outputs, inputs), "MatMul": (inputs, outputs),
    }[op]  # fmt: skip
    axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": 1}[op]
    channels = shape[axis]
    constants: dict[str, Array] = {
        "s": np.float32(rng.uniform(0.01, 0.1)), "z": np.array(zero, kind),
        "w": integers(rng, shape, "int8", most),
        "ws": rng.uniform(1e-3, 1e-2, channels).astype(np.float32),
        "wz": np.zeros(channels, np.int8),
    }  # fmt: skip
    attributes = {
        "Conv": f"<group={group}, pads=[1,0,1,2], strides=[2,1]>",
        "ConvTranspose": f"<group={group}, strides=[2,2], pads=[1,0,0,1]>",
        "Gemm": "<transB=1>", "MatMul": "",
    }[op]  # fmt: skip
    extra = ""
    if bias == "float" and op != "MatMul":
        constants["b"] = rng.standard_normal(outputs).astype(np.float32)
        extra = ", b"
    if bias == "int32" and op != "MatMul":
        constants |= {
            "bq": rng.integers(-5000, 5000, outputs).astype(np.int32),
            "bs": rng.uniform(1e-4, 1e-3, outputs).astype(np.float32),
        }
        extra = ", b"
    image = op.startswith("Conv")
    model = model_of(
        f"net (float[N, {inputs}{', 6, 5' if image else ''}] x) => (float y) {{"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        f" k = DequantizeLinear<axis={axis}>(w, ws, wz)"
        f"{' b = DequantizeLinear<axis=0>(bq, bs)' if bias == 'int32' and extra else ''}"
        f" y = {op}{attributes}(d, k{extra}) }}",
        constants,
    )
    value = rng.standard_normal((2, inputs, *((6, 5) if image else ()))).astype(np.float32) * 3
    return model, {"x": value}


@pytest.mark.parametrize("bias", ["none", "float", "int32"])
@pytest.mark.parametrize(("kind", "zero"), [("int8", 0), ("uint8", 0), ("uint8", 117)])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_a_layer_is_the_textbooks(op: str, kind: str, zero: int, bias: str) -> None:
    model, feeds = layer(np.random.default_rng(1), op, kind, zero, 127, 8, bias)
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_layer_of_groups_is_the_textbooks(op: str) -> None:
    model, feeds = layer(np.random.default_rng(2), op, "uint8", 3, 127, 8, "float", group=4)
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


@pytest.mark.parametrize("zeros", [0, 9])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_depthwise_layer_of_a_scale_per_channel_is_the_textbooks(op: str, zeros: int) -> None:
    model, feeds = layer(np.random.default_rng(4), op, "uint8", 0, 127, 4, "float", group=4)
    constants = {tensor.name: tensor for tensor in model.graph.tensors().values()}
    constants["s"].values = np.float32([0.01, 0.02, 0.05, 0.03])
    constants["z"].values = (np.arange(4) * zeros).astype(np.uint8)
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
    assert "DequantizeLinear" not in kinds(model)


def test_a_layer_behind_a_concat_of_one_scale_is_the_textbooks() -> None:
    rng = np.random.default_rng(5)
    model = model_of(
        "net (float[N,2,6,5] a, float[N,3,6,5] b) => (float y) {"
        " p = QuantizeLinear(a, s, z)  q = QuantizeLinear(b, s, t)"
        " c = DequantizeLinear(p, s, z)  d = DequantizeLinear(q, s, t)"
        " x = Concat<axis=1>(c, d)  k = DequantizeLinear<axis=0>(w, ws)  y = Conv(x, k) }",
        {
            "s": np.float32(0.02), "z": np.uint8(7), "t": np.int8(0),
            "w": integers(rng, (4, 5, 3, 3), "int8", 127),
            "ws": rng.uniform(1e-3, 1e-2, 4).astype(np.float32),
        },
    )  # fmt: skip
    feeds = {
        name: rng.standard_normal((2, count, 6, 5)).astype(np.float32)
        for name, count in (("a", 2), ("b", 3))
    }
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
    assert "DequantizeLinear" not in kinds(model)


def kinds(model: Model) -> list[str]:
    return [node.op_type for node in exact_graph(model).graph.node]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_a_sum_that_float32_does_not_hold_is_split_and_exact(op: str) -> None:
    # All products at their largest: 127 * 255 * 9 * 96 is beyond 2^24.
    rng = np.random.default_rng(3)
    model, _ = layer(rng, op, "uint8", 0, 127, 900 if op in ("Gemm", "MatMul") else 96, "none")
    constants = {tensor.name: tensor for tensor in model.graph.tensors().values()}
    constants["w"].values = np.full_like(constants["w"].values, 127)
    constants["w"].values.flat[0] = 126  # so that a sum rounded to a multiple of 2 shows
    inputs = model.graph.inputs[0].shape[1]
    shape = (1, inputs, 6, 5) if op.startswith("Conv") else (1, inputs)
    feeds = {"x": np.full(shape, 1e3, np.float32)}
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    made = kinds(model)
    assert made.count("Slice") > 1
    np.testing.assert_allclose(outputs(model, feeds)["y"], wanted, rtol=2.0**-24, atol=0)


def test_parts_are_as_few_as_keep_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXACT", 10)
    assert module._parts(np.array([[3.0, 3, 3, 3], [0, 0, 9, 0]])) == [(0, 3), (3, 4)]
    assert module._parts(np.array([[1.0, 1, 1]])) == [(0, 3)]
    assert module._parts(np.array([[40.0, 1]])) == [(0, 1), (1, 2)]


def test_products_of_two_activations_are_the_textbooks() -> None:
    rng = np.random.default_rng(4)
    model = model_of(
        "net (float[N, 7, 16] a, float[N, 16, 5] c) => (float y) {"
        " qa = QuantizeLinear(a, s, z)  da = DequantizeLinear(qa, s, z)"
        " qc = QuantizeLinear(c, t, z)  dc = DequantizeLinear(qc, t, z)  y = MatMul(da, dc) }",
        {"s": np.float32(0.02), "t": np.float32(0.03), "z": np.int8(0)},
    )
    feeds = {
        "a": rng.standard_normal((2, 7, 16)).astype(np.float32),
        "c": rng.standard_normal((2, 16, 5)).astype(np.float32),
    }
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
    assert "Cast" in {node.op_type for node in exact_graph(model).graph.node}


def test_a_product_with_a_vector_is_the_textbooks() -> None:
    rng = np.random.default_rng(4)
    model = model_of(
        "net (float[N, 16] a) => (float[N] y) {"
        " q = QuantizeLinear(a, s, z)  d = DequantizeLinear(q, s, z)"
        " k = DequantizeLinear(w, t, z)  y = MatMul(d, k) }",
        {
            "s": np.float32(0.02), "t": np.float32(0.03), "z": np.int8(0),
            "w": rng.integers(-127, 128, 16).astype(np.int8),
        },
    )  # fmt: skip
    feeds = {"a": rng.standard_normal((3, 16)).astype(np.float32)}
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_of_two_activations_keeps_its_bias_and_its_turn(turned: int) -> None:
    rng = np.random.default_rng(6)
    second = (5, 16) if turned else (16, 5)
    model = model_of(
        f"net (float[7, 16] a, float[{second[0]}, {second[1]}] c) => (float y) {{"
        " qa = QuantizeLinear(a, s, z)  da = DequantizeLinear(qa, s, z)"
        " qc = QuantizeLinear(c, t, z)  dc = DequantizeLinear(qc, t, z)"
        f" y = Gemm<transB={turned}>(da, dc, b) }}",
        {"s": np.float32(0.02), "t": np.float32(0.03), "z": np.int8(0),
         "b": rng.standard_normal(5).astype(np.float32)},
    )  # fmt: skip
    feeds = {
        "a": rng.standard_normal((7, 16)).astype(np.float32),
        "c": rng.standard_normal(second).astype(np.float32),
    }
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
    assert "Cast" in {node.op_type for node in exact_graph(model).graph.node}


CHAIN = (
    "net (float[N, 4, 9, 9] x) => (float y) {"
    " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
    " k = DequantizeLinear<axis=0>(w, ws, wz)  c = Conv<pads=[1,1,1,1]>(d, k, b)  r = Relu(c)"
    " rq = QuantizeLinear(r, t, u)  rd = DequantizeLinear(rq, t, u)"
    " p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(rd)  f = Flatten(p)"
    " k2 = DequantizeLinear<axis=1>(v, vs, vz)  g = MatMul(f, k2)"
    " y = QuantizeLinear(g, o, oz) }"
)


@given(seed=st.integers(0, 10_000), zero=st.integers(0, 255))
def test_integers_of_a_chain_are_the_textbooks(seed: int, zero: int) -> None:
    rng = np.random.default_rng(seed)
    constants: dict[str, Any] = {
        "s": np.float32(0.03), "z": np.uint8(zero), "t": np.float32(rng.uniform(0.01, 0.03)),
        "u": np.uint8(0), "o": np.float32(0.01), "oz": np.int8(0),
        "w": integers(rng, (6, 4, 3, 3), "int8", 127),
        "ws": rng.uniform(1e-3, 1e-2, 6).astype(np.float32), "wz": np.zeros(6, np.int8),
        "b": rng.standard_normal(6).astype(np.float32),
        "v": integers(rng, (96, 3), "int8", 127),
        "vs": rng.uniform(1e-4, 1e-3, 3).astype(np.float32), "vz": np.zeros(3, np.int8),
    }  # fmt: skip
    model = model_of(CHAIN.replace("float y", "int8 y"), constants)
    feeds = {"x": rng.standard_normal((1, 4, 9, 9)).astype(np.float32)}
    values = textbook.run(model.to_onnx(), feeds)
    # What float32 may put on the other side of the middle between two integers would go on into the
    # next layer: such networks say nothing.
    for tensor, scale in (("x", "s"), ("r", "t"), ("g", "o")):
        left = np.mod(textbook.unrounded(values[tensor], constants[scale]), 1)
        if (np.abs(left - 0.5) < 1e-5).any():
            return
    np.testing.assert_array_equal(outputs(model, feeds)["y"], values["y"])


def test_scales_are_no_constants_that_an_optimizer_folds() -> None:
    model, _ = layer(np.random.default_rng(5), "Conv", "uint8", 9, 127, 8, "float")
    proto = exact_graph(model)
    shown = {entry.name for entry in proto.graph.input}
    hidden = {
        name for node in proto.graph.node if node.op_type in ("Mul", "Add", "Sub")
        for name in node.input if "/exact/" in name and name not in _made(proto)
    }  # fmt: skip
    assert hidden and hidden <= shown


def _made(proto: onnx.ModelProto) -> set[str]:
    return {name for node in proto.graph.node for name in node.output}


def test_weights_that_are_quantized_in_the_graph_are_those_integers() -> None:
    rng = np.random.default_rng(6)
    model = model_of(
        "net (float[N, 8] x) => (float y) {"
        " q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        " wq = QuantizeLinear<axis=1>(w, ws, wz)  k = DequantizeLinear<axis=1>(wq, ws, wz)"
        " y = MatMul(d, k) }",
        {
            "s": np.float32(0.02), "z": np.int8(0),
            "w": rng.standard_normal((8, 4)).astype(np.float32),
            "ws": np.full(4, 0.03, np.float32), "wz": np.zeros(4, np.int8),
        },
    )  # fmt: skip
    feeds = {"x": rng.standard_normal((3, 8)).astype(np.float32)}
    wanted = textbook.run(model.to_onnx(), feeds)["y"]
    found = outputs(model, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
    assert "MatMul" in {node.op_type for node in exact_graph(model).graph.node}


def test_a_float_graph_runs_as_it_is() -> None:
    model = model_of("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    assert len(exact_graph(model).graph.node) == 1
    value = np.array([[-1, 0, 1, 2]], np.float32)
    np.testing.assert_array_equal(outputs(model, {"x": value})["y"], np.maximum(value, 0))


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_layers_of_a_graph_in_half_precision_are_exact_sums_rounded_to_it(op: str) -> None:
    model, feeds = layer(np.random.default_rng(0), op, "int8", 0, 20, 4, "float")
    half, _ = to_half(model)
    assert "float16" in halves(half)
    feeds = {"x": feeds["x"].astype(np.float16).astype(np.float32)}
    wanted = textbook.run(half.to_onnx(), feeds)["y"]
    found = outputs(half, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=2.0**-10, atol=2.0**-24)


@pytest.mark.parametrize("op", ["Gemm", "Conv", "ConvTranspose"])
def test_a_bias_that_is_computed_is_added(op: str) -> None:
    shape = "N, 4" if op == "Gemm" else "N, 4, 5, 5"
    text = f"""
    network (float[{shape}] x, float[4] c) => (float[{shape}] y) {{
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        v = DequantizeLinear (w, s, z)
        b = Neg (c)
        y = {op} (d, v, b)
    }}
    """
    rng = np.random.default_rng(0)
    kernel = (4, 4) if op == "Gemm" else (4, 4, 1, 1)
    stored = rng.integers(-99, 99, kernel).astype(np.int8)
    model = model_of(text, {"s": np.float32(0.02), "z": np.int8(0), "w": stored})
    sizes = (3, 4) if op == "Gemm" else (3, 4, 5, 5)
    feeds = {"x": rng.standard_normal(sizes).astype(np.float32), "c": np.arange(4, dtype="f4")}
    with exact(model) as session, OnnxRuntime(model.to_onnx(), optimize=False) as plain:
        right, found = plain.infer(feeds)["y"], session.infer(feeds)["y"]
    np.testing.assert_allclose(found, right, atol=1e-5)


def test_weights_that_do_not_fit_into_a_message_go_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    model = model_of(
        "n (float[N,200] x) => (float[N,200] z) { y = MatMul (x, w)\n z = Relu (y) }",
        {"w": rng.standard_normal((200, 200)).astype(np.float32)},
    )
    feeds = {"x": rng.standard_normal((2, 200)).astype(np.float32)}
    expected = [outputs(model, feeds), exact(model, outputs=["y"]).infer(feeds)]
    monkeypatch.setattr(module, "_HEAVY", 0)
    made: list[int] = []
    monkeypatch.setattr(
        module, "OnnxRuntime",
        lambda proto, **how: (made.append(proto.ByteSize()), OnnxRuntime(proto, **how))[1],
    )  # fmt: skip
    for names, wanted in zip(((), ("y",)), expected, strict=True):
        found = module.exact(model, outputs=names).infer(feeds)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
    assert max(made) < 10_000  # the weights have 160,000


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_weights_of_no_convolution_are_onnxruntime_s_to_refuse(
    op: str, rank: int, group: int
) -> None:
    constants = {
        "s": np.float32(0.1), "z": np.int8(0), "w": np.ones((2,) * rank, np.int8),
    }  # fmt: skip
    model = model_of(
        "g (float[N,2,3,3] x) => (float[N,M,3,3] y) { q = QuantizeLinear(x, s, z)"
        " d = DequantizeLinear(q, s, z)  v = DequantizeLinear(w, s, z)"
        f" y = {op}<group={group}>(d, v) }}",
        {name: np.asarray(value) for name, value in constants.items()},
    )
    with pytest.raises(InputError, match="onnxruntime"), exact(model):
        pass


def test_operators_of_integers_that_share_weights_and_zero_points() -> None:
    """Where kernels for signed weights saturate, onnxruntime wants each to have its own."""
    text = """net (float[N, 8] x) => (float[N, 8] y) {
        a = com.microsoft.DynamicQuantizeMatMul(x, w, s, z)
        b = Sigmoid(a)
        i, t, q = DynamicQuantizeLinear(b)
        c = MatMulInteger(i, w, q, z)
        f = Cast<to = 1>(c)
        y = Mul(f, s) }"""
    weights = np.random.default_rng(0).integers(-127, 128, (8, 8)).astype(np.int8)
    constants = {"w": weights, "s": np.float32(1 / 64), "z": np.int8(0)}
    x = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)

    def eight_bits(value: Array) -> tuple[Array, np.float32]:
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        scale = np.float32((high - low) / 255)
        zero = np.rint(-low / scale)
        return (np.clip(np.rint(value / scale) + zero, 0, 255) - zero).astype(np.float64), scale

    whole, scale = eight_bits(x)
    between = 1 / (1 + np.exp(-(whole @ weights) * scale / 64))
    expected = eight_bits(between.astype(np.float32))[0] @ weights / 64
    model = model_of(text, constants)
    with exact(model) as engine:
        (found,) = engine.infer({"x": x}).values()
    # A value in the middle of two levels may be either: a step of 1 of the weights' 127 / 64.
    assert np.abs(found - expected).max() <= 2
    assert model.operators()["MatMulInteger"] == 1
