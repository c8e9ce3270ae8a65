"""Images that are rows of channels between convolutions, for a target that keeps channels last.

    Transpose (N L C -> N C L) -> Reshape (N C H W) -> Conv
    = Reshape (N H W C) -> Transpose (N C H W) -> Conv

and the other way round behind one. onnxruntime's integer convolutions have their channels last,
and its optimizer takes out the pairs of Transposes that stand beside each other then: without a
Reshape between them, those of the network and those around the kernel undo each other.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.shapes import Shapes

__all__ = ["channels_last"]

_TURNED = [0, 2, 1]


def channels_last(graph: gs.Graph, names: FreeNames, layers: Collection[gs.Node]) -> None:
    """Change the order of Transpose and Reshape around those of ``layers`` that are a Conv."""
    shapes = Shapes(graph)
    own = {id(node) for node in graph.nodes}
    for node in layers:
        if not is_op(node, "Conv"):
            continue
        if (reshape := _maker(graph, node.inputs[0], "Reshape")) is not None:
            _before(graph, names, shapes, reshape)
        for reader in list(node.outputs[0].outputs):
            if is_op(reader, "Reshape") and id(reader) in own:
                _behind(graph, names, shapes, reader)


def _before(graph: gs.Graph, names: FreeNames, shapes: Shapes, reshape: gs.Node) -> None:
    turn = _maker(graph, reshape.inputs[0], "Transpose")
    target = reshape.outputs[0]
    after = shapes.shape(target)
    if turn is None or turn.attrs.get("perm") != _TURNED or after is None or len(after) < 3:
        return
    before = shapes.shape(turn.inputs[0])
    channels, sizes = after[1], after[2:]
    if before is None or before[2] != channels or not channels.fixed or before[0] != after[0]:
        return
    if not all(size.fixed for size in sizes):
        return
    shape = [0, *(size.number for size in sizes), channels.number]
    rank = len(after)
    whole = gs.Variable(names.tensor(f"{target.name}/channels_last"), np.float32)
    _add(graph, names, "Reshape", turn.inputs[0], whole, shape)
    _add(graph, names, "Transpose", whole, target, [0, rank - 1, *range(1, rank - 1)])


def _behind(graph: gs.Graph, names: FreeNames, shapes: Shapes, reshape: gs.Node) -> None:
    turn = _reader(graph, reshape.outputs[0])
    source = reshape.inputs[0]
    before, after = shapes.shape(source), shapes.shape(reshape.outputs[0])
    if not is_op(turn, "Transpose") or turn.attrs.get("perm") != _TURNED:
        return
    if before is None or after is None or before[:2] != after[:2] or not before[1].fixed:
        return
    rank = len(before)
    target = turn.outputs[0]
    whole = gs.Variable(names.tensor(f"{target.name}/channels_last"), np.float32)
    _add(graph, names, "Transpose", source, whole, [0, *range(2, rank), 1])
    _add(graph, names, "Reshape", whole, target, [0, -1, before[1].number])


def _add(
    graph: gs.Graph, names: FreeNames, op: str, source: gs.Tensor, target: gs.Tensor,
    values: list[int],
) -> None:  # fmt: skip
    """Let ``target`` be made by a Reshape or Transpose alone."""
    target.inputs.clear()
    node = Node(op, names.node(f"{target.name}/{op}"), {}, [source], [target])
    if op == "Reshape":
        shape = np.array(values, np.int64)
        node.inputs.append(gs.Constant(names.tensor(f"{target.name}/sizes"), shape))
    else:
        node.attrs["perm"] = values
    graph.nodes.append(node)


def _maker(graph: gs.Graph, tensor: gs.Tensor, op: str) -> gs.Node | None:
    """Return the node of that kind that makes a tensor for one reader."""
    maker = tensor.inputs[0] if tensor.inputs else None
    return maker if is_op(maker, op) and _reader(graph, tensor) is not None else None


def _reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """Return the only node that reads a tensor, if it is of this graph and the tensor no output."""
    fixed = any(tensor is output for output in graph.outputs)
    if len(tensor.outputs) != 1 or fixed:
        return None
    (reader,) = tensor.outputs
    return reader if any(reader is node for node in graph.nodes) else None
