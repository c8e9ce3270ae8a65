"""Variables of a TFLite model: they become inputs and outputs of the graph.

CALL_ONCE sets them before the first run, in a graph of its own; the main graph reads and assigns
them in order. So what is read first is an input, and what is assigned last an output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tflite.reading import Lite, text

__all__ = ["State", "free_variables"]

_KINDS = ("ASSIGN_VARIABLE", "READ_VARIABLE", "VAR_HANDLE")


@dataclass(frozen=True)
class State:
    """A variable, which became an input and an output.

    Attributes:
        name: Of the input that holds what the variable was before; empty where it is not read
            before it is assigned.
        after: Of the output that holds what it becomes; empty where the graph is cut before that.
        start: What TensorFlow sets it to before the first run.
        last: In the file, the number of the tensor that is assigned last; None where none is.
        setter: In the file, the numbers of the graph and of the operator that set it first.
    """

    name: str
    after: str
    start: Array
    last: int | None
    setter: tuple[int, int]


@dataclass
class _Variable:
    start: Array
    setter: tuple[int, int]
    begun: int | None = None
    now: int | None = None
    last: int | None = None


def free_variables(lite: Lite, *, cut: bool) -> list[State]:
    """Make an input and an output of each variable of the main graph.

    Args:
        lite: Is changed in place.
        cut: The outputs are those that the user named: a variable makes no other.

    Raises:
        NotSupportedError: A variable is not set to constants first, or is used in a body.
    """
    main = lite.main
    if not any(lite.kind(operator) in _KINDS for operator in main.operators):
        _refuse_others(lite, main)
        return []
    first = _initial(lite)
    _refuse_others(lite, main)
    handles: dict[int, _Variable] = {}
    moved: dict[int, int] = {}
    kept = []
    for operator in main.operators:
        operator.inputs = [moved.get(index, index) for index in operator.inputs]
        kind = lite.kind(operator)
        if kind == "VAR_HANDLE":
            name = _name(operator)
            if name not in first:
                raise NotSupportedError(
                    f"{lite.file}: the variable {name!r} is not set to a constant before the first "
                    "run; export the network again with a variable that has an initial value"
                )
            handles[operator.outputs[0]] = first[name]
            lite.rename(main.tensors[operator.outputs[0]], f"{name}/handle")
        elif kind == "READ_VARIABLE":
            variable, target = handles[operator.inputs[0]], operator.outputs[0]
            if variable.now is None:
                variable.now = variable.begun = target
            else:
                moved[target] = variable.now
        elif kind == "ASSIGN_VARIABLE":
            variable = handles[operator.inputs[0]]
            variable.now = variable.last = operator.inputs[1]
        elif kind != "CALL_ONCE":
            kept.append(operator)
    main.operators = kept
    main.outputs = [moved.get(index, index) for index in main.outputs]
    used = {index for operator in kept for index in operator.inputs} | set(main.outputs)
    used |= {v.last for v in first.values() if v.last is not None and not cut}
    return [
        _state(lite, name, variable, cut)
        for name, variable in first.items()
        if variable.begun in used or (variable.last is not None and not cut)
    ]


def _state(lite: Lite, name: str, variable: _Variable, cut: bool) -> State:
    main, before, after = lite.main, "", ""
    if variable.begun is not None:
        main.inputs.append(variable.begun)
        before = lite.rename(main.tensors[variable.begun], name)
    if variable.last is not None and not cut:
        target = variable.last
        if (
            target in (*main.outputs, *main.inputs)
            or lite.constant(main.tensors[target]) is not None
        ):
            target = lite.copied(target, f"{name}.next")
        main.outputs.append(target)
        after = lite.rename(main.tensors[target], f"{name}.next")
    return State(before, after, variable.start, variable.last, variable.setter)


def _initial(lite: Lite) -> dict[str, _Variable]:
    """Return the variables that CALL_ONCE sets to constants."""
    found: dict[str, _Variable] = {}
    for operator in lite.main.operators:
        if lite.kind(operator) != "CALL_ONCE":
            continue
        number = operator.builtinOptions.initSubgraphIndex
        graph = lite.model.subgraphs[number]
        handles: dict[int, str] = {}
        for at, setter in enumerate(graph.operators):
            kind = lite.kind(setter)
            if kind == "VAR_HANDLE":
                handles[setter.outputs[0]] = _name(setter)
            elif kind == "ASSIGN_VARIABLE":
                value = _constant(lite, graph, setter.inputs[1])
                if value is not None:
                    found[handles[setter.inputs[0]]] = _Variable(value, (number, at))
        graph.operators, graph.outputs = [], []
    return found


def _constant(lite: Lite, graph: Any, index: int) -> Array | None:
    """Return a constant's values, also of one that is stored in float16."""
    value = lite.constant(graph.tensors[index])
    for operator in graph.operators:
        if value is None and lite.kind(operator) == "DEQUANTIZE" and index in operator.outputs:
            stored = graph.tensors[operator.inputs[0]]
            value = lite.constant(stored) if lite.type_of(stored) == "FLOAT16" else None
            value = None if value is None else value.astype(np.float32)
    return value


def _name(operator: Any) -> str:
    return text(operator.builtinOptions.sharedName) or "variable"


def _refuse_others(lite: Lite, main: Any) -> None:
    for graph in lite.model.subgraphs:
        for operator in graph.operators if graph is not main else ():
            if lite.kind(operator) in _KINDS:
                raise NotSupportedError(
                    f"{lite.file}: {lite.kind(operator)} in the body {graph.name!r}: variables are "
                    "converted where the main graph reads and assigns them; keep the loop's state "
                    "in a loop variable"
                )


def told(states: list[State]) -> list[str]:
    """Return a sentence for each variable."""
    sentences = []
    for state in states:
        start = state.start
        plain = start.size and (start == start.flat[0]).all()
        value = (
            f"{start.flat[0]:g} everywhere" if plain else "the constant that the file sets it to"
        )
        before = f"the input {state.name!r}" if state.name else "no input, for it is never read"
        after = f"its new value the output {state.after!r}" if state.after else "it does not change"
        sentences.append(
            f"the variable {state.name or state.after!r} is {before}, {after}; "
            f"TensorFlow begins with {value}"
        )
    return sentences
