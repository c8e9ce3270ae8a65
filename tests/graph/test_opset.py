"""A graph in a later opset computes the same, under the same names, in bodies and functions too."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.external import LARGE
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.onnx_file import check
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import few

RNG = np.random.default_rng(0)


def at(opset: int, text: str, domains: str = "", **constants: Array) -> Model:
    """Return a model of an old opset, as ONNX text."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\n{text}'
    )
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    check(proto, {})
    return Model.from_onnx(proto, Source("test.onnx", "onnx", ""))


def run(model: Model) -> dict[str, Array]:
    """Return the outputs for seeded images."""
    rng = np.random.default_rng(1)
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        return session.infer({
            spec.name: rng.standard_normal([2 if isinstance(d, str) else d for d in spec.shape])
            .astype(spec.dtype)
            for spec in session.inputs
        })  # fmt: skip


IN_A_BODY = """s = ReduceSum (x)  c = Greater (s, nought)
    y = If (c) <then_branch = t () => (float[] t) { a = Clip <min = 0.0> (x)  t = Softmax (a) },
                else_branch = e () => (float[] e) { e = Clip <max = 0.0> (x) }>"""
SCAN = """y = Scan <num_scan_inputs = 1, body = b (float i) => (float o) { o = Relu (i) }> (, x)"""
# An opset in which each is written, and the graph.
CASES = {
    "slice": (7, "y = Slice <starts = [1, 0], ends = [3, 4], axes = [1, 3]> (x)"),
    "slice_without_axes": (9, "y = Slice <starts = [0, 1], ends = [1, 3]> (x)"),
    "upsample": (7, 'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]> (x)'),
    "upsample_linear": (7, 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 3.0]> (x)'),
    "upsample_by_input": (9, 'y = Upsample <mode = "nearest"> (x, larger)'),
    "resize": (10, 'y = Resize <mode = "nearest"> (x, larger)'),
    "resize_smaller": (10, 'y = Resize <mode = "nearest"> (x, smaller)'),
    "resize_linear": (10, 'y = Resize <mode = "linear"> (x, larger)'),
    "resize_linear_smaller": (10, 'y = Resize <mode = "linear"> (x, smaller)'),
    "top_k": (7, "y, i = TopK <axis = 3, k = 2> (x)"),
    "clip": (7, "y = Clip <min = -0.5, max = 0.5> (x)"),
    "clip_below": (10, "y = Clip <min = 0.0> (x)"),
    "clip_nothing": (10, "y = Clip (x)"),
    "pad": (7, "y = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 4]> (x)"),
    "pad_value": (10, "y = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 4], value = 2.5> (x)"),
    "pad_reflect": (10, 'y = Pad <mode = "reflect", pads = [0, 0, 1, 2, 0, 0, 3, 1]> (x)'),
    "scatter": (9, "y = Scatter <axis = 1> (x, where, what)"),
    "dropout": (7, "y = Dropout <ratio = 0.3> (x)"),
    "dropout_10": (10, "y = Dropout <ratio = 0.3> (x)"),
    "batchnorm": (7, "y = BatchNormalization <spatial = 1> (x, g, b, m, v)"),
    "batchnorm_9": (9, "y = BatchNormalization (x, g, b, m, v)"),
    "squeeze": (11, "s = ReduceMax <axes = [2]> (x) y = Squeeze <axes = [2]> (s)"),
    "squeeze_all": (11, "s = ReduceMax <axes = [1, 2]> (x) y = Squeeze (s)"),
    "unsqueeze": (7, "y = Unsqueeze <axes = [0, 3]> (x)"),
    "reduce_sum": (11, "y = ReduceSum <axes = [2, 3], keepdims = 0> (x)"),
    "reduce_sum_all": (11, "y = ReduceSum (x)"),
    "reduce_mean": (12, "y = ReduceMean <axes = [-1]> (x)"),
    "split": (11, "y, z = Split <axis = 2, split = [1, 3]> (x)"),
    "split_evenly": (11, "y, z = Split <axis = 2> (x)"),
    "softmax": (11, "y = Softmax (x)"),
    "softmax_axis_2": (11, "y = Softmax <axis = 2> (x)"),
    "softmax_last": (11, "y = Softmax <axis = 3> (x)"),
    "softmax_negative": (11, "y = Softmax <axis = -1> (x)"),
    "softmax_of_pooled": (11, "p = GlobalAveragePool (x) y = Softmax <axis = 1> (p)"),
    "log_softmax": (7, "y = LogSoftmax <axis = 2> (x)"),
    "hardmax": (11, "y = Hardmax <axis = 2> (x)"),
    "roi_align": (10, "y = RoiAlign <output_height = 2, output_width = 2> (x, rois, batches)"),
    "grid_sample": (16, 'y = GridSample <mode = "bicubic"> (x, grid)'),
    "pool": (7, "y = MaxPool <kernel_shape = [2, 2]> (x)"),
    "in_a_body": (10, IN_A_BODY),
}  # fmt: skip
CONSTANTS = {
    "larger": np.array([1, 1, 2, 3], np.float32), "smaller": np.array([1, 1, 0.6, 0.5], np.float32),
    "where": np.array([[[[0] * 5] * 4] * 2] * 1), "what": np.ones((1, 2, 4, 5), np.float32),
    "g": np.array([1, 2, 3], np.float32), "b": np.array([0, 1, 2], np.float32),
    "m": np.array([3, 2, 1], np.float32), "v": np.array([1, 2, 0.5], np.float32),
    "rois": np.array([[0, 0, 3, 3], [1, 1, 4, 3]], np.float32), "batches": np.array([0, 1]),
    "grid": RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32), "nought": np.float32(0),
}  # fmt: skip


@pytest.mark.parametrize("opset", few([13, 17, 20], 1))
@pytest.mark.parametrize("case", CASES)
def test_an_operator_of_a_former_opset_computes_the_same(case: str, opset: int) -> None:
    before, body = CASES[case]
    used = {name: value for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", body)}
    model = at(before, f"n (float[N, 3, 4, 5] x) => (float[] y) {{ {body} }}", **used)
    later = raise_opset(model, opset)
    assert later.graph.opset == opset or before >= opset
    check(later.to_onnx(), {})
    assert {node.name for node in later.graph.nodes} >= {node.name for node in model.graph.nodes}
    assert set(later.graph.tensors()) >= set(model.graph.tensors())
    expected, found = run(model), run(later)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("groups", [2, 4])
def test_a_group_normalization_scales_each_channel_from_opset_21_on(groups: int) -> None:
    """Before, it scaled each group; onnx has withdrawn that, and onnxruntime runs it."""
    text = f"y = GroupNormalization <num_groups = {groups}> (x, scale, bias)"
    model = at(
        18, f"n (float[N, 4, 5] x) => (float[] y) {{ {text} }}",
        scale=np.arange(1, groups + 1, dtype=np.float32), bias=np.ones(groups, np.float32),
    )  # fmt: skip
    later = raise_opset(model, 21)
    check(later.to_onnx(), {})
    np.testing.assert_allclose(run(later)["y"], run(model)["y"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [("<epsilon = 0.1> (x, s, s)", "Required attribute 'num_groups' is missing"),
     ("<num_groups = 2> (x, s)", "input size 2 not in range"),
     ("<num_groups = 2, epsilon = 1> (x, s, s)", "Mismatched attribute type")],
    ids=["attribute", "inputs", "type"],
)  # fmt: skip
def test_a_group_normalization_of_opset_18_is_checked_as_the_next(text: str, said: str) -> None:
    with pytest.raises(onnx.checker.ValidationError, match=said):
        at(
            18, f"n (float[N, 4, 5] x) => (float[] y) {{ y = GroupNormalization {text} }}",
            s=np.ones(2, np.float32),
        )  # fmt: skip


def test_of_unknown_channels_a_group_normalization_is_not_raised() -> None:
    text = "y = GroupNormalization <num_groups = 2> (x, s, s)"
    model = at(18, f"n (float[N, C, 5] x) => (float[] y) {{ {text} }}", s=np.ones(2, np.float32))
    with pytest.raises(NotSupportedError, match="'y' has an unknown number of channels"):
        raise_opset(model, 21)


def test_the_model_itself_stays_as_it_was() -> None:
    model = at(11, "n (float[N, 3, 4, 5] x) => (float[] y) { y = Softmax (x) }")
    before = model.to_onnx()
    raise_opset(model, 17)
    assert model.to_onnx() == before
    assert raise_opset(model, 11) is model


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_constants_are_of_the_type_that_the_operator_computes_in(dtype: str) -> None:
    pad = at(10, f"n ({dtype}[N, 4] x) => ({dtype}[] y) "
                 "{ y = Pad <pads = [0, 1, 0, 1], value = 1.5> (x) }")  # fmt: skip
    np.testing.assert_array_equal(run(raise_opset(pad, 17))["y"], run(pad)["y"])
    # onnxruntime has no kernel for the former Clip of other types than float32.
    clip = at(10, f"n ({dtype}[N, 4] x) => ({dtype}[] y) {{ y = Clip <min = -0.5> (x) }}")
    assert run(raise_opset(clip, 17))["y"].min() == -0.5


def test_functions_are_raised_with_the_graph() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 11, "acme" : 1]>
        n (float[N, 3, 4, 5] x) => (float[] y) { y = acme.Own (x) }
        <domain: "acme", opset_import: ["" : 11]>
        Own (x) => (y) { s = Unsqueeze <axes = [0]> (x)  y = Softmax <axis = 3> (s) }
    """)
    model = Model.from_onnx(proto, Source("test.onnx", "onnx", ""))
    later = raise_opset(model, 17)
    assert [entry.version for entry in later.to_onnx().functions[0].opset_import] == [17]
    np.testing.assert_allclose(run(later)["y"], run(model)["y"], rtol=1e-6)


def test_other_domains_stay_as_they_are() -> None:
    text = "n (float[N, 4] x) => (float[] y) { a = acme.Softmax <axis = 1> (x)  y = Relu (a) }"
    later = raise_opset(at(11, text, ', "acme" : 3'), 17)
    assert later.graph.nodes[0].attrs == {"axis": 1}
    versions = {entry.domain: entry.version for entry in later.to_onnx().opset_import}
    assert versions == {"": 17, "acme": 3}


BEYOND = {
    "training": (9, "y, a, b2, c, d = BatchNormalization (x, g, b, m, v)", "is in training"),
    "mask": (7, "y, z = Dropout (x) w = Relu (z)", "the mask of Dropout .* is read as a float"),
    "values": (7, "y = BatchNormalization <spatial = 0> (x, g, b, m, v)", r"spatial = 0"),
    "scan": (8, SCAN, "Scan 'y' goes over a batch"),
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
def test_what_cannot_be_raised_is_named(case: str) -> None:
    before, body, reason = BEYOND[case]
    outputs = "float[] y, float[] w" if case == "mask" else "float[] y"
    used = {name: CONSTANTS[name] for name in "gbmv"} if "Normalization" in body else {}
    model = at(before, f"n (float[N, 3, 4, 5] x) => ({outputs}) {{ {body} }}", **used)
    with pytest.raises(NotSupportedError, match=reason) as raised:
        raise_opset(model, 14)
    assert f"test.onnx: opset {before} can't be raised to 14: " in str(raised.value)
    assert str(raised.value).endswith("export the network with opset 14")


def test_what_has_no_step_of_its_own_is_left_to_onnx() -> None:
    # Before opset 7 an Add said that it broadcasts.
    large = RNG.standard_normal((3, LARGE)).astype(np.float32)
    node = helper.make_node("Add", ["x", "c"], ["y"], broadcast=1)
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, LARGE])  # noqa: E731
    graph = helper.make_graph(
        [node], "n", [value("x")], [value("y")], [numpy_helper.from_array(large, "c")]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=4)
    model = Model.from_onnx(proto, Source("test.onnx", "onnx", ""))
    later = raise_opset(model, 13)
    x = RNG.standard_normal((2, 3, LARGE)).astype(np.float32)
    with OnnxRuntime(later.to_onnx(), optimize=False) as session:
        np.testing.assert_array_equal(session.infer({"x": x})["y"], x + large)
    assert [spec.name for spec in later.inputs] == ["x"]
