"""What quantization adds on average is taken off biases: of layers, and of those behind outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.data.ranges import Range
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.quantize import Improved, improve, placement, quantize
from onnxgraft.stages.quantize.improve.activations import fake_quantized
from onnxgraft.stages.quantize.improve.bias import added_by, left_in_outputs
from onnxgraft.stages.quantize.improve.products import Product
from onnxgraft.stages.quantize.improve.rounding import store
from onnxgraft.targets import target_names
from tests.conftest import model_of
from tests.quantize.networks import infer, ranges_of, samples_of

RNG = np.random.default_rng(3)
IMAGE = "net (float[N, 4, 8, 8] x) => (float[N, {0}] y) {{ {1} }}"
K = {"k": RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)}


def image_net(body: str, shape: str = "6, 8, 8", **constants: Array) -> Model:
    return model_of(IMAGE.format(shape, body), {**K, **constants})


def layer(op: str, weights: Array, **attributes: object) -> gs.Node:
    bias = gs.Constant("b", np.zeros(weights.shape[-1], np.float32))
    inputs = [gs.Variable("x", np.float32), gs.Constant("w", weights)]
    return gs.Node(op, "layer", dict(attributes), inputs + [bias] * (op == "Gemm"))


@given(
    st.sampled_from([("Gemm", {}), ("Gemm", {"alpha": 0.5}), ("Gemm", {"transB": 1})]),
    st.floats(0.2, 4), st.integers(0, 99),
)  # fmt: skip
def test_the_mean_of_a_layer_s_output_becomes_the_float_layer_s(
    kind: tuple[str, dict[str, object]], amax: float, seed: int
) -> None:
    op, attributes = kind
    rng = np.random.default_rng(seed)
    node = layer(op, rng.standard_normal((5, 5)).astype(np.float32), **attributes)
    product = Product(node, rng.standard_normal((1, 40, 5)).astype(np.float32))
    value, table = Range(-amax, amax, -amax, amax, "here"), placement("tensorrt")
    stored = store(product.weights, None)
    alpha, turn = (
        attributes.get("alpha", 1.0),
        (lambda w: w.T) if "transB" in attributes else np.asarray,
    )
    right = alpha * product.vectors[0] @ turn(product.weights)
    wrong = alpha * fake_quantized(product.vectors[0], value, table) @ turn(stored.values)
    found = added_by(product, stored, value, table, 1)
    assert found is not None
    np.testing.assert_allclose((wrong + found).mean(axis=0), right.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("vectors", [0, 1, 3])
def test_of_few_vectors_no_mean_is_made_up(vectors: int) -> None:
    node = layer("Gemm", RNG.standard_normal((5, 5)).astype(np.float32))
    product = Product(node, RNG.standard_normal((1, vectors, 5)).astype(np.float32))
    table = placement("tensorrt")
    found = added_by(product, store(product.weights, None), Range(-1, 1, -1, 1, "here"), table, 8)
    assert (found is None) == (vectors == 0)
    assert found is None or np.isfinite(found).all()


def positive(model: Model, folder: Path) -> Samples:
    """Return samples whose values have a mean."""
    feeds = random_feeds(model.inputs, 32, seed=5)
    np.savez(folder / "data.npz", **{name: np.abs(value) for name, value in feeds.items()})
    return open_samples(folder / "data.npz", model.inputs)


def corrected(model: Model, folder: Path, target: str) -> tuple[Model, Model, Samples]:
    """Return the INT8 graphs without and with what `improve` adds to biases."""
    samples = positive(model, folder)
    ranges = ranges_of(model, samples)
    # Cut at a third, what is positive loses in one direction.
    low = {
        name: replace(value, high=value.high / 3) if name in ("x", "r", "t") else value
        for name, value in ranges.tensors.items()
    }
    ranges = replace(ranges, tensors=low)
    found = improve(model, ranges, target, samples, ["bias"])
    assert found.methods == ("bias",), found.notes
    plain, better = (
        quantize(model, ranges, target, improved=which)[0] for which in (None, found.improved)
    )
    return plain, better, samples


def off(model: Model, graph: Model, samples: Samples, axis: int) -> float:
    """Return by how much the means of the output's channels differ, in all."""
    feeds = {"x": np.concatenate([sample.feeds["x"] for sample in samples])}
    right, wrong = (infer(m, feeds)["y"] for m in (model, graph))
    axes = tuple(a for a in range(right.ndim) if a != axis)
    return float(np.abs(right.mean(axis=axes) - wrong.mean(axis=axes)).sum())


CONV = "Conv<pads=[1,1,1,1]>"
BEHIND = {
    "a convolution": (f"y = {CONV}(x, k)", "6, 8, 8", 1),
    "a transpose": (f"a = {CONV}(x, k)  y = Transpose<perm=[0,2,3,1]>(a)", "8, 8, 6", 3),
    "a resize": (f'a = {CONV}(x, k)  y = Resize<mode="linear">(a, , s)', "6, 16, 16", 1),
    "a sum of two": (
        f"a = {CONV}(x, k)  r = Relu(x)  b = {CONV}(r, k)  y = Add(a, b)", "6, 8, 8", 1,
    ),
    "a pooling": (f"a = {CONV}(x, k)  y = GlobalAveragePool(a)", "6, 1, 1", 1),
    "a matrix product": (
        "t = Transpose<perm=[0,2,3,1]>(x)  m = MatMul(t, w)  y = Add(m, b)", "8, 8, 5", 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("what", BEHIND)
def test_the_means_of_an_output_become_the_float_graph_s(
    what: str, target: str, tmp_path: Path
) -> None:
    body, shape, axis = BEHIND[what]
    constants: dict[str, Array] = {}
    if what == "a resize":
        constants["s"] = np.float32([1, 1, 2, 2])
    if what == "a matrix product":
        own = np.random.default_rng(1)
        constants = {"w": own.standard_normal((4, 5)).astype(np.float32), "b": np.float32([0] * 5)}
    model = image_net(body, shape, **constants)
    plain, better, samples = corrected(model, tmp_path, target)
    assert off(model, better, samples, axis) < 0.35 * off(model, plain, samples, axis)


def left(model: Model, folder: Path) -> dict[str, Array]:
    """Return what is left in the outputs when all weights of convolutions are larger by one."""
    other = model.copy()
    for node in other.graph.nodes:
        if node.op == "Conv":
            node.inputs[1].values = node.inputs[1].values + np.float32(1)
    return left_in_outputs(model, other, positive(model, folder))


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv<pads=[1,1,1,1]>(x, k)  y = Relu(a)",
        "a = Conv<pads=[1,1,1,1]>(x, k)  b = Sigmoid(a)  y = Mul(a, b)",
        "y = Conv<pads=[1,1,1,1]>(x, k, c)",
    ],
    ids=["an activation is behind it", "a product is behind it", "its bias is computed"],
)
def test_what_does_not_move_an_output_alike_stays(body: str, tmp_path: Path) -> None:
    if "(x, k, c)" in body:
        body = "p = ReduceMean<keepdims=0>(x)  c = Expand(p, n)  " + body
    assert left(image_net(body, n=np.int64([6])), tmp_path) == {}


def test_a_layer_that_something_else_reads_stays(tmp_path: Path) -> None:
    model = image_net(
        "[one] a = Conv<pads=[1,1,1,1]>(x, k)  r = Relu(a)"
        " [two] b = Conv<pads=[1,1,1,1]>(r, m)  y = Add(a, b)",
        m=RNG.standard_normal((6, 6, 3, 3)).astype(np.float32),
    )
    assert [*left(model, tmp_path)] == ["two"]


def test_a_mean_that_chance_can_have_made_is_left(tmp_path: Path) -> None:
    model = image_net("[layer] y = Conv<pads=[1,1,1,1]>(x, k)")
    ranges = ranges_of(model, samples_of(model, tmp_path))
    quantized, _ = quantize(model, ranges, "tensorrt")
    found = left_in_outputs(model, quantized, samples_of(model, tmp_path, seed=8))["layer"]
    (right,), (wrong,) = (
        [*infer(m, random_feeds(model.inputs, 24, seed=8)).values()] for m in (model, quantized)
    )
    mean = (right.astype(np.float64) - wrong).mean(axis=(0, 2, 3))
    assert (np.abs(found) <= np.abs(mean) + 1e-9).all()
    assert np.abs(found).sum() < np.abs(mean).sum()


@pytest.mark.parametrize("target", target_names())
def test_a_gemm_whose_bias_is_computed_is_quantized_as_before(target: str, tmp_path: Path) -> None:
    model = model_of(
        "net (float[N, 4] x) => (float[N, 5] y) { m = ReduceMean<axes=[0], keepdims=0>(x)"
        " b = MatMul(m, w)  y = Gemm(x, w, b) }",
        {"w": RNG.standard_normal((4, 5)).astype(np.float32)},
    )
    samples = samples_of(model, tmp_path)
    ranges = ranges_of(model, samples)
    found = improve(model, ranges, target, samples, ["bias"])
    assert "y" not in found.improved.bias


def test_the_factor_of_a_gemm_s_bias_is_kept(tmp_path: Path) -> None:
    constants = {
        "w": RNG.standard_normal((4, 5)).astype(np.float32),
        "b": RNG.standard_normal(5).astype(np.float32),
    }
    model = model_of(
        "net (float[N, 4] x) => (float[N, 5] y) { [g] y = Gemm<beta=3.0>(x, w, b) }", constants
    )
    ranges = ranges_of(model, samples_of(model, tmp_path))
    plain, moved = (
        quantize(model, ranges, "tensorrt", improved=Improved(bias={"g": np.full(5, add)}))[0]
        for add in (0.0, 2.0)
    )
    feeds = random_feeds(model.inputs, 4)
    np.testing.assert_allclose(infer(moved, feeds)["y"], infer(plain, feeds)["y"] + 2, atol=1e-5)


def test_a_layer_that_stays_in_float_is_not_counted_among_the_corrected(tmp_path: Path) -> None:
    model = image_net(
        "[one] a = Conv<pads=[1,1,1,1]>(x, k)  r = Relu(a)"
        " [two] y = ConvTranspose<pads=[1,1,1,1]>(r, t)",
        t=(RNG.standard_normal((6, 6, 3, 3)) + 1).astype(np.float32),
    )
    samples = samples_of(model, tmp_path)
    ranges = ranges_of(model, samples)
    found = improve(model, ranges, "onnxruntime", samples, ["bias"])
    _, report = quantize(found.model, found.ranges, "onnxruntime", improved=found.improved)
    assert report.layers == ["one"]
    assert {*found.improved.bias} == {"one"}, found.notes
