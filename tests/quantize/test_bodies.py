"""INT8 in the bodies of If, Loop and Scan: what is measured there, placed there and computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from onnxgraft import commands
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import float_twin, in_float, with_offset
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import bodies, nodes_within
from onnxgraft.run.exact import exact, exact_graph
from onnxgraft.stages.quantize import calibrate, improve, quantize, retarget
from onnxgraft.stages.quantize.place.placement import placement
from onnxgraft.stages.quantize.place.ready import ready
from onnxgraft.targets import target_names
from tests.conftest import model_of
from tests.quantize.networks import infer, ranges_of, samples_of, sqnr, weights

TARGETS = target_names()

BRANCHES = """
network (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (x, k1, b1)
    total = ReduceSum <keepdims = 0> (x)
    zero = Constant <value_float = 0.0> ()
    positive = Greater (total, zero)
    [choice] b = If (positive) <
        then_branch = one () => (float[N, 8, 6, 6] c) {
            r = Relu (a)
            [taken] d = Conv <pads = [1, 1, 1, 1]> (r, k2, b1)
            c = Relu (d)
        },
        else_branch = other () => (float[N, 8, 6, 6] c) {
            [left] d = Conv <pads = [1, 1, 1, 1]> (a, k3, b1)
            c = Add (d, a)
        }
    >
    [last] y = Conv <pads = [1, 1, 1, 1]> (b, k4, b1)
}
"""
LOOP = """
network (float[N, 8] x) => (float[N, 8] y) {
    count = Constant <value_int = 4> ()
    always = Constant <value = bool {1}> ()
    [loop] y = Loop (count, always, x) <
        body = turn (int64 i, bool go, float[N, 8] state) => (bool on, float[N, 8] next) {
            on = Identity (go)
            [inner] a = MatMul (state, w1)
            next = Tanh (a)
        }
    >
}
"""
GROWING = """
network (float[N, 8] x) => (float[M, 8] y) {
    count = Constant <value_int = 3> ()
    always = Constant <value = bool {1}> ()
    [loop] y = Loop (count, always, x) <
        body = turn (int64 i, bool go, float[K, 8] state) => (bool on, float[K2, 8] next) {
            on = Identity (go)
            [inner] a = MatMul (state, w1)
            b = Tanh (a)
            next = Concat <axis = 0> (state, b)
        }
    >
}
"""
NESTED = """
network (float[N, 8] x) => (float[N, 8] y) {
    count = Constant <value_int = 4> ()
    always = Constant <value = bool {1}> ()
    [loop] y = Loop (count, always, x) <
        body = turn (int64 i, bool go, float[N, 8] state) => (bool on, float[N, 8] next) {
            on = Identity (go)
            total = ReduceSum <keepdims = 0> (state)
            zero = Constant <value_float = 0.0> ()
            positive = Greater (total, zero)
            [choice] b = If (positive) <
                then_branch = one () => (float[N, 8] c) {
                    [taken] c = MatMul (state, w1)
                },
                else_branch = other () => (float[N, 8] c) {
                    t = Neg (state)
                    [left] c = MatMul (t, w2)
                }
            >
            next = Tanh (b)
        }
    >
}
"""
SCAN = """
network (float[2, 8] start, float[5, 2, 8] x) => (float[2, 8] last, float[5, 2, 8] y) {
    [scan] last, y = Scan <num_scan_inputs = 1, body = turn (float[2, 8] state, float[2, 8] row)
        => (float[2, 8] next, float[2, 8] out) {
            sum = Add (state, row)
            [inner] a = MatMul (sum, w1)
            next = Tanh (a)
            out = Relu (a)
        }
    > (start, x)
}
"""
NETWORKS = {
    "if": (BRANCHES, dict.fromkeys(["k1", "k2", "k3", "k4"], (8, 8, 3, 3)) | {"b1": (8,)}),
    "loop": (LOOP, {"w1": (8, 8)}),
    "growing": (GROWING, {"w1": (8, 8)}),
    "nested": (NESTED, {"w1": (8, 8), "w2": (8, 8)}),
    "scan": (SCAN, {"w1": (8, 8)}),
}  # fmt: skip
LAYERS = {
    "if": {"first", "taken", "left", "last"}, "loop": {"inner"}, "growing": {"inner"},
    "nested": {"taken", "left"}, "scan": {"inner"},
}  # fmt: skip


def network(name: str) -> Model:
    text, shapes = NETWORKS[name]
    return model_of(text, weights(shapes))


def weight(name: str, which: str) -> Array:
    return weights(NETWORKS[name][1])[which].astype(np.float64)


def measured(name: str, feeds: dict[str, Array], folder: Path) -> Ranges:
    model = network(name)
    np.savez(folder / "data.npz", **feeds)
    return calibrate(model, open_samples(folder / "data.npz", model.inputs), "minmax")


def normal(*shape: int, seed: int = 3) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(values: list[Array]) -> list[float]:
    return [float(min(map(np.min, values))), float(max(map(np.max, values)))]


def held(ranges: Ranges, tensor: str) -> list[float]:
    return [ranges.tensors[tensor].low, ranges.tensors[tensor].high]


def test_a_state_is_measured_in_each_turn(tmp_path: Path) -> None:
    x = normal(6, 8)
    states, w = [x.astype(np.float64)], weight("loop", "w1")
    for _ in range(3):
        states.append(np.tanh(states[-1] @ w))
    ranges = measured("loop", {"x": x}, tmp_path)
    np.testing.assert_allclose(held(ranges, "state"), seen(states), rtol=1e-5)
    assert ranges.histograms["state"].total == 4 * x.size


def test_a_state_that_grows_is_measured_too(tmp_path: Path) -> None:
    x, w = normal(6, 8), weight("growing", "w1")
    total, states = 0, []
    for row in x.astype(np.float64):
        state = row[None]
        for _ in range(3):
            states.append(state)
            total += state.size
            state = np.concatenate([state, np.tanh(state @ w)])
    ranges = measured("growing", {"x": x}, tmp_path)
    np.testing.assert_allclose(held(ranges, "state"), seen(states), rtol=1e-5)
    assert ranges.histograms["state"].total == total


def test_a_branch_in_a_loop_is_measured_where_it_is_taken(tmp_path: Path) -> None:
    x, w1, w2 = normal(9, 8), weight("nested", "w1"), weight("nested", "w2")
    negative, count = [], 0
    for row in x.astype(np.float64):
        state = row[None]
        for _ in range(4):
            if state.sum() > 0:
                state = np.tanh(state @ w1)
            else:
                negative.append(-state)
                state = np.tanh(-state @ w2)
            count += 1
    assert 0 < len(negative) < count
    ranges = measured("nested", {"x": x}, tmp_path)
    np.testing.assert_allclose(held(ranges, "t"), seen(negative), rtol=1e-5)
    assert ranges.histograms["t"].total == 8 * len(negative)


def test_what_is_scanned_is_measured_in_each_turn(tmp_path: Path) -> None:
    start, x, w = normal(3, 2, 8), normal(3, 5, 2, 8, seed=4), weight("scan", "w1")
    sums = []
    for first, rows in zip(start.astype(np.float64), x.astype(np.float64), strict=True):
        state = first
        for row in rows:
            sums.append(state + row)
            state = np.tanh(sums[-1] @ w)
    ranges = measured("scan", {"start": start, "x": x}, tmp_path)
    np.testing.assert_allclose(held(ranges, "sum"), seen(sums), rtol=1e-5)


def test_tensors_of_two_branches_with_one_name_are_told_apart(tmp_path: Path) -> None:
    model = network("if")
    graph, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "onnxruntime")
    assert set(report.layers) == LAYERS["if"]
    made = [t.name for part in bodies(graph.graph) for node in part.nodes for t in node.outputs]
    assert len(made) == len(set(made))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_in_bodies_run_in_int8(name: str, target: str, tmp_path: Path) -> None:
    model = network(name)
    ranges = ranges_of(model, samples_of(model, tmp_path))
    graph, report = quantize(model, ranges, target)
    assert set(report.layers) == LAYERS[name]
    assert report.float_layers == []
    graph.save(tmp_path / "int8.onnx")
    onnx.checker.check_model(tmp_path / "int8.onnx", full_check=True)
    feeds = next(iter(samples_of(model, tmp_path, 1, seed=8))).feeds
    right = infer(model, feeds)
    found = infer(graph, feeds)
    with exact(graph) as session:
        precise = session.infer(feeds)
    for output, value in right.items():
        assert 20 < sqnr(value, found[output]) < 90
        np.testing.assert_allclose(precise[output], found[output], atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exact_reference_is_onnxs_own(name: str, tmp_path: Path) -> None:
    model = network(name)
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "tensorrt")
    proto = graph.to_onnx()
    # The evaluator has Q and DQ from opset 19 on; they say the same before.
    proto.opset_import[0].version = 21
    feeds = next(iter(samples_of(model, tmp_path, 1, seed=8))).feeds
    names = [output.name for output in model.outputs]
    right = dict(zip(names, ReferenceEvaluator(proto).run(names, dict(feeds)), strict=True))
    with exact(graph) as session:
        found = session.infer(feeds)
    for output, value in right.items():
        np.testing.assert_allclose(found[output], value, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_in_bodies_are_sums_of_whole_numbers_in_the_exact_reference(
    name: str, tmp_path: Path
) -> None:
    model = network(name)
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "onnxruntime")
    proto = exact_graph(graph)
    inner = list(_bodies(proto.graph))
    multiplied = [n for g in inner for n in g.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert multiplied
    stored = {i.name: onnx.numpy_helper.to_array(i) for g in (proto.graph, *inner)
              for i in g.initializer}  # fmt: skip
    for node in multiplied:
        numbers = stored[node.input[1]]
        assert len(node.input) == 2 and (numbers == np.rint(numbers)).all()
    # What scales them is an input of the graph, which no optimizer folds.
    fed = {entry.name for entry in proto.graph.input}
    scaled = [
        name for g in inner for node in g.node if node.op_type == "Mul" for name in node.input
        if name in stored
    ]  # fmt: skip
    assert scaled and set(scaled) <= fed


def _bodies(graph: onnx.GraphProto) -> Any:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
                yield from _bodies(attribute.g)


@pytest.mark.parametrize("target", TARGETS)
def test_a_branch_that_no_sample_entered_stays_float(target: str, tmp_path: Path) -> None:
    model = network("if")
    ranges = measured("if", {"x": np.abs(normal(4, 8, 6, 6))}, tmp_path)
    ranges.save(tmp_path / "ranges.json")
    _, report = quantize(model, Ranges.load(tmp_path / "ranges.json"), target)
    assert set(report.layers) == {"first", "taken", "last"}
    assert [(layer.name, layer.reason) for layer in report.float_layers] == [
        ("left", "no sample entered this branch")
    ]


def test_a_branch_in_a_scan_stays_float(tmp_path: Path) -> None:
    text = """
    network (float[8] start, float[5, 8] x) => (float[8] y) {
        y = Scan <num_scan_inputs = 1, body = turn (float[8] state, float[8] row)
            => (float[8] next) {
                total = ReduceSum <keepdims = 0> (row)
                zero = Constant <value_float = 0.0> ()
                positive = Greater (total, zero)
                b = If (positive) <
                    then_branch = one () => (float[8] c) { [taken] c = MatMul (row, w1) },
                    else_branch = other () => (float[8] d) { d = Neg (row) }
                >
                [always] e = MatMul (b, w2)
                next = Add (state, e)
            }
        > (start, x)
    }
    """
    model = model_of(text, weights({"w1": (8, 8), "w2": (8, 8)}))
    _, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "tensorrt")
    assert report.layers == ["always"]
    (left,) = report.float_layers
    assert left.name == "taken" and "whether a sample entered" in left.reason


def test_a_layer_in_a_body_stays_float_by_name(tmp_path: Path) -> None:
    model = network("nested")
    ranges = ranges_of(model, samples_of(model, tmp_path))
    _, report = quantize(model, ranges, "onnxruntime", keep_float=["left"])
    assert report.layers == ["taken"]
    assert [(layer.name, layer.reason) for layer in report.float_layers] == [("left", "requested")]


def test_a_table_without_bodies_names_what_is_in_them(tmp_path: Path) -> None:
    model = network("nested")
    ranges = ranges_of(model, samples_of(model, tmp_path))
    _, report = quantize(model, ranges, replace(placement("openvino"), bodies=False))
    assert report.layers == []
    reasons = {layer.name: layer.reason for layer in report.float_layers}
    assert set(reasons) == {"taken", "left"}
    assert all("body of If 'choice'" in reason for reason in reasons.values())


@pytest.mark.parametrize("reader", ["Relu (a)", "Reshape (a, sizes)", "Add (a, bias)"])
@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_what_a_body_alone_reads_is_quantized_where_it_is_made(
    op: str, reader: str, tmp_path: Path
) -> None:
    layer = "Conv (x, k)" if op == "Conv" else "MatMul (x, w)"
    text = f"""
    network (float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] y) {{
        [first] a = {layer}
        zero = Constant <value_float = 0.0> ()
        total = ReduceSum <keepdims = 0> (x)
        positive = Greater (total, zero)
        y = If (positive) <
            then_branch = one () => (float[N, 8, 4, 4] c) {{
                r = {reader}
                [inner] c = {layer.replace("x", "r")}
            }},
            else_branch = other () => (float[N, 8, 4, 4] d) {{ d = Identity (x) }}
        >
    }}
    """
    constants = weights({"k": (8, 8, 1, 1), "w": (4, 4), "bias": (4,)})
    model = model_of(text, {**constants, "sizes": np.array([0, 8, 4, 4])})
    ranges = ranges_of(model, samples_of(model, tmp_path))
    feeds = {"x": np.abs(normal(2, 8, 4, 4))}
    for target in TARGETS:
        graph, report = quantize(model, ranges, target)
        assert set(report.layers) == {"first", "inner"}
        assert sqnr(infer(model, feeds)["y"], infer(graph, feeds)["y"]) > 20


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_twin_has_no_quantized_activation_in_bodies(name: str, tmp_path: Path) -> None:
    model = network(name)
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "onnxruntime")
    twin = float_twin(graph)
    assert "QuantizeLinear" not in twin.operators()
    feeds = next(iter(samples_of(model, tmp_path, 1, seed=8))).feeds
    right, found = infer(model, feeds), infer(twin, feeds)
    assert all(sqnr(value, found[output]) > 25 for output, value in right.items())


def test_other_forms_reach_into_bodies(tmp_path: Path) -> None:
    model = network("nested")
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "tensorrt")
    moved = with_offset(graph)
    assert moved is not None
    kinds = {str(n.inputs[2].values.dtype) for n in nodes_within(moved.graph)
             if n.op == "QuantizeLinear"}  # fmt: skip
    assert kinds == {"uint8"}
    feeds = {"x": normal(2, 8)}
    np.testing.assert_array_equal(infer(moved, feeds)["y"], infer(graph, feeds)["y"])
    one = in_float(graph, ["t"])
    assert one.operators()["QuantizeLinear"] == 1


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NETWORKS)
def test_engines_with_bodies_are_proven(name: str, target: str, tmp_path: Path) -> None:
    pytest.importorskip(target)
    model = network(name)
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), target)
    graph.save(tmp_path / "int8.onnx")
    done = commands.build(tmp_path / "int8.onnx", tmp_path / "engine", target=target)
    assert done.passed and done.passport.precision == "int8"


@pytest.mark.parametrize("name", NETWORKS)
def test_tensorrts_parser_takes_them(name: str, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    model = network(name)
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "tensorrt")
    logger = trt.Logger(trt.Logger.ERROR)
    network_ = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network_, logger)
    assert parser.parse(graph.to_onnx().SerializeToString()), [
        parser.get_error(index).desc() for index in range(parser.num_errors)
    ]


def test_improvements_keep_what_is_in_bodies(tmp_path: Path) -> None:
    model = network("if")
    samples = samples_of(model, tmp_path)
    prepared = improve(model, calibrate(model, samples, "mse"), "onnxruntime", samples)
    _, report = quantize(prepared.model, prepared.ranges, "onnxruntime", improved=prepared.improved)
    assert set(report.layers) == LAYERS["if"]


def test_scales_in_bodies_are_not_taken_to_another_form(tmp_path: Path) -> None:
    model = network("if")
    graph, _ = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "tensorrt")
    with pytest.raises(NotSupportedError, match="in the body of If 'choice'"):
        retarget(graph, placement("openvino"))


@settings(max_examples=10)
@given(
    turns=st.integers(0, 4),
    batch=st.integers(1, 3),
    width=st.integers(1, 9),
    outputs=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_a_loop_of_any_size(turns: int, batch: int, width: int, outputs: int, seed: int) -> None:
    """Its ranges are those of the states in numpy, and INT8 is what ONNX's evaluator computes."""
    rng = np.random.default_rng(seed)
    w, v = (rng.standard_normal(s).astype(np.float32) for s in ((width, outputs), (outputs, width)))
    model = model_of(
        LOOP.replace("float[N, 8]", f"float[{batch}, {width}]")
        .replace("value_int = 4", f"value_int = {turns}")
        .replace("[inner] a = MatMul (state, w1)", "[inner] h = MatMul (state, w1)"
                 "[second] a = MatMul (h, w2)"),
        {"w1": w, "w2": v},
    )  # fmt: skip
    x = rng.standard_normal((3, batch, width)).astype(np.float32)
    states = []
    for state in x.astype(np.float64):
        for _ in range(turns):
            states.append(state)
            state = np.tanh(state @ w @ v)
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "data.npz", x=x)
        samples = open_samples(Path(folder) / "data.npz", model.inputs)
        ranges = calibrate(model, samples, "minmax")
    graph, report = quantize(model, ranges, "openvino")
    if not turns:
        assert {layer.reason for layer in report.float_layers} == {"no sample entered this branch"}
        return
    np.testing.assert_allclose(held(ranges, "state"), seen(states), rtol=1e-4, atol=1e-5)
    proto = graph.to_onnx()
    proto.opset_import[0].version = 21
    (right,) = ReferenceEvaluator(proto).run(["y"], {"x": x[0]})
    with exact(graph) as session:
        np.testing.assert_allclose(session.infer({"x": x[0]})["y"], right, atol=0.05)


def test_layers_in_bodies_that_are_float_in_a_given_graph_stay_so(tmp_path: Path) -> None:
    text = NESTED.replace(
        "[loop] y = Loop (count, always, x)",
        "[first] z = MatMul (x, w3) [loop] y = Loop (count, always, z)",
    )
    model = model_of(text, weights(dict.fromkeys(["w1", "w2", "w3"], (8, 8))))
    ranges = ranges_of(model, samples_of(model, tmp_path))
    graph, _ = quantize(model, ranges, "tensorrt", keep_float=["taken", "left"])
    assert set(retarget(graph, placement("onnxruntime")).float_layers) == {"taken", "left"}


def test_a_loop_may_leave_out_what_stands_at_its_ends(tmp_path: Path) -> None:
    """No condition, and no reader of what it collects."""
    text = """
    network (float[N, 8] x) => (float[N, 8] y) {
        count = Constant <value_int = 2> ()
        y = Loop (count, , x) <
            body = turn (int64 i, bool go, float[N, 8] state)
                => (bool on, float[N, 8] next, float[N, 8] seen) {
                    on = Identity (go)
                    [inner] a = MatMul (state, w1)
                    next = Tanh (a)
                    seen = Relu (a)
                }
        >
    }
    """
    model = model_of(text, weights({"w1": (8, 8)}))
    (loop,) = [node for node in model.graph.nodes if node.op == "Loop"]
    assert len(loop.outputs) == 1
    _, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), "tensorrt")
    assert report.layers == ["inner"]


@pytest.mark.parametrize("where", ["around", "in the body", "by a node"])
@pytest.mark.parametrize("target", TARGETS)
def test_weights_may_stand_around_a_body_or_in_it(where: str, target: str, tmp_path: Path) -> None:
    proto = network("loop").to_onnx()
    (body,) = _bodies(proto.graph)
    (weight,) = [entry for entry in body.initializer if entry.name == "w1"]
    if where != "in the body":
        body.initializer.remove(weight)
    if where == "around":
        proto.graph.initializer.append(weight)
    if where == "by a node":
        body.node.insert(0, onnx.helper.make_node("Constant", [], ["w1"], value=weight))
    model = Model.from_onnx(proto, network("loop").source)
    graph, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), target)
    assert report.layers == ["inner"]
    other, _ = quantize(
        network("loop"), ranges_of(network("loop"), samples_of(model, tmp_path)), target
    )
    feeds = {"x": normal(2, 8)}
    np.testing.assert_array_equal(infer(graph, feeds)["y"], infer(other, feeds)["y"])


CARRIED = """
network (float[N, 8] x) => (float[N, 8] y) {
    count = Constant <value_int = 4> ()
    always = Constant <value = bool {1}> ()
    [loop] w_after, y, v_after = Loop (count, always, w1, x, w2) <
        body = turn (int64 i, bool go, float[8, 8] w, float[N, 8] state, float[8, 8] v)
            => (bool on, float[8, 8] w_on, float[N, 8] next, float[8, 8] v_on) {
                on = Identity (go)
                w_on = Identity (w)
                [inner] a = MatMul (state, w)
                [second] b = MatMul (a, v)
                next = Tanh (b)
                v_on = Identity (v)
            }
    >
}
"""
CARRIED_IN_A_SCAN = """
network (float[5, 2, 8] x) => (float[5, 2, 8] y) {
    [scan] last, y = Scan <num_scan_inputs = 1, body = turn (float[8, 8] w, float[2, 8] row)
        => (float[8, 8] w_on, float[2, 8] out) {
            w_on = Identity (w)
            [inner] out = MatMul (row, w)
        }
    > (w1, x)
}
"""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("text", "layers"), [(CARRIED, 2), (CARRIED_IN_A_SCAN, 1)])
def test_weights_that_a_body_carries_are_weights(
    text: str, layers: int, target: str, tmp_path: Path
) -> None:
    model = model_of(text, weights(dict.fromkeys(["w1", "w2"][:layers], (8, 8))))
    graph, report = quantize(model, ranges_of(model, samples_of(model, tmp_path)), target)
    assert len(report.layers) == layers and not report.float_layers
    (node,) = [node for node in graph.graph.nodes if node.op in ("Loop", "Scan")]
    assert not any(isinstance(t, gs.Constant) and t.values.size == 64 for t in node.inputs)
    stored = [n for n in nodes_within(graph.graph) if n.op == "DequantizeLinear"
              and isinstance(n.inputs[0], gs.Constant)]  # fmt: skip
    assert [n.inputs[0].values.dtype for n in stored] == [np.int8] * layers
    feeds = next(iter(samples_of(model, tmp_path, 1, seed=8))).feeds
    assert 20 < sqnr(infer(model, feeds)["y"], infer(graph, feeds)["y"]) < 90


def test_a_carried_constant_that_is_read_behind_its_loop_is_read_itself() -> None:
    text = CARRIED.replace("(float[N, 8] y) {", "(float[N, 8] y, float[8, 8] z) {")
    text = text.rstrip().removesuffix("}") + "z = Neg (w_after) }"
    model = model_of(text, weights(dict.fromkeys(["w1", "w2"], (8, 8))))
    plain = ready(model)
    feeds = {"x": normal(2, 8)}
    right, found = infer(model, feeds), infer(plain, feeds)
    for name, value in right.items():
        np.testing.assert_array_equal(found[name], value)
    assert len(next(n for n in plain.graph.nodes if n.op == "Loop").inputs) == 3
    assert plain is not model and ready(plain) is plain


@pytest.mark.parametrize(
    "change",
    [
        ("w_on = Identity (w)", "w_on = Neg (w)"),
        ("(float[N, 8] y) {", "(float[N, 8] y, float[8, 8] w_after) {"),
    ],
    ids=["that changes", "that is an output"],
)
def test_a_state_is_kept(change: tuple[str, str]) -> None:
    model = model_of(CARRIED.replace(*change), weights(dict.fromkeys(["w1", "w2"], (8, 8))))
    loop = next(n for n in ready(model).graph.nodes if n.op == "Loop")
    assert [tensor.name for tensor in loop.inputs[2:]] == ["w1", "x"]
