"""Insertion of QuantizeLinear and DequantizeLinear by a target's table.

Weights are stored as int8, so that the file is about a quarter of the float one:

    scale = max|w| / 127        q = round(w / scale), half to even

or in FP8, where everything that is said of integers is of its numbers, and

    scale = max|w| / 448        q = the nearest number of FP8, half to even

An activation's scale is amax / 127 where the target is symmetric, and amax / 448 in FP8. Where it
is not, the range is first widened to hold 0, then scale = (high - low) / 255 and zero point =
round(-low / scale); so is it where a symmetric target takes uint8 for what is never negative, with
a zero point of 0, or for what is far less on one side of zero than on the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import UNSEEN, Range, Ranges
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph import float8
from onnxgraft.graph.lift import lifting
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import QUANTIZERS, RECURRENT, WEIGHTED, is_op, op_of
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.pairs import MOST, fitting, pair_sums
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import nodes_within
from onnxgraft.stages.quantize.improve.activations import Grid, activation_grid
from onnxgraft.stages.quantize.improve.rounding import (
    Stored,
    nearest_numbers,
    numbers_of,
    store,
    weight_scale,
)
from onnxgraft.stages.quantize.place.biases import add_to_bias
from onnxgraft.stages.quantize.place.dense import as_gemms
from onnxgraft.stages.quantize.place.int32_bias import int32_bias, raised
from onnxgraft.stages.quantize.place.nested import unreached
from onnxgraft.stages.quantize.place.placement import (
    Placement,
    Point,
    data,
    entrance,
    gate,
    is_product,
    joined,
    layers,
    no_kernel,
    number,
    origin,
    placed_in,
    placement,
    points,
    products,
    scale_axis,
)
from onnxgraft.stages.quantize.place.ready import OLDEST_OPSET, fingerprint, ready
from onnxgraft.stages.quantize.place.recurrent import ROWS, as_dynamic, recurrent_layers
from onnxgraft.stages.quantize.place.rows import channels_last
from onnxgraft.targets import Format
from onnxgraft.words import several

__all__ = ["FloatLayer", "Improved", "QuantizeReport", "fitted", "quantize"]

# The scale of a narrower range, and its reciprocal, would leave float32's normal numbers.
_SMALLEST_AMAX = float8.LARGEST * float(np.finfo(np.float32).tiny)
_QUANTIZED_OPS = frozenset({"DequantizeLinear", "QLinearConv", "QLinearMatMul", "QuantizeLinear"})


@dataclass(frozen=True)
class FloatLayer:
    """A layer with weights that stays in float, and why.

    Attributes:
        name: Of the node, in the graph or in a body.
        reason: Why.
        share: The part of the graph's multiplications that it does; None where not known.
    """

    name: str
    reason: str
    share: float | None = None

    def __str__(self) -> str:
        """Return the reason and the share."""
        if self.share is None:
            return self.reason
        return f"{self.reason}; {self.share:.1%} of the multiplications"


@dataclass(frozen=True)
class Improved:
    """What `improve` found, by the names of layers.

    Attributes:
        weights: In place of the nearest integers.
        bias: (channels,) to be added to the bias of the layer in INT8.
    """

    weights: Mapping[str, Stored] = field(default_factory=dict)
    bias: Mapping[str, Array] = field(default_factory=dict)


@dataclass
class QuantizeReport:
    """What was quantized for a target.

    Attributes:
        target: Whose table was followed.
        layers: The layers that run in INT8, or FP8.
        float_layers: The layers with weights that do not.
        tensors: How many activations are quantized.
        notes: Sentences that the user should read.
        weights: What ``layers`` store weights as, where activations stay float; else empty.
        format: What ``layers`` run in.
    """

    target: str
    layers: list[str] = field(default_factory=list)
    float_layers: list[FloatLayer] = field(default_factory=list)
    tensors: int = 0
    notes: list[str] = field(default_factory=list)
    weights: str = ""
    format: Format = "int8"


def quantize(
    model: Model,
    ranges: Ranges,
    target: str | Placement,
    *,
    keep_float: Iterable[str] = (),
    set_range: Mapping[str, tuple[float, float]] | None = None,
    improved: Improved | None = None,
) -> tuple[Model, QuantizeReport]:
    """Return a copy of ``model`` with explicit quantization for ``target``, and what was done.

    Args:
        model: The float graph that ``ranges`` was measured on; float16 and bfloat16 are made
            float32, and an opset before 13 is raised to it.
        ranges: Of `calibrate`.
        target: ``tensorrt``, ``openvino`` or ``onnxruntime``, or a table of one's own.
        keep_float: Layers to leave in float, by name; a mapping gives each its reason.
        set_range: (low, high) by tensor name, in place of the calibrated range.
        improved: What `improve` found, for this model and these ranges.

    Raises:
        InputError: The ranges are of another graph, or a name is unknown.
        NotSupportedError: The graph can't be made `ready`.
    """
    notes = [note] if (note := lifting(model)) else []
    if model.graph.opset < OLDEST_OPSET:
        notes.append(f"opset {model.graph.opset} was raised to {OLDEST_OPSET}")
    model = ready(model)
    table = placement(target) if isinstance(target, str) else target
    improved = improved or Improved()
    if any(is_op(node, *_QUANTIZED_OPS, domain=QUANTIZERS) for node in nodes_within(model.graph)):
        raise InputError(
            f"{model.file}: the graph is quantized already; --from-qdq takes its scales to the "
            "target's form"
        )
    if ranges.model != fingerprint(model):
        raise InputError(
            f"{ranges.file}: was measured on another graph than {model.file}; calibrate again"
        )
    if ranges.targets and table.target not in ranges.targets:
        raise InputError(
            f"{ranges.file}: was measured for {' and '.join(ranges.targets)}, not for "
            f"{table.target}; calibrate with --target {table.target}"
        )
    if table.format == "fp8" and model.graph.opset < float8.OPSET:
        notes.append(f"opset {model.graph.opset} was raised to {float8.OPSET}")
        model = raise_opset(model, float8.OPSET)
    known = ranges.with_overrides(set_range or {}, "--set-range").tensors
    quantized = model.copy()
    graph = quantized.graph
    report = QuantizeReport(table.target, notes=notes, format=table.format)
    parts = _choose(graph, table, known, keep_float, report)
    report.float_layers += [FloatLayer(*found) for found in unreached(graph, table)]
    report.layers = [node.name for part in parts for node in (*part.layers, *part.recurrent)]
    names = FreeNames(graph, quantized.names)
    if table.bias and "Gemm" in table.weights:
        same = as_gemms(graph, names, parts[0].layers)
        known = known | {made: known[name] for made, name in same.items() if name in known}
        channels_last(graph, names, parts[0].layers)
        graph.cleanup().toposort()
    # A tensor that a body reads is quantized there, and then, where it is in the graph too, before.
    for part in reversed(parts):
        _place(part, known, table, names, improved, report)
    graph.cleanup().toposort()
    return quantized, report


@dataclass
class _Part:
    """A graph or a body, and what runs in INT8 in it.

    Attributes:
        graph: It.
        layers: With weights, or products of two activations.
        recurrent: Whose weights are int8.
    """

    graph: gs.Graph
    layers: list[gs.Node]
    recurrent: list[gs.Node]


def _place(
    part: _Part,
    known: Mapping[str, Range],
    table: Placement,
    names: FreeNames,
    improved: Improved,
    report: QuantizeReport,
) -> None:
    """Quantize the chosen layers of a graph or body, in place."""
    graph, chosen = part.graph, part.layers
    found = points(graph, table, chosen)
    between = joined(graph, table, chosen)
    grids: dict[str, Grid] = {}
    for point in found:
        value = _range(known, point.tensor)
        if value is not None and _wrong(value) is None:
            grids[point.tensor.name] = activation_grid(value, table, point.operand)
    coarse = {}
    for node in chosen:
        if not _weighted(node):
            continue
        source = _quantized_source(node.inputs[0], found)
        coarse[node.name] = _quantize_weights(
            graph, names, node, table, grids[source].scale, improved
        )
    report.notes += _coarse_weights(coarse)
    for point in found:
        if point.tensor.name in grids:
            _insert(graph, names, point, grids[point.tensor.name])
            report.tensors += 1
    for node in between.scaled.values():
        _scale(graph, names, node)
    for node in chosen:
        if table.outputs and not _weighted(node):
            _take_factor(graph, names, node)
    for node in between.nodes:
        _quantize_numbers(graph, names, node)
    for node in part.recurrent:
        _quantize_recurrent(graph, names, node, table)


def _quantize_recurrent(graph: gs.Graph, names: FreeNames, node: gs.Node, table: Placement) -> None:
    """Store the weights of a recurrent layer as int8, in the form that the target wants."""
    if table.recurrent[op_of(node)] == "dynamic":
        as_dynamic(names, node, unsigned=table.pairs)
        return
    for place in (1, 2):
        weight = node.inputs[place]
        stored = store(np.asarray(weight.values), ROWS)
        node.inputs[place] = _dequantized(
            graph, names, node, weight.name, stored.numbers, stored.scale, stored.axis
        )


def _wrong(value: Range | None) -> str | None:
    """Return why no scale can be made of a range; None where it can.

    One too narrow for a float32 scale is zero: so are all its values, for eight bits.
    """
    if value is None:
        return "is missing"
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return f"is infinite, [{value.low}, {value.high}]"
    return "is zero" if value.amax < _SMALLEST_AMAX else None


def _range(known: Mapping[str, Range], tensor: gs.Tensor) -> Range | None:
    """Return the range of a tensor, or of the one whose values it passes on, or of a gate.

    A Softmax that was not measured has its range by definition.
    """
    first = origin(tensor)
    held, by = gate(first), "clip"
    if first.inputs and is_op(first.inputs[0], "Softmax"):
        held, by = (0.0, 1.0), "softmax"
    fixed = None if held is None else Range(*held, *held, by)
    return known.get(tensor.name, known.get(first.name, fixed))


def _choose(
    graph: gs.Graph,
    table: Placement,
    known: Mapping[str, Range],
    keep_float: Iterable[str],
    report: QuantizeReport,
) -> list[_Part]:
    """Return what to quantize, in the graph and in bodies; the rest is told with its reasons."""
    able: list[list[gs.Node]] = []
    parts = placed_in(graph, table)
    for part in parts:
        found = [*layers(part, table), *products(part, table), *recurrent_layers(part, table)]
        ids = {id(node) for node in found}
        able.append([node for node in part.nodes if id(node) in ids])
        for node in part.nodes:
            if is_op(node, *WEIGHTED) and id(node) not in ids:
                report.float_layers.append(FloatLayer(node.name, _unable(node, table)))
    names = [node.name for found in able for node in found]
    reasons = (
        dict(keep_float)
        if isinstance(keep_float, Mapping)
        else dict.fromkeys(keep_float, "requested")
    )
    for name in reasons:
        if name not in names:
            raise InputError(f"--keep-float {name}: no such layer; {nearest(name, names)}")
    chosen = []
    for part, found in zip(parts, able, strict=True):
        within = _Part(part, [], [])
        closed = None if part is graph else _shut_out(part, table, known)
        for node in found:
            recurrent = is_op(node, *RECURRENT)
            wrong = None if recurrent else closed or _wrong_input(node, known, table)
            if node.name in reasons:
                report.float_layers.append(FloatLayer(node.name, reasons[node.name]))
            elif wrong is not None:
                report.float_layers.append(FloatLayer(node.name, wrong))
            else:
                (within.recurrent if recurrent else within.layers).append(node)
        _leave_unmeasured(within, table, known, report)
        chosen.append(within)
    return chosen


def _leave_unmeasured(
    part: _Part, table: Placement, known: Mapping[str, Range], report: QuantizeReport
) -> None:
    """Leave layers in float whose input is quantized on the way to them, where it has no range.

    A cache may have the tensor that is read and not the one that becomes it.
    """
    while True:
        found = points(part.graph, table, part.layers)
        ranges = {point.tensor.name: _wrong(_range(known, point.tensor)) for point in found}
        left = []
        for node in filter(_weighted, part.layers):
            source = _quantized_source(node.inputs[0], found)
            if (wrong := ranges[source]) is not None:
                wrong = f"the range of {source!r}, which becomes its input, {wrong}"
                report.float_layers.append(FloatLayer(node.name, wrong))
                left.append(id(node))
        if not left:
            return
        part.layers = [node for node in part.layers if id(node) not in left]


def _shut_out(body: gs.Graph, table: Placement, known: Mapping[str, Range]) -> str | None:
    """Return why nothing in a body can be quantized; None where a sample entered it."""
    if not layers(body, table) and not products(body, table):
        return None
    name = entrance(body, table)
    value = known.get(name)
    if value is None:
        return f"the range of {name!r} is missing, which tells whether a sample entered this body"
    return "no sample entered this branch" if value.reason == UNSEEN else None


def _unable(node: gs.Node, table: Placement) -> str:
    """Return why a target has no INT8, or FP8, for a layer."""
    kind = table.format.upper()
    if not is_op(node, *table.weights):
        return f"the target has no {kind} {op_of(node)}"
    if isinstance(node.inputs[0], gs.Constant):
        return "its weights are not its second input"
    if _weighted(node):
        lacks = no_kernel(node, table)
        return f"the target has no {kind} for {lacks or 'weights of one dimension'}"
    if not is_product(node):
        return "its weights are not constant"
    if table.products:
        return (
            f"two activations are multiplied: the target has {kind} for up to "
            f"{table.tokens} tokens, and here are more, or an unknown number"
        )
    if table.pairs:
        return "two activations are multiplied: without VNNI sums of such products saturate"
    return "two activations are multiplied, which the placement table leaves in float"


def _wrong_input(node: gs.Node, known: Mapping[str, Range], table: Placement) -> str | None:
    """Return why a layer can't run in integers on what it reads; None where it can."""
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if table.bias and is_op(node, "Gemm") and not isinstance(bias, gs.Constant | None):
        return f"its bias is computed, and {table.target}'s integer Gemm adds constants alone"
    for tensor in node.inputs[: 1 if _weighted(node) else 2]:
        wrong = _wrong(_range(known, tensor))
        if wrong is not None:
            return f"the range of its input {tensor.name!r} {wrong}"
    return None


def _quantized_source(tensor: gs.Tensor, found: Sequence[Point]) -> str:
    """Return the name of the quantized tensor whose values reach ``tensor``."""
    names = {point.tensor.name for point in found}
    while tensor.name not in names:
        tensor = tensor.inputs[0].inputs[0]
    return str(tensor.name)


def _insert(graph: gs.Graph, names: FreeNames, point: Point, grid: Grid) -> None:
    """Put QuantizeLinear and DequantizeLinear between a tensor and its readers."""
    tensor = point.tensor
    parameters = [
        gs.Constant(names.tensor(f"{tensor.name}/scale"), np.array(grid.scale, np.float32)),
        gs.Constant(
            names.tensor(f"{tensor.name}/zero_point"), np.array(grid.zero_point, grid.dtype)
        ),
    ]
    readers = tensor.outputs if point.consumers is None else point.consumers
    readers = list({id(node): node for node in readers}.values())
    stored = gs.Variable(names.tensor(f"{tensor.name}/quantized"), grid.dtype, tensor.shape)
    again = gs.Variable(names.tensor(f"{tensor.name}/dequantized"), np.float32, tensor.shape)
    for node in readers:
        for index, source in enumerate(node.inputs):
            if source is tensor:
                node.inputs[index] = again
    for op, source, target in (
        ("QuantizeLinear", tensor, stored),
        ("DequantizeLinear", stored, again),
    ):
        name = names.node(f"{tensor.name}/{op}")
        graph.nodes.append(Node(op, name, {}, [source, *parameters], [target]))


def _pair(tensor: gs.Tensor) -> gs.Node | None:
    """Return the DequantizeLinear that makes a tensor of integers that a node before it made."""
    maker = tensor.inputs[0] if tensor.inputs else None
    return maker if is_op(maker, "DequantizeLinear") else None


def _weighted(node: gs.Node) -> bool:
    """Tell whether a layer has constant weights, and is no product of two activations."""
    return isinstance(node.inputs[1], gs.Constant)


def _take_factor(graph: gs.Graph, names: FreeNames, node: gs.Node) -> None:
    """Let the DequantizeLinear before a product do what a Mul or Div by a number does behind it.

    As the factor of attention: kernels multiply by the scales of their inputs anyway.
    """
    result, pair = node.outputs[0], _pair(node.inputs[0])
    if pair is None or len(result.outputs) != 1 or any(result is each for each in graph.outputs):
        return
    after = result.outputs[0]
    if all(after is not other for other in graph.nodes):
        return  # it is in a body
    if not is_op(after, "Mul", "Div") or (is_op(after, "Div") and after.inputs[0] is not result):
        return
    found = [value for value in map(number, after.inputs) if value is not None]
    if len(found) != 1 or found[0] <= 0 or is_op(node, "Gemm"):
        return
    shape = node.inputs[0].shape
    if any(t.values.ndim > len(shape or ()) for t in after.inputs if number(t) is not None):
        return  # it may add dimensions
    factor = found[0] if is_op(after, "Mul") else 1 / found[0]
    stored, scale, zero = pair.inputs
    name = f"{result.name}/scaled"
    again = gs.Variable(names.tensor(name), np.float32, node.inputs[0].shape)
    scaled = np.asarray(scale.values * np.float64(factor), np.float32)
    if not np.isfinite(scaled) or scaled < np.finfo(np.float32).tiny:
        return
    inputs = [stored, gs.Constant(names.tensor(f"{name}/scale"), scaled), zero]
    graph.nodes.append(Node("DequantizeLinear", names.node(name), {}, inputs, [again]))
    node.inputs[0] = again
    node.outputs = list(after.outputs)
    after.outputs.clear()


def _quantize_numbers(graph: gs.Graph, names: FreeNames, node: gs.Node) -> None:
    """Store the numbers among the inputs of a node as one step of a scale: exactly."""
    pairs = [pair for pair in map(_pair, data(node)) if pair is not None]
    if not pairs:
        return
    dtype = pairs[0].inputs[2].values.dtype
    for index, tensor in enumerate(node.inputs):
        value = number(tensor)
        if value is not None:
            name = f"{tensor.name}/{node.outputs[0].name}"
            integer, zero = (int(np.sign(value)), 0)
            if dtype == np.uint8 and integer < 0:
                integer, zero = 0, 1
            node.inputs[index] = _dequantized(
                graph, names, node, name, np.full(tensor.values.shape, integer, dtype),
                np.array(abs(value) or 1, np.float32), None, zero,
            )  # fmt: skip


def _scale(graph: gs.Graph, names: FreeNames, node: gs.Node) -> None:
    """Let a second DequantizeLinear do what a Mul by a number does."""
    (source,) = data(node)
    pair = _pair(source)
    if pair is None:
        return
    factor = next(value for value in map(number, node.inputs) if value is not None)
    stored, scale, zero = pair.inputs
    result = node.outputs[0]
    name = f"{result.name}/scaled"
    scaled = gs.Constant(
        names.tensor(name), np.asarray(scale.values * np.float64(factor), np.float32)
    )
    node.outputs = []
    graph.nodes.append(
        Node("DequantizeLinear", names.node(name), {}, [stored, scaled, zero], [result])
    )


def _quantize_weights(
    graph: gs.Graph,
    names: FreeNames,
    node: gs.Node,
    table: Placement,
    activation_scale: float,
    improved: Improved,
) -> float:
    """Store a layer's weights, and where the target wants it its bias, as integers.

    Return what it costs the weights that the bias fits into int32; see `raised`.
    """
    weight, cost = node.inputs[1], 0.0
    stored = improved.weights.get(node.name) or _stored(node, table)
    if node.name in improved.bias:
        add_to_bias(names, node, improved.bias[node.name])
    bias = int32_bias(node, stored, activation_scale) if table.bias else None
    if bias is not None:
        stored, cost = raised(weight.values, stored, bias, activation_scale)
        if table.pairs and (pair_sums(node, stored.numbers) > MOST).any():
            stored = fitted(node, stored.scale, stored.axis)
        step = bias.steps(stored, activation_scale)
        node.inputs[2] = _dequantized(
            graph, names, node, node.inputs[2].name,
            np.rint(bias.values / step.astype(np.float64)).astype(np.int32), step,
            0 if step.ndim else None,
        )  # fmt: skip
    node.inputs[1] = _dequantized(
        graph, names, node, weight.name, stored.numbers, stored.scale, stored.axis
    )
    return cost


def _stored(node: gs.Node, table: Placement) -> Stored:
    """Return a layer's weights as they are stored where nothing improved them."""
    values, axis = node.inputs[1].values, scale_axis(table, node)
    if not table.pairs:
        return store(values, axis, numbers_of(table.format))
    return fitted(node, weight_scale(values, axis), axis)


def fitted(node: gs.Node, scale: Array, axis: int | None) -> Stored:
    """Return a layer's weights with a scale that is as much larger as `onnxgraft.graph.pairs` asks.

    Args:
        node: The layer, with weights in float.
        scale: That would be taken otherwise: () or (channels,).
        axis: Of the channels; None for one scale.
    """
    values = node.inputs[1].values
    integers, scale = fitting(node, scale, axis, lambda scale: nearest_numbers(values, scale, axis))
    return Stored(integers, scale, axis)


def _coarse_weights(costs: Mapping[str, float]) -> list[str]:
    """Return the note on weights that became coarser so that biases fit into int32, if any did."""
    told = {name: cost for name, cost in costs.items() if cost}
    if not told:
        return []
    worst = max(told, key=lambda name: told[name])
    note = (
        f"the weights of {several(len(told), 'layer')} are coarser so that biases fit into int32: "
        f"an output of {worst!r} may be off by {told[worst]:.1%} of its range; scales per channel, "
        "or --keep-float, avoid it"
    )
    return [note]


def _dequantized(
    graph: gs.Graph,
    names: FreeNames,
    node: gs.Node,
    name: str,
    integers: Array,
    scale: Array,
    axis: int | None,
    zero_point: int = 0,
) -> gs.Variable:
    """Return the float tensor that a DequantizeLinear makes of stored integers."""
    label = f"{name}/{node.name}"
    target = gs.Variable(names.tensor(f"{label}/dequantized"), np.float32, integers.shape)
    zero = np.full(scale.shape, zero_point, integers.dtype)
    graph.nodes.append(
        Node(
            "DequantizeLinear",
            names.node(f"{label}/DequantizeLinear"),
            {} if axis is None else {"axis": axis},
            [
                gs.Constant(names.tensor(f"{label}/integers"), integers),
                gs.Constant(names.tensor(f"{label}/scale"), scale),
                gs.Constant(names.tensor(f"{label}/zero_point"), zero),
            ],
            [target],
        )
    )
    return target
