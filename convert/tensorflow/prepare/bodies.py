"""Bodies and branches of control flow, each a function of its own with names of its own.

tf2onnx makes a subgraph of each function, in place, and ONNX has one space of names for a graph and
the graphs within it. So a function that two loops share, or two functions that call a node alike,
would come to an invalid file. Calls within functions, which tf2onnx leaves, are inlined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxgraft.errors import ModelError
from onnxgraft.graph.names import free
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["give_own_bodies"]

_BODIES = ("cond", "body", "then_branch", "else_branch")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# Deeper than anything that is written by hand; functions that call each other have no end.
_DEEPEST = 50


def give_own_bodies(path: str, graph_def: Any) -> None:
    """Give in place each loop and conditional, wherever it is, functions that nothing else uses.

    Raises:
        ModelError: A function is missing, or calls itself.
    """
    library = {function.signature.name: function for function in graph_def.library.function}
    own = _Own(path, library)
    for node in graph_def.node:
        own.bodies(node, 0)
    called = [node.attr["f"].func.name for node in graph_def.node if node.op in _CALLS]
    kept = list(library.values()) if called else []
    copies = [*kept, *own.made]
    wanted = tensorflow().compat.v1.GraphDef()
    wanted.library.gradient.extend(graph_def.library.gradient)
    wanted.library.function.extend(copies)
    graph_def.library.CopyFrom(wanted.library)


class _Own:
    """Makes copies of the functions of a library."""

    def __init__(self, path: str, library: Mapping[str, Any]) -> None:
        self.path = path
        self.library = library
        self.names = set(library)
        self.made: list[Any] = []

    def _function(self, name: str, depth: int) -> Any:
        if name not in self.library:
            raise ModelError(f"{self.path}: the function {name!r} is not in the graph's library")
        if depth > _DEEPEST:
            raise ModelError(f"{self.path}: the function {name!r} calls itself without end")
        return self.library[name]

    def bodies(self, node: Any, depth: int) -> None:
        """Give a node of control flow copies of its functions."""
        for key in _BODIES:
            if key in node.attr and node.attr[key].func.name:
                function = self._copy(node.attr[key].func.name, depth + 1)
                node.attr[key].func.name = function.signature.name

    def _copy(self, name: str, depth: int) -> Any:
        function = type(self._function(name, depth))()
        function.CopyFrom(self.library[name])
        self._inline(function, depth)
        number = len(self.made)
        self.made.append(function)
        # No node begins with _.
        function.signature.name = free(self.names, f"{name.lstrip('_')}_{number}")
        arguments = {arg.name: f"{arg.name}_{number}" for arg in function.signature.input_arg}
        for arg in function.signature.input_arg:
            arg.name = arguments[arg.name]

        def renamed(tensor: str) -> str:
            return arguments.get(tensor) or f"{function.signature.name}/{tensor}"

        _rename(function, renamed)
        for node in function.node_def:
            node.name = f"{function.signature.name}/{node.name}"
            self.bodies(node, depth)
        return function

    def _inline(self, function: Any, depth: int) -> None:
        """Put what a function calls in the place of its calls."""
        while True:
            calls = [node for node in function.node_def if node.op in _CALLS]
            if not calls:
                return
            depth += 1
            for call in calls:
                self._inline_call(function, call, depth)

    def _inline_call(self, function: Any, call: Any, depth: int) -> None:
        called = self._function(call.attr["f"].func.name, depth)
        given = dict(
            zip((arg.name for arg in called.signature.input_arg), call.input, strict=False)
        )
        scope = call.name
        taken = {node.name for node in function.node_def}
        while any(f"{scope}/{node.name}" in taken for node in called.node_def):
            scope += "_"

        def inner(tensor: str) -> str:
            return given[tensor] if tensor in given else f"{scope}/{tensor}"

        results = {
            f"{call.name}:output:{number}": inner(called.ret[arg.name])
            for number, arg in enumerate(called.signature.output_arg)
        }
        for node in called.node_def:
            copy = function.node_def.add()
            copy.CopyFrom(node)
            copy.name = f"{scope}/{node.name}"
            copy.input[:] = [inner(source) for source in node.input if not source.startswith("^")]
        function.node_def.remove(call)
        _rename(function, lambda tensor: results.get(tensor, tensor))


def _rename(function: Any, renamed: Any) -> None:
    """Rename what a function's nodes and results read; order between nodes is dropped."""
    for node in function.node_def:
        node.input[:] = [renamed(source) for source in node.input if not source.startswith("^")]
    for key, value in list(function.ret.items()):
        function.ret[key] = renamed(value)
    function.control_ret.clear()
    del function.signature.control_output[:]
