"""What layers cost: multiplications, bytes, and a latency estimated from both.

    time of a layer = max(MACs / rate of its precision, bytes / bandwidth)

with its input, weights and output as it reads and writes them (the roofline of Williams et al.,
2009). It leaves out launches, caches, fusion of everything but the activation behind a layer, and
kernels that are worse than the machine: an estimate to rank layers by, told as one wherever it is
printed. Where the target runs, measure.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import WEIGHTED, is_op
from onnxgraft.stages.quantize.place.placement import Placement, layers, points, products
from onnxgraft.stages.quantize.place.shapes import shapes_of
from onnxgraft.targets import Machine, find_target

__all__ = ["Estimate", "LayerCost", "costs", "int8_share"]

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


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
    shapes = shapes_of(model)
    found = {}
    for node in model.graph.nodes:
        if is_op(node, *WEIGHTED) and len(node.inputs) > 1:
            read, written = (shapes.get(t.name) for t in (node.inputs[0], node.outputs[0]))
            weights = node.inputs[1]
            shape = weights.values.shape if isinstance(weights, gs.Constant) else None
            shape = shapes.get(weights.name) if shape is None else shape
            if read is not None and written is not None and shape is not None:
                found[node.name] = LayerCost(
                    node.name, _macs(node, read, written, shape), math.prod(read),
                    math.prod(shape), math.prod(written),
                )  # fmt: skip
    return found


def _macs(
    node: gs.Node, read: tuple[int, ...], written: tuple[int, ...], weights: tuple[int, ...]
) -> int:
    if is_op(node, "Conv"):  # each output reads the weights of its channel
        return math.prod(written) * math.prod(weights[1:])
    if is_op(node, "ConvTranspose"):  # each input is multiplied with the weights of its channel
        return math.prod(read) * math.prod(weights[1:])
    depth = weights[-1 if is_op(node, "Gemm") and node.attrs.get("transB", 0) else -2]
    return math.prod(written) * depth


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
        self.machine = find_target(table.target).machine
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
        for node in self._graph.nodes:
            cost = self.costs.get(node.name)
            if cost is not None:
                written = 1 if _ends_in(node.outputs[0], fused) else size
                precision = "int8" if node.name in int8 else self.floats
                seconds += cost.seconds(self.machine, precision, written)
        return seconds


def _ends_in(tensor: gs.Tensor, fused: set[int], steps: int = 8) -> bool:
    """Tell whether a layer's output, behind the operators that fuse with it, is quantized."""
    if id(tensor) in fused:
        return True
    if not tensor.outputs or steps == 0:
        return False
    return all(
        not is_op(reader, *WEIGHTED) and _ends_in(reader.outputs[0], fused, steps - 1)
        for reader in tensor.outputs
    )
