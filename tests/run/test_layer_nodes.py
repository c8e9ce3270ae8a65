"""Layers find the nodes of the graph that they compute, whatever their library calls them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.model import Model, Origin
from onnxgraft.run.layer_nodes import layer_precisions, place
from onnxgraft.run.layers import Layer, LayerPrecision
from tests.conftest import model_of

CONV = np.ones((4, 4, 1, 1), np.float32)


@pytest.fixture
def net() -> Model:
    """Conv, Relu, MaxPool and a MatMul with its bias behind a Reshape."""
    return model_of(
        "net (float[1, 4, 4, 4] x) => (float[4, 4] y) {"
        " [conv] c = Conv(x, w) [relu] r = Relu(c)"
        " [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)"
        " [flat] f = Reshape(p, shape) [dense] m = MatMul(f, v) [bias] y = Add(m, b) }",
        {
            "w": CONV, "v": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32),
            "shape": np.array([4, 4]),
        },
    )  # fmt: skip


def nodes(model: Model, *layers: Layer) -> list[tuple[str, ...]]:
    return [one.nodes for one in place(model, layers)]


@pytest.mark.parametrize(
    "name",
    ["conv", "conv/WithoutBiases", "conv_token_7", "r_nchwc", "fused conv", "conv_nhwc_token_3",
     "conv_myl0_12"],
)  # fmt: skip
def test_what_libraries_write_around_names_is_no_part_of_them(name: str, net: Model) -> None:
    found = nodes(net, Layer(name, "Convolution", "f32", ()), Layer("pool", "Pooling", "f32", ()))
    assert found[0] == ("conv", "relu")
    assert found[1][0] == "pool"


def test_a_layer_has_the_nodes_that_its_library_lists(net: Model) -> None:
    fused = Layer("__myl_ConvReluMax", "kgen", "Half", ("conv", "relu", "pool"))
    assert nodes(net, fused, Layer("y", "gemm", "Half", ("dense", "bias"))) == [
        ("conv", "relu", "pool", "flat"), ("dense", "bias"),
    ]  # fmt: skip


def test_a_layer_is_what_lies_between_the_tensors_that_it_reads_and_makes(net: Model) -> None:
    found = nodes(
        net,
        Layer("FusedConv_1", "FusedConv", "fp32", (), reads=("x", "w"), makes=("r",)),
        Layer("odd", "Pool", "fp32", (), reads=("r",), makes=("p",)),
        Layer("dense", "MatMul", "fp32", ()),
    )
    assert found[:2] == [("conv", "relu"), ("pool", "flat")]


def test_a_layer_that_is_called_after_its_last_node_has_those_before_it(net: Model) -> None:
    found = nodes(
        net,
        Layer("conv", "Convolution", "f32", ("conv", "relu")),
        Layer("pool", "Pooling", "f32", ("pool",)),
        Layer("bias", "FullyConnected", "f32", ("bias",), by_last=True),
    )
    assert found == [("conv", "relu"), ("pool",), ("flat", "dense", "bias")]


def test_layers_that_are_called_after_what_they_make_have_what_is_before_it(net: Model) -> None:
    found = nodes(
        net,
        Layer("r_nchwc", "nchwc.Conv", "fp32", ("r_nchwc",)),
        Layer("p_nchwc", "nchwc.MaxPool", "fp32", ("p_nchwc",)),
        Layer("y", "Gemm", "fp32", ()),
    )
    assert found == [("conv", "relu"), ("pool",), ("flat", "dense", "bias")]


def test_a_layer_with_weights_goes_to_the_one_behind_it(net: Model) -> None:
    found = nodes(net, Layer("flat", "Reshape", "f32", ()), Layer("bias", "Gemm", "f32", ()))
    assert found[1] == ("dense", "bias")


def test_a_reorder_is_beside_the_layer_that_it_serves(net: Model) -> None:
    layers = [
        Layer("conv", "Conv", "fp32", ("conv", "relu"), makes=("blocks",)),
        Layer("ReorderOutput", "r", "", (), "reorder", reads=("blocks",), makes=("r",)),
        Layer("pool", "MaxPool", "fp32", ("pool",), reads=("r",), makes=("p",)),
        Layer("dense", "Gemm", "fp32", ("flat", "dense", "bias"), reads=("p",), makes=("y",)),
        Layer("Transpose_token_4", "Transpose", "fp32", (), reads=("q",), makes=("z",)),
    ]
    found = place(net, layers)
    assert [one.beside for one in found] == ["", "pool", "", "", ""]
    assert [one.layer.role for one in found] == ["layer", "reorder", "layer", "layer", "reorder"]
    assert [one.found for one in found] == [True, True, True, True, False]


def test_a_long_chain_of_conversions_is_beside_the_layer_at_its_end(net: Model) -> None:
    chain = [
        Layer(f"m{i}", "Convert", "", (), "conversion", reads=(f"t{i}",), makes=(f"t{i + 1}",))
        for i in range(1500)
    ]
    conv = Layer("conv", "Convolution", "f32", ("conv", "relu"), reads=("t1500",))
    dense = Layer("dense", "Gemm", "f32", ("pool", "flat", "dense", "bias"))
    assert {one.beside for one in place(net, [*chain, conv, dense])[:1500]} == {"conv"}


def quantized() -> Model:
    """A Conv in integers, a MaxPool of its integers, and a Mul in float."""
    model = model_of(
        "net (float[1, 4, 4, 4] x) => (float[1, 4, 2, 2] y) {"
        " [q] a = QuantizeLinear(x, s, z) [dq] b = DequantizeLinear(a, s, z)"
        " [dw] k = DequantizeLinear(w, s, i) [conv] c = Conv(b, k) [relu] r = Relu(c)"
        " [q1] d = QuantizeLinear(r, s, z) [dq1] e = DequantizeLinear(d, s, z)"
        " [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e) [mul] y = Mul(p, t) }",
        {
            "s": np.float32(0.1), "z": np.uint8(0), "i": np.int8(0), "w": CONV.astype(np.int8),
            "t": np.float32(2),
        },
    )  # fmt: skip
    model.names["r"] = Origin("scope/Relu:0")
    return model


LAYERS = [
    Layer("q", "Subgraph", "f32", ("q",), makes=("a",)),
    Layer("conv", "Convolution", "u8", ("conv", "q1"), reads=("a",), makes=("d",)),
    Layer("pool", "Pooling", "f32", ("pool",), reads=("d",), makes=("p",)),
    Layer("mul", "Eltwise", "f32", ("mul",), reads=("p",), makes=("y",)),
]


def test_a_layer_of_quantizers_alone_is_a_conversion() -> None:
    found = place(quantized(), LAYERS)
    assert [one.layer.role for one in found] == ["conversion", "layer", "layer", "layer"]
    assert found[0].beside == "conv"


def test_precisions_are_told_by_the_frameworks_names_beside_the_graphs() -> None:
    assert layer_precisions(quantized(), LAYERS) == [
        LayerPrecision("scope/Relu:0", "int8", "int8"),
        LayerPrecision("pool", "fp32", "int8"),
        LayerPrecision("mul", "fp32", "fp32"),
    ]
