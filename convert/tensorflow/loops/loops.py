"""Loops and the lists that they read and write, made such that tf2onnx converts them rightly.

tf2onnx turns a functional While into an ONNX Loop, and takes lists by their simplest use: what the
body writes becomes a scan output, whatever the place it is written to and however often. Here each
While is put into the form for which that is right, or refused by the operator that is in the way.

    read      TensorListGetItem(TensorListFromTensor(x), i)      GatherV2(x, i)
    written   TensorListSetItem(list, t, y) with t = 0, 1, 2 ...  stays: a scan output
    last      TensorListSetItem(list, 0, y) of a list of one      a scan output, of which the last
    taken     TensorListGetItem/Gather of what a loop wrote       GatherV2(TensorListStack(list))

A list that is longer than its loop has steps is filled up with zeros, as TensorFlow's is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.names import free
from onnxgraft.stages.convert.tensorflow.loops.frames import (
    add_constant,
    lift_frames,
    tensor_arrays_to_lists,
)
from onnxgraft.stages.convert.tensorflow.names import node_of
from onnxgraft.stages.convert.tensorflow.prepare.bodies import give_own_bodies
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["prepare_loops"]

_CASES = ("Case", "StatelessCase", "_SwitchN")
_LOOPS = ("While", "StatelessWhile")


def prepare_loops(path: str, graph_def: Any, ends: Sequence[str]) -> None:
    """Make loops and conditionals, and those in functions, ready for tf2onnx.

    Args:
        path: Of the file, for messages.
        graph_def: The graph, which is changed in place.
        ends: The tensors that are fetched.

    Raises:
        NotSupportedError: A loop, or a list, is used in a way that ONNX has nothing for.
    """
    for node in _all_nodes(graph_def):
        node.attr.pop("_lower_using_switch_merge", None)  # TensorFlow would make frames of it
        node.attr.pop("_class", None)
    if any(node.op == "Enter" for node in graph_def.node):
        tensor_arrays_to_lists(graph_def, ends)
        lift_frames(path, graph_def)
        left = {node.name for node in graph_def.node}
        for end in ends:
            if node_of(end) not in left:
                raise NotSupportedError(
                    f"{path}: the output {end} is made within a loop, anew in each turn; name "
                    "others with --outputs"
                )
    give_own_bodies(path, graph_def)
    for node in _all_nodes(graph_def):
        if node.op in _CASES:
            raise NotSupportedError(
                f"{path}: {node.op} {node.name!r} chooses among several branches, for which ONNX "
                "has no operator; cut the graph before it with --outputs"
            )
    graphs = [_Graph(graph_def.node), *(_Function(f) for f in graph_def.library.function)]
    functions = {graph.name: graph for graph in graphs if isinstance(graph, _Function)}
    for graph in graphs:
        for node in list(graph.nodes.values()):
            if node.op in _LOOPS:
                _While(path, graph, node, functions).prepare()


def _all_nodes(graph_def: Any) -> Iterator[Any]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


class _Graph:
    """The nodes of a GraphDef."""

    name = ""

    def __init__(self, nodes: Any) -> None:
        self.list = nodes
        self.nodes = {node.name: node for node in nodes}

    def taken(self) -> set[str]:
        """Return the names that no new node may have."""
        return set(self.nodes)

    def output(self, node: str, number: int, label: str = "") -> str:
        """Return how a node's output is called."""
        return f"{node}:{number}" if number else node

    def source(self, tensor: str) -> Any:
        """Return the node that a tensor comes from, or None for an argument of a function."""
        return self.nodes.get(tensor.removeprefix("^").split(":")[0])

    def real(self, tensor: str) -> str:
        """Return the tensor behind Identity nodes."""
        node = self.source(tensor)
        while node is not None and node.op == "Identity":
            tensor = node.input[0]
            node = self.source(tensor)
        return tensor

    def readers(self, tensor: str) -> list[tuple[Any, int]]:
        """Return who reads a tensor, directly or through Identity nodes, and as which input."""
        found = []
        for node in self.list:
            for number, source in enumerate(node.input):
                if not source.startswith("^") and self.same(self.real(source), tensor):
                    if node.op != "Identity":
                        found.append((node, number))
        return found

    def same(self, one: str, two: str) -> bool:
        return self.canonical(one) == self.canonical(two)

    def canonical(self, tensor: str) -> str:
        return tensor if ":" in tensor else f"{tensor}:0"

    def add(self, name: str, op: str, inputs: list[str], label: str, **attrs: Any) -> str:
        """Add a node, called so if that is free, and return its first output.

        Its other arguments are data types.
        """
        name = free(self.taken(), name)
        node = self.list.add(name=name, op=op, input=inputs)
        for key, value in attrs.items():
            node.attr[key].type = value
        self.nodes[name] = node
        return self.output(name, 0, label)

    def constant(self, name: str, value: Any, dtype: int | None = None) -> str:
        node = add_constant(self.list, free(self.taken(), name), value, dtype)
        self.nodes[node.name] = node
        return self.output(node.name, 0, "output")

    def value(self, tensor: str) -> Any:
        """Return a scalar constant's value, or None."""
        node = self.source(self.real(tensor))
        if node is not None and node.op == "Max":  # how Keras writes the length that is fixed
            return self.value(node.input[0])
        if node is None or node.op != "Const":
            return None
        array = tensorflow().make_ndarray(node.attr["value"].tensor)
        return array.item() if array.shape == () else None


class _Function(_Graph):
    """The nodes of a FunctionDef, whose tensors are called ``node:output:number``."""

    def __init__(self, definition: Any) -> None:
        super().__init__(definition.node_def)
        self.definition = definition
        self.name = definition.signature.name
        self.arguments = [arg.name for arg in definition.signature.input_arg]

    def output(self, node: str, number: int, label: str = "") -> str:
        return f"{node}:{label}:{number}"

    def source(self, tensor: str) -> Any:
        return None if tensor in self.arguments else super().source(tensor)

    def canonical(self, tensor: str) -> str:
        return tensor

    def taken(self) -> set[str]:
        return {*self.nodes, *self.arguments}

    def results(self) -> list[str]:
        return [self.definition.ret[arg.name] for arg in self.definition.signature.output_arg]


class _While:
    """A functional loop, in a graph or in a function of it."""

    def __init__(
        self, path: str, graph: _Graph, node: Any, functions: Mapping[str, _Function]
    ) -> None:
        self.path = path
        self.graph = graph
        self.node = node
        self.body = functions[node.attr["body"].func.name]
        self.cond = functions[node.attr["cond"].func.name]
        self.results = [self.body.real(tensor) for tensor in self.body.results()]

    def _refusal(self, reason: str) -> NotSupportedError:
        return NotSupportedError(
            f"{self.path}: the loop {self.node.name!r} can't be converted: {reason}; cut the graph "
            "before it with --outputs"
        )

    def prepare(self) -> None:
        variant = tensorflow().variant.as_datatype_enum
        self._check_counter()
        for number, kind in enumerate(list(self.node.attr["T"].list.type)):
            if kind != variant:
                continue
            if self.results[number] == self.body.arguments[number]:
                self._read(number)
            else:
                self._written(number)

    # What tf2onnx takes a loop's first two variables for.

    def _check_counter(self) -> None:
        """Refuse a loop whose first two variables are not a counter of its steps and a limit."""
        kinds = list(self.node.attr["T"].list.type)
        whole = tensorflow().int32.as_datatype_enum
        if kinds[:2] != [whole, whole] or not self.counts(0) or not self._limits(1):
            raise self._refusal("its first two variables are not a step counter and a limit")
        step = self.body.source(self.results[0])
        for node, _ in self.body.readers(self.body.arguments[0]):
            if node is not step:
                raise self._refusal(f"{node.op} {node.name!r} reads its step counter")

    def _limits(self, number: int) -> bool:
        """Tell whether a variable is the most steps that the condition allows, or -1."""
        limit = self.cond.arguments[number]
        return self.results[number] == self.body.arguments[number] and (
            self.graph.value(self.node.input[number]) == -1
            or any(
                node is not None
                and node.op == "Less"
                and [self.cond.real(t) for t in node.input[:2]] == [self.cond.arguments[0], limit]
                for node in self._terms()
            )
        )

    def _terms(self) -> Iterator[Any]:
        """Yield the nodes that all have to be true for the loop to go on; None for an argument."""
        stack = [self.cond.results()[0]]
        while stack:
            node = self.cond.source(self.cond.real(stack.pop()))
            if node is not None and node.op == "LogicalAnd":
                stack.extend(node.input[:2])
            else:
                yield node

    def counts(self, number: int) -> bool:
        """Tell whether a variable is 0, 1, 2 ... as the loop runs."""
        if self.graph.value(self.node.input[number]) != 0:
            return False
        node = self.body.source(self.results[number])
        if node is None or node.op not in ("Add", "AddV2"):
            return False
        terms = [self.body.real(tensor) for tensor in node.input[:2]]
        if self.body.arguments[number] not in terms:
            return False
        terms.remove(self.body.arguments[number])
        return bool(self._inner_value(terms[0]) == 1)

    def _inner_value(self, tensor: str) -> Any:
        """Return the value of a constant of the body, or of one that is handed to it."""
        outer = self._outer(self.body, tensor)
        return self.body.value(tensor) if outer is None else self.graph.value(outer)

    def _outer(self, function: _Function, tensor: str) -> str | None:
        """Return what an argument of the body or condition is outside, if it never changes."""
        tensor = function.real(tensor)
        if tensor in function.arguments:
            number = function.arguments.index(tensor)
            if self.results[number] == self.body.arguments[number]:
                return self.graph.real(self.node.input[number])
        return None

    def _counter(self, tensor: str) -> bool:
        tensor = self.body.real(tensor)
        return tensor in self.body.arguments and self.counts(self.body.arguments.index(tensor))

    # Lists that are read.

    def _read(self, number: int) -> None:
        """Hand the tensor itself to the loop in place of a list that it only reads."""
        made = self.graph.source(self.graph.real(self.node.input[number]))
        if made is None or made.op != "TensorListFromTensor":
            kind = "an argument" if made is None else f"{made.op} {made.name!r}"
            raise self._refusal(f"the list that it reads is {kind}, no TensorListFromTensor")
        dtype = made.attr["element_dtype"].type
        argument = self.body.arguments[number]
        for node, _ in self.body.readers(argument):
            if node.op == "TensorListGetItem":
                old = self.body.output(node.name, 0, "item")
                _become_gather(self.body, node, argument, node.input[1], dtype)
                _rename(self.body, old, self.body.output(node.name, 0, "output"))
            else:
                raise self._refusal(f"{node.op} {node.name!r} reads a list")
        shape = tensorflow().TensorShape(None).as_proto()
        for function in (self.body, self.cond):
            function.definition.signature.input_arg[number].type = dtype
            _retype(function, function.arguments[number], dtype)
            function.definition.arg_attr.pop(number, None)
        self.body.definition.signature.output_arg[number].type = dtype
        self.node.attr["T"].list.type[number] = dtype
        if len(self.node.attr["output_shapes"].list.shape) > number:
            self.node.attr["output_shapes"].list.shape[number].CopyFrom(shape)
        self.node.input[number] = made.input[0]

    # Lists that are written.

    def _written(self, number: int) -> None:
        argument = self.body.arguments[number]
        write = self.body.source(self.results[number])
        if write is None or write.op != "TensorListSetItem":
            kind = "an argument" if write is None else f"{write.op} {write.name!r}"
            raise self._refusal(f"a list is made by {kind}, no TensorListSetItem")
        if self.body.real(write.input[0]) != argument or len(self.body.readers(argument)) != 1:
            raise self._refusal(f"{write.name!r} writes a list that the loop also reads")
        reserve = self.graph.source(self.graph.real(self.node.input[number]))
        if reserve is None or reserve.op != "TensorListReserve":
            kind = "an argument" if reserve is None else f"{reserve.op} {reserve.name!r}"
            raise self._refusal(f"the list that it writes is {kind}, no TensorListReserve")
        self._own_reserve(number, reserve)
        if self._counter(write.input[1]):
            self._stack(number, reserve, "" if self._runs_for(reserve.input[1]) else "filled")
        elif self._inner_value(write.input[1]) == 0 and self.graph.value(reserve.input[1]) == 1:
            self._stack(number, reserve, "last")
        else:
            raise self._refusal(
                f"TensorListSetItem {write.name!r} writes its list in another order than 0, 1, 2"
            )

    def _own_reserve(self, number: int, reserve: Any) -> None:
        """Give the loop a list of its own, with no Identity between: tf2onnx takes it away."""
        name = f"{self.node.name}/list_{number}"
        made = self.graph.add(name, reserve.op, list(reserve.input), "handle")
        for key, value in reserve.attr.items():
            self.graph.source(made).attr[key].CopyFrom(value)
        self.node.input[number] = made

    def _runs_for(self, count: str) -> bool:
        """Tell whether the loop has exactly ``count`` steps."""
        wanted = self._size(self.graph, count)
        for node in self._terms():
            if node is None or node.op != "Less":
                return False
            low, high = (self.cond.real(source) for source in node.input[:2])
            if low not in self.cond.arguments or not self.counts(self.cond.arguments.index(low)):
                return False
            if self._bound(high) != wanted:
                return False
        return True

    def _bound(self, tensor: str) -> Any:
        outer = self._outer(self.cond, tensor)
        return self.cond.value(tensor) if outer is None else self._size(self.graph, outer)

    def _size(self, graph: _Graph, tensor: str) -> Any:
        tensor = graph.real(tensor)
        value = graph.value(tensor)
        return graph.canonical(tensor) if value is None else value

    def _stack(self, number: int, reserve: Any, part: str) -> None:
        """Let everything that reads the written list read the stack of its elements.

        Args:
            number: Of the loop's variable that is the list.
            reserve: Where the list is made.
            part: Of all steps' elements, those that the list holds: all, the ``last``, or all and
                zeros behind (``filled``).
        """
        graph, output = self.graph, self.graph.output(self.node.name, number, "output")
        if isinstance(graph, _Function) and output in map(graph.real, graph.results()):
            raise self._refusal("a list that it writes leaves the function that it is in")
        labels = {
            "TensorListStack": "tensor", "TensorListGetItem": "item", "TensorListGather": "values"
        }  # fmt: skip
        dtype = reserve.attr["element_dtype"].type
        for node, _ in graph.readers(output):
            if node.op not in labels:
                raise self._refusal(f"{node.op} {node.name!r} reads the list that it writes")
            if node.op == "TensorListStack" and not part:
                node.attr["num_elements"].i = -1
                continue
            whole, shape = (
                node.op == "TensorListStack",
                node.input[1 if len(node.input) == 2 else 2],
            )
            rows = graph.add(
                f"{node.name}/all", "TensorListStack", [output, shape], "tensor",
                element_dtype=dtype,
            )  # fmt: skip
            graph.source(rows).attr["num_elements"].i = -1
            old = graph.output(node.name, 0, labels[node.op])
            index = node.input[1]
            if part == "filled":
                rows = self._filled(node.name, rows, reserve.input[1], dtype)
            if part == "last" or not whole:
                if part == "last":
                    scalar = node.op == "TensorListGetItem"
                    index = graph.constant(f"{node.name}/last", -1 if scalar else [-1])
                _become_gather(graph, node, rows, index, dtype)
            else:
                node.op = "Identity"
                node.input[:] = [rows]
                node.ClearField("attr")
                node.attr["T"].type = dtype
            _rename(graph, old, graph.output(node.name, 0, "output"))

    def _filled(self, name: str, rows: str, count: str, dtype: int) -> str:
        """Return ``rows`` with zeros behind them, ``count`` altogether."""
        int32 = tensorflow().int32.as_datatype_enum
        types = {
            "Shape": {"T": dtype, "out_type": int32},
            "Slice": {"T": int32, "Index": int32},
            "Reshape": {"T": int32, "Tshape": int32},
            "Sub": {"T": int32},
            "Maximum": {"T": int32},
            "Fill": {"T": dtype, "index_type": int32},
        }

        def add(kind: str, op: str, *inputs: str) -> str:
            label = "z" if op in ("Sub", "Maximum") else "output"
            return self.graph.add(f"{name}/{kind}", op, list(inputs), label, **types[op])

        def join(kind: str, one: str, two: str, of: int) -> str:
            made = self.graph.add(
                f"{name}/{kind}", "ConcatV2", [one, two, axis], "output", T=of, Tidx=int32
            )
            self.graph.source(made).attr["N"].i = 2
            return made

        axis = self.graph.constant(f"{name}/zero", 0)
        start, second, rest = (
            self.graph.constant(f"{name}/{kind}", [value])
            for kind, value in (("start", 0), ("second", 1), ("rest", -1))
        )
        shape = add("shape", "Shape", rows)
        steps = add("steps", "Slice", shape, start, second)
        element = add("element", "Slice", shape, second, rest)
        difference = add("difference", "Sub", add("count", "Reshape", count, second), steps)
        missing = add("missing", "Maximum", difference, start)  # none where the list has grown
        zero = self.graph.constant(f"{name}/nothing", 0, dtype)
        zeros = add("zeros", "Fill", join("zeros_shape", missing, element, int32), zero)
        return join("filled", rows, zeros, dtype)


def _become_gather(graph: _Graph, node: Any, source: str, index: str, dtype: int) -> None:
    """Make a node take rows of a tensor."""
    axis = graph.constant(f"{node.name}/axis", 0)
    node.op = "GatherV2"
    node.input[:] = [source, index, axis]
    node.ClearField("attr")
    for key, kind in (("Tparams", dtype), ("Tindices", 3), ("Taxis", 3)):  # 3 is int32
        node.attr[key].type = kind


def _rename(graph: _Graph, was: str, now: str) -> None:
    """Follow a node's change of operator in the names that a function has for its output."""
    if not isinstance(graph, _Function) or was == now:
        return
    for other in graph.list:
        other.input[:] = [now if source == was else source for source in other.input]
    for key, value in list(graph.definition.ret.items()):
        if value == was:
            graph.definition.ret[key] = now


def _retype(function: _Function, argument: str, dtype: int) -> None:
    """Give the Identity nodes behind an argument its new type."""
    for node in function.list:
        if node.op == "Identity" and function.real(node.input[0]) == argument:
            node.attr["T"].type = dtype
