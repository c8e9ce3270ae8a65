"""Graphs with Q and DQ: their float twin, and other forms that say the same, or nearly so.

An engine that gives other answers than its graph says is built anew from another form:

* `float_twin`      activations without Q and DQ, weights as they are stored: what is lost by
                    quantizing activations is measured against it
* `with_offset`     int8 becomes uint8 with a zero point 128 higher: the same numbers
* `paired`          a layer's weights so that two products of bytes that are added fit into 16 bits
* `narrowed`        a layer's weights in seven bits, of which any two products do
* `in_float`        some activations without Q and DQ
* `explicit_pads`   pads in place of ``auto_pad``
* `precise`         the same graph, marked for kernels that add products of bytes in 32 bits
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph.float8 import LARGEST, is_float8
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.nbits import stores_bits
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import (
    DYNAMIC_LSTM,
    MICROSOFT,
    QUANTIZERS,
    WEIGHTED,
    constant_value,
    is_op,
    op_of,
    set_op,
)
from onnxgraft.graph.pairs import fitting, pair_sums
from onnxgraft.graph.scales import axis_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import bodies, nodes_within, own_bodies, pinned, tidy
from onnxgraft.targets import Format, WeightType

__all__ = [
    "NARROW", "PRECISE", "eight_bits", "explicit_pads", "float_twin", "in_float", "in_float8",
    "input_ranges", "is_quantized", "narrowed", "paired", "plain_lstms", "precise", "sites",
    "stored_bits", "stored_weights", "with_offset",
]  # fmt: skip

# The largest integer of weights in seven bits: two products with 255 stay below 2^15.
NARROW = 64
# In a graph's metadata: its INT8 layers want kernels that do not saturate.
PRECISE = "onnxgraft.precise"
# Their output holds values of their input alone.
_KEEPING = ("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


# Integers and their scale.
_Weights = tuple[Array, Array]


def is_quantized(model: Model) -> bool:
    """Tell whether a graph, or a body in it, has layers with weights or inputs in integers."""
    return any(
        _is_dequantizer(node) or _is_quantizer(node) or _is_dynamic(node)
        for node in nodes_within(model.graph)
    )


def eight_bits(model: Model) -> dict[str, Format]:
    """Return the nodes that a graph has in integers, or in FP8, by name.

    A layer with weights, or a product, both of whose inputs are dequantized; what stands between
    DequantizeLinear and QuantizeLinear; and what then keeps the values, such as a MaxPool.
    """
    found: dict[str, Format] = {}
    for node in nodes_within(model.graph):
        if _is_dynamic(node):
            found[str(node.name)] = "int8"
        elif _between_integers(node):
            read = next(filter(None, map(_dequantizer, node.inputs)))
            found[str(node.name)] = "fp8" if in_float8(read) else "int8"
    return found


def in_float8(node: gs.Node) -> bool:
    """Tell whether a QuantizeLinear writes FP8, or a DequantizeLinear reads it."""
    if len(node.inputs) > 2 and not node.inputs[2].is_empty():
        zero = node.inputs[2]
        value = constant_value(zero.inputs[0]) if zero.inputs else None
        return is_float8(zero.dtype if value is None else value.dtype)
    if _is_quantizer(node):
        stored = node.attrs.get("output_dtype") or node.outputs[0].dtype
        return is_float8(stored or None)
    maker = _maker(node.inputs[0])
    if maker is not None and _is_quantizer(maker):
        return in_float8(maker)
    return is_float8(node.inputs[0].dtype)


def _between_integers(node: gs.Node) -> bool:
    if _is_quantizer(node) or _is_dequantizer(node):
        return False
    weighted = is_op(node, *WEIGHTED)
    read = [
        tensor
        for tensor in node.inputs[: 2 if weighted else None]
        if not tensor.is_empty() and (weighted or not isinstance(tensor, gs.Constant))
    ]
    if not read or not all(map(_dequantizer, read)):
        return False
    readers = [reader for tensor in node.outputs for reader in tensor.outputs]
    keeps = weighted or op_of(node) in _KEEPING
    return keeps or (bool(readers) and all(map(_is_quantizer, readers)))


def stored_bits(dtype: Any) -> int:
    """Return in how many bits a type has its whole numbers; 0 for any other type."""
    if dtype is None:
        return 0
    name = _numpy_type(dtype).name.removeprefix("u").removeprefix("int")
    return int(name) if name.isdecimal() else 0


def _numpy_type(dtype: Any) -> np.dtype[Any]:
    """Return a type as numpy has it; onnx-graphsurgeon has some by onnx's number."""
    known = onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype
    kind: np.dtype[Any] = np.dtype(known)
    return kind


def stored_weights(model: Model) -> WeightType | None:
    """Return what a graph stores weights as whose activations are float; None for any other.

    Where there are several types, that of fewest bits.
    """
    bits = set()
    for body in bodies(model.graph):
        for node in body.nodes:
            if _is_quantizer(node) or _is_dynamic(node):
                return None
            if _is_dequantizer(node):
                bits.add(stored_bits(node.inputs[0].dtype))
            bits.add(stores_bits(node))
    fewest = min(bits - {0}, default=32)
    return "int4" if fewest <= 4 else "int8" if fewest <= 8 else None


def float_twin(model: Model) -> Model:
    """Return a copy whose activations are float: of each Q and DQ the pair is left out.

    Weights and biases keep their stored integers. An LSTM that quantizes what it reads becomes
    ONNX's.
    """
    twin = in_float(model)
    plain_lstms(twin)
    return twin


def plain_lstms(model: Model) -> list[str]:
    """Make ONNX's LSTM of each that quantizes what it reads, in place, and return their names.

    They get the weights that the integers stand for.
    """
    names = FreeNames(model.graph, model.names)
    found = []
    for node in nodes_within(model.graph):
        weights = [*node.inputs[1:3], *node.inputs[8:12]]
        if _is_dynamic(node) and all(isinstance(tensor, gs.Constant) for tensor in weights):
            _plain_lstm(names, node)
            found.append(str(node.name))
    return found


def in_float(model: Model, tensors: Collection[str] | None = None) -> Model:
    """Return a copy in which some activations stay float: their Q and DQ are left out.

    Args:
        model: Is not changed.
        tensors: What QuantizeLinear reads, see `sites`; None takes all.
    """
    copy = model.copy()
    names = FreeNames(copy.graph, copy.names)
    for part in bodies(copy.graph):
        for node in list(part.nodes):
            quantizer = _quantizer(node.inputs[0]) if _is_dequantizer(node) else None
            if quantizer is not None and (tensors is None or quantizer.inputs[0].name in tensors):
                _bypass(part, names, node)
    tidy(copy.graph)
    return copy


def input_ranges(model: Model) -> dict[str, tuple[float, float]]:
    """Return, of the inputs that are quantized, the least and the largest number that is held."""
    found = {}
    for tensor in model.graph.inputs:
        left, seen = [tensor], set[int]()
        while left:
            for reader in left.pop().outputs:
                if _is_quantizer(reader):
                    zero, scale, kind = _zero_point(reader), _scale(reader), _kind(reader)
                    if in_float8(reader) and np.isfinite(scale):
                        found[tensor.name] = (-scale * LARGEST, scale * LARGEST)
                    elif zero is not None and np.isfinite(scale) and kind in (np.int8, np.uint8):
                        held = np.iinfo(np.int8 if kind == np.int8 else np.uint8)
                        found[tensor.name] = (scale * (held.min - zero), scale * (held.max - zero))
                elif op_of(reader) in _KEEPING and id(reader) not in seen:
                    seen.add(id(reader))
                    left += reader.outputs
    return found


def narrowed(model: Model, layers: Collection[str] | None = None) -> Model | None:
    """Return a copy with the weights of layers, or of all, in seven bits; None if they are.

    Where integers of an output channel, or of all where there is one scale, are beyond 64, they are
    rounded anew, half to even, to a scale that is so much larger; an int32 bias likewise.
    """

    def in_seven_bits(node: gs.Node, numbers: Array, scale: Array, axis: int | None) -> _Weights:
        others = None if axis is None else tuple(a for a in range(numbers.ndim) if a != axis)
        largest = np.abs(numbers.astype(np.int16)).max(axis=others, initial=0)
        growth = np.maximum(largest / NARROW, 1.0).reshape(scale.shape)
        return _rounded(numbers, growth, axis), np.asarray(scale * growth, scale.dtype)

    return _with_weights(model, layers, in_seven_bits)


def paired(model: Model, layers: Collection[str] | None = None) -> Model | None:
    """Return a copy in which the weights of layers, or of all, fit in pairs; None if they do.

    See `pairs`: scales grow only where two neighbours are too large together.
    """

    def in_pairs(node: gs.Node, numbers: Array, scale: Array, axis: int | None) -> _Weights:
        if axis is not None and len(pair_sums(node, numbers)) != scale.size:
            return numbers, scale  # the scales are not those of the outputs
        return fitting(node, scale, axis, lambda larger: _rounded(numbers, larger / scale, axis))

    return _with_weights(model, layers, in_pairs)


def _rounded(numbers: Array, growth: Array, axis: int | None) -> Array:
    """Return stored integers for scales that are ``growth`` times as large, half to even."""
    along = np.reshape(growth, [-1 if a == axis else 1 for a in range(numbers.ndim)])
    return np.asarray(np.rint(numbers / along), numbers.dtype)


def _with_weights(
    model: Model,
    layers: Collection[str] | None,
    other: Callable[[gs.Node, Array, Array, int | None], _Weights],
) -> Model | None:
    """Return a copy with other weights in int8, and their biases; None if all stay as they are.

    Args:
        model: Is not changed.
        layers: The names of those that may change; None for all.
        other: Of a layer, its integers, scale and the axis of several scales: others of both.
    """
    copy = model.copy()
    names = FreeNames(copy.graph, copy.names)
    done: set[int] = set()
    changed = False
    for node in nodes_within(copy.graph):
        if not is_op(node, *WEIGHTED) or (layers is not None and node.name not in layers):
            continue
        dequantizer = _dequantizer(node.inputs[1])
        if dequantizer is None or id(dequantizer) in done:
            continue
        done.add(id(dequantizer))
        stored, scale = dequantizer.inputs[:2]
        if not isinstance(stored, gs.Constant) or not isinstance(scale, gs.Constant):
            continue
        numbers, factors = np.asarray(stored.values), np.asarray(scale.values)
        if numbers.dtype != np.int8 or _zero_point(dequantizer) != 0:
            continue
        axis = axis_of(dequantizer, factors.size, numbers.shape) if factors.size > 1 else None
        integers, larger = other(node, numbers, factors, axis)
        if np.array_equal(larger, factors) and np.array_equal(integers, numbers):
            continue
        changed = True
        dequantizer.inputs[0] = gs.Constant(names.tensor(stored.name), integers)
        dequantizer.inputs[1] = gs.Constant(names.tensor(scale.name), np.asarray(larger))
        bias = _dequantizer(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:  # its scale is the product of the other two
            _coarser(names, bias, np.asarray(larger / factors))
    return copy if changed else None


def sites(model: Model, layer: str | None) -> list[str]:
    """Return the tensors that are quantized on the way to a layer, from the layers before it.

    Args:
        model: The graph.
        layer: The name of a node; None stands for the outputs of the graph.

    Returns:
        The names of what QuantizeLinear reads.
    """
    node = next((node for node in model.graph.nodes if node.name == layer), None)
    left = list(model.graph.outputs if node is None else node.inputs)
    seen: set[int] = set()
    found: dict[str, None] = {}
    while left:
        tensor = left.pop()
        maker = _maker(tensor)
        if maker is None or id(maker) in seen or is_op(maker, *WEIGHTED):
            continue
        seen.add(id(maker))
        # Where in a body it begins to differ nobody can tell: all of it is on the way.
        inner = [node for body in own_bodies(maker) for node in nodes_within(body)]
        found |= {n.inputs[0].name: None for n in (maker, *inner) if _is_quantizer(n)}
        left += maker.inputs
    return list(found)


def with_offset(model: Model, tensors: Collection[str] | None = None) -> Model | None:
    """Return a copy in which int8 activations are uint8, their zero points 128 higher.

    None if there are none.

    q + 128 with zero point z + 128 stands for the same number as q with z: nothing is rounded anew.

    Args:
        model: Is not changed.
        tensors: What QuantizeLinear reads; None takes all.
    """
    copy = model.copy()
    names = FreeNames(copy.graph, copy.names)
    ends = pinned(copy.graph)
    changed = False
    for node in list(nodes_within(copy.graph)):
        if not _is_quantizer(node) or _kind(node) != np.int8:
            continue
        if tensors is not None and node.inputs[0].name not in tensors:
            continue
        readers = node.outputs[0].outputs
        if not readers or not all(map(_is_dequantizer, readers)):
            continue  # integers that are read as such keep their type
        if id(node.outputs[0]) in ends:
            continue
        for each in (node, *readers):
            zero = each.inputs[2] if len(each.inputs) > 2 else None
            value = np.zeros((), np.int16) if zero is None else np.asarray(zero.values, np.int16)
            name = names.tensor(f"{each.inputs[1].name}/zero_point")
            moved = gs.Constant(name, np.asarray(value + 128, np.uint8))
            if zero is None:
                each.inputs.append(moved)
            else:
                each.inputs[2] = moved
        node.outputs[0].dtype = np.dtype(np.uint8)
        changed = True
    return copy if changed else None


def explicit_pads(model: Model) -> Model | None:
    """Return a copy whose ``auto_pad`` is written as pads, where shapes are known; None if none is.

    Pads of SAME_UPPER and SAME_LOWER by ONNX's definition of Conv and ConvTranspose.
    """
    copy = model.copy()
    shapes = Shapes(copy.graph)
    changed = False
    for node in nodes_within(copy.graph):
        if not is_op(node, "Conv", "ConvTranspose") or node.attrs.get("auto_pad") not in (
            "SAME_UPPER", "SAME_LOWER",
        ):  # fmt: skip
            continue
        shape, kernel = shapes.shape(node.inputs[0]), shapes.shape(node.inputs[1])
        if shape is None or kernel is None:
            continue
        spatial, extents = shape[2:], kernel[2:]
        transposed = is_op(node, "ConvTranspose")
        if not all(dim.fixed for dim in extents):
            continue
        if not transposed and not all(dim.fixed for dim in spatial):
            continue
        axes = len(extents)
        strides = list(node.attrs.get("strides", [1] * axes))
        dilations = list(node.attrs.get("dilations", [1] * axes))
        reach = [(k.number - 1) * d + 1 for k, d in zip(extents, dilations, strict=True)]
        if transposed:
            more = list(node.attrs.get("output_padding", [0] * axes))
            total = [r + m - s for r, m, s in zip(reach, more, strides, strict=True)]
            if min(total) < 0:
                continue  # then it is output_padding that makes the shape
        else:
            total = [
                max((-(-n.number // s) - 1) * s + r - n.number, 0)
                for n, s, r in zip(spatial, strides, reach, strict=True)
            ]
        upper = node.attrs.pop("auto_pad") == "SAME_UPPER"
        small = [t // 2 for t in total]
        large = [t - s for t, s in zip(total, small, strict=True)]
        begin, end = (small, large) if upper else (large, small)
        node.attrs["pads"] = [*begin, *end]
        changed = True
    return copy if changed else None


def precise(model: Model) -> Model | None:
    """Return a copy that is marked for kernels that don't saturate; None if it is already."""
    if PRECISE in model.metadata:
        return None
    copy = model.copy()
    copy.metadata[PRECISE] = "1"
    return copy


def _is_quantizer(node: gs.Node) -> bool:
    return is_op(node, "QuantizeLinear", domain=QUANTIZERS)


def _is_dequantizer(node: gs.Node) -> bool:
    return is_op(node, "DequantizeLinear", domain=QUANTIZERS)


def _is_dynamic(node: gs.Node) -> bool:
    return is_op(node, DYNAMIC_LSTM, domain=MICROSOFT)


def _plain_lstm(names: FreeNames, node: gs.Node) -> None:
    """Make ONNX's LSTM, with the weights that its integers stand for, of onnxruntime's."""
    inputs = list(node.inputs)
    for place, grid in ((1, 8), (2, 10)):
        stored = np.asarray(inputs[place].values, np.float32)  # (directions, inputs, rows)
        # Both are of a direction, or of each row of it.
        scale, zero = (
            np.asarray(each.values, np.float32).reshape(len(stored), 1, -1)
            for each in inputs[grid : grid + 2]
        )
        values = ((stored - zero) * scale).transpose(0, 2, 1)
        name = names.tensor(f"{inputs[place].name}/float")
        inputs[place] = gs.Constant(name, np.ascontiguousarray(values))
    node.inputs = inputs[:8]
    set_op(node, "LSTM")


def _maker(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None


def _dequantizer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the DequantizeLinear whose values a tensor holds, or None."""
    node = _maker(tensor)
    while node is not None and op_of(node) in _KEEPING:
        node = _maker(node.inputs[0])
    return node if node is not None and _is_dequantizer(node) else None


def _quantizer(tensor: gs.Tensor) -> gs.Node | None:
    node = _maker(tensor)
    return node if node is not None and _is_quantizer(node) else None


def _kind(quantizer: gs.Node) -> np.dtype[np.generic] | None:
    """Return the type of the integers that a QuantizeLinear makes."""
    if len(quantizer.inputs) > 2 and isinstance(quantizer.inputs[2], gs.Constant):
        return np.asarray(quantizer.inputs[2].values).dtype
    stored = quantizer.outputs[0].dtype
    return np.dtype(np.uint8) if stored is None else _numpy_type(stored)


def _zero_point(node: gs.Node) -> int | None:
    """Return the zero point of a QuantizeLinear or DequantizeLinear that has one."""
    if len(node.inputs) < 3:
        return 0
    if not isinstance(node.inputs[2], gs.Constant):
        return None
    values = np.unique(np.asarray(node.inputs[2].values))
    return int(values[0]) if values.size == 1 else None


def _before(graph: gs.Graph, names: FreeNames, tensor: gs.Tensor) -> gs.Tensor:
    """Return what an activation was before Q and DQ; itself where it is none.

    Where a DequantizeLinear has another scale than its QuantizeLinear it multiplies, and so does
    what is returned.
    """
    dequantizer = _maker(tensor)
    if dequantizer is None or not _is_dequantizer(dequantizer):
        return tensor
    quantizer = _quantizer(dequantizer.inputs[0])
    if quantizer is None or isinstance(quantizer.inputs[0], gs.Constant):
        return tensor
    source = quantizer.inputs[0]
    factor = _scale(dequantizer) / _scale(quantizer)
    if not np.isfinite(factor) or _zero_point(dequantizer) != _zero_point(quantizer):
        return tensor
    if factor == 1:
        return source
    product = gs.Variable(names.tensor(f"{tensor.name}/float"), np.float32, tensor.shape)
    scale = gs.Constant(names.tensor(f"{tensor.name}/factor"), np.array(factor, np.float32))
    graph.nodes.append(Node("Mul", names.node(product.name), {}, [source, scale], [product]))
    return product


def _scale(node: gs.Node) -> float:
    """Return the scale of a QuantizeLinear or DequantizeLinear; NaN where there is not one."""
    scale = node.inputs[1]
    single = isinstance(scale, gs.Constant) and np.size(scale.values) == 1
    return float(np.asarray(scale.values).item()) if single else float("nan")


def _bypass(graph: gs.Graph, names: FreeNames, dequantizer: gs.Node) -> None:
    target = dequantizer.outputs[0]
    readers = list(target.outputs)
    source = _before(graph, names, target) if readers else target
    if source is target:
        return
    for reader in readers:
        for index, tensor in enumerate(reader.inputs):
            if tensor is target:
                reader.inputs[index] = source


def _coarser(names: FreeNames, dequantizer: gs.Node, growth: Array) -> None:
    """Give the int32 bias of a DequantizeLinear scales that are ``growth`` times as large."""
    stored, scale = dequantizer.inputs[:2]
    if not isinstance(stored, gs.Constant) or not isinstance(scale, gs.Constant):
        return
    factors = np.asarray(scale.values)
    growth = np.resize(growth, factors.shape)  # of a transposed layer in groups they are repeated
    integers = _rounded(np.asarray(stored.values), growth, 0 if factors.size > 1 else None)
    dequantizer.inputs[0] = gs.Constant(names.tensor(stored.name), integers)
    dequantizer.inputs[1] = gs.Constant(
        names.tensor(scale.name), np.asarray(factors * growth, factors.dtype)
    )
