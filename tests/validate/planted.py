"""Faults planted into healthy graphs, and the networks that they are planted into."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from models.caffe_batchnorm import mobilenet_v2, resnet
from models.caffe_builder import Recipe
from models.caffe_classifiers import googlenet, squeezenet
from models.caffe_segmentation import fcn8s
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.answers import adapted, arranged
from onnxgraft.run.difference import relative_error, sqnr
from onnxgraft.run.engine import Engine
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.run.tolerances import FLOAT_TOLERANCE
from onnxgraft.stages import quantize, surgery
from onnxgraft.stages.convert import Original

__all__ = ["KINDS", "THIN", "Healthy", "Planted", "healthy", "plant", "thin"]

KINDS = ("weight", "pad", "channels", "bias", "saturation", "overflow")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
# The largest finite FP16 value is 65504.
_BEYOND_HALF = 4e5
_TRIES = 200


@dataclass
class Healthy:
    """A network that computes what its original does, in three precisions.

    Attributes:
        name: For people.
        original: Runs in its own framework.
        feeds: One sample.
        fp32: The cleaned graph.
        fp16: The same in half precision.
        int8: The same, quantized.
        quantize: Quantizes a faulty one likewise.
    """

    name: str
    original: Engine
    feeds: Feeds
    fp32: Model
    fp16: Model
    int8: Model
    quantize: Callable[[Model], Model]


@dataclass(frozen=True)
class Planted:
    """A graph with a fault.

    Attributes:
        model: The graph.
        node: The node that is to be named.
    """

    model: Model
    node: str


def healthy(
    name: str, path: Path, data: Samples | Path, target: str = "openvino", **how: str
) -> Healthy:
    """Convert a network and calibrate it on some samples; the first is the one that is fed."""
    original = Original.of(path, **how).run()
    lowered, _ = Original.of(path, **how).lower()
    fp32, _ = surgery.run(lowered)
    samples = data if isinstance(data, Samples) else open_samples(data, original.inputs)
    feeds = next(iter(samples)).feeds
    ranges = quantize.calibrate(fp32, samples.head(4), "minmax")

    def quantized(model: Model) -> Model:
        own = replace(ranges, model=quantize.fingerprint(model))
        return quantize.quantize(model, own, target)[0]

    return Healthy(name, original, feeds, fp32, to_half(fp32), quantized(fp32), quantized)


THIN: dict[str, Callable[[], Recipe]] = {
    "squeezenet": partial(squeezenet, width=0.25, size=67, classes=10),
    "googlenet": partial(googlenet, width=0.25, size=64, classes=10),
    "mobilenet_v2": partial(mobilenet_v2, width=0.25, size=64, classes=10),
    "resnet50": partial(resnet, width=0.125, size=64, classes=10),
    "fcn8s": partial(fcn8s, width=0.125, size=48, classes=5),
}


def thin(name: str, folder: Path) -> Healthy:
    """Return a thin network of random weights, beside OpenCV."""
    text, weights = THIN[name]()
    prototxt, caffemodel = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
    prototxt.write_text(text)
    caffemodel.write_bytes(weights)
    with Original.of(prototxt, weights=str(caffemodel)).run() as net:
        shape = [4, *map(int, net.inputs[0].shape[1:])]
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.savez(folder / f"{name}.npz", data=images)
    return healthy(name, prototxt, folder / f"{name}.npz", weights=str(caffemodel))


def to_half(model: Model) -> Model:
    """Return the graph in half precision, inputs and outputs in float, by onnxruntime's tool."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that FP16 does not have
        proto = convert_float_to_float16(model.to_onnx(), keep_io_types=True)
    half = Model.from_onnx(proto, model.source, dict(model.names))
    half.graph.toposort()
    return half


def plant(network: Healthy, kind: str, rng: np.random.Generator) -> Planted:
    """Return the network with one fault of a kind at a random layer.

    A fault that leaves the outputs as they are is none, and is planted anew.
    """
    expected = network.original.infer(network.feeds)
    for _ in range(_TRIES):
        planted = _plant(network, kind, rng)
        if planted is not None and _matters(planted.model, network, expected, kind):
            return planted
    raise AssertionError(f"{network.name}: no layer to plant {kind} at")


def _matters(model: Model, network: Healthy, expected: Outputs, kind: str) -> bool:
    if kind == "overflow":  # by construction; a runtime without FP16 computes on in float
        return True
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        actual = arranged(expected, session.infer(adapted(network.feeds, session)))
    floats = [name for name, value in expected.items() if value.dtype.kind == "f"]
    if kind == "saturation":  # more than what INT8 costs by itself
        return any(sqnr(expected[name], actual[name]) < 20 for name in floats)
    return any(relative_error(expected[n], actual[n]) > FLOAT_TOLERANCE for n in floats)


def _plant(network: Healthy, kind: str, rng: np.random.Generator) -> Planted | None:
    if kind == "saturation":
        return _saturation(network.int8.copy(), rng)
    model = network.fp32.copy()
    graph = model.graph
    if kind == "overflow":
        return _overflow(network, model, rng)
    nodes = [node for node in graph.nodes if _suits(node, kind)]
    if not nodes:
        return None
    node = nodes[rng.integers(len(nodes))]
    if kind == "pad":
        pads = list(node.attrs["pads"])
        half = len(pads) // 2
        axes = [axis for axis in range(half) if pads[axis] or pads[half + axis]]
        axis = axes[rng.integers(len(axes))]
        source, target = (axis, half + axis) if pads[axis] else (half + axis, axis)
        pads[source], pads[target] = pads[source] - 1, pads[target] + 1
        node.attrs["pads"] = pads
        return Planted(model, node.name)
    weight = node.inputs[1].values.copy()
    if kind == "weight":
        place = tuple(rng.integers(size) for size in weight.shape)
        weight[place] += np.abs(weight).max() * rng.choice([-1.0, 1.0])
    elif kind == "channels":
        axis = int(rng.choice([axis for axis in (0, 1) if weight.shape[axis] > 1]))
        weight = np.flip(weight, axis)
    if kind == "bias":
        node.inputs[2] = gs.Constant(f"{node.name}/no_bias", np.zeros_like(node.inputs[2].values))
    else:
        node.inputs[1] = gs.Constant(f"{node.name}/wrong", np.ascontiguousarray(weight))
    return Planted(model, node.name)


def _suits(node: gs.Node, kind: str) -> bool:
    if kind == "pad":
        return node.op in ("Conv", "MaxPool", "AveragePool") and any(node.attrs.get("pads", []))
    if node.op not in _WEIGHTED or not isinstance(node.inputs[1], gs.Constant):
        return False
    if kind == "bias":
        return len(node.inputs) > 2 and isinstance(node.inputs[2], gs.Constant)
    return kind != "channels" or max(node.inputs[1].values.shape[:2]) > 1


def _saturation(model: Model, rng: np.random.Generator) -> Planted:
    """Make the range of one activation a sixteenth to a sixty-fourth of what it was."""
    nodes = {node.name: node for node in model.graph.nodes}
    names = [
        name
        for name, node in nodes.items()
        if node.op == "QuantizeLinear" and not isinstance(node.inputs[0], gs.Constant)
    ]
    chosen = nodes[names[rng.integers(len(names))]]
    scale = chosen.inputs[1]
    values = np.asarray(scale.values / rng.integers(16, 65), np.float32)
    narrow = gs.Constant(f"{scale.name}/narrow", values)
    for node in (chosen, chosen.outputs[0].outputs[0]):
        node.inputs[1] = narrow
    return Planted(model, chosen.name)


def _overflow(network: Healthy, model: Model, rng: np.random.Generator) -> Planted | None:
    """Scale one layer up beyond FP16, and its result down again; then go to half precision."""
    nodes = [n for n in model.graph.nodes if _suits(n, "weight")]
    node = nodes[rng.integers(len(nodes))]
    made = node.outputs[0]
    with OnnxRuntime(exposing(model.to_onnx(), [made.name]), optimize=False) as session:
        value = session.infer(adapted(network.feeds, session))[made.name]
    largest = float(np.abs(value).max())
    if largest == 0:
        return None
    factor = np.float32(_BEYOND_HALF / largest)
    for index in range(1, len(node.inputs)):
        held = node.inputs[index]
        node.inputs[index] = gs.Constant(f"{node.name}/up{index}", held.values * factor)
    large = gs.Variable(f"{made.name}/large", np.float32, made.shape)
    node.outputs = [large]
    down = gs.Constant(f"{node.name}/down", np.array(1 / factor, np.float32))
    model.graph.nodes.append(gs.Node("Mul", f"{node.name}/again", {}, [large, down], [made]))
    model.graph.toposort()
    return Planted(to_half(model), node.name)
