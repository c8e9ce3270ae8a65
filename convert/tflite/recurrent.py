"""TFLite's kernels of whole recurrent sequences, with their weights in the order that ONNX has.

TFLite keeps the weights of each gate apart, ONNX one below the other: input, output, forget, cell.
What the kernels keep from run to run begins with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tflite.reading import Lite, names_of

__all__ = ["RECURRENT", "fuse_sequences"]

RECURRENT = ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")
# Among an LSTM's inputs, by gate: input, output, forget, cell.
_WEIGHTS, _RECURRENT, _BIAS = (1, 4, 2, 3), (5, 8, 6, 7), (12, 15, 13, 14)
# Those that ONNX's operator has no place for.
_OTHERS = {
    "a projection": (16, 17), "peepholes": (9, 10, 11), "layer normalization": (20, 21, 22, 23),
}  # fmt: skip
_ACTIVATIONS = {"RELU": "Relu", "TANH": "Tanh"}


def fuse_sequences(lite: Lite, graph: Any) -> None:
    """Rewrite the recurrent kernels of a graph, whose weights are floats by now.

    Raises:
        NotSupportedError: One does what ONNX's operator can't.
    """
    written = []
    for operator in graph.operators:
        kind = lite.kind(operator)
        if kind in RECURRENT:
            operator = (_lstm if kind.endswith("LSTM") else _rnn)(lite, graph, operator)
        written.append(operator)
    graph.operators = written


def _lstm(lite: Lite, graph: Any, operator: Any) -> Any:
    inputs = [*operator.inputs, *[-1] * (24 - len(operator.inputs))]
    options = operator.builtinOptions
    for what, places in _OTHERS.items():
        if any(inputs[place] >= 0 for place in places):
            raise _refused(lite, graph, operator, what)
    if options.cellClip or options.projClip:
        raise _refused(lite, graph, operator, "a clipped cell")
    if inputs[1] < 0:
        raise _refused(lite, graph, operator, "an input gate that is coupled to the forget gate")
    if _fused(lite, options) != "TANH":
        raise _refused(lite, graph, operator, "another activation than tanh")
    weights = [_stacked(lite, graph, operator, inputs, _WEIGHTS)]
    weights.append(_stacked(lite, graph, operator, inputs, _RECURRENT))
    bias = _stacked(lite, graph, operator, inputs, _BIAS)
    return _sequence(lite, graph, operator, "LSTM", weights, bias, "Tanh")


def _rnn(lite: Lite, graph: Any, operator: Any) -> Any:
    weights = [_stacked(lite, graph, operator, operator.inputs, [place]) for place in (1, 2)]
    bias = _stacked(lite, graph, operator, operator.inputs, [3])
    activation = _ACTIVATIONS.get(_fused(lite, operator.builtinOptions))
    if activation is None:
        raise _refused(lite, graph, operator, "another activation than tanh or relu")
    return _sequence(lite, graph, operator, "RNN", weights, bias, activation)


def _sequence(
    lite: Lite, graph: Any, operator: Any, kind: str, weights: list[Array], bias: Array,
    activation: str,
) -> Any:  # fmt: skip
    name = graph.tensors[operator.outputs[0]].name
    both = np.concatenate([bias, np.zeros_like(bias)])
    constants = [
        lite.add_constant(value[None], f"{name}/{part}", graph)
        for part, value in (("W", weights[0]), ("R", weights[1]), ("B", both))
    ]
    options = {
        "kind": kind, "hidden": weights[1].shape[1], "activation": activation,
        "time_major": int(bool(operator.builtinOptions.timeMajor)),
    }  # fmt: skip
    inputs = [operator.inputs[0], *constants]
    return lite.operator("GRAFT_SEQUENCE", inputs, operator.outputs, options)


def _stacked(lite: Lite, graph: Any, operator: Any, inputs: Any, places: Any) -> Array:
    """Return constants one below the other."""
    values = []
    for place in places:
        value = lite.constant(graph.tensors[inputs[place]]) if inputs[place] >= 0 else None
        if value is None or value.dtype != np.float32:
            raise _refused(lite, graph, operator, "weights that are no float constants")
        values.append(value)
    return np.concatenate(values)


def _fused(lite: Lite, options: Any) -> str:
    kinds = names_of(lite.schema.ActivationFunctionType)
    return kinds.get(options.fusedActivationFunction, "")


def _refused(lite: Lite, graph: Any, operator: Any, what: str) -> NotSupportedError:
    name = graph.tensors[operator.outputs[0]].name
    return NotSupportedError(
        f"{lite.file}: {lite.kind(operator)} ({name}) with {what} can't be written in ONNX; cut "
        "the graph before it with --outputs, or export the network with loops"
    )
