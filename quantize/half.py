"""The graph in FP16, strongly typed: what TensorRT 11 takes, and what shows before it overflows.

    x (float32) -> Cast -> Conv (float16) -> Relu (float16) -> Cast -> y (float32)

FP16 ends at 65504 and holds less than 2^-24 as zero. Both are checked on what calibration saw and
on the weights. What would overflow, or come near it, and weights that flush to zero are named
with their headroom, and as chosen

    keep       stay in float32 between two Casts
    rescale    are multiplied by a power of two that the layers around them take back exactly,
               where nothing but what commutes with a factor is between; kept where not
    ignore     are only named

INT8 layers stay as they are: what is not INT8 becomes FP16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, NotSupportedError, nearest
from onnxgraft.model import Model
from onnxgraft.quantize._equalize import scale_groups
from onnxgraft.ranges import Range, Ranges
from onnxgraft.runtime import Array

__all__ = ["ON_OVERFLOW", "Finding", "HalfReport", "OnOverflow", "to_half"]

OnOverflow = Literal["keep", "rescale", "ignore"]
ON_OVERFLOW: tuple[OnOverflow, ...] = get_args(OnOverflow)

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
SMALLEST = 2.0**-24
# Data beyond the calibrated images, and partial sums in FP16, may well be four times as large.
HEADROOM = 4.0
# More of a tensor's weights than this, by their share of its energy, may not be lost.
_MOST_LOST = 1e-4
# QuantizeLinear takes float16 from here on.
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
    ranges: Ranges | None = None,
    *,
    on_overflow: OnOverflow = "keep",
    keep: tuple[str, ...] = (),
    headroom: float = HEADROOM,
) -> tuple[Model, HalfReport]:
    """Return the graph with float16 in place of float32, and what was found.

    Inputs and outputs keep their types.

    Args:
        model: A float graph, or one of `quantize`.
        ranges: Of the float graph, by the names of its tensors; what they do not have is told as
            unchecked.
        on_overflow: What is done about tensors that FP16 does not hold.
        keep: Nodes that stay in float32.
        headroom: By how many times a tensor has to stay below 65504.

    Raises:
        InputError: A node is unknown.
        NotSupportedError: The graph has subgraphs.
    """
    if on_overflow not in ON_OVERFLOW:
        raise InputError(f"--on-overflow {on_overflow}: {nearest(on_overflow, ON_OVERFLOW)}")
    for node in model.graph.nodes:
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            raise NotSupportedError(
                f"{model.file}: {node.op} {node.name!r} holds a graph, which can't be written in "
                "FP16 yet; fold it with onnxgraft surgery"
            )
    names = [node.name for node in model.graph.nodes]
    for name in keep:
        if name not in names:
            raise InputError(f"--keep-float {name}: no such layer; {nearest(name, names)}")
    report = HalfReport()
    model = _typed(model)
    sizes = {name: max(abs(r.minimum), abs(r.maximum)) for name, r in _ranges(ranges)}
    single = {node.name: reason for node in model.graph.nodes if (reason := _definition(node))}
    single |= dict.fromkeys(keep, "asked for")
    scaled = _rescale(model.graph, sizes, headroom, report) if on_overflow == "rescale" else set()
    _check(model.graph, sizes, scaled, headroom, on_overflow, single, report)
    _Rewrite(model.graph, single).run()
    model.graph.cleanup().toposort()
    report.single = single
    report.layers = [n.name for n in model.graph.nodes if n.name in names and n.name not in single]
    return model, report


def _ranges(ranges: Ranges | None) -> list[tuple[str, Range]]:
    return [] if ranges is None else list(ranges.tensors.items())


def _typed(model: Model) -> Model:
    """Return a copy whose tensors know their types, in an opset that has what is needed."""
    proto = model.to_onnx()
    quantized = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
    if quantized and model.graph.opset < _OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, _OPSET)
        except (RuntimeError, ValueError) as error:
            raise NotSupportedError(
                f"{model.file}: float16 beside INT8 needs opset {_OPSET}, and the graph can't be "
                f"raised to it ({error}); convert with --opset {_OPSET}"
            ) from error
    typed = onnx.shape_inference.infer_shapes(proto)
    names, metadata = dict(model.names), dict(model.metadata)
    return Model(gs.import_onnx(typed), model.source, names, model.file, metadata)


def _definition(node: gs.Node) -> str | None:
    """Return why a node is float32 by its nature."""
    if node.op in _SINGLE:
        return f"{node.op} adds up, or needs, more than FP16 holds"
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        scale = node.inputs[1]
        values = scale.values if isinstance(scale, gs.Constant) else np.ones(1)
        if (np.abs(values) < SMALLEST_NORMAL).any() or (np.abs(values) > LARGEST).any():
            return "its scale is not one of FP16's normal numbers"
    return None


def _check(
    graph: gs.Graph,
    sizes: dict[str, float],
    scaled: set[str],
    headroom: float,
    on_overflow: OnOverflow,
    single: dict[str, str],
    report: HalfReport,
) -> None:
    """Find what FP16 does not hold, and keep those who touch it in float32 where that is asked."""
    for tensor in graph.tensors().values():
        if not _is_float(tensor):
            continue
        if isinstance(tensor, gs.Constant):
            what, room = _lost(np.asarray(tensor.values))
            parameters_only = all(n.op == "DequantizeLinear" for n in tensor.outputs)
            if what is None or parameters_only:
                continue
        elif tensor.name not in sizes:
            if tensor.inputs and tensor.inputs[0].op != "DequantizeLinear":
                report.unchecked.append(tensor.name)
            continue
        else:
            room = LARGEST / sizes[tensor.name] if sizes[tensor.name] else math.inf
            if room >= headroom:
                continue
            what = "overflows" if room < 1 else "comes near 65504"
        done = "left, as asked"
        if on_overflow != "ignore":
            done = "kept in FP32"
            for node in [*tensor.inputs, *tensor.outputs]:
                single.setdefault(node.name, f"{tensor.name!r} {what} in FP16")
        if tensor.name not in scaled:
            report.findings.append(Finding(tensor.name, what, room, done))


def _lost(values: Array) -> tuple[str | None, float]:
    """Return what FP16 loses of constants, None if it is nothing that matters, and the room."""
    magnitudes = np.abs(values[np.isfinite(values)].astype(np.float64))
    largest = float(magnitudes.max(initial=0.0))
    if largest > LARGEST:
        return "overflows", LARGEST / largest
    if largest == 0.0:
        return None, math.inf
    flushed = magnitudes < SMALLEST / 2
    rounded = values.astype(np.float16).astype(np.float64) - values
    energy = float(np.square(magnitudes).sum())
    if float(np.square(rounded).sum()) <= _MOST_LOST * energy:
        return None, math.inf
    count = int((flushed & (magnitudes > 0)).sum())
    return f"flushes {count} of {values.size} weights to zero or nearly", largest / SMALLEST


def _rescale(
    graph: gs.Graph, sizes: dict[str, float], headroom: float, report: HalfReport
) -> set[str]:
    """Make groups of tensors smaller by a power of two; return their names."""
    done: set[str] = set()
    shapes = {
        tensor.name: tuple(tensor.shape)
        for tensor in graph.tensors().values()
        if tensor.shape is not None
    }
    for group in scale_groups(graph, shapes):
        names = [tensor.name for tensor in group.tensors]
        largest = max((sizes.get(name, 0.0) for name in names), default=0.0)
        if largest * headroom <= LARGEST:
            continue
        power = math.ceil(math.log2(largest * headroom / LARGEST))
        group.divide(graph, np.full(group.channels, 2.0**power), shapes)
        for name in names:
            if name in sizes:
                room = LARGEST / sizes[name] if sizes[name] else math.inf
                if room < headroom:
                    what = "overflows" if room < 1 else "comes near 65504"
                    report.findings.append(Finding(name, what, room, f"rescaled by 2^-{power}"))
                sizes[name] *= 2.0**-power
        done |= set(names)
    return done


class _Rewrite:
    """The state of one rewrite: the casts that are there already."""

    def __init__(self, graph: gs.Graph, single: dict[str, str]) -> None:
        self.graph = graph
        self.single = single
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
                if not _is_float(tensor) or index in _SINGLE_INPUTS.get(node.op, ()):
                    continue
                if isinstance(tensor, gs.Constant):
                    node.inputs[index] = self._constant(tensor) if wants_half else tensor
                elif wants_half != (id(tensor) in half):
                    node.inputs[index] = self._cast(tensor, "float16" if wants_half else "float32")
            if wants_half and node.op == "Cast" and node.attrs["to"] == onnx.TensorProto.FLOAT:
                node.attrs["to"] = onnx.TensorProto.FLOAT16
        for node in nodes:
            for index, tensor in enumerate(node.outputs):
                if id(tensor) in half:
                    tensor.dtype = np.dtype(np.float16)
                elif _is_float(tensor) and node.name not in self.single:
                    made = gs.Variable(f"{tensor.name}/float16", np.dtype(np.float16), tensor.shape)
                    node.outputs[index] = made
                    self._add(made, tensor, "float32")

    def _constant(self, tensor: gs.Constant) -> gs.Constant:
        if id(tensor) not in self._constants:
            with np.errstate(over="ignore"):
                values = np.asarray(tensor.values).astype(np.float16)
            self._constants[id(tensor)] = gs.Constant(f"{tensor.name}/float16", values)
        return self._constants[id(tensor)]

    def _cast(self, tensor: gs.Variable, kind: str) -> gs.Variable:
        """Return ``tensor`` as ``kind``; readers share the Cast."""
        key = id(tensor), kind
        if key not in self._casts:
            made = gs.Variable(f"{tensor.name}/as_{kind}", np.dtype(kind), tensor.shape)
            self._casts[key] = made
            self._add(tensor, made, kind)
        return self._casts[key]

    def _add(self, source: gs.Variable, target: gs.Variable, kind: str) -> None:
        to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        self.graph.nodes.append(
            gs.Node("Cast", f"{target.name}/Cast", {"to": to}, [source], [target])
        )


def _is_float(tensor: gs.Tensor) -> bool:
    try:
        return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32
    except TypeError:  # a type that numpy does not have
        return False
