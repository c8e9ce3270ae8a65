"""Weights alone as INT8 and INT4: their numbers, their forms, and what runtimes make of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.nbits import packed, unpacked, with_float_weights
from onnxgraft.graph.quantized import stored_weights
from onnxgraft.graph.tensors import Array
from onnxgraft.run.depth import depths
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.proof import Reference
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine
from onnxgraft.stages.quantize import placement, read_placement, store_weights
from onnxgraft.stages.quantize.weights.blocks import rounded, rounded_by_output
from onnxgraft.targets import TARGETS, WeightType
from tests.conftest import model_of
from tests.quantize.networks import attention, infer, samples_of, sqnr

KINDS: list[WeightType] = ["int8", "int4"]
NAMES = [target.name for target in TARGETS]
BITS = {"int8": 8, "int4": 4}

every = pytest.mark.parametrize(
    ("target", "kind"), [pytest.param(t, k, id=f"{t}-{k}") for t in NAMES for k in KINDS]
)


def matmul(depth: int, outputs: int, batch: str = "N", seed: int = 0, bias: bool = False) -> Model:
    """Return ``y = x W``, or with a bias, of normal weights."""
    rng = np.random.default_rng(seed)
    constants = {"w": rng.standard_normal((depth, outputs)).astype(np.float32)}
    nodes = "[dense] y = MatMul (x, w)"
    if bias:
        nodes = "[dense] p = MatMul (x, w)\n y = Add (p, b)"
        constants["b"] = rng.standard_normal(outputs).astype(np.float32)
    text = f"n (float[{batch}, {depth}] x) => (float[{batch}, {outputs}] y) {{ {nodes} }}"
    return model_of(text, constants)


def stored(model: Model, target: str, kind: WeightType, **options: Any) -> Model:
    return store_weights(model, placement(target), kind, **options)[0]


def floats(model: Model, layer: str = "dense") -> Array:
    """Return the weights that a layer of a stored graph computes with, by ONNX's own evaluator."""
    node = next(node for node in model.graph.nodes if node.name == layer)
    if node.op == "MatMulNBits":
        values = unpacked(node)
        assert values is not None
        return values
    name = node.inputs[1].name
    proto = model.to_onnx()
    makers = [n for n in proto.graph.node if name in n.output]
    constants = [i for i in proto.graph.initializer if i.name in makers[0].input]
    end = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(makers, "weights", [], [end], constants)
    whole = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    return np.asarray(ReferenceEvaluator(whole).run(None, {})[0])


# Numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [16, 32])
def test_four_bits_are_packed_low_nibble_first(block: int) -> None:
    integers = np.random.default_rng(0).integers(-8, 8, (3, 50)).astype(np.int8)
    found = packed(integers, 4, block)
    assert found.shape == (3, -(-50 // block), block // 2)
    for row, column in itertools.product(range(3), range(50)):
        byte = int(found[row, column // block, column % block // 2])
        code = byte >> 4 if column % 2 else byte & 15
        assert code - 8 == integers[row, column]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_onnxruntimes_own_quantizer_packs_is_unpacked_as_it_runs_it(
    bits: int, symmetric: bool
) -> None:
    quantizers = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    model = matmul(50, 12)
    made = quantizers.MatMulNBitsQuantizer(
        model.to_onnx(), bits=bits, block_size=16, is_symmetric=symmetric, accuracy_level=1
    )
    made.process()
    theirs = Model.from_onnx(made.model.model, model.source)
    (node,) = theirs.graph.nodes
    values = unpacked(node)
    feeds = random_feeds(model.inputs, 4)
    assert values is not None
    right = infer(theirs, feeds)["y"]
    np.testing.assert_allclose(feeds["x"] @ values, right, rtol=1e-5, atol=1e-5)
    with exact(theirs) as session:
        np.testing.assert_allclose(session.infer(feeds)["y"], right, rtol=1e-5, atol=1e-5)
    # A step is a 15th or a 255th of what a block spans, and no weight is off by more than half.
    assert np.abs(values - model.graph.nodes[0].inputs[1].values).max() < 6 / (1 << bits)


def test_an_own_order_of_inputs_is_not_unpacked() -> None:
    graph = stored(matmul(32, 4), "onnxruntime", "int4")
    node = graph.graph.nodes[0]
    order = node.inputs[2].copy()
    node.inputs += [node.inputs[0].empty(), order]
    assert unpacked(node) is None
    assert with_float_weights(graph).graph.nodes[0].op == "MatMulNBits"


@pytest.mark.parametrize(
    ("name", "value"), [("K", 1 << 40), ("N", -1), ("bits", 3), ("bits", 64), ("block_size", 0)]
)
def test_a_matmulnbits_that_contradicts_itself_is_not_unpacked(name: str, value: int) -> None:
    graph = stored(matmul(32, 4), "onnxruntime", "int4")
    graph.graph.nodes[0].attrs[name] = value
    assert unpacked(graph.graph.nodes[0]) is None
    assert with_float_weights(graph).graph.nodes[0].op == "MatMulNBits"


@pytest.mark.parametrize(("bits", "low", "high"), [(4, -8, 7), (8, -127, 127)])
def test_integers_are_the_nearest_and_keep_their_range(bits: int, low: int, high: int) -> None:
    matrix = np.random.default_rng(0).standard_t(3, (1, 6, 64)).astype(np.float32)
    found = rounded(matrix, 16, bits)
    assert found.scale.shape == (1, 6, 4)
    nearest = np.clip(np.rint(matrix / found.steps), low, high)
    np.testing.assert_array_equal(found.integers, nearest)


def test_scales_are_better_than_those_of_the_largest_weight() -> None:
    matrix = np.random.default_rng(0).standard_normal((1, 6, 64)).astype(np.float32)
    found = rounded(matrix, 32, 4)
    plain = np.abs(matrix.reshape(6, 2, 32)).max(2, keepdims=True) / 7
    kept = (np.rint(matrix.reshape(6, 2, 32) / plain) * plain).reshape(1, 6, 64)
    assert np.square(found.values - matrix).sum() < np.square(kept - matrix).sum()


def test_the_largest_weight_of_a_block_gets_the_level_that_one_side_has_more() -> None:
    matrix = np.random.default_rng(0).standard_normal((1, 64, 64)).astype(np.float32)
    one, other = rounded(matrix, 32, 4), rounded(matrix, 32, 4, signed=False)
    assert (other.scale > 0).all()
    assert (one.scale < 0).any()
    assert (one.scale > 0).any()
    lost = [np.square(found.values - matrix).sum() for found in (one, other)]
    assert lost[0] < 0.95 * lost[1]


def test_tensorrt_gets_positive_scales() -> None:
    graph = stored(matmul(256, 8), "tensorrt", "int4")
    assert (graph.graph.nodes[0].inputs[1].values > 0).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_by_output_keeps_scales_and_beats_the_nearest(bits: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 200, 4)) @ rng.standard_normal((1, 4, 48))
    x += 0.1 * rng.standard_normal(x.shape)
    matrix = rng.standard_normal((1, 8, 48)).astype(np.float32)
    plain = rounded(matrix, 16, bits)
    found = rounded_by_output(matrix, plain, x)
    np.testing.assert_array_equal(found.scale, plain.scale)
    lost = [np.square(x @ (b.values - matrix).swapaxes(1, 2)).sum() for b in (found, plain)]
    assert lost[0] < 0.5 * lost[1]


@given(
    st.sampled_from(NAMES), st.sampled_from(KINDS), st.sampled_from([None, 16, 64]),
    st.integers(16, 90), st.integers(2, 9), st.sampled_from([(), (2,), (2, 3)]), st.booleans(),
)  # fmt: skip
def test_a_graph_computes_with_the_floats_that_its_integers_stand_for(
    target: str, kind: WeightType, block: int | None, depth: int, outputs: int,
    batch: tuple[int, ...], bias: bool,
) -> None:  # fmt: skip
    model = matmul(depth, outputs, ", ".join(["N", *map(str, batch)]), depth, bias)
    graph = stored(model, target, kind, block=block)
    weights = model.graph.nodes[0].inputs[1].values
    feeds = random_feeds(model.inputs, 3)
    values = floats(graph)
    right = feeds["x"].astype(np.float64) @ values
    if bias:
        right = right + model.graph.nodes[1].inputs[1].values
    for found in (infer(graph, feeds)["y"], exact(graph).infer(feeds)["y"]):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)
    assert stored_weights(graph) == kind
    # In a block of so many, the largest weight has at most 8, or 127, steps.
    step = np.abs(weights).max() / {"int4": 7, "int8": 127}[kind]
    assert np.abs(values - weights).max() <= 2.1 * step


def test_weights_of_zero_stay_zero() -> None:
    model = matmul(64, 4)
    model.graph.nodes[0].inputs[1].values = np.zeros((64, 4), np.float32)
    for target, kind in itertools.product(NAMES, KINDS):
        np.testing.assert_array_equal(floats(stored(model, target, kind)), np.zeros((64, 4)))


# Forms -----------------------------------------------------------------------------------------


@every
def test_each_target_gets_its_own_form(target: str, kind: WeightType) -> None:
    graph, report = store_weights(matmul(256, 8), placement(target), kind)
    form = placement(target).stored[kind]
    operators = graph.operators()
    assert report.layers == ["dense"]
    assert report.weights == kind
    if form.reader == "MatMulNBits":
        assert operators == {"com.microsoft.MatMulNBits": 1}
        attrs = graph.graph.nodes[0].attrs
        assert (attrs["K"], attrs["N"], attrs["bits"]) == (256, 8, BITS[kind])
        assert attrs["accuracy_level"] == 1  # float activations
    else:
        assert operators == {"DequantizeLinear": 1, "MatMul": 1}
        node = graph.graph.nodes[0]
        assert np.dtype(node.inputs[0].dtype).name == kind
        assert node.attrs == ({"axis": 0, "block_size": form.block} if form.block else {"axis": 1})
    onnx.checker.check_model(graph.to_onnx(), full_check=True)


def test_a_changed_table_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text('stored = { int4 = { reader = "MatMulNBits", block = 128 } }\n')
    table = read_placement(file, "openvino")
    graph, _ = store_weights(matmul(256, 8), table, "int4")
    assert graph.graph.nodes[0].attrs["block_size"] == 128
    graph, _ = store_weights(matmul(256, 8), table, "int8")
    assert graph.operators() == {"DequantizeLinear": 1, "MatMul": 1}


@every
def test_a_file_is_read_as_it_was_written(target: str, kind: WeightType, tmp_path: Path) -> None:
    graph = stored(matmul(512, 64), target, kind)
    graph.save(tmp_path / "m.onnx")
    again = Model.load(tmp_path / "m.onnx")
    feeds = random_feeds(graph.inputs, 2)
    np.testing.assert_array_equal(infer(again, feeds)["y"], infer(graph, feeds)["y"])
    # A quarter or an eighth of 4 bytes a weight, and a scale of 4 bytes for 32 or more of them.
    assert (tmp_path / "m.onnx").stat().st_size < 512 * 64 * (BITS[kind] / 8 + 1 / 8) + 2000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_gemm_with_transposed_weights(target: str, kind: WeightType, bias: str) -> None:
    rng = np.random.default_rng(0)
    model = model_of(
        f"n (float[N, 48] x) => (float[N, 6] y) {{ [dense] y = Gemm <transB = 1> (x, w{bias}) }}",
        {
            "w": rng.standard_normal((6, 48)).astype(np.float32),
            "b": rng.standard_normal(6).astype(np.float32),
        },
    )
    graph = stored(model, target, kind)
    feeds = random_feeds(model.inputs, 3)
    right = infer(model, feeds)["y"]
    assert sqnr(right, infer(graph, feeds)["y"]) > {"int8": 38, "int4": 17}[kind]
    assert any(node.name == "dense" for node in graph.graph.nodes)


def test_a_gemm_with_factors_stays_in_float_where_matmulnbits_has_none() -> None:
    model = model_of(
        "n (float[N, 48] x) => (float[N, 6] y) { [dense] y = Gemm <alpha = 0.5> (x, w) }",
        {"w": np.ones((48, 6), np.float32)},
    )
    _, report = store_weights(model, placement("onnxruntime"), "int4")
    assert [(f.name, f.reason) for f in report.float_layers] == [
        ("dense", "MatMulNBits has no alpha, beta and transA")
    ]
    feeds = random_feeds(model.inputs, 3)
    graph = stored(model, "openvino", "int4")
    np.testing.assert_allclose(infer(graph, feeds)["y"], infer(model, feeds)["y"], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_matrices_have_their_own_scales(kind: WeightType) -> None:
    weights = np.random.default_rng(0).standard_normal((3, 64, 8)).astype(np.float32)
    weights *= np.array([1, 100, 0.01], np.float32).reshape(3, 1, 1)
    model = model_of(
        "n (float[3, 5, 64] x) => (float[3, 5, 8] y) { [dense] y = MatMul (x, w) }", {"w": weights}
    )
    feeds = random_feeds(model.inputs, 1)
    right = infer(model, feeds)["y"]
    for target in ("openvino", "tensorrt"):
        found = infer(stored(model, target, kind), feeds)["y"]
        assert all(sqnr(a, b) > 17 for a, b in zip(right, found, strict=True))
    _, report = store_weights(model, placement("onnxruntime"), kind)
    assert "takes one matrix" in report.float_layers[0].reason


@every
def test_shared_weights_are_stored_once(target: str, kind: WeightType) -> None:
    model = model_of(
        "n (float[N, 64] x) => (float[N, 64] y) {"
        " [one] a = MatMul (x, w)  b = Relu (a)  [two] y = MatMul (b, w) }",
        {"w": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) / 8},
    )
    graph = stored(model, target, kind)
    assert len(graph.to_onnx().graph.initializer) == 2
    feeds = random_feeds(model.inputs, 3)
    assert sqnr(infer(model, feeds)["y"], infer(graph, feeds)["y"]) > 15


def test_a_block_is_a_divisor_of_the_inputs_where_it_has_to_be() -> None:
    graph = stored(matmul(100, 8), "openvino", "int4")
    assert graph.graph.nodes[0].attrs["block_size"] == 25
    _, report = store_weights(matmul(1031, 8), placement("openvino"), "int4")
    assert report.float_layers[0].reason == "no block of 16 to 32 divides its 1031 inputs"


def test_layers_in_bodies_are_stored_too() -> None:
    body = "b () => (float[M, 4] z) { [inner] z = MatMul (x, w) }"
    model = model_of(
        f"n (float[M, 64] x, bool c) => (float[M, 4] y) {{ [if] y = If (c) "
        f"<then_branch = {body}, else_branch = b () => (float[M, 4] u) {{ u = MatMul (x, v) }}> }}",
        {
            name: np.random.default_rng(index).standard_normal((64, 4)).astype(np.float32)
            for index, name in enumerate("wv")
        },
    )
    for target in NAMES:
        graph, report = store_weights(model, placement(target), "int4")
        assert len(report.layers) == 2
        onnx.checker.check_model(graph.to_onnx())
        for choice in (True, False):
            x = np.random.default_rng(5).standard_normal((3, 64)).astype(np.float32)
            feeds = {"x": x, "c": np.array(choice)}
            right, found = infer(model, feeds)["y"], exact(graph).infer(feeds)["y"]
            np.testing.assert_array_equal(found.shape, right.shape)
            assert sqnr(right, found) > 14
            assert sqnr(found, infer(graph, feeds)["y"]) > 100


def test_what_stays_in_float_is_told() -> None:
    model = model_of(
        "n (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {"
        " [conv] a = Conv <pads = [1, 1, 1, 1]> (x, k)  [square] b = MatMul (a, a)"
        " [left] c = MatMul (l, b)  [small] y = MatMul (c, s) }",
        {
            "k": np.ones((8, 8, 3, 3), np.float32), "l": np.ones((6, 6), np.float32),
            "s": np.ones((6, 6), np.float32),
        },
    )  # fmt: skip
    graph, report = store_weights(model, placement("onnxruntime"), "int4")
    assert {layer.name: layer.reason for layer in report.float_layers} == {
        "conv": "weights alone are stored of MatMul and Gemm, not of Conv",
        "square": "its weights are not constant",
        "left": "its weights are not its second input",
    }
    assert report.layers == ["small"]
    assert any("MatMul and Gemm have 6% of this network's weights" in n for n in report.notes)
    assert stored_weights(graph) == "int4"


def test_weights_that_would_take_no_less_stay_in_float() -> None:
    _, report = store_weights(matmul(2, 8), placement("onnxruntime"), "int4")
    assert report.float_layers[0].reason == "its weights of (2, 8) would take no less as integers"


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_other_types_than_float32_stay_what_they_are(target: str) -> None:
    model = model_of(
        "n (double[N, 64] x) => (double[N, 4] y) { [dense] y = MatMul (x, w) }",
        {"w": np.ones((64, 4))},
    )
    graph, report = store_weights(model, placement(target), "int8")
    assert report.float_layers[0].reason == "its weights are float64"
    assert graph.operators() == {"MatMul": 1}


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_float16_is_stored_too(target: str) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float16)
    model = model_of(
        "n (float16[N, 64] x) => (float16[N, 4] y) { [dense] y = MatMul (x, w) }", {"w": weights}
    )
    graph, report = store_weights(model, placement(target), "int8")
    assert report.layers == ["dense"]
    assert [spec.dtype for spec in graph.outputs] == ["float16"]
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float16)}
    right = feeds["x"].astype(np.float64) @ weights
    assert sqnr(right, infer(graph, feeds)["y"]) > 38


def test_keep_float_keeps_a_layer_and_knows_the_names() -> None:
    model = matmul(64, 8)
    _, report = store_weights(model, placement("openvino"), "int8", keep_float=["dense"])
    assert [(f.name, f.reason) for f in report.float_layers] == [("dense", "requested")]
    with pytest.raises(InputError, match="--keep-float dens: no such layer; did you mean dense"):
        store_weights(model, placement("openvino"), "int8", keep_float=["dens"])


def test_a_quantized_graph_is_refused() -> None:
    for target in NAMES:
        graph = stored(matmul(64, 8), target, "int4")
        with pytest.raises(InputError, match="the graph is quantized already; take the float one"):
            store_weights(graph, placement(target), "int4")


def test_the_opset_is_raised_only_where_blocks_need_it() -> None:
    cases: list[tuple[str, WeightType, int]] = [
        ("openvino", "int4", 21), ("openvino", "int8", 17), ("onnxruntime", "int4", 17),
    ]  # fmt: skip
    for target, kind, opset in cases:
        graph, report = store_weights(matmul(64, 8), placement(target), kind)
        assert graph.graph.opset == opset
        assert ("opset 17 was raised to 21" in report.notes) == (opset == 21)


# Rounding by samples ---------------------------------------------------------------------------


def correlated(tmp_path: Path) -> tuple[Model, Samples]:
    """Return a layer, and samples of few directions: errors in weights can be made up for."""
    model = matmul(64, 16)
    rng = np.random.default_rng(2)
    mixed = rng.standard_normal((64, 6)) @ rng.standard_normal((6, 64))
    mixed += 0.05 * rng.standard_normal(mixed.shape)
    np.savez(tmp_path / "data.npz", x=mixed.astype(np.float32))
    return model, open_samples(tmp_path / "data.npz", model.inputs)


@every
def test_samples_make_the_whole_network_better(
    target: str, kind: WeightType, tmp_path: Path
) -> None:
    model, samples = correlated(tmp_path)
    graph, report = store_weights(model, placement(target), kind, samples=samples)
    plain = stored(model, target, kind)
    assert any("rounded by layer output error" in note for note in report.notes)
    feeds = {"x": np.concatenate([s.feeds["x"] for s in samples])}
    right = infer(model, feeds)["y"]
    assert sqnr(right, infer(graph, feeds)["y"]) > sqnr(right, infer(plain, feeds)["y"]) + 3


def test_rounding_that_gains_nothing_is_taken_back(tmp_path: Path) -> None:
    model, samples = correlated(tmp_path)
    weights = np.random.default_rng(0).integers(-7, 8, (64, 16)).astype(np.float32)
    weights[::16] = 7  # every block spans its levels: the nearest integers are the weights
    model.graph.nodes[0].inputs[1].values = weights
    graph, report = store_weights(model, placement("openvino"), "int4", samples=samples)
    assert any("rounding by layer output error was taken back" in n for n in report.notes)
    np.testing.assert_array_equal(floats(graph), weights)


def test_without_samples_a_note_says_so() -> None:
    _, report = store_weights(matmul(64, 8), placement("openvino"), "int4")
    assert any("name the calibration data with --samples" in note for note in report.notes)


def test_attention_keeps_its_signal(tmp_path: Path) -> None:
    model = attention()
    samples = samples_of(model, tmp_path)
    feeds = random_feeds(model.inputs, 4, seed=11)
    right = infer(model, feeds)["y"]
    kept = {
        kind: sqnr(right, infer(stored(model, "openvino", kind, samples=samples), feeds)["y"])
        for kind in KINDS
    }
    # Four bits less are 24 dB less, but for the blocks, whose scales fit better.
    assert kept["int8"] > 37
    assert kept["int4"] > 14


# Judged as everything else ---------------------------------------------------------------------


def test_four_bits_count_as_so_many_roundings_as_make_their_noise() -> None:
    for target in NAMES:
        assert depths(stored(matmul(64, 8), target, "int8")) == {"y": 1}
        assert depths(stored(matmul(64, 8), target, "int4")) == {"y": 256}


@every
def test_an_engine_is_proven_and_its_passport_says_what_it_stores(
    target: str, kind: WeightType, tmp_path: Path
) -> None:
    if not engine.runs_here(target):
        pytest.skip(f"{target} does not run here")
    graph = stored(attention(), target, kind)
    passport = engine.build(graph, tmp_path / "e", target)
    assert passport.proven
    assert (passport.precision, passport.weights) == ("fp32", kind)
    assert engine.read_passport(tmp_path / "e").name == f"{target} {kind} weights"
    feeds = random_feeds(graph.inputs, 2)
    with engine.load(tmp_path / "e") as built, exact(graph) as right:
        found, wanted = built.infer(feeds)["y"], right.infer(feeds)["y"]
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_int8_is_asked_for_in_vain_where_activations_are_float(tmp_path: Path) -> None:
    graph = stored(matmul(64, 8), "openvino", "int4")
    with pytest.raises(InputError, match="the graph is fp32 with int4 weights, not int8"):
        engine.build(graph, tmp_path / "e", "openvino", precision="int8")


def test_an_engine_with_a_wrong_scale_is_not_proven() -> None:
    graph = stored(matmul(64, 8), "onnxruntime", "int4")
    other = graph.copy()
    other.graph.nodes[0].inputs[2].values = other.graph.nodes[0].inputs[2].values * np.float32(1.01)
    reference = Reference(graph, [random_feeds(graph.inputs, 4)])
    with OnnxRuntime(graph.to_onnx()) as right, OnnxRuntime(other.to_onnx()) as wrong:
        assert all(proof.passed for proof in reference.hold(right))
        assert not any(proof.passed for proof in reference.hold(wrong))


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_keeps_weights_as_small_as_they_are(kind: WeightType, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = matmul(512, 512)
    sizes = []
    for graph in (model, stored(model, "openvino", kind)):
        engine.build(graph, tmp_path / "e", "openvino", shapes={"x": (1, 512)}, prove=False)
        sizes.append((tmp_path / "e").stat().st_size)
    assert sizes[1] < sizes[0] * {"int8": 0.27, "int4": 0.17}[kind]
    with engine.load(tmp_path / "e") as built:
        dense = [x.precision for x in engine.layers(built) if x.kind == "FullyConnected"]
    assert dense == [{"int8": "i8", "int4": "i4"}[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrts_parser_and_builder_take_it(kind: WeightType) -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    from onnxgraft.stages.engine.tensorrt import builder

    model = matmul(512, 512, "4")
    sizes = [
        len(builder.build_plan(trt, graph.to_onnx().SerializeToString(), builder.Settings()).engine)
        for graph in (model, stored(model, "tensorrt", kind))
    ]
    assert sizes[1] < 0.6 * sizes[0]  # integers stay integers in the engine
