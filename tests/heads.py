"""Healthy networks whose outputs saturate, and the same with a fault."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime

HEADS = ("Sigmoid", "Softmax", "Tanh", "LogSoftmax", "Clip")
COUNT = 50


@dataclass(frozen=True)
class Head:
    """How a network ends.

    Attributes:
        seed: Of its weights.
        kind: The operator at its end.
        gain: Factor of the last layer's weights.
        shift: Of what the last operator is fed, in its standard deviations.
        pooled: Whether it says one score a channel, and no map.
    """

    seed: int
    kind: str
    gain: float
    shift: float
    pooled: bool

    def __str__(self) -> str:
        form = "scores" if self.pooled else "map"
        return f"{self.seed}_{self.kind}_gain{self.gain:.0f}_shift{self.shift:+.0f}_{form}"


def heads(count: int = COUNT) -> list[Head]:
    """Return so many heads: every kind, with gains from 1 to 1000."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        gain = float(10 ** rng.uniform(0, 3))
        shift = float(rng.choice([0, 0, 0, 2, -2, 4, -4]))
        if rng.random() < 0.2:
            gain, shift = 1.0, float(rng.choice([-16, 14]))
        found.append(Head(seed, HEADS[seed % len(HEADS)], gain, shift, bool(rng.random() < 0.4)))
    return found


def network(head: Head, path: Path) -> Path:
    """Write a network of three convolutions with batch norm, and its head."""
    rng = np.random.default_rng(head.seed)
    width, classes = 16, 1 if head.kind == "Sigmoid" and head.seed % 2 else 4
    nodes, weights, tensor = [], {}, "x"
    for index, (read, made) in enumerate([(3, width), (width, width), (width, classes)]):
        last = index == 2
        gain = head.gain if last else 1.0
        values = {
            "w": gain * rng.standard_normal((made, read, 3, 3)) / np.sqrt(9 * read),
            "g": 1 + rng.random(made), "b": rng.standard_normal(made) * 0.1,
            "m": rng.standard_normal(made) * 0.1, "v": 1 + rng.random(made),
        }  # fmt: skip
        if last:
            values["b"] = np.full(made, head.shift * gain) + 0.1 * rng.standard_normal(made)
        weights |= {f"{name}{index}": value.astype(np.float32) for name, value in values.items()}
        nodes += [
            helper.make_node("Conv", [tensor, f"w{index}"], [f"c{index}"], pads=[1] * 4),
            helper.make_node(
                "BatchNormalization", [f"c{index}", *(f"{n}{index}" for n in "gbmv")], [f"n{index}"]
            ),
        ]
        tensor = f"n{index}"
        if not last:
            nodes.append(helper.make_node("Relu", [tensor], [f"r{index}"]))
            tensor = f"r{index}"
    if head.pooled:
        nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["p"]))
        tensor = "p"
    more = {}
    inputs = [tensor]
    if head.kind in ("Softmax", "LogSoftmax"):
        more["axis"] = 1
    if head.kind == "Clip":
        weights |= {"low": np.float32(0), "high": np.float32(6)}
        inputs += ["low", "high"]
    nodes.append(helper.make_node(head.kind, inputs, ["y"], **more))
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes, None, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def shows(right: Model, wrong: Model) -> bool:
    """Tell whether a fault moves any of many scores, of samples of many sizes, by a hundredth."""
    rng = np.random.default_rng(99)
    scales = (4.0 ** rng.uniform(-4, 4, 64)).reshape(-1, 1, 1, 1)
    x = (scales * rng.standard_normal((64, 3, 16, 16))).astype(np.float32)
    sides = []
    for model in (right, wrong):
        with OnnxRuntime(model.to_onnx(), optimize=False) as session:
            sides.append(session.infer({"x": x})["y"])
    return bool(np.abs(sides[0] - sides[1]).max() > 0.01)


FAULTS = ("weight", "bias", "channels", "pad", "scale")


def spoil(model: Model, fault: str) -> None:
    """Plant a fault of the size of real ones into a cleaned graph."""
    convolution = [node for node in model.graph.nodes if node.op == "Conv"][-1]
    weights = convolution.inputs[1]
    value = np.array(weights.values)
    if fault == "weight":  # one kernel is lost
        value[0, 0] = 0
    elif fault == "channels":  # two channels are exchanged
        value[:, [0, 1]] = value[:, [1, 0]]
    elif fault == "scale":  # an epsilon of 0.05 where it is 1e-5
        value *= np.float32(0.98)
    elif fault == "bias":
        bias = convolution.inputs[2]
        moved = np.array(bias.values)
        moved[0] += np.float32(0.02) * np.abs(value[0]).sum()
        bias.values = moved
    elif fault == "pad":
        first = next(node for node in model.graph.nodes if node.op == "Conv")
        first.attrs["pads"] = [0, 0, 2, 2]
    weights.values = value
