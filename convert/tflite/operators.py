"""What this package puts into a TFLite model for itself, written as ONNX.

`preparing` leaves these operators, as custom ones, where TFLite has none that tf2onnx lowers right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tflite.lstm_steps import write_steps

__all__ = ["OWN", "own_handlers"]

_FLOAT = TensorProto.FLOAT


class _Writer:
    """Adds nodes and constants to a graph of tf2onnx, in the place of a node."""

    def __init__(self, ctx: Any, node: Any) -> None:
        self.ctx = ctx
        self.name = node.name
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.attributes = {key: node.get_attr_value(key) for key in node.attr}
        self._kinds = [(ctx.get_shape(name), ctx.get_dtype(name)) for name in node.output]
        ctx.remove_node(node.name)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        node = self.ctx.make_node(
            kind, list(inputs), attr=attributes, output_count=count, op_name_scope=self.name
        )
        return [str(name) for name in node.output]

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        from tf2onnx import utils

        return str(
            self.ctx.make_const(utils.make_name(self.name), np.array(value, dtype)).output[0]
        )

    def whole(self, *values: int) -> str:
        return self.const(values, np.int64)

    def finish(self, *results: str) -> None:
        """Let the results have the names of the node's outputs."""
        for result, output, (shape, dtype) in zip(results, self.outputs, self._kinds, strict=True):
            self.ctx.make_node(
                "Identity", [result], outputs=[output], shapes=[shape], dtypes=[dtype],
                op_name_scope=self.name,
            )  # fmt: skip


def _copy(w: _Writer) -> None:
    w.finish(w.inputs[0])


def _clip(w: _Writer) -> None:
    w.finish(w.op("Clip", w.inputs[0], w.const(w.attributes["low"]), w.const(w.attributes["high"])))


def _rounding(w: _Writer) -> None:
    """Write what TensorFlow's hybrid kernels do to activations, per image or row.

    Symmetric: q = round(127 x / max abs(x)). Else 0 is a whole number of steps of
    (max - min) / 255 from the least value.
    """
    depth = int(w.attributes["depth"])
    rows = w.op("Reshape", w.inputs[0], w.whole(-1, depth) if depth else w.whole(0, -1))
    zero, one = w.const(0), w.const(1)
    if w.attributes["symmetric"]:
        top = w.op("ReduceMax", w.op("Abs", rows), axes=[1], keepdims=1)
        scale = w.op("Div", top, w.const(127))
        scale = w.op("Where", w.op("Equal", scale, zero), one, scale)
        steps = w.op("Clip", w.op("Round", w.op("Div", rows, scale)), w.const(-127), w.const(127))
    else:
        low = w.op("Min", w.op("ReduceMin", rows, axes=[1], keepdims=1), zero)
        high = w.op("Max", w.op("ReduceMax", rows, axes=[1], keepdims=1), zero)
        scale = w.op("Div", w.op("Sub", high, low), w.const(255))
        scale = w.op("Where", w.op("Equal", scale, zero), one, scale)
        below, above = w.op("Div", low, scale), w.op("Div", high, scale)
        from_low, from_high = w.op("Sub", w.const(-128), below), w.op("Sub", w.const(127), above)
        nearer = w.op(
            "Less", w.op("Add", w.const(128), w.op("Abs", below)),
            w.op("Add", w.const(127), w.op("Abs", above)),
        )  # fmt: skip
        offset = w.op("Round", w.op("Where", nearer, from_low, from_high))
        offset = w.op("Clip", offset, w.const(-128), w.const(127))
        stored = w.op("Add", w.op("Round", w.op("Div", rows, scale)), offset)
        steps = w.op("Sub", w.op("Clip", stored, w.const(-128), w.const(127)), offset)
    w.finish(w.op("Reshape", w.op("Mul", steps, scale), w.op("Shape", w.inputs[0])))


def _steps(w: _Writer) -> None:
    """Write the rounding of a 16-bit tensor to its steps."""
    scale = w.const(w.attributes["scale"])
    low, high = w.const(-32768), w.const(32767)
    w.finish(
        w.op("Mul", w.op("Clip", w.op("Round", w.op("Div", w.inputs[0], scale)), low, high), scale)
    )


def _rfft2d(w: _Writer) -> None:
    """Write the transform of the two last axes as products with cosines and sines."""
    length = w.attributes["length"]
    rows, columns = int(length[0]), int(length[1])
    source = w.inputs[0]
    for axis, size in ((-2, rows), (-1, columns)):
        source = _fitted(w, source, axis, size)
    real, imaginary = _waves(columns, columns // 2 + 1)
    parts = [w.op("MatMul", source, w.const(real)), w.op("MatMul", source, w.const(imaginary))]
    if rows > 1:
        real, imaginary = _waves(rows, rows)
        left = [w.const(real), w.const(imaginary)]
        products = {(i, j): w.op("MatMul", left[i], parts[j]) for i in (0, 1) for j in (0, 1)}
        parts = [
            w.op("Sub", products[0, 0], products[1, 1]), w.op("Add", products[0, 1], products[1, 0])
        ]  # fmt: skip
    w.finish(*parts)


def _fitted(w: _Writer, source: str, axis: int, size: int) -> str:
    """Return a tensor cut, or filled with zeros, to a size along an axis."""
    shape = w.ctx.get_shape(source)
    if shape is not None and shape[axis] == size:
        return source
    rank = len(shape)
    zeros = [0] * rank
    zeros[axis] = size
    filled = w.op("Pad", source, w.whole(*[0] * rank, *zeros))
    cut = w.op("Slice", filled, w.whole(0), w.whole(size), w.whole(axis))
    fitted = list(shape)
    fitted[axis] = size
    w.ctx.set_shape(cut, fitted)
    return cut


def _waves(size: int, count: int) -> tuple[Array, Array]:
    """Return the real and imaginary part of exp(-2 pi i k n / size), (size, count)."""
    turns = np.outer(np.arange(size), np.arange(count)) % size / size
    return np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)


def _sequence(w: _Writer) -> None:
    """Write a whole sequence of recurrent steps that begins with zeros."""
    source, *weights = w.inputs
    major = bool(w.attributes["time_major"])
    if not major:
        source = w.op("Transpose", source, perm=[1, 0, 2])
    kind = w.attributes["kind"].decode()
    attributes: dict[str, Any] = {"hidden_size": int(w.attributes["hidden"])}
    if kind == "RNN":
        attributes["activations"] = [w.attributes["activation"].decode()]
    made = w.op("Squeeze", w.op(kind, source, *weights, **attributes), w.whole(1))
    w.finish(made if major else w.op("Transpose", made, perm=[1, 0, 2]))


def _lstm_steps(w: _Writer) -> None:
    """Write an LSTM that does more than ONNX's."""
    source, *constants = w.inputs
    held = [w.ctx.get_node_by_output(name).get_tensor_value(as_list=False) for name in constants]
    options = {
        key: value.decode() if isinstance(value, bytes) else value
        for key, value in w.attributes.items()
    }
    major = bool(options["time_major"])
    source = source if major else w.op("Transpose", source, perm=[1, 0, 2])
    parts = dict(zip(options["parts"].split(), held, strict=True))
    made = write_steps(w.ctx, w, source, parts, options)
    w.finish(made if major else w.op("Transpose", made, perm=[1, 0, 2]))


def _detection(w: _Writer) -> None:
    """Write TFLite_Detection_PostProcess: boxes of anchors, and the best of them.

    Its fast form takes the best class of each box and suppresses across classes, the regular one
    within each class. What is not found is 0.
    """
    encoded, scores, anchors = w.inputs
    most, classes = int(w.attributes["max_detections"]), int(w.attributes["num_classes"])
    boxes = _decoded(w, encoded, anchors)
    scores = w.op(
        "Slice", scores, w.whole(-classes), w.whole(np.iinfo(np.int64).max), w.whole(2)
    )  # without a class of the background before them
    regular = bool(w.attributes.get("use_regular_nms", 0))
    each = int(w.attributes.get("detections_per_class", 100)) if regular else most
    # ONNX wants more than the threshold, TFLite as much.
    least = np.nextafter(np.float32(w.attributes["nms_score_threshold"]), np.float32(-np.inf))
    by_class = w.op("Transpose", scores, perm=[0, 2, 1])
    best = by_class if regular else w.op("ReduceMax", by_class, axes=[1], keepdims=1)
    found = w.op(
        "NonMaxSuppression", boxes, best, w.const(each, np.int64),
        w.const(w.attributes["nms_iou_threshold"]), w.const(least),
    )  # fmt: skip
    box = w.op("Gather", found, w.const(2, np.int64), axis=1)
    # (boxes, classes)
    table = w.op("Squeeze", scores, w.whole(0))
    if regular:
        kind = w.op("Gather", found, w.const(1, np.int64), axis=1)
        pairs = w.op("Concat", w.op("Unsqueeze", box, w.whole(1)),
                     w.op("Unsqueeze", kind, w.whole(1)), axis=1)  # fmt: skip
        value = w.op("GatherND", table, pairs)
    else:
        rows = w.op("Gather", table, box, axis=0)
        kind = w.op("ArgMax", rows, axis=1, keepdims=0)
        value = w.op("ReduceMax", rows, axes=[1], keepdims=0)
    count = w.op("Shape", box)
    place = w.op("Gather", w.op("Squeeze", boxes, w.whole(0)), box, axis=0)
    columns = [place, w.op("Cast", kind, to=_FLOAT), value]
    nothing = [np.zeros((most, 4)), np.zeros(most), np.full(most, -np.inf if regular else 0.0)]
    columns = [
        w.op("Concat", column, w.const(rest), axis=0)
        for column, rest in zip(columns, nothing, strict=True)
    ]
    if regular:
        top, order = w.ops("TopK", [columns[2], w.whole(most)], 2)
        none = w.op("IsInf", top)
        columns = [w.op("Gather", column, order, axis=0) for column in columns[:2]]
        columns.append(w.op("Where", none, w.const(0), top))
        count = w.op("Min", count, w.whole(most))
    else:
        columns = [
            w.op("Slice", column, w.whole(0), w.whole(most), w.whole(0)) for column in columns
        ]
    columns = [w.op("Unsqueeze", column, w.whole(0)) for column in columns]
    w.finish(*columns, w.op("Cast", count, to=_FLOAT))


def _decoded(w: _Writer, encoded: str, anchors: str) -> str:
    """Return boxes (1, boxes, 4) as y, x of two corners, of offsets and sizes against anchors."""
    end = np.iinfo(np.int64).max
    scales = [w.attributes[f"{name}_scale"] for name in "yxhw"]
    scaled = w.op("Div", encoded, w.const(scales))

    def half(tensor: str, begin: int, axis: int) -> str:
        stop = 2 if begin == 0 else end
        return w.op("Slice", tensor, w.whole(begin), w.whole(stop), w.whole(axis))

    middle, size = half(anchors, 0, 1), half(anchors, 2, 1)
    centre = w.op("Add", w.op("Mul", half(scaled, 0, 2), size), middle)
    reach = w.op("Mul", w.op("Mul", w.op("Exp", half(scaled, 2, 2)), size), w.const(0.5))
    return w.op("Concat", w.op("Sub", centre, reach), w.op("Add", centre, reach), axis=2)


# The operators, and how each is written.
OWN: dict[str, Callable[[_Writer], None]] = {
    "GRAFT_CLIP": _clip,
    "GRAFT_COPY": _copy,
    "GRAFT_DETECTION": _detection,
    "GRAFT_LSTM_STEPS": _lstm_steps,
    "GRAFT_RFFT2D": _rfft2d,
    "GRAFT_ROUNDING": _rounding,
    "GRAFT_SEQUENCE": _sequence,
    "GRAFT_STEPS": _steps,
}


def own_handlers() -> dict[str, tuple[Any, list[Any]]]:
    """Return the handlers in the form that tf2onnx takes."""

    def handler(write: Callable[[_Writer], None]) -> Any:
        return lambda ctx, node, name, args: write(_Writer(ctx, node))

    return {f"TFL_{name}": (handler(write), []) for name, write in OWN.items()}
