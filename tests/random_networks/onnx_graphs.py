"""Random ONNX graphs, with the patterns that frameworks' exports have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from onnxgraft.graph.model import Model, Origin, Source
from onnxgraft.graph.tensors import Array
from tests.random_networks.choices import Choices

__all__ = ["onnx_graph"]

Size = int | str
Shape = tuple[Size, ...]


@dataclass
class Builder:
    """A graph that grows node by node; every choice is drawn."""

    choices: Choices
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    tensors: list[tuple[str, Shape]] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        return self.choices.one_of(options)

    def constant(self, value: Array) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def normal(self, *shape: int) -> str:
        fan = max(int(np.prod(shape[1:])), 1)
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(make_node(op, list(inputs), [name], **attributes))
        return name

    def add(self, name: str, shape: Shape) -> None:
        self.tensors.append((name, shape))


Step = Callable[[Builder, str, Shape], None]


def is_image(shape: Shape) -> bool:
    return len(shape) == 4 and shape[0] == "N"


def sizes(shape: Shape) -> tuple[int, ...]:
    return tuple(size for size in shape if isinstance(size, int))


def conv(b: Builder, x: str, shape: Shape) -> None:
    if not is_image(shape):
        return
    channels, height, width = sizes(shape)
    group = b.pick(*(g for g in (1, 2, channels) if channels % g == 0))
    out = group * b.pick(1, 2)
    kernel = b.pick(1, 3)
    inputs = [x, b.normal(out, channels // group, kernel, kernel)]
    if b.pick(True, False):
        inputs.append(b.normal(out))
    pad = kernel // 2
    b.add(b.node("Conv", *inputs, group=group, pads=[pad] * 4), ("N", out, height, width))


def conv_transpose(b: Builder, x: str, shape: Shape) -> None:
    if not is_image(shape):
        return
    channels, height, width = sizes(shape)
    if max(height, width) > 8:
        return
    group = b.pick(*(g for g in (1, 2, channels) if channels % g == 0))
    each = b.pick(1, 2)
    inputs = [x, b.normal(channels, each, 2, 2)]
    if b.pick(True, False):
        inputs.append(b.normal(group * each))
    name = b.node("ConvTranspose", *inputs, group=group, strides=[2, 2])
    b.add(name, ("N", group * each, 2 * height, 2 * width))


def batch_norm(b: Builder, x: str, shape: Shape) -> None:
    if len(shape) < 2 or not isinstance(shape[1], int):
        return
    c = shape[1]
    parameters = [b.normal(c), b.normal(c), b.normal(c), b.positive(c)]
    b.add(b.node("BatchNormalization", x, *parameters), shape)


def arithmetic(b: Builder, x: str, shape: Shape) -> None:
    op = b.pick("Add", "Sub", "Mul", "Div")
    whole = tuple(1 if size == "N" else int(size) for size in shape)
    axis = b.pick(*range(len(shape)))
    form = b.pick("scalar", "one", "axis", "axis_short", "last", "whole")
    dims = {
        "scalar": (),
        "one": (1,),
        "axis": tuple(size if n == axis else 1 for n, size in enumerate(whole)),
        "axis_short": tuple(size if n == 0 else 1 for n, size in enumerate(whole[axis:])),
        "last": whole[-1:],
        "whole": whole,
    }[form]
    k = b.positive(*dims)
    # A constant over x would be as large as x comes close to 0.
    swapped = op != "Div" and b.pick(True, False)
    b.add(b.node(op, k, x) if swapped else b.node(op, x, k), shape)


def unary(b: Builder, x: str, shape: Shape) -> None:
    b.add(b.node(b.pick("Relu", "Neg", "Sigmoid", "Tanh", "Identity", "Dropout"), x), shape)


def transpose(b: Builder, x: str, shape: Shape) -> None:
    perm = b.choices.order(range(len(shape)))
    b.add(b.node("Transpose", x, perm=perm), tuple(shape[axis] for axis in perm))


def image_transpose(b: Builder, x: str, shape: Shape) -> None:
    """The two that frameworks put in, often enough to meet."""
    if len(shape) == 4:
        perm = b.pick([0, 2, 3, 1], [0, 3, 1, 2])
        b.add(b.node("Transpose", x, perm=perm), tuple(shape[axis] for axis in perm))


def max_pool(b: Builder, x: str, shape: Shape) -> None:
    if not is_image(shape):
        return
    channels, height, width = sizes(shape)
    if min(height, width) >= 2:
        name = b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        b.add(name, ("N", channels, height // 2, width // 2))


def join(b: Builder, x: str, shape: Shape) -> None:
    """Two tensors of the same shape, which may be the same tensor."""
    other = b.pick(*(name for name, size in b.tensors if size == shape))
    op = b.pick("Add", "Max", "Mul", "Concat", "Concat", "Where")
    if op == "Concat":
        axis = b.pick(*(n for n, size in enumerate(shape) if size != "N"))
        if shape[axis] > 12:
            return
        grown = tuple(2 * size if n == axis else size for n, size in enumerate(shape))
        b.add(b.node("Concat", x, other, axis=b.pick(axis, axis - len(shape))), grown)
    elif op == "Where":
        whole = tuple(1 if size == "N" else int(size) for size in shape)
        dims = b.pick((), (1,), whole)
        mask = b.pick(np.ones(dims, bool), np.zeros(dims, bool), b.rng.random(dims) > 0.5)
        b.add(b.node("Where", b.constant(np.asarray(mask)), x, other), shape)
    elif op == "Mul":  # bounded, or a chain of squares would run away
        b.add(b.node("Mul", b.node("Tanh", x), other), shape)
    else:
        b.add(b.node(op, x, other), shape)


def softmax(b: Builder, x: str, shape: Shape) -> None:
    axis = b.pick(*range(len(shape)))
    b.add(b.node("Softmax", x, axis=b.pick(axis, axis - len(shape))), shape)


def reduce_mean(b: Builder, x: str, shape: Shape) -> None:
    axes = sorted({b.pick(*(n for n, size in enumerate(shape) if size != "N")) for _ in "ab"})
    written = [b.pick(axis, axis - len(shape)) for axis in axes]
    reduced = tuple(1 if n in axes else size for n, size in enumerate(shape))
    b.add(b.node("ReduceMean", x, axes=written, keepdims=1), reduced)


def pad(b: Builder, x: str, shape: Shape) -> None:
    before = [0 if size == "N" else b.pick(0, 0, 1) for size in shape]
    after = [0 if size == "N" else b.pick(0, 0, 1) for size in shape]
    inputs = [x, b.integers(*before, *after)]
    if b.pick(True, False):
        inputs.append(b.constant(np.array(0.5, np.float32)))
    grown = tuple(
        size if isinstance(size, str) else size + low + high
        for size, low, high in zip(shape, before, after, strict=True)
    )
    b.add(b.node("Pad", *inputs), grown)


def shape_chain(b: Builder, x: str, shape: Shape) -> None:
    """Reshape by a computed target to (N, everything) and, at times, back."""
    if shape[0] != "N":
        return
    whole = b.node("Shape", x)
    batch = b.node("Slice", whole, b.integers(0), b.integers(1))
    features = int(np.prod(sizes(shape)))
    target = b.node("Concat", batch, b.integers(b.pick(features, -1)), axis=0)
    flat = b.node("Reshape", x, target)
    if b.pick(True, False):
        b.add(flat, ("N", features))
    else:
        b.add(b.node("Reshape", b.node("Relu", flat), whole), shape)


def softmax_chain(b: Builder, x: str, shape: Shape) -> None:
    """The softmax of a tensor of any rank, as TensorFlow writes it."""
    whole = b.node("Shape", x)
    rank = len(shape)
    last = b.node("Slice", whole, b.integers(rank - 1), b.integers(rank))
    rows = b.node("Reshape", x, b.node("Concat", b.integers(-1), last, axis=0))
    b.add(b.node("Reshape", b.node("Softmax", rows), whole), shape)


def dense(b: Builder, x: str, shape: Shape) -> None:
    if shape[0] != "N":
        return
    features = int(np.prod(sizes(shape)))
    if len(shape) > 2:
        if b.pick(True, False):
            x = b.node("Flatten", x, axis=1)
        else:
            target = b.pick([-1, features], [0, features], [0, -1])
            x = b.node("Reshape", x, b.integers(*target))
    out = b.pick(2, 3, 4)
    kind = b.pick("Gemm", "Gemm transB", "MatMul", "MatMul Add")
    if kind.startswith("Gemm"):
        turned = int(kind.endswith("transB"))
        w = b.normal(*((out, features) if turned else (features, out)))
        scale = {"alpha": 0.5, "beta": 2.0} if b.pick(True, False) else {}
        bias = [b.normal(*b.pick((out,), (1, out), (1,)))] if b.pick(True, False) else []
        name = b.node("Gemm", x, w, *bias, transB=turned, **scale)
    else:
        name = b.node("MatMul", x, b.normal(features, out))
        if kind.endswith("Add"):
            name = b.node("Add", *b.choices.order([name, b.normal(out)]))
    b.add(name, ("N", out))


def sandwich(b: Builder, x: str, shape: Shape) -> None:
    """Some nodes in another layout, and back again: what frameworks leave behind."""
    if len(shape) != 4:
        return
    perm = b.pick([0, 2, 3, 1], [0, 3, 1, 2], [0, 3, 2, 1], [1, 0, 2, 3])
    b.add(b.node("Transpose", x, perm=perm), tuple(shape[axis] for axis in perm))
    for _ in range(b.pick(1, 2, 3)):
        name, size = b.tensors[-1]
        b.pick(unary, arithmetic, join, softmax, reduce_mean, pad, squeeze_excite, slice_and_split)(
            b, name, size
        )
    name, size = b.tensors[-1]
    back = [perm.index(axis) for axis in range(4)]
    b.add(b.node("Transpose", name, perm=back), tuple(size[axis] for axis in back))


def squeeze_excite(b: Builder, x: str, shape: Shape) -> None:
    """A gate of one number a channel, by way of two dense layers, in either layout."""
    if len(shape) != 4 or shape[0] != "N" or not all(isinstance(size, int) for size in shape[1:]):
        return
    axis = b.pick(1, 3)
    channels = sizes(shape)[axis - 1]
    means = b.node("ReduceMean", x, axes=[n for n in (1, 2, 3) if n != axis], keepdims=0)
    gate = b.node("MatMul", means, b.normal(channels, channels))
    gate = b.node("Sigmoid", b.node("Add", gate, b.normal(channels)))
    if b.pick(True, False):
        dims = [-1, 1, 1, 1]
        dims[axis] = channels
        gate = b.node("Reshape", gate, b.integers(*dims))
    else:
        gate = b.node("Unsqueeze", gate, b.integers(*(n for n in (1, 2, 3) if n != axis)))
    b.add(b.node("Mul", x, gate), shape)


def slice_and_split(b: Builder, x: str, shape: Shape) -> None:
    """Take parts along an axis and put them together in another order."""
    axes = [n for n, size in enumerate(shape) if size != "N" and size % 2 == 0]
    if not axes:
        return
    axis = b.pick(*axes)
    half = int(shape[axis]) // 2
    kind = b.pick("split", "slice", "gather")
    if kind == "split":
        names = [f"t{len(b.nodes)}", f"t{len(b.nodes)}_b"]
        b.nodes.append(make_node("Split", [x], names, axis=axis))
    elif kind == "slice":
        names = [
            b.node("Slice", x, b.integers(low), b.integers(high), b.integers(axis))
            for low, high in ((0, half), (half, b.pick(2 * half, (1 << 63) - 1)))
        ]
    else:
        names = [
            b.node("Gather", x, b.integers(*range(low, low + half)), axis=axis) for low in (0, half)
        ]
    b.add(b.node("Concat", *reversed(names), axis=axis), shape)


def view(b: Builder, x: str, shape: Shape) -> None:
    """Join the axes of the image, or put an axis in, and at times go back."""
    if len(shape) != 4 or shape[0] != "N":
        return
    first, second, third = sizes(shape)
    kind = b.pick("join", "join_first", "unsqueeze", "back", "split")
    if kind == "join":
        name = b.node("Reshape", x, b.integers(b.pick(0, -1), first, second * third))
        b.add(name, ("N", first, second * third))
    elif kind == "join_first":
        name = b.node("Reshape", x, b.integers(0, first * second, third))
        b.add(name, ("N", first * second, third))
    elif kind == "unsqueeze":
        name = b.node("Unsqueeze", x, b.integers(2))
        b.add(b.node("Squeeze", b.node("Tanh", name), b.integers(2)), shape)
    elif kind == "back":
        rows = b.node("Relu", b.node("Reshape", x, b.integers(-1, third)))
        b.add(b.node("Reshape", rows, b.integers(-1, first, second, third)), shape)
    else:
        wide = b.node("Reshape", x, b.integers(0, first, 1, second, third))
        b.add(b.node("Reshape", wide, b.integers(0, first, second, third)), shape)


def dense_on_rows(b: Builder, x: str, shape: Shape) -> None:
    """A dense layer along the last axis, on rows or as it is."""
    if len(shape) < 3 or not isinstance(shape[-1], int):
        return
    features, out = shape[-1], b.pick(2, 4)
    if b.pick(True, False):
        name = b.node("MatMul", x, b.normal(features, out))
        name = b.node("Add", name, b.normal(out)) if b.pick(True, False) else name
    else:
        rows = b.node("Reshape", x, b.integers(-1, features))
        kind = b.pick("Gemm", "MatMul")
        bias = [b.normal(out)] if kind == "Gemm" else []
        dense = b.node(kind, rows, b.normal(features, out), *bias)
        target = [-1 if size == "N" else int(size) for size in (*shape[:-1], out)]
        name = b.node("Reshape", dense, b.integers(*target))
    b.add(name, (*shape[:-1], out))


def pad_and_pool(b: Builder, x: str, shape: Shape) -> None:
    """A Pad before a layer that could pad for itself, and at times must not."""
    if not is_image(shape):
        return
    channels, height, width = sizes(shape)
    kind = b.pick("Conv", "MaxPool", "AveragePool")
    if b.pick(True, False):
        x = b.node("Relu", x)
    low, high = b.pick(0, 1), b.pick(0, 1, 2)
    value = b.pick([], [0.0], [0.5], [float(np.finfo(np.float32).min)] if kind == "MaxPool" else [])
    fill = [b.constant(np.array(number, np.float32)) for number in value]
    padded = b.node("Pad", x, b.integers(0, 0, low, low, 0, 0, high, high), *fill)
    if kind == "Conv":
        name = b.node("Conv", padded, b.normal(2, channels, 3, 3), pads=b.pick([0] * 4, [1] * 4))
        own = 2 if b.nodes[-1].attribute[0].ints[0] else 0
        out = 2
    else:
        more = {"count_include_pad": b.pick(0, 1)} if kind == "AveragePool" else {}
        # The lowest value must not reach the output: what comes after would overflow.
        own = 0 if value and value[0] < 0 else b.pick(0, 2)
        name = b.node(kind, padded, kernel_shape=[3, 3], pads=[own // 2] * 4, **more)
        out = channels
    grown = low + high + own - 2
    if min(height, width) + grown < 1:
        b.nodes.pop()
        return
    b.add(name, ("N", out, height + grown, width + grown))


def twice(b: Builder, x: str, shape: Shape) -> None:
    """The same computed twice."""
    k = np.asarray(b.rng.uniform(0.5, 1.5, (1,)), np.float32)
    pair = [b.node("Tanh", b.node("Mul", x, b.constant(k))) for _ in "ab"]
    b.add(b.node("Add", *pair), shape)


def casts(b: Builder, x: str, shape: Shape) -> None:
    wide = b.node("Cast", x, to=onnx.TensorProto.DOUBLE)
    b.add(b.node("Cast", wide, to=onnx.TensorProto.FLOAT), shape)


STEPS: tuple[Step, ...] = (
    conv, conv, conv, conv_transpose, batch_norm, batch_norm, arithmetic, arithmetic, arithmetic,
    unary, unary, transpose, image_transpose, image_transpose, image_transpose, max_pool, join,
    join, softmax, reduce_mean, pad, shape_chain, softmax_chain, dense, sandwich, sandwich,
    squeeze_excite,
    slice_and_split, view, dense_on_rows, pad_and_pool, twice, casts,
)  # fmt: skip


def onnx_graph(choices: Choices) -> Model:
    """Return a graph of one input (N, C, H, W) and one to three outputs."""
    one_of = choices.one_of
    b = Builder(choices, np.random.default_rng(one_of(range(10))))
    first: Shape = ("N", one_of([2, 4]), 3, 5)
    b.add(b.node("Relu" if one_of([False, True]) else "Neg", "x"), first)
    for _ in range(one_of(range(2, 10))):
        # Mostly on from the last tensor, at times from an earlier one: a branch.
        name, shape = b.tensors[-1] if one_of(range(4)) else b.pick(*b.tensors)
        b.pick(*STEPS)(b, name, shape)
    outputs = [b.tensors[-1]]
    for _ in range(one_of(range(3))):
        extra = one_of(b.tensors)
        if extra not in outputs:
            outputs.append(extra)
    kind = onnx.TensorProto.FLOAT
    graph = make_graph(
        b.nodes, "random", [make_tensor_value_info("x", kind, first)],
        [make_tensor_value_info(name, kind, shape) for name, shape in outputs], b.constants,
    )  # fmt: skip
    proto = make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    model = Model.from_onnx(proto, Source("random.onnx", "onnx", "0" * 64))
    model.names = {name: Origin(name) for name, _ in b.tensors}
    return model
