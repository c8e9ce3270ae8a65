"""Where the values of a tensor are counted, so that as few tensors as possible are exposed.

Operators that keep values, or keep their order, keep the range too:

    relu (kept nowhere) -> MaxPool -> pooled        relu has the range of pooled
    image -> Transpose -> moved                     moved has the range of image
    act -> Pad(0) -> padded                         padded has the range of act
    a, b -> Concat -> both                          the counts of both are those of a plus b's

Going down through MaxPool, Relu and Clip is right because they are monotone: cutting a value off
before or after them is the same, and what they throw away need not be kept. It is also what leaves
onnxruntime its fusions of a layer with its activation.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.inference import infer
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op, nodes_of
from onnxgraft.graph.walk import bodies

__all__ = ["every_tensor", "find_sites"]

_SAME = frozenset({
    "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
_MONOTONE = frozenset({"Clip", "MaxPool", "Relu"})


def find_sites(graph: gs.Graph, wanted: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return for each ``wanted`` tensor the tensors whose values together are counted for it."""
    parts = list(bodies(graph))
    tensors = {name: tensor for part in parts for name, tensor in part.tensors().items()}
    fixed = _fixed(parts)
    found = {name: _site(tensors[name], fixed) for name in wanted}
    counted = {site.name for site in found.values() if not _joins(site)}
    sites = {}
    for name, site in found.items():
        sources = _parts(site, fixed)
        joined = all(source in counted for source in sources)
        sites[name] = tuple(dict.fromkeys(sources)) if joined else (site.name,)
        if joined and len(set(sources)) != len(sources):
            sites[name] = (site.name,)  # one tensor twice would have to be counted twice
    return sites


def _fixed(parts: list[gs.Graph]) -> set[int]:
    """Return the ids of what is fed or an output, or is read in a body inside of its own."""
    found = {id(tensor) for part in parts for tensor in (*part.inputs, *part.outputs)}
    for part in parts:
        own = {id(made) for node in part.nodes for made in node.outputs}
        found |= {id(read) for node in part.nodes for read in node.inputs if id(read) not in own}
    return found


def every_tensor(model: Model) -> list[str]:
    """Return all float32 tensors that the graph computes, and its inputs."""
    constant = {node.outputs[0].name for node in nodes_of(model.graph, "Constant")}
    return [
        name
        for name, kind in infer(model.graph).items()
        if kind.element == onnx.TensorProto.FLOAT and name not in constant
    ]


def _site(tensor: gs.Tensor, fixed: set[int]) -> gs.Tensor:
    """Return the tensor that stands for the range of ``tensor``."""
    while tensor.inputs:
        source = tensor.inputs[0]
        up = is_op(source, *_SAME) or _pads_with_zero(source)
        if is_op(source, "MaxPool") and tensor is source.outputs[0]:
            up = not _goes_down(source.inputs[0], fixed)
        if not up or isinstance(source.inputs[0], gs.Constant):
            break
        tensor = source.inputs[0]
    while _goes_down(tensor, fixed) and not _joins(tensor):
        tensor = tensor.outputs[0].outputs[0]
    return tensor


def _goes_down(tensor: gs.Tensor, fixed: set[int]) -> bool:
    """Tell whether a monotone operator alone reads a tensor that is neither fed nor an output."""
    if id(tensor) in fixed or len(tensor.outputs) != 1:
        return False
    reader = tensor.outputs[0]
    return (
        is_op(reader, *_MONOTONE)
        and reader.inputs[0] is tensor
        and all(isinstance(bound, gs.Constant) for bound in reader.inputs[1:] if bound.name)
    )


def _pads_with_zero(node: gs.Node) -> bool:
    if not is_op(node, "Pad") or node.attrs.get("mode", "constant") != "constant":
        return False
    value = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    return value is None or (isinstance(value, gs.Constant) and not np.any(value.values))


def _joins(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and is_op(tensor.inputs[0], "Concat")


def _parts(tensor: gs.Tensor, fixed: set[int]) -> list[str]:
    """Return the sites of what a tensor is joined from; its own name if it is not."""
    if not _joins(tensor):
        return [tensor.name]
    parts = [_site(source, fixed) for source in tensor.inputs[0].inputs]
    return [name for part in parts for name in _parts(part, fixed)]
