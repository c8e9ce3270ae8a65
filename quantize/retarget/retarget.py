"""A graph that is quantized already as a float graph, its ranges and its stored weights.

    x -> Q(s, z) -> DQ -> Conv(DQ(int8 w)) -> y       x -> Conv(w) -> y
                                                      x from s (min - z) to s (max - z)
                                                      w the same int8, the same scale

`quantize` then places them in a target's form. Where that is the form they come in, nothing changes
but names; an activation gets another step only where the target has no such zero point or type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.lift import lift
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import QUANTIZERS, WEIGHTED, is_op, op_of
from onnxgraft.graph.pairs import MOST, pair_sums
from onnxgraft.graph.quantized import in_float8, plain_lstms
from onnxgraft.graph.walk import nodes_within, tidy
from onnxgraft.stages.quantize.improve.activations import activation_grid
from onnxgraft.stages.quantize.improve.rounding import Stored, store
from onnxgraft.stages.quantize.place.placement import (
    Placement,
    layers,
    origin,
    placed_in,
    scale_axis,
)
from onnxgraft.stages.quantize.place.qdq import Improved, fitted
from onnxgraft.stages.quantize.place.ready import fingerprint, ready
from onnxgraft.stages.quantize.place.recurrent import recurrent_layers
from onnxgraft.stages.quantize.retarget.opened import OPENED, open_operators
from onnxgraft.stages.quantize.retarget.strip import Steps, strip
from onnxgraft.words import several

__all__ = ["Retargeted", "retarget"]

# What is measured while it runs, or whose weights have another form.
_OTHERS = (
    "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "com.microsoft.DynamicQuantizeLSTM",
    "com.microsoft.DynamicQuantizeMatMul", "com.microsoft.MatMulBnb4",
    "com.microsoft.MatMulIntegerToFloat", "com.microsoft.MatMulNBits",
    "com.microsoft.QAttention", "com.microsoft.QEmbedLayerNormalization",
)  # fmt: skip


@dataclass(frozen=True)
class Retargeted:
    """What `quantize` needs to place a quantized graph anew.

    Attributes:
        model: The float graph, with the numbers that its integers stand for as weights.
        ranges: What its QuantizeLinear hold.
        improved: Its weights as they are stored.
        float_layers: Layers that are in float there, with the reason.
        notes: Sentences on what the target's form can't take over.
    """

    model: Model
    ranges: Ranges
    improved: Improved
    float_layers: Mapping[str, str]
    notes: tuple[str, ...]


def retarget(model: Model, table: Placement) -> Retargeted:
    """Return a quantized graph as what `quantize` takes, its integers of weights as they are.

    Args:
        model: With QuantizeLinear and DequantizeLinear, or quantized operators; it is not changed.
        table: Of the target that it is to be placed for.

    Raises:
        InputError: It is not quantized, or the table is for FP8.
        NotSupportedError: It has no fixed scales, scales per channel of activations, FP8, or
            integers that an operator computes with; the node is named.
    """
    if table.format == "fp8":
        raise InputError(
            f"{model.file}: is quantized to integers already, which FP8 would round once more; "
            "quantize the float model"
        )
    copy = lift(model).copy()
    dynamic = plain_lstms(copy)
    _check(copy, dynamic)
    open_operators(copy.graph, copy.file)
    tidy(copy.graph)
    found = strip(copy, table)
    if not found.steps and not dynamic:
        raise InputError(
            f"{model.file}: no activation is quantized, so that there are no scales to take over; "
            "calibrate the float model"
        )
    plain = ready(copy)
    by_name = {
        node.name: found.stored[id(node.inputs[1])]
        for node in copy.graph.nodes
        if is_op(node, *WEIGHTED) and len(node.inputs) > 1 and id(node.inputs[1]) in found.stored
    }
    notes = []
    weights, again, wide = _fitting(plain, table, by_name)
    if again:
        notes.append(
            f"the weights of {len(again)} layers have zero points, an axis of scales or a type "
            f"that {table.target} does not take; they were rounded again: {_some(again)}"
        )
    if wide:
        notes.append(
            f"neighbouring weights of {several(len(wide), 'layer')} are so large that sums of "
            "their products would saturate on a CPU without VNNI; they were rounded again, with a "
            f"larger scale: {_some(wide)}"
        )
    if found.several:
        notes.append(
            f"{len(found.several)} tensors are quantized with several scales; the widest was "
            f"taken: {_some(sorted(found.several))}"
        )
    coarser = _coarser(found.steps, table)
    if coarser:
        notes.append(
            f"{len(coarser)} activations have a zero point or type that {table.target} does not "
            f"take, so their step is another one: {_some(coarser)}"
        )
    ranges = Ranges(
        method="given", images=0, model=fingerprint(plain), preprocess="", data=model.file,
        tensors=_ranges(plain, found.steps, table), file=model.file,
    )  # fmt: skip
    kept = {
        node.name: "it is in float in the graph that was given"
        for part in placed_in(plain.graph, table)
        for node in (*layers(part, table), *recurrent_layers(part, table))
        if node.name not in by_name and node.name not in dynamic
    }
    return Retargeted(plain, ranges, Improved(weights), kept, tuple(notes))


def _check(model: Model, opened: Collection[str]) -> None:
    """Refuse what has no fixed scales, and a graph in which nothing is quantized or was opened."""
    nodes = model.graph.nodes
    for node in nodes:
        if is_op(node, "DequantizeLinear", domain=QUANTIZERS) and in_float8(node):
            raise NotSupportedError(
                f"{model.file}: DequantizeLinear {node.name!r} reads FP8, whose numbers are no "
                "integers; calibrate and quantize the float model"
            )
        if op_of(node) in _OTHERS:
            raise NotSupportedError(
                f"{model.file}: {op_of(node)} {node.name!r} has no fixed scale for what it reads; "
                "calibrate and quantize the float model"
            )
        for inner in (inner for body in node.subgraphs() for inner in nodes_within(body)):
            if _quantized(inner):
                raise NotSupportedError(
                    f"{model.file}: {op_of(inner)} {inner.name!r} is in the body of {op_of(node)} "
                    f"{node.name!r}, and scales there can't be taken to another form; calibrate "
                    "and quantize the float model"
                )
    if not opened and not any(map(_quantized, nodes)):
        raise InputError(
            f"{model.file}: the graph is not quantized; leave --from-qdq out, and name the ranges "
            "that onnxgraft calibrate wrote with --ranges"
        )


def _quantized(node: gs.Node) -> bool:
    return is_op(node, "DequantizeLinear", domain=QUANTIZERS) or op_of(node) in OPENED


def _fitting(
    model: Model, table: Placement, given: Mapping[str, Stored]
) -> tuple[dict[str, Stored], list[str], list[str]]:
    """Return weights in the form of a table, and the layers whose weights were rounded again.

    Of these, those of a form that the table does not have, and those whose sums would saturate.
    """
    weights, again, wide = {}, [], []
    for node in layers(model.graph, table):
        stored = given.get(node.name)
        if stored is None:
            continue
        axis = scale_axis(table, node)
        exact = np.array_equal(stored.values, node.inputs[1].values)
        if stored.axis not in (None, axis) or not exact:
            stored = store(node.inputs[1].values, axis)
            again.append(str(node.name))
        if table.pairs and (pair_sums(node, stored.numbers) > MOST).any():
            stored = fitted(node, stored.scale, stored.axis)
            wide.append(str(node.name))
        weights[str(node.name)] = stored
    return weights, again, wide


def _ranges(model: Model, steps: Mapping[str, Steps], table: Placement) -> dict[str, Range]:
    """Return the ranges of the tensors, and of those whose values they hold."""
    known = model.graph.tensors()
    found = {name: entry.range(table) for name, entry in steps.items() if name in known}
    for name, value in list(found.items()):
        found.setdefault(origin(known[name]).name, value)
    return found


def _coarser(steps: Mapping[str, Steps], table: Placement) -> list[str]:
    """Return the activations whose step is another one in the form of a table."""
    return [
        name
        for name, entry in steps.items()
        if np.float32(activation_grid(entry.range(table), table).scale) != np.float32(entry.scale)
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
