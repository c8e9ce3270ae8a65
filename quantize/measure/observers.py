"""Where the values of a tensor are counted, so that as few tensors as possible are exposed.

Operators that keep values, or keep their order, keep the range too:

    relu (kept nowhere) -> MaxPool -> pooled        relu has the range of pooled
    image -> Transpose -> moved                     moved has the range of image
    act -> Pad(0) -> padded                         padded has the range of act
    act -> Pad(-inf) -> padded -> MaxPool           padded has the range of act
    relu -> Transpose -> moved -> MaxPool -> pooled relu and moved have the range of pooled
    a, b -> Concat -> both                          the counts of both are those of a plus b's

Going down through MaxPool, Relu and Clip is right because they are monotone: cutting a value off
before or after them is the same, and what they throw away need not be kept. It is also what leaves
onnxruntime its fusions of a layer with its activation.
"""

from __future__ import annotations

from collections.abc import Iterable

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
_LOWEST = -65504.0  # of float16, and as low or lower for all other floats


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
        up = is_op(source, *_SAME) or _pads_within(source)
        if is_op(source, "MaxPool") and tensor is source.outputs[0]:
            up = _below(source.inputs[0], fixed) is None
        if not up or isinstance(source.inputs[0], gs.Constant):
            break
        tensor = source.inputs[0]
    while not _joins(tensor):
        below = _below(tensor, fixed)
        if below is None:
            break
        tensor = below
    return tensor


def _below(tensor: gs.Tensor, fixed: set[int]) -> gs.Tensor | None:
    """Return what a monotone operator makes of a tensor that nothing else reads; None without one.

    Values may be moved on the way there. What is fed or an output has a range of its own.
    """
    while id(tensor) not in fixed and len(tensor.outputs) == 1:
        reader = tensor.outputs[0]
        if reader.inputs[0] is not tensor:
            break
        if is_op(reader, *_MONOTONE):
            steady = all(
                isinstance(bound, gs.Constant) for bound in reader.inputs[1:] if bound.name
            )
            return reader.outputs[0] if steady else None
        if not is_op(reader, *_SAME):
            break
        tensor = reader.outputs[0]
    return None


def _pads_within(node: gs.Node) -> bool:
    """Tell whether a Pad leaves the range as it is.

    Of a border below all values, as frameworks lay around what is pooled, a MaxPool takes nothing:
    the range of what is pooled is enough.
    """
    if not is_op(node, "Pad") or node.attrs.get("mode", "constant") != "constant":
        return False
    value = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if value is None:
        return True
    if not isinstance(value, gs.Constant) or value.values.size != 1:
        return False
    border = value.values.item()
    return border == 0 or (border <= _LOWEST and _pooled(node.outputs[0]))


def _pooled(tensor: gs.Tensor) -> bool:
    """Tell whether all that reads a tensor takes the largest values, maybe after moving them."""
    return bool(tensor.outputs) and all(
        is_op(reader, "MaxPool") or (is_op(reader, *_SAME) and _pooled(reader.outputs[0]))
        for reader in tensor.outputs
    )


def _joins(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and is_op(tensor.inputs[0], "Concat")


def _parts(tensor: gs.Tensor, fixed: set[int]) -> list[str]:
    """Return the sites of what a tensor is joined from; its own name if it is not."""
    if not _joins(tensor):
        return [tensor.name]
    parts = [_site(source, fixed) for source in tensor.inputs[0].inputs]
    return [name for part in parts for name in _parts(part, fixed)]
