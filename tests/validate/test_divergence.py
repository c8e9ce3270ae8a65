"""The guilty layer: named where a fault was planted, and never in a healthy network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from onnxgraft.graph.model import Model, Origin
from onnxgraft.stages.validate import bisect, find_divergence
from tests.conftest import DEEP, few, model_of
from tests.validate.planted import KINDS, THIN, Healthy, plant, thin

TRIALS = 4 if DEEP else 2


@pytest.fixture(scope="module", params=few(THIN, 2))
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Healthy]:
    made = thin(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.original.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_layer_of_a_healthy_network_is_named(network: Healthy, precision: str) -> None:
    model = getattr(network, precision)
    assert find_divergence(network.original, model, network.feeds) is None


@pytest.mark.parametrize("kind", few(KINDS, 2, 4))
def test_the_layer_with_the_fault_is_named(network: Healthy, kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(TRIALS):
        planted = plant(network, kind, rng)
        found = find_divergence(network.original, planted.model, network.feeds)
        assert found is not None, planted.node
        assert planted.node in found.nodes, (planted.node, str(found))
        assert len(found.nodes) <= 4
        assert found.quantizer == (kind == "saturation")


@pytest.mark.parametrize("kind", ["pad", "channels", "bias"])
def test_what_int8_does_not_hide_is_named_in_int8_too(network: Healthy, kind: str) -> None:
    planted = plant(network, kind, np.random.default_rng(KINDS.index(kind)))
    found = find_divergence(network.original, network.quantize(planted.model), network.feeds)
    assert found is not None, planted.node
    assert planted.node in found.nodes, (planted.node, str(found))


def test_halves_name_the_same_layer_as_one_run(network: Healthy) -> None:
    planted = plant(network, "weight", np.random.default_rng(1))
    whole = find_divergence(network.original, planted.model, network.feeds)
    found = find_divergence(network.original, planted.model, network.feeds, memory=1 << 18)
    assert whole is not None
    assert found is not None
    assert found == replace(whole, agreed=found.agreed)
    assert find_divergence(network.original, network.fp32, network.feeds, memory=1 << 18) is None


def test_memory_is_kept_to_by_more_runs(network: Healthy) -> None:
    one = bisect(network.original, network.fp32, network.feeds)
    many = bisect(network.original, network.fp32, network.feeds, memory=1 << 18)
    assert one is not None
    assert many is not None
    assert one.runs == 1
    assert many.runs > 1
    assert [layer.tensor for layer in many.layers] == [layer.tensor for layer in one.layers]


def test_a_graph_can_be_the_original(network: Healthy) -> None:
    assert find_divergence(network.fp32, network.int8, network.feeds) is None
    planted = plant(network, "channels", np.random.default_rng(2))
    found = find_divergence(network.fp32, planted.model, network.feeds)
    assert found is not None
    assert planted.node in found.nodes


def test_every_fault_is_listed(network: Healthy) -> None:
    rng = np.random.default_rng(3)
    first = plant(network, "channels", rng)
    both = plant(replace(network, fp32=first.model), "weight", rng)
    result = bisect(network.original, both.model, network.feeds)
    assert result is not None
    named = {node for divergence in result.divergences for node in divergence.nodes}
    assert {first.node, both.node} <= named


CHAIN = """
    chain (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] z)
    { y = Mul(x, two)  z = Relu(y) }
"""


def two(value: float) -> Model:
    return model_of(CHAIN, {"two": np.array(value, np.float32)})


def test_what_comes_in_wrong_is_not_a_layers_fault() -> None:
    feeds = {"x": np.ones((1, 2, 4, 4), np.float32)}
    result = bisect(two(2.0), two(3.0), feeds)
    assert result is not None
    assert [(p.tensor, p.operator, p.relative) for p in result.divergences] == [("y", "Mul", 0.5)]
    # The Relu passes on what came in, and adds nothing: infinitely little noise of its own.
    assert [layer.sqnr for layer in result.layers] == [pytest.approx(6.02, abs=0.01), np.inf]
    assert [layer.arrived for layer in result.layers] == [pytest.approx(6.02, abs=0.01)] * 2


def test_the_sentence_names_both_and_what_agreed() -> None:
    wrong = model_of(CHAIN.replace("Relu(y)", "Elu(y)"), {"two": np.array(2.0, np.float32)})
    wrong.names = {"y": Origin("scale/Mul:0"), "z": Origin("scale/Relu:0")}
    found = find_divergence(two(2.0), wrong, {"x": -np.ones((1, 2, 4, 4), np.float32)})
    assert str(found) == (
        "difference at scale/Relu:0 (Elu 'z' of the ONNX graph) of 8.6e-01 of its range: 2e-05 is "
        "allowed in fp32; scale/Mul:0 is the last tensor that agrees"
    )


def test_a_transposed_tensor_is_compared_in_its_layout() -> None:
    text = """
        turned (float[1, 4, 4, 2] x) => (float[1, 4, 4, 2] z)
        { a = Transpose<perm = [0, 3, 1, 2]>(x)  b = Mul(a, two)
          z = Transpose<perm = [0, 2, 3, 1]>(b) }
    """
    plain = """
        plain (float[1, 4, 4, 2] x) => (float[1, 4, 4, 2] z) { y = Mul(x, two)  z = Identity(y) }
    """
    rng = np.random.default_rng(0)
    scales = rng.uniform(1, 2, (1, 1, 1, 2)).astype(np.float32)
    feeds = {"x": rng.standard_normal((1, 4, 4, 2)).astype(np.float32)}
    original = model_of(plain, {"two": scales})
    for wrong in (False, True):
        values = scales[..., ::-1] if wrong else scales
        model = model_of(text, {"two": np.ascontiguousarray(values).transpose(0, 3, 1, 2)})
        model.names = {"b": Origin("y", (0, 3, 1, 2))}
        found = find_divergence(original, model, feeds)
        assert (found and (found.tensor, found.origin)) == (("b", "y") if wrong else None)


def test_a_shape_that_differs_is_named() -> None:
    text = "pool (float[1, 1, 4, 4] x) => (float[1, 1, h, w] z) {{ z = MaxPool<{}>(x) }}"
    same, other = (
        model_of(text.format(f"kernel_shape = [2, 2], strides = [{n}, {n}]")) for n in (2, 1)
    )
    found = find_divergence(same, other, {"x": np.zeros((1, 1, 4, 4), np.float32)})
    assert found is not None
    assert found.reason == "its shape is (1, 1, 3, 3), (1, 1, 2, 2) in the original"


def test_the_first_nan_is_named() -> None:
    text = "root (float[4] x) => (float[4] z) {{ y = {}(x)  z = Neg(y) }}"
    feeds = {"x": np.array([1, 4, -1, 9], np.float32)}
    found = find_divergence(model_of(text.format("Abs")), model_of(text.format("Sqrt")), feeds)
    assert found is not None
    assert found.tensor == "y"
    assert found.reason.startswith("1 values are NaN or infinite where the original's are finite")


def test_the_bodies_of_control_flow_are_run_as_they_are() -> None:
    text = """
        branch (float[2] x, bool c) => (float[2] z) {
          y = Add(x, x)
          w = If(c) <
            then_branch = yes () => (float[2] a) { a = Add(y, x) },
            else_branch = no () => (float[2] b) { b = Sub(y, x) }
          >
          z = Mul(w, two)
        }
    """
    feeds = {"x": np.array([1, 2], np.float32), "c": np.array(True)}
    model = {value: model_of(text, {"two": np.array(value, np.float32)}) for value in (2.0, 3.0)}
    assert find_divergence(model[2.0], model[2.0], feeds) is None
    found = find_divergence(model[2.0], model[3.0], feeds)
    assert found is not None
    assert found.tensor == "z"


def test_a_relu_that_a_quantizer_stands_in_for_is_no_fault() -> None:
    """onnxruntime's quantizer leaves a Relu out before a range that begins at 0."""
    text = "net (float[N, 2] x) => (float[N, 2] y) {{ {} y = MatMul({}, w) }}"
    weights = {"w": np.array([[1, 2], [3, 4]], np.float32)}
    scale, zero = np.float32(4 / 255), np.uint8(0)
    feeds = {"x": np.array([[-3, 2], [4, -1.5], [-1, 1]], np.float32)}
    original = model_of(text.format("a = MatMul(x, w) r = Relu(a)", "r"), weights)

    def left_out(factor: float) -> Model:
        nodes = (
            "r = MatMul(x, v) i = QuantizeLinear(r, s, z) q = DequantizeLinear(i, s, z)"
        )  # fmt: skip
        own = {"v": weights["w"] * np.array([1, factor], np.float32), "s": scale * 4, "z": zero}
        return model_of(text.format(nodes, "q"), {**weights, **own})

    assert find_divergence(original, left_out(1), feeds) is None
    found = find_divergence(original, left_out(1.5), feeds)
    assert found is not None
    assert found.tensor == "r"


def test_an_operator_that_rounds_to_integers_itself_is_held_as_int8() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 8)).astype(np.float32)
    feeds = {"x": rng.standard_normal((4, 8)).astype(np.float32)}
    text = "net (float[N, 8] x) => (float[N, 8] y) {{ a = {} y = Sigmoid(a) }}"
    original = model_of(text.format("MatMul(x, w)"), {"w": w})

    def rounded(factor: float) -> Model:
        stored = np.clip(np.rint(w * 40 * factor), -127, 127).astype(np.int8)
        own = {"i": stored, "s": np.float32(1 / 40), "z": np.int8(0)}
        return model_of(text.format("com.microsoft.DynamicQuantizeMatMul(x, i, s, z)"), own)

    assert find_divergence(original, rounded(1), feeds) is None
    found = find_divergence(original, rounded(0.8), feeds)
    assert found is not None
    assert found.tensor == "a"
