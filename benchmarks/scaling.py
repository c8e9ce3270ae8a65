"""How time grows with a graph: each stage on graphs of one shape, and of four times as many nodes.

    python -m benchmarks.scaling [SHAPE ...] > benchmarks/scaling.md

needs nothing but the packages.

Seconds are of the processor, for a graph of some 4,000 nodes, each in a process of its own and
without imports; beside them stands how many times as long that is as for 1,000 nodes. Where time
grows with the graph that is some 4, and 16 where it grows with the square; of less than a second
nothing is said. `surgery` is without verification; `quantize` is calibration on one sample and Q
and DQ for onnxruntime, and stands open where the graph is refused, as where no layer could run in
INT8.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import resource
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from benchmarks.heading import heading
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from onnxgraft.data.samples import open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.stages import quantize, surgery

__all__ = ["SHAPES"]

COUNTS = (1_000, 4_000)
MOST = 120


class Graph:
    """An ONNX graph that grows node by node; its input is of 1 x 4 x 4 x 4."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(make_node(op, list(inputs), [name], name, **attributes))
        return name

    def constant(self, value: object, kind: type[np.generic] = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def weights(self, *shape: int) -> str:
        rng = np.random.default_rng(len(self.constants))
        return self.constant(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))

    def model(self, *ends: str) -> onnx.ModelProto:
        first = make_tensor_value_info("x", 1, ["N", 4, 4, 4])
        last = [make_tensor_value_info(end, 1, None) for end in ends]
        graph = make_graph(self.nodes, "net", [first], last, self.constants)
        return make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8)


Shape = Callable[[Graph, int], str]
SHAPES: dict[str, Shape] = {}


def shape(make: Shape) -> Shape:
    """Let graphs of a shape be measured."""
    SHAPES[make.__name__.replace("_", " ")] = make
    return make


def sum_of(graph: Graph, names: list[str]) -> str:
    """Return the sum of many tensors, two at a time."""
    while len(names) > 1:
        pairs = zip(names[::2], names[1::2], strict=False)
        names = [graph.node("Add", *pair) for pair in pairs] + names[len(names) & ~1 :]
    return names[0]


@shape
def a_row_of_relus(graph: Graph, count: int) -> str:
    last = "x"
    for _ in range(count):
        last = graph.node("Relu", last)
    return last


@shape
def convolutions_and_batch_norms(graph: Graph, count: int) -> str:
    last = "x"
    for _ in range(count // 3):
        last = graph.node("Conv", last, graph.weights(4, 4, 1, 1))
        last = graph.node(
            "BatchNormalization", last, *(graph.constant(np.full(4, v)) for v in (1.1, 0.1, 0, 1))
        )
        last = graph.node("Relu", last)
    return last


@shape
def residual_blocks(graph: Graph, count: int) -> str:
    last = "x"
    for _ in range(count // 3):
        inner = graph.node("Relu", graph.node("Conv", last, graph.weights(4, 4, 1, 1)))
        last = graph.node("Add", last, inner)
    return last


@shape
def a_dense_block(graph: Graph, count: int) -> str:
    """Each layer reads what the ten before it made."""
    made = ["x"]
    for _ in range(count // 3):
        joined = graph.node("Concat", *made[-10:], axis=1)
        wide = 4 * len(made[-10:])
        made.append(graph.node("Relu", graph.node("Conv", joined, graph.weights(4, wide, 1, 1))))
    return made[-1]


@shape
def one_tensor_read_by_all(graph: Graph, count: int) -> str:
    first = graph.node("Sigmoid", "x")
    return sum_of(graph, [graph.node("Mul", first, first) for _ in range(count // 2)])


@shape
def one_weight_read_by_all(graph: Graph, count: int) -> str:
    weights, last = graph.weights(4, 4, 1, 1), "x"
    for _ in range(count // 2):
        last = graph.node("Relu", graph.node("Conv", last, weights))
    return last


@shape
def a_wide_concatenation(graph: Graph, count: int) -> str:
    parts = [graph.node("Relu", "x") for _ in range(count)]
    return graph.node("Concat", *parts, axis=1)


@shape
def one_tensor_joined_with_itself(graph: Graph, count: int) -> str:
    return graph.node("Concat", *["x"] * count, axis=1)


@shape
def a_wide_split(graph: Graph, count: int) -> str:
    wide = graph.node("Concat", *["x"] * (count // 8), axis=1)
    parts = [f"p{index}" for index in range(count // 2)]
    graph.nodes.append(make_node("Split", [wide], parts, "split", axis=1))
    return sum_of(graph, parts)


@shape
def transposes_there_and_back(graph: Graph, count: int) -> str:
    last = "x"
    for _ in range(count // 4):
        last = graph.node("Relu", graph.node("Transpose", last, perm=[0, 2, 3, 1]))
        last = graph.node("Sigmoid", graph.node("Transpose", last, perm=[0, 3, 1, 2]))
    return last


@shape
def channels_last(graph: Graph, count: int) -> str:
    """As TensorFlow's convolutions come: each between two Transposes, with a skip connection."""
    last = "x"
    for _ in range(count // 5):
        inner = graph.node("Transpose", graph.node("Relu", last), perm=[0, 3, 1, 2])
        inner = graph.node("Conv", inner, graph.weights(4, 4, 1, 1))
        last = graph.node("Add", last, graph.node("Transpose", inner, perm=[0, 2, 3, 1]))
    return last


@shape
def one_transpose_read_by_all(graph: Graph, count: int) -> str:
    last = first = graph.node("Transpose", "x", perm=[0, 2, 3, 1])
    for _ in range(count):
        last = graph.node("Add", last, first)
    return last


@shape
def a_row_of_transposes(graph: Graph, count: int) -> str:
    last = "x"
    for _ in range(count):
        last = graph.node("Transpose", last, perm=[0, 2, 3, 1])
    return last


@shape
def a_row_of_reshapes(graph: Graph, count: int) -> str:
    last = "x"
    for index in range(count):
        sides = graph.constant([0, 16, 2, 2] if index % 2 else [0, 4, 4, 4], np.int64)
        last = graph.node("Reshape", last, sides)
    return last


@shape
def sizes_that_are_computed(graph: Graph, count: int) -> str:
    """As exporters write a view: Shape, Gather, Unsqueeze, Concat, Reshape."""
    last, zero = "x", graph.constant(0, np.int64)
    axes, rest = graph.constant([0], np.int64), graph.constant([4, 4, 4], np.int64)
    for _ in range(count // 6):
        batch = graph.node("Gather", graph.node("Shape", last), zero)
        sides = graph.node("Concat", graph.node("Unsqueeze", batch, axes), rest, axis=0)
        last = graph.node("Relu", graph.node("Reshape", last, sides))
    return last


@shape
def casts_there_and_back(graph: Graph, count: int) -> str:
    last = "x"
    for _ in range(count // 3):
        last = graph.node("Cast", graph.node("Cast", last, to=10), to=1)
        last = graph.node("Relu", last)
    return last


@shape
def a_row_of_identities(graph: Graph, count: int) -> str:
    last = "x"
    for _ in range(count):
        last = graph.node("Identity", last)
    return graph.node("Relu", last)


@shape
def identities_of_one_tensor(graph: Graph, count: int) -> str:
    return sum_of(graph, [graph.node("Identity", "x") for _ in range(count // 2)])


@shape
def slices_of_one_tensor(graph: Graph, count: int) -> str:
    ends = [graph.constant([v], np.int64) for v in (0, 2, 1)]
    return sum_of(graph, [graph.node("Slice", "x", *ends) for _ in range(count // 2)])


@shape
def pads_and_convolutions(graph: Graph, count: int) -> str:
    last, sides = "x", graph.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    for _ in range(count // 2):
        last = graph.node("Conv", graph.node("Pad", last, sides), graph.weights(4, 4, 3, 3))
    return last


@shape
def constants_that_are_computed(graph: Graph, count: int) -> str:
    last, made = "x", graph.constant(np.ones((1, 4, 1, 1)))
    for _ in range(count // 2):
        made = graph.node("Add", made, graph.constant(np.full((1, 4, 1, 1), 0.001)))
        last = graph.node("Mul", last, made)
    return last


@shape
def branches(graph: Graph, count: int) -> str:
    last = "x"
    total = graph.node("ReduceSum", "x", keepdims=0)
    true = graph.node("Greater", total, graph.constant(0))
    for index in range(count // 3):
        bodies = {}
        for name in ("then", "else"):
            op = "Relu" if name == "then" else "Sigmoid"
            made = f"{name}{index}"
            bodies[f"{name}_branch"] = make_graph(
                [make_node(op, [last], [made], f"n{made}")], f"g{made}", [],
                [make_tensor_value_info(made, 1, ["N", 4, 4, 4])],
            )  # fmt: skip
        last = graph.node("If", true, **bodies)
    return last


@shape
def quantized_layers(graph: Graph, count: int) -> str:
    scale, zero = graph.constant(0.05), graph.constant(0, np.int8)
    last = "x"
    for _ in range(count // 5):
        last = graph.node("QuantizeLinear", last, scale, zero)
        last = graph.node("DequantizeLinear", last, scale, zero)
        stored = graph.constant(np.eye(4).reshape(4, 4, 1, 1) * 20, np.int8)
        weights = graph.node("DequantizeLinear", stored, scale, zero)
        last = graph.node("Relu", graph.node("Conv", last, weights))
    return last


@shape
def hard_swishes(graph: Graph, count: int) -> str:
    last = "x"
    three, low, high, six = (graph.constant(value) for value in (3, 0, 6, 1 / 6))
    for _ in range(count // 5):
        inner = graph.node("Conv", last, graph.weights(4, 4, 1, 1))
        gate = graph.node("Clip", graph.node("Add", inner, three), low, high)
        last = graph.node("Mul", graph.node("Mul", inner, gate), six)
    return last


def quantized(model: Model) -> object:
    """Calibrate on one sample, and place Q and DQ."""
    data = {"x": np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)}
    ranges = quantize.calibrate(model, open_samples(data, model.inputs), method="minmax")
    return quantize.quantize(model, ranges, quantize.placement("onnxruntime"))


STAGES: dict[str, Callable[[Model], object]] = {
    "read": lambda model: Model.load(model.source.path),
    "surgery": lambda model: surgery.run(model, verify=False),
    "quantize": quantized,
}


def seconds(file: Path, stage: Callable[[Model], object]) -> float | None:
    """Return the seconds of the processor of a stage; None where it refuses the graph."""
    with tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (MOST + 60, MOST + 60))
            try:
                given = Model.load(file)
                begin = time.process_time()
                with contextlib.suppress(InputError):
                    stage(given)
                    told.write(str(time.process_time() - begin))
                    told.flush()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            return math.inf
        if status:
            raise SystemExit(f"{file}: see above")
        told.seek(0)
        text = told.read()
    return float(text) if text else None


def figures(few: float | None, many: float | None) -> str:
    """Return the cells of a stage: its seconds, and how many times as long they are."""
    if few is None or many is None:
        return "- | -"
    if math.isinf(many):
        return f"over {MOST} | -"
    return f"{many:.1f} | {many / few:.1f}" if many >= 1 else f"{many:.1f} | -"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []])
    names = parser.parse_args().shapes or SHAPES
    print(heading("How time grows with a graph", __doc__))
    print("| graph | " + " | ".join(f"{stage}, s | times" for stage in STAGES) + " |")
    print("|---" * (1 + 2 * len(STAGES)) + "|")
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            files = [Path(place, f"{count}.onnx") for count in COUNTS]
            for file, count in zip(files, COUNTS, strict=True):
                graph = Graph()
                onnx.save(graph.model(SHAPES[name](graph, count)), file)
            cells = [figures(*(seconds(file, STAGES[stage]) for file in files)) for stage in STAGES]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
