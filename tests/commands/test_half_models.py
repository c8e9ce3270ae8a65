"""Models in float16 and bfloat16, all the way to engines that take what the models take."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from onnxgraft.commands import deploy
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import sqnr
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine
from onnxgraft.stages.quantize import calibrate, quantize, to_half
from onnxgraft.targets import target_names
from tests.conftest import Cli, few, only_ci

pytestmark = pytest.mark.usefixtures("untimed")

KINDS = {
    "float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16, "float32": 1,
}  # fmt: skip
# What is computed in, and what inputs and outputs are.
FORMS = [
    ("float16", "float16"), ("float16", "float32"), ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
]  # fmt: skip
# The same three layers in float32 keep 28 to 40 dB in 8 bits, by the target.
LEAST_SQNR = 24.0


def network(folder: Path, kind: str, ends: str) -> Path:
    """Write three layers that are computed in ``kind`` between inputs and outputs of ``ends``."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.standard_normal((8, 3, 3, 3)) / 5, "b1": rng.standard_normal(8),
        "w2": rng.standard_normal((8, 8, 3, 3)) / 8, "b2": rng.standard_normal(8),
        "w3": rng.standard_normal((8, 4)), "b3": rng.standard_normal(4),
    }  # fmt: skip
    nodes = [
        make_node("Conv", ["given", "w1", "b1"], ["c1"]), make_node("Relu", ["c1"], ["r1"]),
        make_node("Conv", ["r1", "w2", "b2"], ["c2"]), make_node("Relu", ["c2"], ["r2"]),
        make_node("GlobalAveragePool", ["r2"], ["p"]), make_node("Flatten", ["p"], ["f"]),
        make_node("Gemm", ["f", "w3", "b3"], ["made"]),
    ]  # fmt: skip
    if kind == ends:
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    else:
        nodes.insert(0, make_node("Cast", ["x"], ["given"], to=KINDS[kind]))
        nodes.append(make_node("Cast", ["made"], ["y"], to=KINDS[ends]))
    graph = make_graph(
        nodes, "network", [make_tensor_value_info("x", KINDS[ends], ["N", 3, 8, 8])],
        [make_tensor_value_info("y", KINDS[ends], ["N", 4])],
        [from_array(value.astype(np.dtype(kind)), name) for name, value in constants.items()],
    )  # fmt: skip
    proto = make_model(graph, opset_imports=[make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, folder / "net.onnx")
    for name, count in (("calib", 24), ("val", 4)):
        np.savez(folder / f"{name}.npz", x=rng.standard_normal((count, 3, 8, 8)).astype("f4"))
    return folder / "net.onnx"


def answer(model: Model, values: Array) -> Array:
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        (spec,) = session.inputs
        found = session.infer({"x": values.astype(np.dtype(spec.dtype))})["y"]
    return found.astype(np.float32)


class _Feeder:
    def __init__(self, feeds: dict[str, Array]) -> None:
        self.left = [feeds]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize(("kind", "ends"), FORMS)
@pytest.mark.parametrize("target", target_names())
def test_every_target_gets_an_int8_graph(tmp_path: Path, target: str, kind: str, ends: str) -> None:
    original = Model.load(network(tmp_path, kind, ends))
    samples = open_samples(tmp_path / "calib.npz", original.inputs)
    ranges = calibrate(original, samples, "minmax")
    made, report = quantize(original, ranges, target)
    onnx.checker.check_model(made.to_onnx(), full_check=True)
    assert len(report.layers) == 3 and not report.float_layers
    (note,) = report.notes
    assert note.startswith(f"the graph computes in {kind}: it was made float32")
    assert (made.inputs, made.outputs) == (original.inputs, original.outputs)
    values = np.load(tmp_path / "val.npz")["x"]
    assert sqnr(answer(original, values), answer(made, values)) > LEAST_SQNR


def test_it_keeps_as_much_as_onnxruntimes_own_quantizer(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    file = network(tmp_path, "float16", "float16")
    original = Model.load(file)
    samples = open_samples(tmp_path / "calib.npz", original.inputs)
    made, _ = quantize(original, calibrate(original, samples, "minmax"), "onnxruntime")
    calib, values = (np.load(tmp_path / f"{name}.npz")["x"] for name in ("calib", "val"))
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            file, tmp_path / "peer.onnx", _Feeder({"x": calib.astype(np.float16)}),
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    expected = answer(original, values)
    peer = sqnr(expected, answer(Model.load(tmp_path / "peer.onnx"), values))
    assert sqnr(expected, answer(made, values)) > peer - 3


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_engine_in_halves_is_proven_as_such(tmp_path: Path, target: str, kind: str) -> None:
    passport = engine.build(Model.load(network(tmp_path, kind, kind)), tmp_path / "e", target)
    assert passport.floats == {"float16": "fp16", "bfloat16": "bf16"}[kind]
    assert passport.proven, [str(proof) for proof in passport.proof]


def test_what_is_not_int8_may_be_float16_again(tmp_path: Path) -> None:
    original = Model.load(network(tmp_path, "float16", "float16"))
    samples = open_samples(tmp_path / "calib.npz", original.inputs)
    made, _ = quantize(original, calibrate(original, samples, "minmax"), "tensorrt")
    half, report = to_half(made)
    onnx.checker.check_model(half.to_onnx(), full_check=True)
    assert {"r1", "r2"} <= set(report.layers)
    values = np.load(tmp_path / "val.npz")["x"]
    assert sqnr(answer(original, values), answer(half, values)) > LEAST_SQNR


@pytest.mark.parametrize(("kind", "ends"), few(FORMS, 2, 2))
def test_commands_one_after_the_other(tmp_path: Path, cli: Cli, kind: str, ends: str) -> None:
    pytest.importorskip("openvino")
    net = network(tmp_path, kind, ends)

    def run(*words: Any) -> dict[str, Any]:
        done = cli(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    run("calibrate", net, "--data", tmp_path / "calib.npz", "-o", tmp_path / "r.json")
    for target in ("onnxruntime", "openvino"):
        graph, built = tmp_path / f"{target}.onnx", tmp_path / f"engine.{target}"
        told = run(
            "quantize", net, "--ranges", tmp_path / "r.json", "--target", target, "-o", graph,
            "--samples", tmp_path / "calib.npz",
        )  # fmt: skip
        assert len(told["layers"]) == 3
        assert f"the graph computes in {kind}: it was made float32" in told["notes"][0]
        run("build", graph, "-o", built, "--target", target)
        assert run("validate", net, built, "--data", tmp_path / "val.npz")["passed"]
        with engine.load(built) as running:
            assert [spec.dtype for spec in (*running.inputs, *running.outputs)] == [ends] * 2


@only_ci
@pytest.mark.parametrize(("kind", "ends"), FORMS[::2])
def test_deployed_in_one_go(tmp_path: Path, kind: str, ends: str) -> None:
    pytest.importorskip("openvino")
    net = network(tmp_path, kind, ends)
    report = deploy(
        net, tmp_path / "out", data=tmp_path / "calib.npz", validate_on=tmp_path / "val.npz"
    )
    assert report.passed
    assert len(report.candidates) == 4
    for row in report.candidates[2:]:
        assert row.outputs[0].sqnr > LEAST_SQNR
    assert any("was made float32" in note for note in report.notes)
