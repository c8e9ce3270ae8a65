"""Where each target wants QuantizeLinear and DequantizeLinear, as a table to read and change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, nearest

__all__ = ["PLACEMENTS", "Placement", "Point", "activations", "origin", "placement", "points"]

# Operators whose output holds values of their input alone: quantizing before or after is the
# same, and before is cheaper, because they then move bytes.
KEEPING = frozenset({"Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class Placement:
    """What one target wants.

    Attributes:
        target: Its name.
        weights: For each operator with weights, the axis of a scale per channel, or None for
            one scale.
        symmetric: int8 with zero point 0, or else uint8 with one.
        outputs: Whether the outputs of layers are quantized too.
        bias: Whether the bias becomes int32 with a DequantizeLinear.
        also: Operators without weights that run in integers when inputs and output are quantized.
    """

    target: str
    weights: dict[str, int | None]
    symmetric: bool
    outputs: bool = False
    bias: bool = False
    also: frozenset[str] = field(default_factory=frozenset)


# TensorRT, by NVIDIA's guide "Working with Quantized Types": inputs of layers with weights, not
# their outputs; symmetric; weights per channel; no bias. A ConvTranspose gets one scale: its
# kernels disagree on the axis (TensorRT#1694), and its last axis order is theirs.
_TENSORRT = Placement(
    target="tensorrt",
    weights={"Conv": 0, "ConvTranspose": None, "Gemm": None, "MatMul": None},
    symmetric=True,
)
PLACEMENTS: dict[str, Placement] = {
    "tensorrt": _TENSORRT,
    # OpenVINO runs TensorRT's form fast on a CPU, and finds the rest of the fusions by itself.
    "openvino": Placement("openvino", _TENSORRT.weights, symmetric=True),
    # onnxruntime's CPU kernels want uint8 activations on both sides of a layer and an int32 bias,
    # or they do not fuse (QLinearConv). It has no integer ConvTranspose.
    "onnxruntime": Placement(
        target="onnxruntime",
        weights={"Conv": 0, "Gemm": None, "MatMul": None},
        symmetric=False,
        outputs=True,
        bias=True,
        also=frozenset({"Add"}),
    ),
}

Kind = Literal["input", "output"]


@dataclass(frozen=True)
class Point:
    """A tensor to quantize, and who then reads the quantized one.

    Attributes:
        tensor: Whose range is needed.
        consumers: The nodes that read the quantized tensor; None: all of them.
    """

    tensor: gs.Tensor
    consumers: tuple[gs.Node, ...] | None


def placement(target: str) -> Placement:
    """Return the table of ``target``; InputError if there is none."""
    try:
        return PLACEMENTS[target]
    except KeyError as error:
        raise InputError(
            f"no target is called {target!r}; {nearest(target, PLACEMENTS)}"
        ) from error


def layers(graph: gs.Graph, table: Placement) -> list[gs.Node]:
    """Return the layers with constant weights that the target can run in integers."""
    return [
        node
        for node in graph.nodes
        if node.op in table.weights
        and len(node.inputs) > 1
        and isinstance(node.inputs[1], gs.Constant)
        and node.inputs[1].values.ndim >= 2
    ]


def points(graph: gs.Graph, table: Placement, chosen: list[gs.Node]) -> list[Point]:
    """Return what has to be quantized for the ``chosen`` layers, in the order of the graph."""
    wanted = {id(node) for node in chosen}
    readers: dict[int, tuple[gs.Tensor, list[gs.Node] | None]] = {}
    for node in chosen:
        tensor, reader = node.inputs[0], node
        while True:
            source = tensor.inputs[0] if tensor.inputs else None
            inner = all(id(consumer) in wanted for consumer in tensor.outputs)
            if source is None or source.op not in KEEPING or not inner or _fixed(graph, tensor):
                break
            if table.outputs:
                # Its kernels run in integers only between a DequantizeLinear and a QuantizeLinear.
                readers[id(tensor)] = (tensor, None)
            wanted.add(id(source))
            tensor, reader = source.inputs[0], source
        _, nodes = readers.setdefault(id(tensor), (tensor, []))
        if nodes is not None and all(reader is not other for other in nodes):
            nodes.append(reader)
    if table.outputs:
        for node in [*chosen, *_joining(graph, table, chosen)]:
            for tensor in [*(node.inputs if node.op in table.also else []), _result(graph, node)]:
                if not _fixed(graph, tensor) and not isinstance(tensor, gs.Constant):
                    readers[id(tensor)] = (tensor, None)
    return [
        Point(tensor, None if nodes is None else tuple(nodes)) for tensor, nodes in readers.values()
    ]


def origin(tensor: gs.Tensor) -> gs.Tensor:
    """Return the tensor whose values ``tensor`` holds: the one before operators that keep them."""
    while tensor.inputs and tensor.inputs[0].op in KEEPING:
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def activations(graph: gs.Graph) -> list[str]:
    """Return the tensors whose ranges some target wants."""
    names: dict[str, None] = {}
    for table in PLACEMENTS.values():
        for point in points(graph, table, layers(graph, table)):
            names[origin(point.tensor).name] = None
    return list(names)


def _joining(graph: gs.Graph, table: Placement, chosen: list[gs.Node]) -> list[gs.Node]:
    """Return the operators without weights all of whose inputs come from chosen layers."""
    results = {id(_result(graph, node)) for node in chosen}
    joined = []
    for node in graph.nodes:
        if node.op in table.also and all(id(tensor) in results for tensor in node.inputs):
            joined.append(node)
            results.add(id(_result(graph, node)))
    return joined


def _result(graph: gs.Graph, node: gs.Node) -> gs.Tensor:
    """Return the tensor in which a layer ends: that of the Relu after it, if there is one."""
    tensor = node.outputs[0]
    if len(tensor.outputs) == 1 and tensor.outputs[0].op == "Relu" and not _fixed(graph, tensor):
        return tensor.outputs[0].outputs[0]
    return tensor


def _fixed(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return any(tensor is output for output in graph.outputs)
