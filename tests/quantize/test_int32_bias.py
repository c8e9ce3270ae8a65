"""int32 biases that fit, whatever the weights of their channel are."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.difference import sqnr
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.quantize import placement, quantize
from onnxgraft.stages.quantize.improve.rounding import store
from onnxgraft.stages.quantize.place.int32_bias import Bias, raised
from tests.conftest import model_of
from tests.quantize.test_qdq import infer, node, ranges_of, weight

# A layer in 8 bits keeps some 40 dB here; one that loses a bias of this size keeps less than 15.
LEAST_SQNR = 30.0
BIAS = 2.0
# The name of a layer, its operator and attributes, and the shape of its weights.
LAYERS = {
    "conv": ("Conv", "pads = [1, 1, 1, 1]", (4, 8, 3, 3)),
    "conv_groups": ("Conv", "group = 2", (4, 4, 3, 3)),
    "transposed": ("ConvTranspose", "strides = [2, 2]", (8, 4, 3, 3)),
    "transposed_groups": ("ConvTranspose", "group = 2", (8, 2, 3, 3)),
    "gemm": ("Gemm", "", (8, 4)),
    "gemm_turned": ("Gemm", "transB = 1", (4, 8)),
    "gemm_beta": ("Gemm", "beta = 0.5", (8, 4)),
}


def built(kind: str, factor: float, bias: Array | None = None) -> Model:
    """Return a layer of four channels, the first of whose weights are ``factor`` of the others."""
    op, attributes, shape = LAYERS[kind]
    weights = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    axis = 0 if kind in ("conv", "conv_groups", "gemm_turned") else 1
    np.moveaxis(weights, axis, 0)[0] *= factor
    image = len(shape) == 4
    return model_of(
        f"network (float[N, 8{', 6, 6' * image}] x) => (float[N, 4{', H, W' * image}] y) "
        f"{{ [layer] y = {op} <{attributes}> (x, w, b) }}".replace("<>", ""),
        {"w": weights, "b": np.full(4, BIAS, np.float32) if bias is None else bias},
    )


class _Feeder:
    def __init__(self, feeds: dict[str, Array]) -> None:
        self.left = [feeds]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


def peers(model: Model, feeds: dict[str, Array], folder: Path) -> Array:
    """Return the outputs of the graph that onnxruntime's own quantizer makes."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model.save(folder / "float.onnx")
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            folder / "float.onnx", folder / "peer.onnx", _Feeder(feeds),
            quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    with OnnxRuntime(folder / "peer.onnx", optimize=False) as session:
        return session.infer(feeds)["y"]


@pytest.mark.parametrize("factor", [1.0, 1e-5, 1e-6, 1e-8, 1e-30, 0.0])
@pytest.mark.parametrize("kind", ["conv", "conv_groups", "gemm", "gemm_turned", "gemm_beta"])
def test_a_channel_of_tiny_weights_keeps_its_bias(tmp_path: Path, kind: str, factor: float) -> None:
    original = built(kind, factor)
    feeds = random_feeds(original.inputs, 8, seed=5)
    expected = infer(original, feeds)["y"]
    made, report = quantize(original, ranges_of(original, tmp_path, **feeds), "onnxruntime")
    for optimize in (False, True):
        found = infer(made, feeds, optimize=optimize)["y"]
        assert sqnr(expected, found) > LEAST_SQNR
        # What the layer adds up has steps of 1/127 of a weight; the dead channel's is its bias.
        if factor < 1e-4:
            assert np.abs(found[:, 0] - expected[:, 0]).max() < 1e-3
    assert sqnr(expected, found) > sqnr(expected, peers(original, feeds, tmp_path)) - 3
    assert not report.notes


@pytest.mark.parametrize("axis", [None, 1], ids=["one_scale", "per_channel"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_every_form_with_int32_biases_leaves_them_room(
    tmp_path: Path, kind: str, axis: int | None
) -> None:
    """Tables of one's own may want int32 biases anywhere."""
    axes = {"Conv": None if axis is None else 0, "ConvTranspose": axis, "Gemm": axis}
    table = replace(placement("openvino"), weights=axes, bias=True)
    original = built(kind, 1e-9)
    feeds = random_feeds(original.inputs, 8, seed=5)
    made, _ = quantize(original, ranges_of(original, tmp_path, **feeds), table)
    _, integers, _, _ = weight(made, "layer", 2)
    assert integers.dtype == np.int32
    assert integers.shape == (4,)
    assert np.abs(integers.astype(np.int64)).max() <= 2**30 + 1
    assert sqnr(infer(original, feeds)["y"], infer(made, feeds)["y"]) > LEAST_SQNR


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), (1, 1), ()], ids=str)
def test_biases_of_a_gemm_may_have_any_shape_of_one_row(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    original = built("gemm", 1e-8, np.full(shape, BIAS, np.float32))
    feeds = random_feeds(original.inputs, 8, seed=5)
    made, _ = quantize(original, ranges_of(original, tmp_path, **feeds), "onnxruntime")
    assert weight(made, "layer", 2)[1].shape == (4,)
    for optimize in (False, True):
        found = infer(made, feeds, optimize=optimize)["y"]
        assert sqnr(infer(original, feeds)["y"], found) > LEAST_SQNR


@pytest.mark.parametrize("value", [np.full((8, 4), BIAS), np.array([1, np.inf, 2, 3])], ids=str)
def test_a_bias_that_int32_does_not_hold_stays_in_float(tmp_path: Path, value: Array) -> None:
    original = built("gemm", 1.0, value.astype(np.float32))
    feeds = random_feeds(original.inputs, 8, seed=5)
    made, _ = quantize(original, ranges_of(original, tmp_path, **feeds), "onnxruntime")
    assert node(made, "layer").inputs[2].values.dtype == np.float32
    expected, found = infer(original, feeds)["y"], infer(made, feeds)["y"]
    assert (np.isinf(expected) == np.isinf(found)).all()
    finite = np.isfinite(expected)
    assert sqnr(expected[finite], found[finite]) > LEAST_SQNR


def test_channels_that_had_room_keep_their_integers(tmp_path: Path) -> None:
    ordinary, tiny = (
        weight(quantize(m, ranges_of(m, tmp_path), "onnxruntime")[0], "layer")
        for m in (built("conv", 1.0), built("conv", 1e-8))
    )
    assert (ordinary[1][1:] == tiny[1][1:]).all()
    assert (ordinary[2][1:] == tiny[2][1:]).all()


def test_one_scale_that_a_bias_makes_coarse_is_told(tmp_path: Path) -> None:
    """One channel's enormous bias takes the others their steps, where they share a scale."""
    table = replace(placement("onnxruntime"), weights={"Gemm": None})
    bias = np.array([1e9, 0, 0, 0], np.float32)
    original = built("gemm", 1.0, bias)
    ranges = ranges_of(original, tmp_path)
    (note,) = quantize(original, ranges, table)[1].notes
    assert "'layer' may be off by" in note
    assert quantize(original, ranges, "onnxruntime")[1].notes == []


@given(
    weights=st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=6, max_size=6),
    bias=st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=3, max_size=3),
    activation=st.floats(2.0**-60, 2.0**30),
    axis=st.sampled_from([None, 0]),
)
def test_any_bias_gets_room(
    weights: list[float], bias: list[float], activation: float, axis: int | None
) -> None:
    values = np.array(weights, np.float32).reshape(3, 2)
    kept = Bias(np.array(bias, np.float64), 0)
    stored, _ = raised(values, store(values, axis), kept, activation)
    step = kept.steps(stored, activation).astype(np.float64)
    assert (step >= np.finfo(np.float32).tiny).all()
    # A scale and its step are float32: each may be 6e-8 of itself below what was asked for.
    assert (np.abs(kept.values / step) <= 2**30 * (1 + 2e-7)).all()
    assert (np.abs(kept.values - np.rint(kept.values / step) * step) <= 0.5 * step).all()
