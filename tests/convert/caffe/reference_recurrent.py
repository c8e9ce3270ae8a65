"""LSTM and RNN, by their definitions.

The first axis of x and ``cont`` is time, the second the streams. A ``cont`` of 0 begins a sequence:
what the step before left is cleared.
"""

from __future__ import annotations

import numpy as np

from onnxgraft.graph.tensors import Array
from tests.convert.caffe.reference_activation import sigmoid


def lstm(
    x: Array,
    cont: Array,
    weight: Array,
    bias: Array,
    recurrent: Array,
    *,
    static: Array | None = None,
    static_weight: Array | None = None,
    hidden: Array | None = None,
    cell: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Return all hidden states, the last of them, and the last cell state.

    The rows of the weights are the gates in, forget and out, and the candidate.
    """
    steps, streams = x.shape[:2]
    size = recurrent.shape[1]
    h = np.zeros((streams, size)) if hidden is None else hidden[0]
    c = np.zeros((streams, size)) if cell is None else cell[0]
    states = []
    for t in range(steps):
        go = cont[t][:, None]
        gates = _affine(x[t], weight, bias, static, static_weight) + (go * h) @ recurrent.T
        i, f, o = (sigmoid(gates[:, n * size : (n + 1) * size]) for n in range(3))
        c = go * f * c + i * np.tanh(gates[:, 3 * size :])
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states), h[None], c[None]


def rnn(
    x: Array,
    cont: Array,
    weight: Array,
    bias: Array,
    recurrent: Array,
    out_weight: Array,
    out_bias: Array,
    *,
    static: Array | None = None,
    static_weight: Array | None = None,
    hidden: Array | None = None,
) -> tuple[Array, Array]:
    """Return all outputs, and the last hidden state."""
    h = np.zeros((x.shape[1], recurrent.shape[1])) if hidden is None else hidden[0]
    outputs = []
    for t in range(x.shape[0]):
        before = (cont[t][:, None] * h) @ recurrent.T
        h = np.tanh(_affine(x[t], weight, bias, static, static_weight) + before)
        outputs.append(np.tanh(h @ out_weight.T + out_bias))
    return np.stack(outputs), h[None]


def _affine(
    x: Array, weight: Array, bias: Array, static: Array | None, static_weight: Array | None
) -> Array:
    y = x.reshape(x.shape[0], -1) @ weight.T + bias
    if static is not None and static_weight is not None:
        y = y + static.reshape(static.shape[0], -1) @ static_weight.T
    return y
