"""TFLite's kernels of whole recurrent sequences, with their weights in the order that ONNX has.

TFLite keeps the weights of each gate apart, ONNX one below the other: input, output, forget, cell.
What the kernels keep from run to run begins with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tflite.lstm_steps import GATES
from onnxgraft.stages.convert.tflite.reading import Lite, names_of

__all__ = ["RECURRENT", "fuse_sequences"]

RECURRENT = ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")
# Among an LSTM's inputs, by gate in ONNX's order: input, output, forget, cell.
_WEIGHTS, _RECURRENT, _BIAS = (1, 4, 2, 3), (5, 8, 6, 7), (12, 15, 13, 14)
# By gate as `lstm_steps` has them: input, forget, cell, output.
_IN_STEPS = (
    ("W", (1, 2, 3, 4)), ("R", (5, 6, 7, 8)), ("B", (12, 13, 14, 15)), ("N", (20, 21, 22, 23)),
)  # fmt: skip
_PEEPHOLES = {"i": 9, "f": 10, "o": 11}
_PROJECTION = {"projection": 16, "projection_bias": 17}
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
    activation = _activation(lite, graph, operator)
    clips = options.cellClip > 0 and not _within(lite, graph, operator)
    more = any(inputs[place] >= 0 for place in (9, 10, 11, 16, 17, 20, 21, 22, 23))
    if clips or more or inputs[1] < 0 or activation != "Tanh":
        return _steps(lite, graph, operator, inputs, activation)
    weights = [_stacked(lite, graph, operator, inputs, _WEIGHTS)]
    weights.append(_stacked(lite, graph, operator, inputs, _RECURRENT))
    bias = _stacked(lite, graph, operator, inputs, _BIAS)
    return _sequence(lite, graph, operator, "LSTM", weights, bias, "Tanh")


def _within(lite: Lite, graph: Any, operator: Any) -> bool:
    """Tell whether the steps are too few for a cell to reach where it is clipped.

    It begins with 0, and no step adds more than 1: another activation than tanh is not asked for.
    """
    options, tensor = operator.builtinOptions, graph.tensors[operator.inputs[0]]
    signature = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    steps = int(signature[0 if options.timeMajor else 1])
    return bool(0 < steps <= options.cellClip)


def _steps(lite: Lite, graph: Any, operator: Any, inputs: list[int], activation: str) -> Any:
    """Return the operator that is lowered to a Scan."""
    name, first = graph.tensors[operator.outputs[0]].name, int(inputs[1] < 0)
    parts = {
        part: _stacked(lite, graph, operator, inputs, places[first:])
        for part, places in _IN_STEPS
        if part != "N" or inputs[places[-1]] >= 0
    }
    peepholes = [gate for gate, place in _PEEPHOLES.items() if inputs[place] >= 0]
    if peepholes:
        places = [_PEEPHOLES[gate] for gate in peepholes]
        parts["P"] = _stacked(lite, graph, operator, inputs, places).reshape(len(places), -1)
    for part, place in _PROJECTION.items():
        if inputs[place] >= 0:
            parts[part] = _stacked(lite, graph, operator, inputs, [place])
    constants = [lite.add_constant(value, f"{name}/{part}", graph) for part, value in parts.items()]
    told = operator.builtinOptions
    options = {
        "parts": " ".join(parts), "gates": GATES[first:], "peepholes": "".join(peepholes),
        "activation": activation, "cell_clip": float(told.cellClip),
        "projection_clip": float(told.projClip), "time_major": int(bool(told.timeMajor)),
    }  # fmt: skip
    given = [inputs[0], *constants]
    return lite.operator("GRAFT_LSTM_STEPS", given, operator.outputs, options)


def _rnn(lite: Lite, graph: Any, operator: Any) -> Any:
    weights = [_stacked(lite, graph, operator, operator.inputs, [place]) for place in (1, 2)]
    bias = _stacked(lite, graph, operator, operator.inputs, [3])
    activation = _activation(lite, graph, operator)
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


def _activation(lite: Lite, graph: Any, operator: Any) -> str:
    kinds = names_of(lite.schema.ActivationFunctionType)
    told = kinds.get(operator.builtinOptions.fusedActivationFunction, "")
    if told not in _ACTIVATIONS:
        raise _refused(lite, graph, operator, "another activation than tanh or relu")
    return _ACTIVATIONS[told]


def _refused(lite: Lite, graph: Any, operator: Any, what: str) -> NotSupportedError:
    name = graph.tensors[operator.outputs[0]].name
    return NotSupportedError(
        f"{lite.file}: {lite.kind(operator)} ({name}) with {what} can't be written in ONNX; cut "
        "the graph before it with --outputs, or export the network with loops"
    )
