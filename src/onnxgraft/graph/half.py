"""The graph in FP16, strongly typed: what TensorRT 11 takes, and what shows before it overflows.

    x (float32) -> Cast -> Conv (float16) -> Relu (float16) -> Cast -> y (float32)

FP16 ends at 65504 and holds less than 2^-24 as zero. Both are checked, on the ranges that are
known and on the weights. Layers that touch what would overflow, or come near it, and weights that
flush to zero stay in float32 between two Casts, and are named with their headroom.

INT8 layers stay as they are: what is not INT8 becomes FP16.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, NotSupportedError, nearest
from onnxgraft.graph.inference import write_types
from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames, name_nodes
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import QUANTIZERS, is_op, op_key, op_of
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.tensors import Array

__all__ = [
    "HEADROOM", "LARGEST", "Finding", "HalfReport", "computes_in_half", "shortfall", "to_half",
    "typed",
]  # fmt: skip

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
SMALLEST = 2.0**-24
# Data beyond the calibrated images, and partial sums in FP16, may well be four times as large.
HEADROOM = 4.0
# More of a tensor's weights than this, by their share of its energy, may not be lost.
_MOST_LOST = 1e-4
# QuantizeLinear and DequantizeLinear take float16 from here on.
_OPSET = 19

# What adds up or raises many values passes 65504 where its inputs do not; the last line makes or
# wants float32 by definition.
_SINGLE = frozenset({
    "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization",
    "LpNormalization", "MeanVarianceNormalization", "Pow", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softplus",
    "Bernoulli", "ConstantOfShape", "DynamicQuantizeLinear", "EyeLike", "GridSample",
    "Multinomial", "NonMaxSuppression", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "Range", "RoiAlign", "Upsample",
})  # fmt: skip
# Inputs that are float32 whatever the others are.
_SINGLE_INPUTS = {"Resize": (1, 2)}


# What moves or computes numbers one by one: positions and indices go through it.
_ELEMENTWISE = frozenset({
    "Abs", "Add", "Ceil", "Clip", "Concat", "Div", "Expand", "Floor", "Gather", "Identity", "Max",
    "Min", "Mod", "Mul", "Neg", "Pow", "Reciprocal", "Reshape", "Round", "Slice", "Split", "Sqrt",
    "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_ANGLES = frozenset({"Cos", "Sin", "Tan"})
_COUNTS = "it computes positions, indices or angles, and FP16 counts to 2,048"


@dataclass(frozen=True)
class Finding:
    """A tensor that FP16 does not hold well.

    Attributes:
        tensor: Its name.
        what: ``overflows``, ``comes near 65504``, or what of it is lost.
        headroom: 65504 over the largest magnitude, or the largest magnitude over 2^-24 for weights
            that flush to zero.
        done: ``kept in FP32``, ``rescaled by 2^k``, or ``left``, and why.
    """

    tensor: str
    what: str
    headroom: float
    done: str


@dataclass
class HalfReport:
    """What became FP16.

    Attributes:
        layers: Nodes in FP16.
        single: Nodes in FP32, with the reason.
        findings: Tensors that FP16 does not hold well.
        unchecked: Tensors of which no range is known, so that nothing could be checked.
    """

    layers: list[str] = field(default_factory=list)
    single: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def to_half(
    model: Model,
    sizes: Mapping[str, float] | None = None,
    *,
    keep: Sequence[str] = (),
    headroom: float = HEADROOM,
    rescaled: Collection[str] = (),
    ignore: bool = False,
) -> tuple[Model, HalfReport]:
    """Return the graph with float16 in place of float32, and what was found.

    Inputs and outputs keep their types.

    Args:
        model: A float graph, or one of `quantize`.
        sizes: Of tensors, the largest magnitude that is known; those that it does not have are
            told as unchecked.
        keep: Nodes that stay in float32.
        headroom: By how many times a tensor has to stay below 65504.
        rescaled: Tensors that the caller has dealt with, and reports himself.
        ignore: Name what FP16 does not hold, and do nothing about it.

    Raises:
        InputError: A node is unknown.
        NotSupportedError: The graph has subgraphs.
    """
    model = typed(model)
    names = [node.name for node in model.graph.nodes]
    for name in keep:
        if name not in names:
            raise InputError(f"--keep-float {name}: no such layer; {nearest(name, names)}")
    report = HalfReport()
    single = {node.name: reason for node in model.graph.nodes if (reason := _definition(node))}
    single |= {name: _COUNTS for name in _counting(model.graph) if name not in single}
    single |= dict.fromkeys(keep, "requested")
    _check(model.graph, sizes or {}, rescaled, headroom, ignore, single, report)
    _Rewrite(model.graph, single).run()
    model.graph.cleanup().toposort()
    report.single = single
    report.layers = [n.name for n in model.graph.nodes if n.name in names and n.name not in single]
    return model, report


def computes_in_half(model: Model) -> bool:
    """Tell whether anything in the graph is computed in float16."""
    return "float16" in halves(model)


def shortfall(size: float, headroom: float = HEADROOM) -> tuple[str, float] | None:
    """Return what is wrong with a tensor of this largest magnitude in FP16, and its headroom.

    >>> shortfall(1e5)
    ('overflows', 0.65504)
    """
    room = LARGEST / size if size else math.inf
    if room >= headroom:
        return None
    return "overflows" if room < 1 else "comes near 65504", room


def typed(model: Model) -> Model:
    """Return a copy whose tensors know their types, in an opset that has what FP16 needs.

    Nodes without a name of their own are called by what they make.

    Raises:
        NotSupportedError: The graph has subgraphs, or can't be raised to that opset.
    """
    for node in model.graph.nodes:
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            raise NotSupportedError(
                f"{model.file}: {op_of(node)} {node.name!r} holds a graph, which can't be written "
                "in FP16 yet; fold it with onnxgraft surgery"
            )
    graph = model.graph.copy()
    quantized = any(is_op(node, "DequantizeLinear", "QuantizeLinear") for node in graph.nodes)
    if quantized and graph.opset < _OPSET:
        graph = raise_opset(model, _OPSET).graph
    write_types(graph)
    name_nodes(graph)
    return Model(graph, model.source, dict(model.names), model.file, dict(model.metadata))


def _definition(node: gs.Node) -> str | None:
    """Return why a node is float32 by its nature."""
    if is_op(node, *_SINGLE):
        return f"{op_of(node)} adds up, or needs, more than FP16 holds"
    if is_op(node, "QuantizeLinear", "DequantizeLinear", domain=QUANTIZERS):
        scale = node.inputs[1]
        values = scale.values if isinstance(scale, gs.Constant) else np.ones(1)
        if (np.abs(values) < SMALLEST_NORMAL).any() or (np.abs(values) > LARGEST).any():
            return "its scale is not one of FP16's normal numbers"
    elif op_key(node)[0]:
        return f"{op_of(node)} is no operator of ONNX: it is not known whether it takes FP16"
    return None


def _counting(graph: gs.Graph) -> set[str]:
    """Return the nodes on what is made of whole numbers alone, and before an index or an angle.

    Whole numbers of 8 bits, as pictures have them, FP16 holds.
    """
    graph.toposort()
    counts: set[int] = set()
    found: set[str] = set()
    for node in graph.nodes:
        floats = [t for t in node.inputs if _is_float(t) and not isinstance(t, gs.Constant)]
        if is_op(node, "Cast"):
            counting = not floats and _counted(node.inputs[0]) and _is_float(node.outputs[0])
        else:
            moved = is_op(node, *_ELEMENTWISE, *_COMPARISONS, *_ANGLES) or _outer_product(node)
            counting = moved and bool(floats) and all(id(t) in counts for t in floats)
        if counting:
            found.add(node.name)
            if not is_op(node, *_ANGLES):
                counts.update(map(id, node.outputs))
    ends = [node for node in graph.nodes if is_op(node, *_ANGLES) or _makes_index(node)]
    while ends:
        node = ends.pop()
        found.add(node.name)
        ends += [
            made
            for tensor in node.inputs
            for made in (tensor.inputs if _is_float(tensor) else ())
            if made.name not in found and (is_op(made, *_ELEMENTWISE) or _outer_product(made))
        ]
    return found


def _counted(tensor: gs.Tensor) -> bool:
    try:
        kind = np.dtype(tensor.dtype)
    except TypeError:  # a type that numpy does not have
        return False
    return tensor.dtype is not None and kind.kind in "iu" and kind.itemsize > 1


def _makes_index(node: gs.Node) -> bool:
    return is_op(node, "Cast") and _is_float(node.inputs[0]) and _counted(node.outputs[0])


def _outer_product(node: gs.Node) -> bool:
    """Tell whether a MatMul adds nothing up, as that of positions and frequencies."""
    if not is_op(node, "MatMul"):
        return False
    left, right = (tuple(tensor.shape or ()) for tensor in node.inputs)
    return left[-1:] == (1,) or right[-2:-1] == (1,)


def _check(
    graph: gs.Graph,
    sizes: Mapping[str, float],
    rescaled: Collection[str],
    headroom: float,
    ignore: bool,
    single: dict[str, str],
    report: HalfReport,
) -> None:
    """Find what FP16 does not hold, and keep those who touch it in float32 where that is asked."""
    for tensor in graph.tensors().values():
        if not _is_float(tensor):
            continue
        if isinstance(tensor, gs.Constant):
            parameters_only = all(_dequantizes(node) for node in tensor.outputs)
            found = None if parameters_only else _lost(np.asarray(tensor.values))
        elif tensor.name in sizes:
            found = shortfall(sizes[tensor.name], headroom)
        else:
            found = None
            if tensor.inputs and not _dequantizes(tensor.inputs[0]):
                report.unchecked.append(tensor.name)
        if found is None:
            continue
        what, room = found
        if not ignore:
            for node in [*tensor.inputs, *tensor.outputs]:
                single.setdefault(node.name, f"{tensor.name!r} {what} in FP16")
        if tensor.name not in rescaled:
            done = "left, as requested" if ignore else "kept in FP32"
            report.findings.append(Finding(tensor.name, what, room, done))


def _dequantizes(node: gs.Node) -> bool:
    return is_op(node, "DequantizeLinear", domain=QUANTIZERS)


def _lost(values: Array) -> tuple[str, float] | None:
    """Return what FP16 loses of constants, and the headroom; None if it is nothing that matters."""
    magnitudes = np.abs(values[np.isfinite(values)].astype(np.float64))
    largest = float(magnitudes.max(initial=0.0))
    if largest > LARGEST:
        return "overflows", LARGEST / largest
    if largest == 0.0:
        return None
    flushed = magnitudes < SMALLEST / 2
    rounded = values.astype(np.float16).astype(np.float64) - values
    energy = float(np.square(magnitudes).sum())
    if float(np.square(rounded).sum()) <= _MOST_LOST * energy:
        return None
    count = int((flushed & (magnitudes > 0)).sum())
    return f"flushes {count} of {values.size} weights to zero or nearly", largest / SMALLEST


class _Rewrite:
    """The state of one rewrite: the casts that are there already."""

    def __init__(self, graph: gs.Graph, single: dict[str, str]) -> None:
        self.graph = graph
        self.single = single
        self._names = FreeNames(graph)
        self._casts: dict[tuple[int, str], gs.Variable] = {}
        self._constants: dict[int, gs.Constant] = {}

    def run(self) -> None:
        graph = self.graph
        outer = {id(tensor) for tensor in [*graph.inputs, *graph.outputs]}
        nodes = list(graph.nodes)
        # float16 is what a node in FP16 makes; a graph's own inputs and outputs stay float32.
        half = {
            id(tensor)
            for node in nodes
            if node.name not in self.single
            for tensor in node.outputs
            if _is_float(tensor) and id(tensor) not in outer
        }
        for node in nodes:
            wants_half = node.name not in self.single
            for index, tensor in enumerate(node.inputs):
                if not _is_float(tensor) or index in _SINGLE_INPUTS.get(op_of(node), ()):
                    continue
                if isinstance(tensor, gs.Constant):
                    node.inputs[index] = self._constant(tensor) if wants_half else tensor
                elif wants_half != (id(tensor) in half):
                    node.inputs[index] = self._cast(tensor, "float16" if wants_half else "float32")
            if wants_half and is_op(node, "Cast") and node.attrs["to"] == onnx.TensorProto.FLOAT:
                node.attrs["to"] = onnx.TensorProto.FLOAT16
        for node in nodes:
            for index, tensor in enumerate(node.outputs):
                if id(tensor) in half:
                    tensor.dtype = np.dtype(np.float16)
                elif _is_float(tensor) and node.name not in self.single:
                    name = self._names.tensor(f"{tensor.name}/float16")
                    made = gs.Variable(name, np.dtype(np.float16), tensor.shape)
                    node.outputs[index] = made
                    self._add(made, tensor, "float32")

    def _constant(self, tensor: gs.Constant) -> gs.Constant:
        if id(tensor) not in self._constants:
            with np.errstate(over="ignore"):
                values = np.asarray(tensor.values).astype(np.float16)
            name = self._names.tensor(f"{tensor.name}/float16")
            self._constants[id(tensor)] = gs.Constant(name, values)
        return self._constants[id(tensor)]

    def _cast(self, tensor: gs.Variable, kind: str) -> gs.Variable:
        """Return ``tensor`` as ``kind``; readers share the Cast."""
        key = id(tensor), kind
        if key not in self._casts:
            name = self._names.tensor(f"{tensor.name}/as_{kind}")
            made = gs.Variable(name, np.dtype(kind), tensor.shape)
            self._casts[key] = made
            self._add(tensor, made, kind)
        return self._casts[key]

    def _add(self, source: gs.Variable, target: gs.Variable, kind: str) -> None:
        to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        name = self._names.node(f"{target.name}/Cast")
        self.graph.nodes.append(Node("Cast", name, {"to": to}, [source], [target]))


def _is_float(tensor: gs.Tensor) -> bool:
    try:
        return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32
    except TypeError:  # a type that numpy does not have
        return False
