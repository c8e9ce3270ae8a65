"""Why INT8 may not be faster: what is left in float around it, and what its kernels do not like.

Told from the quantized graph and the target's rules (NVIDIA's guide "Working with Quantized
Types"; onnxruntime's QDQ selectors; OpenVINO's low precision transformations), without running it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import WEIGHTED, counted, is_op, op_of
from onnxgraft.stages.quantize.place.placement import KEEPING, Placement
from onnxgraft.targets import find_target

__all__ = ["Remark", "explain"]

# TensorRT's and the CPUs' INT8 kernels work on so many channels at once.
CHANNELS = 16


@dataclass(frozen=True)
class Remark:
    """One reason.

    Attributes:
        kind: ``first or last layer``, ``small channels``, ``depthwise``, ``no INT8 kernel``,
            ``concat scales`` or ``unfused Q/DQ``.
        nodes: The nodes concerned.
        sentence: What is so, and what can be done.
    """

    kind: str
    nodes: tuple[str, ...]
    sentence: str


def explain(graph: gs.Graph, table: Placement) -> list[Remark]:
    """Return why the quantized ``graph`` may be slower than its bytes promise on the target."""
    int8 = [node for node in graph.nodes if is_op(node, *WEIGHTED) and _stored_in_int8(node)]
    remarks = [
        *_ends(graph, int8),
        *_channels(int8),
        *_between(graph, table),
        *_concats(graph, table),
        *_unfused(graph, table),
    ]
    told = table.format.upper()
    return [
        Remark(
            remark.kind.replace("INT8", told), remark.nodes, remark.sentence.replace("INT8", told)
        )
        for remark in remarks
        if remark.nodes
    ]


def _ends(graph: gs.Graph, int8: list[gs.Node]) -> list[Remark]:
    outputs = {id(tensor) for tensor in graph.outputs}
    fed = {id(tensor) for tensor in graph.inputs}
    first = [n for n in int8 if id(_back(n.inputs[0])) in fed]
    last = [n for n in int8 if any(id(t) in outputs for t in _forward(n.outputs[0]))]
    return [
        Remark(
            "first or last layer", _names(first),
            "reads the input, which is quantized in a step of its own; with three channels or so "
            "its INT8 kernel is hardly faster: compare with --keep-float",
        ),
        Remark(
            "first or last layer", _names(last),
            "makes an output, which is float: what INT8 saves there is the reading of its input",
        ),
    ]  # fmt: skip


def _channels(int8: list[gs.Node]) -> list[Remark]:
    convolutions = [n for n in int8 if is_op(n, "Conv") and _weights(n) is not None]
    depthwise = [
        n for n in convolutions
        if n.attrs.get("group", 1) > 1 and _shape(n)[1] < CHANNELS
    ]  # fmt: skip
    small = [
        n for n in convolutions if n not in depthwise and min(_shape(n)[0], _shape(n)[1]) < CHANNELS
    ]
    return [
        Remark(
            "depthwise", _names(depthwise),
            "has few multiplications per byte: it is bound by memory, where INT8 only saves bytes",
        ),
        Remark(
            "small channels", _names(small),
            f"has fewer than {CHANNELS} channels on a side: INT8 kernels pad them",
        ),
    ]  # fmt: skip


def _between(graph: gs.Graph, table: Placement) -> list[Remark]:
    """Operators between INT8 layers that have to run in float."""
    fused = (
        find_target(table.target).fused
        | KEEPING
        | {"DequantizeLinear", "QuantizeLinear", *WEIGHTED}
    )
    found: dict[str, list[gs.Node]] = {}
    for node in graph.nodes:
        if not is_op(node, *fused) and _touches_int8(node):
            found.setdefault(op_of(node), []).append(node)
    return [
        Remark(
            "no INT8 kernel", _names(nodes),
            f"{op} stays float between INT8 layers, so that values are dequantized for it and "
            "quantized again",
        )
        for op, nodes in found.items()
    ]  # fmt: skip


def _concats(graph: gs.Graph, table: Placement) -> list[Remark]:
    found = []
    for node in graph.nodes:
        if is_op(node, "Concat"):
            scales = [_scale_before(tensor) for tensor in node.inputs]
            known = {scale for scale in scales if scale is not None}
            if len(known) > 1 or (known and None in scales):
                found.append(node)
    return [
        Remark(
            "concat scales", _names(found),
            "joins tensors of different scales, so that each is rescaled first: give them one "
            "range with --set-range",
        )
    ]  # fmt: skip


def _unfused(graph: gs.Graph, table: Placement) -> list[Remark]:
    """Quantization that no layer in front of it can take over."""
    able = {*WEIGHTED, *find_target(table.target).fused, *KEEPING}
    alone = []
    for node in graph.nodes:
        if is_op(node, "QuantizeLinear"):
            source = node.inputs[0]
            maker = source.inputs[0] if source.inputs else None
            several = len(source.outputs) > 1
            if maker is not None and (several or not is_op(maker, *able)):
                alone.append(node)
    makers = counted(n.inputs[0].inputs[0] for n in alone)
    behind = ", ".join(f"{count} behind {op}" for op, count in makers.items())
    return [
        Remark(
            "unfused Q/DQ", _names(alone),
            f"runs as a step of its own ({behind}): its float tensor is read by others too, or is "
            "made by an operator that can't write INT8",
        )
    ]  # fmt: skip


def _stored_in_int8(node: gs.Node) -> bool:
    weight = node.inputs[1]
    return bool(weight.inputs) and is_op(weight.inputs[0], "DequantizeLinear")


def _weights(node: gs.Node) -> gs.Tensor | None:
    """Return a layer's stored weights."""
    weight = node.inputs[1]
    while not isinstance(weight, gs.Constant):
        if not weight.inputs:
            return None
        weight = weight.inputs[0].inputs[0]
    return weight


def _shape(node: gs.Node) -> tuple[int, ...]:
    weights = _weights(node)
    return tuple(np.asarray(weights.values).shape) if weights is not None else ()


def _back(tensor: gs.Tensor) -> gs.Tensor:
    """Return where a tensor's values come from, before Q, DQ and what keeps values."""
    passed = KEEPING | {"DequantizeLinear", "QuantizeLinear"}
    while tensor.inputs and is_op(tensor.inputs[0], *passed):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _forward(tensor: gs.Tensor) -> list[gs.Tensor]:
    """Return a tensor and those that hold its values or its activation."""
    found = [tensor]
    for node in tensor.outputs:
        if is_op(node, *KEEPING, "Relu", "Sigmoid", "Softmax"):
            found += _forward(node.outputs[0])
    return found


def _scale_before(tensor: gs.Tensor) -> float | None:
    """Return the scale with which a tensor was dequantized; None if it is float."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if not is_op(maker, "DequantizeLinear"):
        return None
    scale = maker.inputs[1]
    return float(scale.values) if isinstance(scale, gs.Constant) else None


def _touches_int8(node: gs.Node) -> bool:
    """Tell whether INT8 is on both sides of a node, one step away."""
    before = any(
        tensor.inputs and is_op(tensor.inputs[0], *WEIGHTED, "DequantizeLinear")
        for tensor in node.inputs
    )
    behind = any(
        is_op(reader, "QuantizeLinear") for tensor in node.outputs for reader in tensor.outputs
    )
    return before and behind


def _names(nodes: list[gs.Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)
