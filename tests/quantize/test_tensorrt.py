"""TensorRT's own parser and builder take the graphs of both networks, without a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from onnxgraft import commands
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import open_samples
from onnxgraft.graph.model import Model
from onnxgraft.stages.quantize import calibrate, placement, quantize, to_half
from tests.conftest import model_of, only_ci
from tests.quantize.networks import (
    PAIR,
    PAIR_SHAPES,
    attention,
    ranges_of,
    samples_of,
    weights,
)

trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")

NETWORKS = {
    "fcn_camvid": ("fcn_camvid/fcn_camvid.pb", 17),
    "mobilenet_camvid": ("mobilenet_camvid/mobilenet_camvid.pb", 72),
}
MEAN = (109.56690979, 107.69937134, 104.42664337)


@dataclass
class Network:
    """A real network with its ranges over two images."""

    model: Model
    ranges: Ranges
    layers: int
    file: Path


@pytest.fixture(scope="module", params=NETWORKS)
def network(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Network]:
    name, layers = NETWORKS[request.param]
    model = commands.convert(shared / "models" / name, outputs="score:0", verify=False).model
    file = tmp_path_factory.mktemp("networks") / "model.onnx"
    model.save(file)
    recipe = Preprocess(crop=(4, 0, 352, 480), color="bgr", mean=MEAN)
    samples = open_samples(shared / "data/camvid/calib", model.inputs, recipe, images=2)
    yield Network(model, calibrate(model, samples, "minmax", tensors="all"), layers, file)


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps what TensorRT says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines.append(message)


def scratch(model: Model) -> int:
    """Return the bytes of scratch memory that the builder plans for an engine."""
    log = Log()
    built(model, log)
    found = [re.search(r"Scratch Memory: (\d+) bytes", line) for line in log.lines]
    return max(int(match[1]) for match in found if match)


def built(model: Model, log: Any = None) -> int:
    """Return the bytes of the engine that TensorRT builds for batch 1."""
    logger = log or trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(_flags())
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.to_onnx().SerializeToString()), [
        parser.get_error(index).desc() for index in range(parser.num_errors)
    ]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for spec in model.inputs:
        shape = tuple(1 if isinstance(dim, str) else dim for dim in spec.shape)
        profile.set_shape(spec.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)


def _flags() -> Any:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


@only_ci
def test_an_int8_graph_of_a_real_network(network: Network, tmp_path: Path) -> None:
    graph, report = quantize(network.model, network.ranges, "tensorrt")
    assert len(report.layers) == network.layers
    assert report.float_layers == []
    graph.save(tmp_path / "int8.onnx")
    # Weights are bytes: a quarter, and the nodes of quantization.
    assert (tmp_path / "int8.onnx").stat().st_size < 0.3 * network.file.stat().st_size
    assert built(graph) > 0


@only_ci
def test_a_half_graph_of_a_real_network(network: Network) -> None:
    graph, report = to_half(network.model, network.ranges)
    assert report.unchecked == []
    assert built(graph) > 0


@only_ci
def test_a_mix_of_int8_and_half_of_a_real_network(network: Network) -> None:
    layers = quantize(network.model, network.ranges, "tensorrt")[1].layers
    graph, _ = quantize(network.model, network.ranges, "tensorrt", keep_float=layers[::3])
    half, report = to_half(graph, network.ranges)
    assert not report.single
    assert built(half) > 0


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "depthwise"])
def test_a_layer_of_every_kind(op: str, tmp_path: Path) -> None:
    text, shapes = PAIR, dict(PAIR_SHAPES)
    if op.startswith("ConvTranspose"):
        text = text.replace("float[N, 5, 8, 8] y", "float[N, 5, H, W] y").replace(
            "Conv <pads = [1, 1, 1, 1]> (c", "ConvTranspose <strides = [2, 2]> (c"
        )
        shapes["w2"] = (8, 16, 2, 2)
    if op == "depthwise":
        text = text.replace("[1, 1, 1, 1]> (c", "[1, 1, 1, 1], group = 8> (c")
        shapes["w2"] = (16, 1, 3, 3)
    model = model_of(text, weights(shapes))
    ranges = ranges_of(model, samples_of(model, tmp_path, 4))
    assert built(quantize(model, ranges, "tensorrt")[0]) > 0


def test_attention(tmp_path: Path) -> None:
    model = attention()
    ranges = ranges_of(model, samples_of(model, tmp_path, 4))
    graph, report = quantize(model, ranges, "tensorrt")
    assert "scores" in report.layers
    assert built(graph) > 0


def test_a_quantized_shortcut_is_kept_in_bytes(tmp_path: Path) -> None:
    """The builder's scratch memory holds 64 x 32 x 32 values of one byte, not of four."""
    text = """network (float[1, 64, 32, 32] image) => (float[1, 64, 32, 32] y) {
        [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1)
        [relu] b = Relu (a)
        [second] c = Conv <pads = [1, 1, 1, 1]> (b, w2)
        [add] d = Add (c, b)
        [last] y = Conv <pads = [1, 1, 1, 1]> (d, w3)
    }"""
    model = model_of(text, weights(dict.fromkeys(("w1", "w2", "w3"), (64, 64, 3, 3))))
    ranges = ranges_of(model, samples_of(model, tmp_path))
    table = placement("tensorrt")
    plain, quantized = (
        scratch(quantize(model, ranges, replace(table, residual=residual))[0])
        for residual in (False, True)
    )
    assert plain - quantized == 3 * 64 * 32 * 32
