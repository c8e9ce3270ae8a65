"""Graphs that are quantized already, by onnxruntime or in training, in a target's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.tensors import Array
from onnxgraft.run.exact import exact
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.quantize import placement, quantize, read_cache, retarget
from onnxgraft.stages.validate import bisect
from onnxgraft.targets import find_target, target_names
from onnxgraft.targets.cpu import find_cpu
from tests.conftest import Cli, model_of, only_ci
from tests.quantize.networks import (
    PAIR,
    PAIR_SHAPES,
    RESIDUAL,
    RESIDUAL_SHAPES,
    infer,
    ranges_of,
    samples_of,
    sqnr,
    weights,
)

pytestmark = pytest.mark.usefixtures("untimed")

TARGETS = target_names()

# Rectifiers that onnxruntime leaves to its Q, an addition, an average and a Gemm.
MIXED = """
network (float[N, 3, 8, 8] image) => (float[N, 6] y) {
    low = Constant <value_float = 0.0> ()
    high = Constant <value_float = 6.0> ()
    [stem] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    [six] b = Clip (a, low, high)
    [inner] c = Conv <pads = [1, 1, 1, 1]> (b, w2, b2)
    [relu] d = Relu (c)
    [sum] e = Add (b, d)
    [pool] f = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)
    [left] g = Conv (f, w3, b3)
    [both] h = Concat <axis = 1> (g, f)
    [mean] m = GlobalAveragePool (h)
    [flat] n = Flatten (m)
    [dense] y = Gemm <transB = 1> (n, w4, b4)
}
"""
MIXED_SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (4, 8, 1, 1),
    "b3": (4,), "w4": (6, 12), "b4": (6,),
}  # fmt: skip

# As quantization-aware training leaves it: float weights behind Q and DQ, int8 around zero.
TRAINED = """
network (float[N, 3, 8, 8] image) => (float[N, 4] y) {
    q0 = QuantizeLinear (image, s0, z)      p0 = DequantizeLinear (q0, s0, z)
    v1 = QuantizeLinear <axis = 0> (w1, t1, z8)
    u1 = DequantizeLinear <axis = 0> (v1, t1, z8)
    [first] a = Conv <pads = [1, 1, 1, 1]> (p0, u1, b1)
    [relu] b = Relu (a)
    q1 = QuantizeLinear (b, s1, z)          p1 = DequantizeLinear (q1, s1, z)
    u3 = DequantizeLinear (w3, t3, z)
    [inner] e = Conv (p1, u3)
    [mean] c = GlobalAveragePool (e)
    [flat] d = Flatten (c)
    q2 = QuantizeLinear (d, s2, z)          p2 = DequantizeLinear (q2, s2, z)
    v2 = QuantizeLinear (w2, t2, z)         u2 = DequantizeLinear (v2, t2, z)
    [turn] x2 = Transpose <perm = [1, 0]> (u2)
    [second] y = MatMul (p2, x2)
}
"""


def trained() -> Model:
    made = weights({"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 8)})
    numbers = {"s0": 0.03, "s1": 0.125, "s2": 0.04, "t2": 0.008, "t3": 0.004}
    constants = {name: np.array(value, np.float32) for name, value in numbers.items()}
    kernel = np.random.default_rng(1).integers(-128, 128, (8, 8, 1, 1), np.int8)
    scale = np.abs(made["w1"]).max((1, 2, 3)) / 127
    return model_of(
        TRAINED,
        made | constants
        | {"w3": kernel, "t1": scale, "z": np.array(0, np.int8), "z8": np.zeros(8, np.int8)},
    )  # fmt: skip


def by_onnxruntime(
    folder: Path, form: str, text: str = MIXED, shapes: Any = None, **options: Any
) -> Model:
    """Return what onnxruntime's own quantize_static makes of a network."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    model = model_of(text, weights(shapes or MIXED_SHAPES))
    model.save(folder / "float.onnx")
    feeds = random_feeds(model.inputs, 8, seed=5)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [feeds]

        def get_next(self) -> dict[str, Array] | None:
            return self.left.pop() if self.left else None

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(
        folder / "float.onnx", folder / "theirs.onnx", Reader(),
        quant_format=QuantFormat[form], **(types | options),
    )  # fmt: skip
    return Model.load(folder / "theirs.onnx")


def again(model: Model, target: str) -> tuple[Model, Any]:
    """Return a quantized model in a target's form, and the report."""
    taken = retarget(model, placement(target))
    return quantize(
        taken.model, taken.ranges, target, improved=taken.improved, keep_float=taken.float_layers
    )


def outputs(model: Model, seed: int = 3) -> Array:
    with exact(model) as engine:
        (made,) = engine.infer(random_feeds(model.inputs, 4, seed=seed)).values()
    return made


def integers(model: Model, layer: str) -> Array:
    """Return the integers of a layer's weights."""
    (node,) = (node for node in model.graph.nodes if node.name == layer)
    return np.asarray(node.inputs[1].inputs[0].inputs[0].values)


def step(values: Array) -> float:
    """Return the step of eight bits over values."""
    return float(np.ptp(values)) / 255


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize(
    ("text", "shapes"), [(PAIR, PAIR_SHAPES), (RESIDUAL, RESIDUAL_SHAPES)], ids=["pair", "residual"]
)
def test_onnxruntime_s_graph_computes_the_same_in_its_own_form(
    tmp_path: Path, form: str, text: str, shapes: Any
) -> None:
    given = by_onnxruntime(tmp_path, form, text, shapes, per_channel=True)
    made, report = again(given, "onnxruntime")
    assert not report.float_layers
    expected = outputs(given)
    same = np.abs(outputs(made) - expected) <= 1e-3 * step(expected)
    assert same.mean() >= 0.999


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_onnxruntime_s_graph_is_placed_for_every_target(
    tmp_path: Path, form: str, target: str
) -> None:
    given = by_onnxruntime(tmp_path, form, per_channel=form == "QDQ")
    made, report = again(given, target)
    assert not report.float_layers
    expected = outputs(given)
    assert np.abs(outputs(made) - expected).max() <= 3 * step(expected)


@pytest.mark.parametrize("target", TARGETS)
def test_a_graph_trained_with_q_and_dq_is_placed_for_every_target(target: str) -> None:
    made, report = again(trained(), target)
    assert report.layers == ["first", "inner", "second"]
    expected = outputs(trained())
    assert np.abs(outputs(made) - expected).max() <= step(expected)


def test_a_graph_trained_for_a_symmetric_target_keeps_its_bits_there() -> None:
    made, _ = again(trained(), "tensorrt")
    np.testing.assert_array_equal(outputs(made), outputs(trained()))


@pytest.mark.parametrize("target", TARGETS)
def test_stored_weights_stay_the_same_integers(target: str) -> None:
    given = trained()
    made, _ = again(given, target)
    np.testing.assert_array_equal(integers(made, "inner"), integers(given, "inner"))


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_rectifiers_that_onnxruntime_leaves_to_q_are_written_again(
    tmp_path: Path, form: str
) -> None:
    given = by_onnxruntime(tmp_path, form)
    assert not {"Clip", "Relu"} & given.operators().keys()
    assert retarget(given, placement("onnxruntime")).model.operators()["Clip"] == 2
    plain = retarget(given, placement("tensorrt")).model
    feeds = random_feeds(plain.inputs, 4, seed=3)
    expected = infer(Model.load(tmp_path / "float.onnx"), feeds)["y"]
    # Weights of eight bits are 40 dB; without the rectifiers nothing is left.
    assert sqnr(expected, infer(plain, feeds)["y"]) > 25


def test_a_layer_that_is_in_float_stays_there(tmp_path: Path) -> None:
    given = by_onnxruntime(tmp_path, "QDQ", nodes_to_exclude=["inner"])
    _, report = again(given, "tensorrt")
    assert [layer.name for layer in report.float_layers] == ["inner"]


def test_our_own_graph_of_a_target_gives_the_same_graph_again(tmp_path: Path) -> None:
    model = model_of(MIXED, weights(MIXED_SHAPES))
    ranges = ranges_of(model, samples_of(model, tmp_path))
    for target in TARGETS:
        given, _ = quantize(model, ranges, target)
        made, _ = again(given, target)
        assert np.abs(outputs(made) - outputs(given)).max() <= 1e-5, target


def test_weights_with_zero_points_that_int8_lacks_are_rounded_again(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    given = by_onnxruntime(tmp_path, "QDQ", weight_type=QuantType.QUInt8)
    taken = retarget(given, placement("tensorrt"))
    assert any("rounded again" in note for note in taken.notes)
    made, _ = again(given, "tensorrt")
    expected = outputs(given)
    assert np.abs(outputs(made) - expected).max() <= 4 * step(expected)


def test_neighbouring_weights_that_would_saturate_without_vnni_are_told() -> None:
    given = trained()  # the weights of `inner` are up to 127
    (note,) = retarget(given, placement("onnxruntime", find_cpu("avx2"))).notes
    assert "would saturate on a CPU without VNNI" in note
    assert "inner" in note
    wide = retarget(given, placement("onnxruntime", find_cpu("amx")))
    assert not wide.notes


def test_activations_whose_zero_points_a_target_lacks_are_told(tmp_path: Path) -> None:
    given = by_onnxruntime(tmp_path, "QDQ")
    assert any(
        "another one: image" in note for note in retarget(given, placement("tensorrt")).notes
    )
    assert not retarget(given, placement("onnxruntime")).notes


DYNAMIC = """
network (float[N, 8] x) => (float[N, 4] y) {
    q, found, offset = DynamicQuantizeLinear (x)
    p = DequantizeLinear (q, found, offset)
    y = MatMul (p, w)
}
"""
PER_CHANNEL = """
network (float[N, 8] x) => (float[N, 4] y) {
    q = QuantizeLinear <axis = 1> (x, s, zeros)
    p = DequantizeLinear <axis = 1> (q, s, zeros)
    y = MatMul (p, w)
}
"""
INTEGERS = """
network (float[N, 8] x) => (int8[N, 8] y, float[N, 8] z) {
    y = QuantizeLinear (x, one, zero)
    z = DequantizeLinear (y, one, zero)
}
"""
COMPUTING = """
network (float[N, 8] x) => (float[N, 1] y) {
    q = QuantizeLinear (x, one, zero)
    c = Cast <to = 6> (q)
    r = ReduceSum <keepdims = 1> (c, axes)
    y = Cast <to = 1> (r)
    d = DequantizeLinear (q, one, zero)
}
"""
UNKNOWN = {
    "s": np.ones(8, np.float32), "zeros": np.zeros(8, np.int8), "w": np.ones((8, 4), np.float32),
    "one": np.array(1, np.float32), "zero": np.array(0, np.int8), "axes": np.array([1], np.int64),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DYNAMIC, "DynamicQuantizeLinear '.*' has no fixed scale"),
        (PER_CHANNEL, "has a scale for each channel"),
        (INTEGERS, "'y' is in integers"),
        (COMPUTING, "Cast '.*' computes with the integers"),
    ],
    ids=["dynamic", "per_channel", "integer_output", "computing"],
)
def test_what_has_no_fixed_scales_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(NotSupportedError, match=said):
        retarget(model_of(text, UNKNOWN), placement("tensorrt"))


ODD_SCALES = """
network (float[N, 8] x) => (float[N, 4] y) {
    q = QuantizeLinear (x, s)
    p = DequantizeLinear (q, s)
    d = DequantizeLinear <axis = 1> (w, ws)
    y = MatMul (p, d)
}
"""


def scaled(activation: Any = 0.05, weights: Any = 0.01) -> Model:
    """Return a product with these scales of its activation and of the second channel."""
    whole = np.random.default_rng(0).integers(-127, 128, (8, 4)).astype(np.int8)
    scales = np.array([0.01, weights, 0.02, 0.03], np.float32)
    return model_of(ODD_SCALES, {"s": np.asarray(activation), "w": whole, "ws": scales})


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"activation": np.float32(0)}, "QuantizeLinear 'q' has the scale 0 in float32"),
        ({"activation": np.float32(-1)}, "QuantizeLinear 'q' has the scale -1 in float32"),
        ({"activation": np.float32("nan")}, "QuantizeLinear 'q' has the scale nan in float32"),
        ({"activation": np.float32("inf")}, "QuantizeLinear 'q' has the scale inf in float32"),
        ({"activation": np.int8(1)}, "QuantizeLinear 'q' has the scale 1 in int8"),
        ({"weights": -1}, "DequantizeLinear 'd' has the scale 0.01, -1, 0.02"),
        ({"weights": np.nan}, "DequantizeLinear 'd' has the scale 0.01, nan, 0.02"),
        ({"weights": np.inf}, "DequantizeLinear 'd' has the scale 0.01, inf, 0.02"),
    ],
)
def test_what_is_no_scale_is_refused_by_name(odd: Any, said: str, target: str) -> None:
    with pytest.raises(ModelError, match=said):
        retarget(scaled(**odd), placement(target))


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT16", "UINT16"])
def test_integers_without_a_zero_point_are_of_the_type_that_the_quantizer_says(kind: str) -> None:
    number = onnx.TensorProto.DataType.Value(kind)
    text = ODD_SCALES.replace("QuantizeLinear (x", f"QuantizeLinear <output_dtype = {number}> (x")
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    for name, value in (
        ("s", np.float32(0.02)), ("ws", np.full(4, 0.01, np.float32)),
        ("w", np.random.default_rng(0).integers(-127, 128, (8, 4)).astype(np.int8)),
    ):  # fmt: skip
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    found = retarget(Model.from_onnx(proto, Source("x.onnx", "onnx", "")), placement("onnxruntime"))
    # From the lowest integer, one step further than the highest.
    held = max(entry.amax for entry in found.ranges.tensors.values())
    assert held == pytest.approx(0.02 * np.iinfo(kind.lower()).max, rel=0.01)


CUT = """
network (float[N, 8] x) => (float[N, 4] y) {
    d = DequantizeLinear <axis = 1> (w, ws)
    h = MatMul (x, square)
    q = QuantizeLinear (h, s, z)
    p = DequantizeLinear (q, s, z)
    y = MatMul (p, d)
}
"""


@pytest.mark.parametrize("place", ["layer", "input"])
@pytest.mark.parametrize("zero", [0, 10, 128, 200, 255])
@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_what_a_quantizer_cuts_off_is_cut_off_for_every_target(
    target: str, zero: int, place: str
) -> None:
    """A zero point that is not in the middle leaves less room on one side."""
    text = CUT if place == "layer" else CUT.replace("MatMul (x, square)", "Identity (x)")
    whole = np.random.default_rng(0).integers(-127, 128, (8, 4)).astype(np.int8)
    model = model_of(text, {
        "w": whole, "ws": np.array([0.01, 0.01, 0.02, 0.03], np.float32), "s": np.float32(0.02),
        "z": np.uint8(zero),
        "square": np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32),
    })  # fmt: skip
    given = 2 * np.random.default_rng(2).standard_normal((64, 8)).astype(np.float32)
    if place == "input" and zero == 0 and target != "tensorrt":
        given = np.abs(given)  # as it was measured
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        expected = session.infer({"x": given})["y"]
    with OnnxRuntime(again(model, target)[0].to_onnx(), optimize=False) as session:
        found = session.infer({"x": given})["y"]
    # Steps of up to twice the size in what comes in, by weights of up to 3.8.
    assert float(np.abs(found - expected).max()) < 0.05 * float(np.ptp(expected))


def test_weights_whose_scale_is_0_are_0_with_a_scale_that_targets_take() -> None:
    found = retarget(scaled(weights=0), placement("tensorrt"))
    (stored,) = found.improved.weights.values()
    assert not stored.numbers[:, 1].any()
    np.testing.assert_array_equal(stored.scale, np.array([0.01, 1, 0.02, 0.03], np.float32))


def test_a_float_graph_is_refused() -> None:
    with pytest.raises(InputError, match="is not quantized; leave --from-qdq out"):
        retarget(model_of(PAIR, weights(PAIR_SHAPES)), placement("tensorrt"))


def test_the_command_writes_the_graph_and_a_cache_of_the_scales(tmp_path: Path, cli: Cli) -> None:
    trained().save(tmp_path / "qat.onnx")
    given = ["quantize", tmp_path / "qat.onnx", "--from-qdq", "--target", "tensorrt"]
    done = cli(
        *given, "-o", tmp_path / "int8.onnx", "--cache-out", tmp_path / "model.cache",
        "--trt-version", "10.3.0", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"] == ["first", "inner", "second"]
    scales = read_cache(tmp_path / "model.cache").scales
    assert {scales[name] for name in ("image", "b", "d")} == {
        float(np.float32(scale)) for scale in (0.03, 0.125, 0.04)
    }
    np.testing.assert_array_equal(outputs(Model.load(tmp_path / "int8.onnx")), outputs(trained()))
    done = cli(*given, "--no-int8", "-o", tmp_path / "float.onnx")
    assert done.returncode == 0, done.stderr
    assert "QuantizeLinear" not in Model.load(tmp_path / "float.onnx").operators()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ranges", "ranges.json"], "name one of three"),
        (["--improve", "all"], "keeps the graph's own scales"),
        (["--cache-out", "a.cache"], "--cache-out and --trt-version go together"),
    ],
    ids=["ranges", "improve", "version"],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, cli: Cli, more: list[str], said: str
) -> None:
    trained().save(tmp_path / "qat.onnx")
    done = cli(
        "quantize", tmp_path / "qat.onnx", "--from-qdq", "--target", "tensorrt", "-o",
        tmp_path / "int8.onnx", *more,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_trained_graph_is_validated_beside_its_engine(
    target: str, tmp_path: Path, cli: Cli
) -> None:
    original, made = tmp_path / "qat.onnx", tmp_path / "int8.onnx"
    trained().save(original)
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "data.npz", image=rng.normal(size=(8, 3, 8, 8)).astype(np.float32))
    given = ["--target", target, "-o"]
    done = cli("quantize", original, "--from-qdq", *given, made)
    assert done.returncode == 0, done.stderr
    done = cli("build", made, *given, tmp_path / "qat.engine")
    assert done.returncode == 0, done.stderr
    data = ["--data", tmp_path / "data.npz", "--json"]
    done = cli("validate", original, tmp_path / "qat.engine", *data)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["samples"] == 8
    (output,) = report["candidates"][1]["outputs"]
    # A value in the middle between two integers may become either. Weights of eight bits come from
    # the file here, and saturate where the processor's sums of products do.
    assert output["cosine"] > (0.9999 if find_target(target).cpu().wide_sums else 0.999), output


def test_what_a_trained_graph_rounds_and_cuts_off_is_no_difference(tmp_path: Path) -> None:
    model = trained()
    integers, _ = again(model, "onnxruntime")
    image = np.random.default_rng(3).normal(size=(1, 3, 8, 8)).astype(np.float32)
    with exact(model, outputs=["b"]) as session:
        made = session.infer({"image": image})["b"]
    assert made.max() > 2 * 127 / 8  # twice what the range of b keeps
    found = bisect(model, integers, {"image": image})
    assert found is not None
    assert found.divergences == []


@only_ci
def test_a_trained_graph_is_deployed_by_its_own_scales(tmp_path: Path, cli: Cli) -> None:
    trained().save(tmp_path / "qat.onnx")
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "data.npz", image=rng.normal(size=(8, 3, 8, 8)).astype(np.float32))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'model = "qat.onnx"\ntargets = ["openvino", "onnxruntime"]\n'
        '[calibrate]\ndata = "data.npz"\n'
    )
    done = cli("deploy", recipe, "-o", tmp_path / "out", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert any("its own scales are taken" in note for note in report["notes"])
    assert not (tmp_path / "out" / "ranges.json").exists()
    _, _, *engines = report["candidates"]
    assert [len(row["outputs"]) for row in engines] == [1, 1]
    for target in ("openvino", "onnxruntime"):
        made = outputs(Model.load(tmp_path / "out" / f"model.int8.{target}.onnx"))
        if find_target(target).cpu().wide_sums:
            np.testing.assert_array_equal(made, outputs(trained()))
        else:  # `inner` is rounded again, with a scale up to twice as large
            assert any("saturate on a CPU without VNNI" in note for note in report["notes"])
            assert np.abs(made - outputs(trained())).max() <= 4 * step(outputs(trained()))
