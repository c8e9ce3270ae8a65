"""The exact reference of a quantized graph: what its Q and DQ say, whatever the CPU's kernels do.

A layer between DequantizeLinear and QuantizeLinear is a sum of products of integers. Runtimes
compute it with instructions that may saturate, round biases or change the order of float sums, and
a difference of one unit in the last place of a float is enough: where it moves a value over the
middle between two integers, the next layer sees another integer. So the layers are written as

    y = (s_x s_w) (sum of (q_x - z_x) q_w) + b

with the integers as float32 values. As long as no partial sum reaches 2^24, float32 adds whole
numbers exactly in any order, so the sum is exact on every machine, at the speed of float kernels:

    |sum| <= max over outputs c of  sum_k |q_w[c, k]|  *  max |q_x - z_x|  <  2^24

Where that bound is not kept, the input channels are split into parts that keep it, and the parts
are added in float64, which is exact up to 2^53.

FP8 is the same with its numbers in place of the integers. They are multiples of 2^-9 up to 448, so
a product is a multiple of 2^-18, and 2^17 products of any size add up exactly in float64. Products
of matrices are computed there, and a convolution, which onnxruntime has in float32 alone, is one
for each place of its kernel:

    y[o, p] = sum over places k of (sum over c of w[o, c, k] x[c, stride p + k])

Transposed convolutions, which no target has in FP8, stay as they are.

The scales are inputs of the graph with a default, so that no optimizer folds them into the
integers. Everything else runs in onnxruntime as it stands, without any fusion of Q and DQ.

`docs/proven.md` says what is proven with it; the tests hold it against a textbook evaluation in
numpy, float64 throughout.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph import float8
from onnxgraft.graph.cut import extract
from onnxgraft.graph.dims import Dim
from onnxgraft.graph.float8 import is_float8
from onnxgraft.graph.messages import bodies as bodies_of
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames, free
from onnxgraft.graph.nbits import with_float_weights
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import constant_value, is_op, op_of
from onnxgraft.graph.quantized import eight_bits, explicit_pads, in_float8, is_quantized
from onnxgraft.graph.scales import axis_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.tensors import Array, Feeds
from onnxgraft.graph.walk import bodies, tidy
from onnxgraft.run.depth import OF_INTEGERS
from onnxgraft.run.engine import Engine
from onnxgraft.run.layers import LayerTimes
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.run.session_layers import timed

__all__ = ["exact", "exact_graph", "exact_layers", "is_heavy"]

# A message has less than 2 GB; what else is in it has a share of them.
_HEAVY = 15 << 27
# float32 holds whole numbers up to here.
_EXACT = 1 << 24
# Their output holds values of their input alone, so that it has the input's scale.
_KEEPING = ("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def exact(
    model: Model,
    *,
    outputs: Sequence[str] = (),
    name: str = "exact",
    threads: int = 0,
    spinning: bool = True,
) -> OnnxRuntime:
    """Return an engine that computes exactly what a graph with Q and DQ, in INT8 or FP8, says.

    A graph without them runs as it stands, with the optimizations of float graphs.

    Args:
        model: The graph; it is not changed.
        outputs: Tensors of it to return in place of its outputs.
        name: What reports call it.
        threads: Threads within an operator; 0 leaves the choice to onnxruntime.
        spinning: Whether they wait busily for work, as they do where latency is measured; if not,
            they leave the processor to others.

    Raises:
        ModelError: onnxruntime refuses the graph.
        NotSupportedError: It has no kernel for an operator of these types.
    """
    weights: dict[str, Array] | None = None
    if is_heavy(model):
        proto, weights = model.without_weights()
        proto = exposing(proto, outputs) if outputs else proto
    else:
        proto = exact_graph(model, outputs)
    configure = _as_it_stands if spinning else _as_it_stands_patiently
    return OnnxRuntime(proto, name=name, threads=threads, configure=configure, weights=weights)


def is_heavy(model: Model) -> bool:
    """Tell whether a graph's weights do not fit into a message, but have to go beside it."""
    return model.weight_bytes() > _HEAVY and not is_quantized(model)


def exact_layers(model: Model, engine: Engine, feeds: Feeds, runs: int) -> LayerTimes:
    """Return what the nodes of an engine that `exact` returned take, of ``runs`` inferences."""
    return timed(exact_graph(model), _as_it_stands, engine, feeds, runs)


def _as_it_stands(options: Any) -> None:
    """Leave Q and DQ alone, and let no integer kernel saturate."""
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.x64quantprecision", "1")


def _as_it_stands_patiently(options: Any) -> None:
    _as_it_stands(options)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def exact_graph(model: Model, outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Return the ONNX model that `exact` runs."""
    model = with_float_weights(model)
    if not is_quantized(model):
        proto = model.to_onnx()
        _share_no_integers(proto.graph)
        return exposing(proto, outputs) if outputs else proto
    if "fp8" in eight_bits(model).values():
        model = explicit_pads(model) or model
    wanted = tuple(TensorOption(name, None) for name in outputs)
    copy = extract(model, (), wanted) if wanted else model.copy()
    names, shapes = FreeNames(copy.graph), Shapes(copy.graph)
    scales: set[str] = set()
    for part in list(bodies(copy.graph)):
        writer = _Writer(part, names, shapes, scales)
        for node in list(part.nodes):
            if is_op(node, "Conv", "ConvTranspose"):
                writer.convolution(node)
            elif is_op(node, "Gemm", "MatMul"):
                writer.product(node)
    tidy(copy.graph)
    proto = copy.to_onnx()
    _share_no_integers(proto.graph)
    _move_out(proto.graph, scales)
    known = {entry.name: entry for entry in proto.graph.initializer}
    for name in scales & known.keys():
        # An input with a default is no constant to optimizers.
        entry = known[name]
        proto.graph.input.append(
            onnx.helper.make_tensor_value_info(name, entry.data_type, list(entry.dims))
        )
    return proto


def _share_no_integers(graph: onnx.GraphProto) -> None:
    """Give operators of integers signed constants of their own.

    Where kernels for these saturate, onnxruntime puts unsigned ones in their place, and does not
    open a graph in which two operators read the same.
    """
    signed = {e.name: e for e in graph.initializer if e.data_type == onnx.TensorProto.INT8}
    reads = Counter(name for node in graph.node for name in node.input)
    taken = {*reads, *signed}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in signed and reads[name] > 1 and op_of(node).rpartition(".")[2] in OF_INTEGERS:
                own = graph.initializer.add()
                own.CopyFrom(signed[name])
                own.name = node.input[place] = free(taken, name)
                reads[name] -= 1


def _move_out(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Let constants of bodies be the main graph's, whose inputs alone can have a default."""
    left = [body for node in graph.node for each in node.attribute for body in bodies_of(each)]
    while left:
        body = left.pop()
        left += [
            inner for node in body.node for each in node.attribute for inner in bodies_of(each)
        ]
        for entry in [entry for entry in body.initializer if entry.name in names]:
            graph.initializer.append(entry)
            body.initializer.remove(entry)


@dataclass(frozen=True)
class _Whole:
    """A tensor of whole numbers, or of FP8's, as floats, and what they stand for.

    Attributes:
        tensor: The numbers: a float32 tensor, or their values where they are constant.
        scale: Of the numbers: one, or one for each slice along ``axis``.
        axis: None for one scale.
        largest: The largest absolute number that there can be.
        float8: Whether they are FP8's, and not whole.
    """

    tensor: gs.Tensor | Array
    scale: Array
    axis: int | None
    largest: float
    float8: bool = False


class _Writer:
    """Writes layers of a graph or body as sums of whole numbers.

    Attributes:
        scales: The names of constants that no optimizer may look at.
    """

    def __init__(self, graph: gs.Graph, names: FreeNames, shapes: Shapes, scales: set[str]) -> None:
        self.graph = graph
        self._shapes = shapes
        self.scales = scales
        self._whole: dict[int, _Whole | None] = {}
        self._names = names
        self._count = 0

    def convolution(self, node: gs.Node) -> None:
        """Rewrite a Conv or ConvTranspose between quantized tensors."""
        data, weights = self.whole(node.inputs[0]), self.whole(node.inputs[1])
        if data is None or weights is None:
            return
        if not isinstance(weights.tensor, np.ndarray) or isinstance(data.tensor, np.ndarray):
            return
        bias = _bias(node)
        if bias is not None and _value(bias) is None:
            return  # it is computed, and stands along the channels
        transposed = is_op(node, "ConvTranspose")
        group = int(node.attrs.get("group", 1))
        scale = _channel_scale(weights, transposed, group)
        if scale is None:
            return
        if weights.float8 != data.float8:
            return
        numbers = weights.tensor
        if numbers.ndim < 3:
            return  # no convolution has such weights, as onnxruntime says
        if data.axis is not None:
            # A scale for each channel is one for each output where every output has one channel.
            if data.axis != 1 or group != data.scale.size:
                return
            outputs = numbers.shape[1] * group if transposed else numbers.shape[0]
            data = replace(data, scale=np.repeat(data.scale, outputs // group), axis=None)
        if data.float8:
            total = None if transposed else self._by_places(node, data.tensor, numbers, group)
            if total is not None:
                self._finish(node, [total], scale, data, np.float64, trailing=numbers.ndim - 2)
            return
        reach = np.abs(numbers).sum(axis=tuple(range(2, numbers.ndim)), dtype=np.float64)
        # (outputs, inputs of a group), and for a transposed one (inputs, outputs of a group).
        per_input = (reach.T if transposed else reach) * data.largest
        parts = _parts(per_input) if group == 1 else [(0, per_input.shape[1])]
        if group > 1 and per_input.sum(1).max(initial=0.0) >= _EXACT:
            return
        label, several = node.outputs[0].name, len(parts) > 1
        sums = []
        for begin, end in parts:
            kernel = numbers[begin:end] if transposed else numbers[:, begin:end]
            read = self._slice(label, data.tensor, begin, end, 1) if several else data.tensor
            part = self._add_like(node, [read, self._constant(label, kernel.astype(np.float32))])
            sums.append(self._cast(label, part, np.float64) if several else part)
        kind = np.float64 if several else np.float32
        self._finish(node, sums, scale, data, kind, trailing=numbers.ndim - 2)

    def _by_places(
        self, node: gs.Node, tensor: gs.Tensor, kernel: Array, group: int
    ) -> gs.Tensor | None:
        """Return a convolution in float64: the sum of a product of matrices for each place of it.

        None where its pads follow from a shape that is not known.
        """
        axes = kernel.ndim - 2
        pads = [int(pad) for pad in node.attrs.get("pads", [0] * 2 * axes)]
        strides = [int(step) for step in node.attrs.get("strides", [1] * axes)]
        dilations = [int(step) for step in node.attrs.get("dilations", [1] * axes)]
        if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        label = node.outputs[0].name
        source = self._cast(label, tensor, np.float64)
        if any(pads):
            around = np.array([0, 0, *pads[:axes], 0, 0, *pads[axes:]], np.int64)
            source = self._add("Pad", label, [source, self._constant(label, around)], np.float64)
        outputs, inputs = kernel.shape[:2]
        flat = self._constant(label, np.array([0, group, inputs, -1], np.int64))
        total = part = source
        for number, place in enumerate(np.ndindex(*kernel.shape[2:])):
            begin = [at * step for at, step in zip(place, dilations, strict=True)]
            # What is left behind the last place that is read, from the end.
            rest = [
                (size - 1 - at) * step
                for size, at, step in zip(kernel.shape[2:], place, dilations, strict=True)
            ]
            ends = [-left or np.iinfo(np.int64).max for left in rest]
            bounds = [begin, ends, [*range(2, 2 + axes)], strides]
            part = source
            if begin != [0] * axes or rest != [0] * axes or strides != [1] * axes:
                words = [self._constant(label, np.array(bound, np.int64)) for bound in bounds]
                part = self._add("Slice", label, [source, *words], np.float64)
            rows = self._add("Reshape", label, [part, flat], np.float64)
            matrix = kernel[(slice(None), slice(None), *place)].astype(np.float64)
            matrix = matrix.reshape(group, outputs // group, inputs)
            made = self._add("MatMul", label, [self._constant(label, matrix), rows], np.float64)
            total = made if number == 0 else self._add("Add", label, [total, made], np.float64)
        ends = [
            self._add("Shape", label, [part], np.int64, {"start": start, "end": end})
            for start, end in ((0, 1), (2, 2 + axes))
        ]
        size = self._constant(label, np.array([outputs], np.int64))
        shape = self._add("Concat", label, [ends[0], size, ends[1]], np.int64, {"axis": 0})
        return self._add("Reshape", label, [total, shape], np.float64)

    def product(self, node: gs.Node) -> None:
        """Rewrite a Gemm or MatMul between quantized tensors, or of one and weights."""
        if is_op(node, "Gemm") and not _plain_gemm(node):
            return
        left, right = self.whole(node.inputs[0]), self.whole(node.inputs[1])
        if left is None or right is None or left.axis is not None:
            return
        if isinstance(left.tensor, np.ndarray):
            return
        if left.float8 != right.float8:
            return
        if not isinstance(right.tensor, np.ndarray):
            deep = self._depth(node) * left.largest * right.largest >= _EXACT
            if right.axis is None and (left.float8 or not deep):
                self._between(node, left, right)
            return
        numbers = right.tensor
        if numbers.ndim < 2:
            return
        turned = is_op(node, "Gemm") and bool(node.attrs.get("transB", 0))
        if turned:
            numbers = numbers.T
        axis = None if right.axis is None else right.axis % right.tensor.ndim
        outputs = right.tensor.ndim - 1 if not turned else 0
        if axis not in (None, outputs):
            return
        label = node.outputs[0].name
        if left.float8:
            read = self._cast(label, left.tensor, np.float64)
            kernel = self._constant(label, numbers.astype(np.float64))
            total = self._add("MatMul", label, [read, kernel], np.float64)
            self._finish(node, [total], right.scale, left, np.float64, trailing=0)
            return
        reach = np.abs(numbers).reshape(-1, *numbers.shape[-2:]).max(0).T.astype(np.float64)
        parts = _parts(reach * left.largest)
        if len(parts) > 1 and numbers.ndim != 2:
            return
        sums = []
        for begin, end in parts:
            several = len(parts) > 1
            read = self._slice(label, left.tensor, begin, end, -1) if several else left.tensor
            kernel = self._constant(label, numbers[..., begin:end, :].astype(np.float32))
            part = self._add_like(node, [read, kernel])
            sums.append(self._cast(label, part, np.float64) if several else part)
        kind = np.float64 if len(parts) > 1 else np.float32
        self._finish(node, sums, right.scale, left, kind, trailing=0)

    def _finish(
        self,
        node: gs.Node,
        sums: Sequence[gs.Tensor],
        scale: Array,
        data: _Whole,
        kind: type[np.floating[Any]],
        *,
        trailing: int,
    ) -> None:
        """Write the sum of a layer's parts, its scale and the bias.

        Args:
            node: The layer.
            sums: Of parts of its products.
            scale: Of the weights: one, or one for each output.
            data: What it reads.
            kind: The type of ``sums``.
            trailing: How many axes are behind that of the outputs.
        """
        label, wide = node.outputs[0].name, kind is np.float64
        total = sums[0]
        for part in sums[1:]:
            total = self._add("Add", label, [total, part], kind)

        def along(value: Array) -> Array:
            return value.reshape(-1, *(1,) * trailing) if trailing else value

        factor = along(scale.astype(np.float64) * data.scale.astype(np.float64)).astype(kind)
        total = self._add("Mul", label, [total, self._hidden(label, factor)], kind)
        bias = _bias(node)
        value = None if bias is None else _value(bias)
        if value is not None:
            offset = self._hidden(label, along(value).astype(kind))
            total = self._add("Add", label, [total, offset], kind)
        elif bias is not None:  # of a Gemm, which adds what it reads
            offset = self._cast(label, bias, kind) if wide else bias
            total = self._add("Add", label, [total, offset], kind)
        self._replace(node, self._cast(label, total, np.float32) if wide else total)

    def _between(self, node: gs.Node, left: _Whole, right: _Whole) -> None:
        """Write the product of two quantized tensors, and the bias of a Gemm."""
        label, second = node.outputs[0].name, right.tensor
        if is_op(node, "Gemm") and node.attrs.get("transB", 0):
            second = self._add("Transpose", label, [second], np.float32, {"perm": [1, 0]})
        kind = np.float64 if left.float8 else np.float32
        read = [left.tensor, second]
        if left.float8:
            read = [self._cast(label, tensor, kind) for tensor in read]
        total = self._add("MatMul", label, read, kind)
        product = (left.scale.astype(np.float64) * right.scale.astype(np.float64)).astype(kind)
        total = self._add("Mul", label, [total, self._hidden(f"{label}/scale", product)], kind)
        if len(node.inputs) > 2 and node.inputs[2].name:
            bias = node.inputs[2]
            if self._shapes.dtype(bias) not in (None, kind):
                bias = self._cast(label, bias, kind)
            total = self._add("Add", label, [total, bias], kind)
        self._replace(node, self._cast(label, total, np.float32) if left.float8 else total)

    def _depth(self, node: gs.Node) -> float:
        """Return how many products each value of a MatMul sums up; infinite if not known."""
        turned = is_op(node, "Gemm") and node.attrs.get("transB", 0)
        for tensor, axis in ((node.inputs[0], -1), (node.inputs[1], -1 if turned else -2)):
            shape = self._shapes.shape(tensor)
            if shape is not None and len(shape) >= 2 and shape[axis].fixed:
                return shape[axis].number
        return math.inf

    def whole(self, tensor: gs.Tensor) -> _Whole | None:
        """Return the whole numbers behind a dequantized tensor, or None where it is none."""
        key = id(tensor)
        if key not in self._whole:
            self._whole[key] = self._find(tensor)
        return self._whole[key]

    def _find(self, tensor: gs.Tensor) -> _Whole | None:
        node = tensor.inputs[0] if tensor.inputs else None
        if is_op(node, *_KEEPING) and tensor is node.outputs[0]:
            inner = self.whole(node.inputs[0])
            if inner is not None and isinstance(inner.tensor, np.ndarray):
                return _turned(inner, node)
            if inner is None or inner.axis is not None:
                return None
            moved = self._add(
                op_of(node), tensor.name, [inner.tensor, *node.inputs[1:]], np.float32, node.attrs
            )
            return replace(inner, tensor=moved)
        if is_op(node, "Concat"):
            return self._joined(node)
        if not is_op(node, "DequantizeLinear") or node.attrs.get("block_size", 0):
            return None
        scale = _value(node.inputs[1])
        zero = _value(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
        if scale is None or (len(node.inputs) > 2 and node.inputs[2].name and zero is None):
            return None
        stored = _value(node.inputs[0])
        if stored is None:
            stored = _quantized(node.inputs[0])
        shape = self._shapes.shape(node.inputs[0]) if stored is None else stored.shape
        if not _fits(node, scale, zero, shape):
            return None
        axis = axis_of(node, scale.size, shape) if scale.size > 1 else None
        if in_float8(node):
            return self._find_float8(node, scale, zero, axis, stored)
        behind = (1,) * (len(shape) - 1 - axis) if shape and axis is not None else ()
        zero = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64)
        if stored is not None:
            numbers = stored.astype(np.int64)
            numbers = numbers - (zero if axis is None else zero.reshape(-1, *behind))
            return _Whole(numbers, scale, axis, int(np.abs(numbers).max(initial=0)))
        bounds = _bounds(node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None)
        if bounds is None:
            return None
        numbers = self._cast(tensor.name, node.inputs[0], np.float32)
        if zero.any():
            shift = zero.reshape(()) if axis is None else zero.reshape(-1, *behind)
            numbers = self._add(
                "Sub", tensor.name,
                [numbers, self._hidden(tensor.name, shift.astype(np.float32))],
            )  # fmt: skip
        largest = max(bounds[1] - int(zero.min()), int(zero.max()) - bounds[0])
        return _Whole(numbers, scale.reshape(()) if axis is None else scale, axis, largest)

    def _find_float8(
        self,
        node: gs.Node,
        scale: Array,
        zero: Array | None,
        axis: int | None,
        stored: Array | None,
    ) -> _Whole | None:
        """Return the numbers behind a DequantizeLinear of FP8."""
        if zero is not None and zero.astype(np.float32).any():
            return None
        if stored is not None:
            return _Whole(stored.astype(np.float32), scale, axis, float8.LARGEST, float8=True)
        cast = self._cast(node.outputs[0].name, node.inputs[0], np.float32)
        scale = scale.reshape(()) if axis is None else scale
        return _Whole(cast, scale, axis, float8.LARGEST, float8=True)

    def _joined(self, node: gs.Node) -> _Whole | None:
        """Return what a Concat of whole numbers of one scale makes."""
        wholes = [self.whole(tensor) for tensor in node.inputs]
        parts = [
            whole
            for whole in wholes
            if whole and whole.axis is None and not isinstance(whole.tensor, np.ndarray)
        ]
        kinds = {(float(part.scale), part.float8) for part in parts}
        if len(parts) < len(wholes) or len(kinds) != 1:
            return None
        tensors = [part.tensor for part in parts]
        made = self._add("Concat", node.outputs[0].name, tensors, np.float32, node.attrs)
        return replace(parts[0], tensor=made, largest=max(part.largest for part in parts))

    def _add_like(self, node: gs.Node, inputs: list[gs.Tensor]) -> gs.Tensor:
        """Return what a node of the same kind makes of whole numbers, without a bias."""
        if is_op(node, "Gemm"):
            return self._add("MatMul", node.outputs[0].name, inputs)
        return self._add(op_of(node), node.outputs[0].name, inputs, np.float32, node.attrs)

    def _add(
        self, op: str, label: str, inputs: list[gs.Tensor], dtype: Any = np.float32,
        attrs: dict[str, Any] | None = None,
    ) -> gs.Tensor:  # fmt: skip
        name = self._name(label)
        output = gs.Variable(name, dtype)
        node = Node(op, self._names.node(name), dict(attrs or {}), inputs, [output])
        self.graph.nodes.append(node)
        return output

    def _cast(self, label: str, tensor: gs.Tensor, dtype: Any) -> gs.Tensor:
        to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._add("Cast", label, [tensor], dtype, {"to": to})

    def _slice(
        self, label: str, tensor: gs.Tensor, begin: int, end: int, axis: int
    ) -> gs.Tensor:  # fmt: skip
        bounds = [np.array([value], np.int64) for value in (begin, end, axis)]
        return self._add("Slice", label, [tensor, *(self._constant(label, v) for v in bounds)])

    def _constant(self, label: str, value: Array) -> gs.Constant:
        return gs.Constant(self._name(label), np.ascontiguousarray(value))

    def _hidden(self, label: str, value: Array) -> gs.Constant:
        constant = gs.Constant(self._name(label), np.asarray(value))
        self.scales.add(constant.name)
        return constant

    def _replace(self, node: gs.Node, result: gs.Tensor) -> None:
        """Let ``result`` be made under the name of what ``node`` made, in its type."""
        target = node.outputs[0]
        kind = self._shapes.dtype(target)
        if kind is not None and kind != np.float32:  # float layers beside INT8 in half precision
            result = self._cast(target.name, result, kind)
        (maker,) = result.inputs
        node.outputs.clear()
        maker.outputs = [target]

    def _name(self, label: str) -> str:
        self._count += 1
        return self._names.tensor(f"{label}/exact/{self._count}")


def _bias(node: gs.Node) -> gs.Tensor | None:
    return node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None


def _turned(weights: _Whole, node: gs.Node) -> _Whole | None:
    """Return weights behind a Transpose."""
    if not is_op(node, "Transpose"):
        return None
    numbers = np.asarray(weights.tensor)
    perm = [int(axis) for axis in node.attrs.get("perm", range(numbers.ndim)[::-1])]
    axis = None if weights.axis is None else perm.index(weights.axis)
    return replace(weights, tensor=numbers.transpose(perm), axis=axis)


def _parts(reach: Array) -> list[tuple[int, int]]:
    """Return ranges of inputs whose sums stay exact, as few as there can be.

    Args:
        reach: (outputs, inputs): the largest absolute contribution of an input to an output.
    """
    total = np.cumsum(reach, axis=1)
    parts, begin, inputs = [], 0, reach.shape[1]
    while begin < inputs:
        before = total[:, begin - 1] if begin else 0.0
        fits = ((total.T - before).max(1, initial=0.0) < _EXACT)[begin:]
        end = begin + max(1, int(fits.argmin()) if not fits.all() else len(fits))
        parts.append((begin, end))
        begin = end
    return parts or [(0, inputs)]


def _channel_scale(weights: _Whole, transposed: bool, group: int) -> Array | None:
    """Return a scale for each output channel, or one; None where they are of the inputs."""
    if weights.axis is None:
        return weights.scale.reshape(1)
    if weights.axis != (1 if transposed else 0):
        return None
    return np.tile(weights.scale, group) if transposed else weights.scale


def _plain_gemm(node: gs.Node) -> bool:
    """Tell whether a Gemm is a product and a sum: no factors, no transposed input."""
    factors = (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0))
    return factors == (1.0, 1.0) and not node.attrs.get("transA", 0)


def _fits(
    node: gs.Node, scale: Array, zero: Array | None, shape: Sequence[int | Dim] | None
) -> bool:
    """Tell whether scales and zero points belong together, and to an axis of the tensor."""
    if zero is not None and zero.size not in (1, scale.size):
        return False
    return scale.size == 1 or axis_of(node, scale.size, shape) is not None


def _value(tensor: gs.Tensor) -> Array | None:
    """Return the value of a constant, or of what a DequantizeLinear makes of constants."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    node = tensor.inputs[0] if tensor.inputs else None
    if is_op(node, "Constant"):
        return constant_value(node)
    if not is_op(node, "DequantizeLinear") or node.attrs.get("block_size", 0):
        return None
    numbers, scale = _value(node.inputs[0]), _value(node.inputs[1])
    zero = _value(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.int64)
    if numbers is None or scale is None or zero is None:
        return None
    if not _fits(node, scale, zero, numbers.shape):
        return None
    if scale.size > 1:
        shape = (-1, *(1,) * (numbers.ndim - 1 - int(node.attrs.get("axis", 1)) % numbers.ndim))
        scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero
    exact = np.float32 if is_float8(numbers.dtype) else np.int64
    whole = numbers.astype(exact) - zero.astype(exact)
    return np.asarray(whole.astype(np.float32) * scale, np.float32)


def _quantized(tensor: gs.Tensor) -> Array | None:
    """Return the integers, or FP8 numbers, that a QuantizeLinear makes of a constant."""
    node = tensor.inputs[0] if tensor.inputs else None
    if not is_op(node, "QuantizeLinear") or node.attrs.get("block_size", 0):
        return None
    value, scale = _value(node.inputs[0]), _value(node.inputs[1])
    zero = _value(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
    if value is None or scale is None or zero is None:
        return None
    if not in_float8(node) and zero.dtype.kind not in "iu":
        return None
    if not _fits(node, scale, zero, value.shape):
        return None
    if scale.size > 1:
        axis = int(node.attrs.get("axis", 1)) % value.ndim
        shape = (-1, *(1,) * (value.ndim - 1 - axis))
        scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero
    if in_float8(node):
        return float8.nearest(np.asarray(value / scale, np.float32))
    limits = np.iinfo(zero.dtype)
    rounded = np.rint(value / scale) + zero.astype(np.float64)
    return np.clip(rounded, limits.min, limits.max).astype(zero.dtype)


def _bounds(stored: gs.Tensor, zero: gs.Tensor | None) -> tuple[int, int] | None:
    """Return the smallest and largest integer of a quantized tensor, by its type."""
    kind = stored.dtype
    if kind is None and zero is not None:
        kind = zero.dtype
    try:
        limits = np.iinfo(np.dtype(kind))
    except (TypeError, ValueError):
        return None
    return int(limits.min), int(limits.max)
