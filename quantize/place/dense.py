"""A MatMul and the bias behind it as a Gemm, for a target that adds an int32 bias in its kernel.

    MatMul (x, W) -> Add (b)        Reshape -> Gemm (W, b) -> Reshape

onnxruntime's integer Gemm adds the bias to its sums and writes bytes; its integer MatMul has no
bias, so that the sums become floats, and one step more reads and writes them all. A Reshape moves
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op, set_op
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.place.biases import bias_of

__all__ = ["as_gemms"]


def as_gemms(graph: gs.Graph, names: FreeNames, layers: Iterable[gs.Node]) -> dict[str, str]:
    """Rewrite those of ``layers`` that are a MatMul with a bias, in place.

    Return, by the name of what a Gemm makes, that of the tensor which holds the same values.
    """
    shapes = Shapes(graph)
    same = {}
    for node in layers:
        add, bias = _bias(graph, node)
        shape = None if add is None else shapes.shape(add.outputs[0])
        if add is None or shape is None:
            continue
        sizes = [dim.number if dim.fixed else -1 for dim in shape]
        if sizes.count(-1) > 1 or 0 in sizes or sizes[-1] != bias.size:
            continue
        label, depth = add.outputs[0].name, node.inputs[1].values.shape[0]
        made = gs.Variable(names.tensor(f"{label}/rows"), np.float32)
        _reshape(graph, names, made, add.outputs[0], sizes)
        rows = gs.Variable(names.tensor(f"{label}/input"), np.float32)
        _reshape(graph, names, node.inputs[0], rows, [-1, depth])
        set_op(node, "Gemm")
        node.inputs = [rows, node.inputs[1], gs.Constant(names.tensor(f"{label}/bias"), bias)]
        node.outputs = [made]
        same[made.name] = label
    return same


def _bias(graph: gs.Graph, node: gs.Node) -> tuple[gs.Node | None, Array]:
    """Return the Add behind a MatMul, if it adds one value to each output, and the values."""
    none = None, np.zeros(0, np.float32)
    found = bias_of(node) if is_op(node, "MatMul") else None
    if found is None or any(node.outputs[0] is output for output in graph.outputs):
        return none
    after, place = found
    if all(after is not other for other in graph.nodes):
        return none  # it is in a body
    return after, np.asarray(after.inputs[place].values)


def _reshape(
    graph: gs.Graph, names: FreeNames, source: gs.Tensor, target: gs.Tensor, sizes: list[int]
) -> None:
    """Let ``target`` be made by a Reshape alone."""
    target.inputs.clear()
    name = names.node(f"{target.name}/Reshape")
    shape = gs.Constant(names.tensor(f"{target.name}/sizes"), np.array(sizes, np.int64))
    graph.nodes.append(Node("Reshape", name, {}, [source, shape], [target]))
