"""What layers cost: multiplications, bytes, and a latency estimated from both.

    time of a layer = max(MACs / rate of its precision, bytes / bandwidth)

with its input, weights and output as it reads and writes them (the roofline of Williams et al.,
2009). It leaves out launches, caches, fusion of everything but the activation behind a layer, and
kernels that are worse than the machine: an estimate to rank layers by, told as one wherever it is
printed. Where the target runs, measure.

Layers in the bodies of If, Loop and Scan count too: as often as the body runs, where the graph says
that, else once; of an If both branches count. A recurrent layer multiplies its input and its state
in each step:

    MACs = steps * batch * (|W| + |R|)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxgraft.graph.body_rules import scanned_inputs
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import RECURRENT, WEIGHTED, is_op
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import bodies
from onnxgraft.stages.quantize.place.placement import Placement, layers, points, products
from onnxgraft.stages.quantize.place.shapes import shapes_of
from onnxgraft.targets import Machine, find_target

__all__ = ["Estimate", "LayerCost", "costs", "int8_share", "shares"]

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class LayerCost:
    """What one layer with weights has to do at batch 1.

    Attributes:
        name: Of the node.
        macs: Multiplications.
        inputs: Values read.
        weights: Values read, the bias left out.
        outputs: Values written.
    """

    name: str
    macs: int
    inputs: int
    weights: int
    outputs: int

    def seconds(self, machine: Machine, precision: str, written: int) -> float:
        """Return the estimated time; ``written`` bytes an output, whoever quantizes it."""
        moved = (self.inputs + self.weights) * BYTES[precision] + self.outputs * written
        return max(self.macs / machine.macs[precision], moved / machine.bandwidth)


def costs(model: Model) -> dict[str, LayerCost]:
    """Return the cost of each layer with weights of a float graph, where shapes are known.

    Free dimensions other than the batch are taken for 1.
    """
    shapes = Shapes(model.graph, free=1)
    found = {}
    for node, times in _layers_in(model.graph, shapes, 1):
        weighing = node.inputs[1 : 3 if is_op(node, *RECURRENT) else 2]
        read, written = (_sizes(shapes, tensor) for tensor in (node.inputs[0], node.outputs[0]))
        weights = [_sizes(shapes, tensor) for tensor in weighing]
        known = [shape for shape in weights if shape is not None]
        if read is None or len(known) < len(weights):
            continue
        if written is None and is_op(node, *RECURRENT):
            written = ()  # only the last state is read
        if written is not None:
            macs = times * _macs(node, read, written, known)
            values = [times * math.prod(shape) for shape in (read, written)]
            stored = times * sum(map(math.prod, known))
            found[node.name] = LayerCost(node.name, macs, values[0], stored, values[1])
    return found


def shares(model: Model) -> dict[str, float]:
    """Return the part of all multiplications that each layer with weights does, where known."""
    found = costs(model)
    total = sum(cost.macs for cost in found.values())
    return {name: cost.macs / total for name, cost in found.items()} if total else {}


def _layers_in(graph: gs.Graph, shapes: Shapes, times: int) -> Iterator[tuple[gs.Node, int]]:
    """Yield the layers of a graph and of the bodies in it, and how often each runs."""
    for node in graph.nodes:
        if is_op(node, *WEIGHTED, *RECURRENT) and len(node.inputs) > 1:
            yield node, times
        inner = list(node.subgraphs())
        if not inner:
            continue
        if is_op(node, "Loop"):  # its state is taken to keep the shape that it starts with
            for tensor, start in zip(node.attrs["body"].inputs[2:], node.inputs[2:], strict=False):
                shapes.bind(tensor, start, shapes.shape(start))
        for tensor in node.outputs:  # a node is asked about before its bodies, which then know more
            shapes.shape(tensor)
        for body in inner:
            yield from _layers_in(body, shapes, times * _times(node, shapes))


def _times(node: gs.Node, shapes: Shapes) -> int:
    """Return how often a node runs its body; 1 where the graph does not say."""
    if is_op(node, "Loop") and node.inputs[0].name:
        value = shapes.value(node.inputs[0])
        if value and value[0] is not None and value[0].fixed:
            return max(value[0].number, 1)
    if scanned := scanned_inputs(node):
        first = len(node.inputs) - scanned
        axis = int((node.attrs.get("scan_input_axes") or [0])[0])
        whole = shapes.shape(node.inputs[first])
        if whole and whole[axis % len(whole)].fixed:
            return max(whole[axis % len(whole)].number, 1)
    return 1


def _sizes(shapes: Shapes, tensor: gs.Tensor) -> tuple[int, ...] | None:
    shape = shapes.shape(tensor) if tensor.name else None
    if shape is None or not all(dim.fixed for dim in shape):
        return None
    return tuple(dim.number for dim in shape)


def _macs(
    node: gs.Node,
    read: tuple[int, ...],
    written: tuple[int, ...],
    all_weights: list[tuple[int, ...]],
) -> int:
    if is_op(node, *RECURRENT):
        return math.prod(read[:2]) * sum(map(math.prod, all_weights))
    (weights,) = all_weights
    if is_op(node, "Conv"):  # each output reads the weights of its channel
        return math.prod(written) * math.prod(weights[1:])
    if is_op(node, "ConvTranspose"):  # each input is multiplied with the weights of its channel
        return math.prod(read) * math.prod(weights[1:])
    if is_op(node, "Gemm"):
        return math.prod(written) * weights[-1 if node.attrs.get("transB", 0) else -2]
    return math.prod(written) * read[-1]  # of a product with a vector, too


def int8_share(found: dict[str, LayerCost], int8: Collection[str]) -> float:
    """Return the part of all multiplications that ``int8`` layers do."""
    total = sum(cost.macs for cost in found.values())
    return sum(found[name].macs for name in int8 if name in found) / total if total else 0.0


class Estimate:
    """The estimated seconds of a graph's layers with weights, and of quantizing what they read.

    Args:
        model: The float graph.
        table: Of the target, whose machine is meant.
        floats: Precision of what is not INT8.
    """

    def __init__(self, model: Model, table: Placement, floats: str = "fp32") -> None:
        self.costs = costs(model)
        aim = find_target(table.target)
        fp8 = aim.fp8 if table.format == "fp8" else None
        self.machine = aim.machine if fp8 is None else fp8.machine
        self.floats = floats
        self._table = table
        self._graph = model.graph
        self._sizes = {name: math.prod(shape) for name, shape in shapes_of(model).items()}
        self._layers = [*layers(model.graph, table), *products(model.graph, table)]

    def __call__(self, int8: Collection[str]) -> float:
        """Return the seconds with those layers in INT8."""
        chosen = [node for node in self._layers if node.name in int8]
        fused, seconds, size = set(), 0.0, BYTES[self.floats]
        for point in points(self._graph, self._table, chosen):
            readers = point.tensor.outputs if point.consumers is None else point.consumers
            if point.tensor.inputs and len(readers) == len(point.tensor.outputs):
                fused.add(id(point.tensor))
            else:  # others read it in float: it is read once more, and written in bytes
                values = self._sizes.get(point.tensor.name, 0)
                seconds += values * (size + 1) / self.machine.bandwidth
        for node in (node for body in bodies(self._graph) for node in body.nodes):
            cost = self.costs.get(node.name)
            if cost is not None:
                written = 1 if _ends_in(node.outputs[0], fused) else size
                precision = self._table.format if node.name in int8 else self.floats
                seconds += cost.seconds(self.machine, precision, written)
        return seconds


def _ends_in(tensor: gs.Tensor, fused: set[int], steps: int = 8) -> bool:
    """Tell whether a layer's output, behind the operators that fuse with it, is quantized."""
    if id(tensor) in fused:
        return True
    if not tensor.outputs or steps == 0:
        return False
    return all(
        not is_op(reader, *WEIGHTED, *RECURRENT) and _ends_in(reader.outputs[0], fused, steps - 1)
        for reader in tensor.outputs
    )
