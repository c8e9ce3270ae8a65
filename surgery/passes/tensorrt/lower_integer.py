"""For TensorRT: write products of integers, and what quantizes for them, as float ones.

Given:  MatMulInteger(a, b, az, bz)       Result: Cast(MatMul(a - az, b - bz), int32)
Given:  ConvInteger(x, w, xz, wz)         Result: Cast(Conv(x - xz, w - wz), int32)
Given:  y, s, z = DynamicQuantizeLinear(x)
Result: r = max(0, max(x)) - min(0, min(x)),  s = r / 255, or 1 where r is 0
        z = clip(round(-min(0, min(x)) / s), 0, 255),  y = clip(round(x / s) + z, 0, 255)

TensorRT has none of the three. The factors are whole numbers up to 255, which even TF32 holds
exactly; sums above 2^24 are rounded as float32 rounds. Where a product or a
DequantizeLinear reads what was quantized dynamically it reads the whole numbers as floats: y and z
as uint8, which TensorRT takes as inputs of a network only, are made for others.
https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import is_op, nodes_of, op_of
from onnxgraft.stages.surgery.passes.tensorrt._build import Builder
from onnxgraft.stages.surgery.running.rewrite import Context, Result, constant

_OPERATORS = "DynamicQuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger"
# onnx.TensorProto's numbers of the types.
_FLOAT, _UINT8, _INT32 = 1, 2, 6


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rewrite the products of integers and the quantizers before them."""
    result = Result()
    floats: dict[int, gs.Tensor] = {}
    for node in nodes_of(graph, *_OPERATORS):
        if is_op(node, "DynamicQuantizeLinear"):
            _quantize(Builder(context, node), floats)
            result.did(node, "written with Round and Clip")
        elif is_op(node, "DequantizeLinear") and id(node.inputs[0]) in floats:
            _dequantize(Builder(context, node), floats)
            result.did(node, "reads the whole numbers as floats")
        elif not is_op(node, "DequantizeLinear"):
            reason = _unknown(node, context)
            if reason is None:
                _multiply(op_of(node).removesuffix("Integer"), Builder(context, node), floats)
                result.did(node, "a float product, cast to int32")
            else:
                result.refuse(node, f"TensorRT has no {op_of(node)}, and {reason}")
    return result


def _unknown(node: gs.Node, context: Context) -> str | None:
    """Return why the zero points can't be subtracted from the inputs as they are."""
    for index, tensor in enumerate(node.inputs[2:4]):
        shape = context.shapes.shape(tensor) if tensor.name else ()
        if shape is None:
            return "the shape of a zero point is not known"
        # Of a matrix product, those of the second factor's columns need no other shape.
        columns = is_op(node, "MatMulInteger") and index == 1 and len(shape) == 1
        if any(dim.number != 1 or not dim.fixed for dim in shape) and not columns:
            return "it has zero points of their own for rows"
    return None


def _multiply(op: str, build: Builder, floats: dict[int, gs.Tensor]) -> None:
    zeros = [*build.inputs[2:4], gs.Variable.empty(), gs.Variable.empty()]
    factors = [
        _factor(build, tensor, zero, floats)
        for tensor, zero in zip(build.inputs[:2], zeros[:2], strict=True)
    ]
    product = build.add(op, *factors, dtype=np.float32, **build.attrs)
    build.add("Cast", product, output=build.outputs[0], to=_INT32)


def _factor(
    build: Builder, tensor: gs.Tensor, zero: gs.Tensor, floats: dict[int, gs.Tensor]
) -> gs.Tensor:
    """Return a factor as float numbers, less its zero point."""
    whole = _as_float(build, tensor, floats)
    offset = constant(zero)
    if not zero.name or (offset is not None and not offset.any()):
        return whole
    return build.add("Sub", whole, _as_float(build, zero, floats))


def _dequantize(build: Builder, floats: dict[int, gs.Tensor]) -> None:
    quantized, scale, *zero = build.inputs
    whole = _factor(build, quantized, (*zero, gs.Variable.empty())[0], floats)
    build.add("Mul", whole, scale, output=build.outputs[0])


def _as_float(build: Builder, tensor: gs.Tensor, floats: dict[int, gs.Tensor]) -> gs.Tensor:
    known = floats.get(id(tensor))
    return known or build.add("Cast", tensor, dtype=np.float32, to=_FLOAT)


def _quantize(build: Builder, floats: dict[int, gs.Tensor]) -> None:
    (x,) = build.inputs
    quantized, scale, zero = (*build.outputs, *[gs.Variable.empty()] * 2)[:3]
    nought, one, most = (build.constant(w, np.array(v, np.float32))
                         for w, v in (("nought", 0), ("one", 1), ("most", 255)))  # fmt: skip
    low = build.add("Min", build.add("ReduceMin", x, keepdims=0), nought)
    high = build.add("Max", build.add("ReduceMax", x, keepdims=0), nought)
    span = build.add("Sub", high, low)
    flat = build.add("Equal", span, nought, dtype=np.bool_)
    step = build.add("Where", flat, one, build.add("Div", span, most), dtype=np.float32,
                     output=scale if scale.name else None)  # fmt: skip
    shift = build.add("Clip", build.add("Neg", build.add("Div", low, step)), nought, most)
    shift = build.add("Round", shift)
    whole = build.add("Add", build.add("Round", build.add("Div", x, step)), shift)
    whole = build.add("Clip", whole, nought, most)
    for tensor, number in ((quantized, whole), (zero, shift)):
        if tensor.name:
            build.add("Cast", number, output=tensor, to=_UINT8)
            floats[id(tensor)] = number
