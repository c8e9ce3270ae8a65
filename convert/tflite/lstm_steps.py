"""TFLite's LSTM where it does more than ONNX's: a Scan over the steps, beginning with zeros.

What a step computes stands in tensorflow/lite/kernels/lstm_eval.cc; * is by element:

    i, f, g, o = W x + R h + P * c          P for i and f, and for o with the new c
    each of them = N * norm(it)             (with layer normalization)
    each of them += B
    i = sigmoid(i), or 1 - f without weights for i
    c = clip(sigmoid(f) * c + i * act(g))
    h = sigmoid(o) * act(c)
    h = clip(projection h + its bias)       (with a projection)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import TensorProto

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.lower.writing import Value, Writer

__all__ = ["GATES", "write_steps"]

# In the order in which their weights stand below each other.
GATES = "ifgo"
_FLOAT = TensorProto.FLOAT
# kNormalizationConstant of tensorflow/lite/kernels/internal/reference/portable_tensor_utils.cc.
_EPSILON = 1e-8


def write_steps(
    ctx: Any, node: Any, source: str, parts: Mapping[str, Array], options: Mapping[str, Any]
) -> str:
    """Write the steps into a graph of tf2onnx; return the outputs (steps, batch, units).

    Args:
        ctx: The graph.
        node: Its name is the scope of what is written.
        source: What goes in, (steps, batch, features).
        parts: The constants: ``W``, ``R`` and ``B`` of the gates below each other, ``P`` with a row
            for each gate that has one, ``N``, ``projection`` and ``projection_bias``.
        options: ``gates`` that there are, ``peepholes`` in the order of the rows of ``P``,
            ``activation``, ``cell_clip`` and ``projection_clip``.
    """
    w = Writer(ctx, node)
    x = w.value(source)
    units, hidden = parts["R"].shape[1], parts["W"].shape[0] // len(options["gates"])
    given = w.op("MatMul", x, w.const(parts["W"].T, _FLOAT))
    if "N" not in parts:  # which comes before the bias
        given = given + w.const(parts["B"], _FLOAT)
    batch = w.op("Gather", x.shape(), w.longs(1))
    first = [
        w.op(
            "Expand", w.const(0, _FLOAT), w.op("Concat", batch, w.longs(size), axis=0), dtype=_FLOAT
        )
        for size in (units, hidden)
    ]
    body = ctx.create_new_graph_with_same_config()
    body.parent_graph = ctx
    step = Writer(body, node)

    def entry(name: str, size: int) -> Value:
        body.add_graph_input(f"{node.name}/{name}", _FLOAT, [-1, size])
        return step.value(f"{node.name}/{name}")

    h, c, own = entry("h", units), entry("c", hidden), entry("given", parts["W"].shape[0])
    h, c = _step(step, h, c, own, parts, options)
    for value, size in ((h, units), (c, hidden), (h, units)):
        made = step.op("Identity", value)
        body.add_graph_output(made.name, _FLOAT, [-1, size])
    scan = ctx.make_node(
        "Scan", [value.name for value in (*first, given)], attr={"num_scan_inputs": 1},
        output_count=3, op_name_scope=node.name, branches={"body": body},
        shapes=[[-1, units], [-1, hidden], [-1, -1, units]], dtypes=[_FLOAT] * 3,
    )  # fmt: skip
    return str(scan.output[2])


def _step(
    w: Writer, h: Value, c: Value, given: Value, parts: Mapping[str, Array],
    options: Mapping[str, Any],
) -> tuple[Value, Value]:  # fmt: skip
    """Write one step; return what goes out, and the cell."""
    hidden = parts["W"].shape[0] // len(options["gates"])
    total = given + w.op("MatMul", h, w.const(parts["R"].T, _FLOAT))

    def gate(name: str, cell: Value) -> Value:
        row = options["gates"].index(name)
        own = slice(row * hidden, (row + 1) * hidden)
        value = w.op("Slice", total, w.longs(own.start), w.longs(own.stop), w.longs(1))
        if name in options["peepholes"]:
            value = value + cell * w.const(parts["P"][options["peepholes"].index(name)], _FLOAT)
        if "N" in parts:
            value = _normalized(w, value) * w.const(parts["N"][own], _FLOAT)
            value = value + w.const(parts["B"][own], _FLOAT)
        return value

    def act(value: Value) -> Value:
        return w.op(options["activation"], value)

    def clipped(value: Value, limit: float) -> Value:
        return w.op("Clip", value, -limit, limit) if limit > 0 else value

    forget = w.op("Sigmoid", gate("f", c))
    fresh = (
        w.op("Sigmoid", gate("i", c)) if "i" in options["gates"] else w.const(1, _FLOAT) - forget
    )
    cell = clipped(forget * c + fresh * act(gate("g", c)), options["cell_clip"])
    out = w.op("Sigmoid", gate("o", cell)) * act(cell)
    if "projection" in parts:
        out = w.op("MatMul", out, w.const(parts["projection"].T, _FLOAT))
        if "projection_bias" in parts:
            out = out + w.const(parts["projection_bias"], _FLOAT)
        out = clipped(out, options["projection_clip"])
    return out, cell


def _normalized(w: Writer, value: Value) -> Value:
    """Write (x - mean) / sqrt(variance + epsilon) of each row."""
    apart = value - w.reduce("ReduceMean", value, 1)
    variance = w.reduce("ReduceMean", apart * apart, 1)
    return apart / w.op("Sqrt", variance + _EPSILON)
