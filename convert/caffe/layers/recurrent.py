"""LSTM and RNN over (T, N, ...) sequences, as an ONNX Scan.

LSTM:  [i f o g] = W_xc x + b_c (+ W_xc_static x_static) + W_hc (cont h)
       c = cont sigmoid(f) c + sigmoid(i) tanh(g)        h = sigmoid(o) tanh(c)
RNN:   h = tanh(W_xh x + b_h (+ W_xh_static x_static) + W_hh (cont h))     o = tanh(W_ho h + b_o)

``cont`` is 0 where a sequence begins, which ONNX's own LSTM has no input for.

Source: Caffe's lstm_layer.cpp, lstm_unit_layer.cpp, rnn_layer.cpp; junhyukoh/caffe-lstm's
lstm_layer.cpp, as CTPN has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.caffe.layers.emitter import (
    FREE,
    BatchIsFixed,
    Blob,
    Emitter,
    count,
)
from onnxgraft.stages.convert.caffe.reading.net import Layer

__all__ = ["lstm", "lstm_of_sequences", "rnn"]


def lstm(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert LSTM."""
    size, static, states = _inputs(layer, bottoms, 2, out)
    x, cont = bottoms[:2]
    gates = _input_gates(x, static, 4 * size, out)
    recurrent = out.weight(2 + (static is not None), (4 * size, size))
    finals, series = _lstm_steps(gates, cont, recurrent, states, out)
    batch = x.shape[1]
    return [series, *(out.reshape(final, (1, batch, size)) for final in finals)][: len(layer.tops)]


def lstm_of_sequences(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert junhyukoh's Lstm, of CTPN and CRNN.

    Its blobs are W_i, W_h and b; x is (T, N, I), or (T N, I) with the batch_size N. All sequences
    begin at the first step, or where the second bottom, the clip of one stream, is 0.
    """
    x = bottoms[0]
    settings = layer.parameter("lstm_param")
    size = settings.integer("num_output")
    out.check(size >= 1 and x.rank in (2, 3), f"num_output {size} of {x.shape} is impossible")
    source = x
    if x.rank == 2:
        streams = settings.integer("batch_size", 1)
        if x.shape[0] == FREE:
            raise BatchIsFixed
        out.check(streams >= 1 and x.shape[0] % streams == 0, f"{x.shape[0]} rows in {streams}")
        source = out.reshape(x, (x.shape[0] // streams, streams, x.shape[1]))
    steps, streams, features = source.shape
    # Older files have the gates as an axis of their own.
    axes = (4, size) if layer.blobs and layer.blobs[0].ndim == 4 else (4 * size,)
    weight = out.weight(0, (*axes, features), "weight_filler")
    recurrent = out.weight(1, (*axes, size), "weight_filler")
    shift = out.weight(2, axes, "bias_filler", what="biases")
    if len(bottoms) > 1:
        if FREE in (steps, *bottoms[1].shape):
            raise BatchIsFixed
        if streams != 1 or count(bottoms[1].shape) != steps:
            raise out.refuse(f"a clip of {bottoms[1].shape} is converted for one stream only")
        clip = out.reshape(bottoms[1], (steps, 1))
        goes_on = out.op("Cast", [clip], (steps, 1), {"to": 9}, dtype=np.bool_)
        cont = out.op("Cast", [goes_on], (steps, 1), {"to": 1})
        matrix = weight.reshape(4 * size, features).T
        gates = out.binary(
            "Add", out.op("MatMul", [source, matrix], (steps, 1, 4 * size)), shift.ravel()
        )
        _, series = _lstm_steps(gates, cont, recurrent.reshape(4 * size, size), [], out)
        return [out.reshape(series, (*x.shape[:-1], size))]
    # Of Caffe's gates i, f, o, g; ONNX has i, o, f, c.
    order = [0, 2, 1, 3]
    w, r, b = (
        value.reshape(4, size, -1)[order].reshape(1, 4 * size, -1)
        for value in (weight, recurrent, shift)
    )
    both = np.concatenate([b, np.zeros_like(b)], axis=1)[..., 0]
    shape = (steps, streams, size)
    y = out.op("LSTM", [source, w, r, both], (steps, 1, streams, size), {"hidden_size": size})
    y = out.op("Squeeze", [y, np.array([1], np.int64)], shape)
    return [out.reshape(y, (x.shape[0], size)) if x.rank == 2 else y]


def rnn(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert RNN."""
    size, static, states = _inputs(layer, bottoms, 1, out)
    x, cont = bottoms[:2]
    gates = _input_gates(x, static, size, out)
    after = 2 + (static is not None)
    recurrent = out.weight(after, (size, size))
    readout, shift = out.weight(after + 1, (size, size)), out.weight(after + 2, (size,))
    batch = x.shape[1]
    body = _Body(out.names)
    h, xw, alive = (body.input(n, s) for n, s in (
        ("h", (batch, size)), ("xw", (batch, size)), ("cont", (batch,)),
    ))  # fmt: skip
    alive = body.op("Unsqueeze", [alive, np.array([1], np.int64)])
    hidden = body.op("MatMul", [body.op("Mul", [h, alive]), recurrent.T])
    h_next = body.op("Tanh", [body.op("Add", [xw, hidden])])
    read = body.op("Add", [body.op("MatMul", [h_next, readout.T]), shift])
    graph = body.graph([h_next, body.op("Tanh", [read])], out.opset)
    finals, series = _scan(graph, [(batch, size)], states, [gates, cont], size, out)
    return [series, *(out.reshape(final, (1, batch, size)) for final in finals)][: len(layer.tops)]


def _lstm_steps(
    gates: Blob, cont: Blob, recurrent: Array, states: Sequence[Blob], out: Emitter
) -> tuple[list[Blob], Blob]:
    """Add the steps of an LSTM; return its last states and the series of its outputs."""
    size, batch = recurrent.shape[1], gates.shape[1]
    body = _Body(out.names)
    h, c, xw, alive = (body.input(n, s) for n, s in (
        ("h", (batch, size)), ("c", (batch, size)), ("xw", (batch, 4 * size)), ("cont", (batch,)),
    ))  # fmt: skip
    alive = body.op("Unsqueeze", [alive, np.array([1], np.int64)])
    hidden = body.op("MatMul", [body.op("Mul", [h, alive]), recurrent.T])
    total = body.op("Add", [xw, hidden])
    i, f, o, g = (
        body.op("Slice", [total, *(np.array([v], np.int64) for v in (k * size, (k + 1) * size, 1))])
        for k in range(4)
    )
    i, f, o, g = (
        body.op(kind, [gate]) for kind, gate in zip(["Sigmoid"] * 3 + ["Tanh"], (i, f, o, g),
                                                    strict=True)
    )  # fmt: skip
    kept = body.op("Mul", [body.op("Mul", [alive, f]), c])
    cell = body.op("Add", [kept, body.op("Mul", [i, g])])
    h_next = body.op("Mul", [o, body.op("Tanh", [cell])])
    graph = body.graph([h_next, cell, body.op("Identity", [h_next])], out.opset)
    return _scan(graph, [(batch, size)] * 2, states, [gates, cont], size, out)


def _inputs(
    layer: Layer, bottoms: list[Blob], states: int, out: Emitter
) -> tuple[int, Blob | None, list[Blob]]:
    """Return the number of units, the static input and the first states, where there are any."""
    settings = layer.parameter("recurrent_param")
    size = settings.integer("num_output")
    exposed = states if settings.flag("expose_hidden", False) else 0
    extra = len(bottoms) - 2 - exposed
    out.check(size >= 1 and extra in (0, 1), f"{len(bottoms)} inputs are too few or too many")
    x, cont = bottoms[:2]
    out.check(x.rank >= 2 and cont.shape == x.shape[:2], f"{cont.shape} marks no {x.shape}")
    static = bottoms[2] if extra else None
    return size, static, bottoms[len(bottoms) - exposed :] if exposed else []


def _input_gates(x: Blob, static: Blob | None, width: int, out: Emitter) -> Blob:
    """Return what the inputs add at every step: (T, N, width)."""
    features = count(x.shape[2:])
    weight, shift = out.weight(0, (width, features)), out.weight(1, (width,), what="biases")
    flat = out.reshape(x, (*x.shape[:2], features))
    shape = (*x.shape[:2], width)
    gates = out.binary("Add", out.op("MatMul", [flat, weight.T], shape), shift)
    if static is None:
        return gates
    width_static = count(static.shape[1:])
    flat = out.reshape(static, (static.shape[0], width_static))
    matrix = out.weight(2, (width, width_static)).T
    return out.binary("Add", gates, out.op("MatMul", [flat, matrix], (static.shape[0], width)))


def _scan(
    body: gs.Graph,
    shapes: Sequence[tuple[int, int]],
    states: Sequence[Blob],
    sequences: Sequence[Blob],
    size: int,
    out: Emitter,
) -> tuple[list[Blob], Blob]:
    """Add the Scan; return the last states and the series of outputs."""
    first: list[Blob | Array] = [
        out.reshape(states[i], shape) if states else np.zeros(shape, np.float32)
        for i, shape in enumerate(shapes)
    ]
    attrs = {"body": body, "num_scan_inputs": len(sequences)}
    made = out.op("Scan", [*first, *sequences], shapes[0], attrs, outputs=len(shapes) + 1)
    node = made.tensor.inputs[0]
    for tensor in node.outputs:
        tensor.dtype = np.float32
    finals = [Blob(node.outputs[i], shape) for i, shape in enumerate(shapes)]
    steps, batch = sequences[0].shape[:2]
    return finals, Blob(node.outputs[-1], (steps, batch, size))


class _Body:
    """Collects the graph of one step."""

    def __init__(self, names: FreeNames) -> None:
        self.names = names
        self.nodes: list[gs.Node] = []
        self.inputs: list[gs.Variable] = []

    def input(self, name: str, shape: tuple[int, ...]) -> gs.Variable:
        self.inputs.append(gs.Variable(self.names.tensor(f"step/{name}"), np.float32, shape))
        return self.inputs[-1]

    def op(self, kind: str, inputs: Sequence[gs.Tensor | Array]) -> gs.Variable:
        name = self.names.node(f"step/{len(self.nodes)}")
        tensors = [
            value if isinstance(value, gs.Tensor)
            else gs.Constant(
                self.names.tensor(f"{name}/constant{i}"), np.ascontiguousarray(value)
            )
            for i, value in enumerate(inputs)
        ]  # fmt: skip
        made = gs.Variable(self.names.tensor(f"{name}:0"), np.float32)
        self.nodes.append(Node(kind, name, {}, tensors, [made]))
        return made

    def graph(self, outputs: list[gs.Variable], opset: int) -> gs.Graph:
        return gs.Graph(self.nodes, self.inputs, outputs, name="step", opset=opset)
