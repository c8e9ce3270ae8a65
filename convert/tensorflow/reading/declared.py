"""What a TensorFlow graph declares, held against limits before TensorFlow sees it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from onnxgraft.errors import ModelError
from onnxgraft.files.calls import check_calls
from onnxgraft.files.limits import CONSTANT_BYTES, ENDS, shape_fault
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["check_declared"]

_CALLING = re.compile(r"(Stateless)?(While|If)|(Stateful)?PartitionedCall")
# The attributes by which they name a function, with those that list the types of what it is given
# and of what it gives, if it gives what the operator does.
_CALLS = {
    "f": ("Tin", "Tout"), "then_branch": ("Tin", "Tout"), "else_branch": ("Tin", "Tout"),
    "body": ("T", "T"), "cond": ("T", ""),
}  # fmt: skip
_TYPES = ("T", "Tin")
_CURE = "freeze the graph again"


def check_declared(path: str, graph_def: Any) -> None:
    """Raise ModelError for a graph that declares more than is read.

    Its constants are no larger than what is stored of them, its operators have no more inputs and
    outputs than anybody needs, and its functions come to no more once they are inlined. The nodes
    of functions have the inputs and numbers that they need, and what calls a function has as many
    inputs and outputs.
    """
    _check_constants(path, graph_def)
    functions = {f.signature.name: f for f in graph_def.library.function}
    ends = _Ends(graph_def)
    counts = {name: ends.of(function.node_def) for name, function in functions.items()}
    total = ends.of(graph_def.node) + sum(counts.values())
    if total > ENDS.most:
        raise ModelError(f"{path}: {ENDS.refusal(total)}")
    ends.check_signatures(graph_def.node, f"{path}:")
    for name, function in functions.items():
        ends.check(function.node_def, f"{path}: in its function {name!r}")
        ends.check_signatures(function.node_def, f"{path}: in its function {name!r}")
    if functions:
        called = {name: _called(function.node_def) for name, function in functions.items()}
        check_calls(_called(graph_def.node), called, f"{path}:", counts)


class _Ends:
    """Counts what operators have of inputs and outputs, by TensorFlow's registry.

    An attribute can say how many an argument is, by a number or by a list of their types; in the
    body of a function it can stand for one that the function is given. TensorFlow makes a list of
    all before it compares it with the inputs that there are.
    """

    def __init__(self, graph_def: Any) -> None:
        tensorflow()
        from tensorflow.core.framework.attr_value_pb2 import AttrValue
        from tensorflow.python.framework import op_def_registry

        self._registered = op_def_registry.get
        self._nothing = AttrValue()
        functions = graph_def.library.function
        self._own = {function.signature.name: function.signature for function in functions}
        self._known: dict[str, _Arguments] = {}
        self._given: dict[str, int] = {}
        for node in (*graph_def.node, *(node for f in functions for node in f.node_def)):
            self._note(node.attr, given=node.op in self._own)

    def of(self, nodes: Iterable[Any]) -> int:
        """Return how many inputs and outputs nodes have, at most."""
        return sum(map(self._of_node, nodes))

    def _note(self, attributes: Any, *, given: bool) -> None:
        """Note the most that functions are given, by the name of the attribute."""
        for name, value in attributes.items():
            if given:
                self._given[name] = max(self._given.get(name, 0), _amount(value))
            if value.HasField("func"):
                self._note(value.func.attr, given=True)
            elif value.HasField("list"):
                for function in value.list.func:
                    self._note(function.attr, given=True)

    def check(self, nodes: Iterable[Any], where: str) -> None:
        """Raise ModelError for what TensorFlow would see of functions only when it runs them."""
        for node in nodes:
            arguments = self._arguments(node.op)
            there = [name for name in node.input if not name.startswith("^")]
            least = arguments.needed
            # A node of a function is given all of a list by the name of the list.
            if _CALLING.fullmatch(node.op) and all(name.count(":") != 1 for name in there):
                least += sum(_amount(node.attr[name]) for name in _TYPES if name in node.attr)
            if len(there) < least:
                raise ModelError(f"{where} {node.name!r}, a {node.op}, lacks inputs; {_CURE}")
            for name, minimum in arguments.least:
                if name in node.attr and not node.attr[name].placeholder:
                    if node.attr[name].i < minimum:
                        raise ModelError(
                            f"{where} {node.name!r}, a {node.op}, has {name} {node.attr[name].i}, "
                            f"and {minimum} is the least; {_CURE}"
                        )

    def check_signatures(self, nodes: Iterable[Any], where: str) -> None:
        """Raise ModelError for what has not as many inputs or outputs as the functions it calls."""
        for node in nodes:
            if not _CALLING.fullmatch(node.op):
                continue
            for key, (taken, given) in _CALLS.items():
                name = node.attr[key].func.name if key in node.attr else None
                if name not in self._own:
                    continue
                function = self._own[name]
                sides = (
                    ("inputs", taken, function.input_arg), ("outputs", given, function.output_arg)
                )  # fmt: skip
                for side, types, arguments in sides:
                    count = len(node.attr[types].list.type) if types in node.attr else None
                    if count is not None and count != len(arguments):
                        raise ModelError(
                            f"{where} {node.name!r}, a {node.op}, has {count} {side}, and the "
                            f"function {name!r} that it calls {len(arguments)}; {_CURE}"
                        )

    def _of_node(self, node: Any) -> int:
        arguments = self._arguments(node.op)
        count = arguments.single
        for name, default in arguments.counting:
            value = node.attr[name] if name in node.attr else default
            count += max(_amount(value), self._given.get(value.placeholder, 0))
        return count

    def _arguments(self, operator: str) -> _Arguments:
        if operator not in self._known:
            self._known[operator] = self._read(operator)
        return self._known[operator]

    def _read(self, operator: str) -> _Arguments:
        known = self._own.get(operator) or self._registered(operator)
        if known is None:
            return _Arguments(0, 0, [], [])
        defaults = {attribute.name: attribute.default_value for attribute in known.attr}
        inputs, outputs = map(_counted_by, (known.input_arg, known.output_arg))
        names = [*inputs, *outputs]
        counting = [(name, defaults.get(name, self._nothing)) for name in names if name]
        least = [(a.name, a.minimum) for a in known.attr if a.has_minimum and a.type == "int"]
        return _Arguments(len(names) - len(counting), inputs.count(""), counting, least)


class _Arguments(NamedTuple):
    """What an operator takes and gives.

    Attributes:
        single: The arguments that are one tensor each, with its outputs.
        needed: Those of them that are inputs.
        counting: The attributes that count the others, with what they are by default.
        least: The least that attributes may be which are numbers.
    """

    single: int
    needed: int
    counting: list[tuple[str, Any]]
    least: list[tuple[str, int]]


def _counted_by(arguments: Iterable[Any]) -> list[str]:
    """Return the attribute that counts each argument, or nothing for one."""
    return [argument.number_attr or argument.type_list_attr for argument in arguments]


def _amount(value: Any) -> int:
    """Return how many an attribute says, as a number or as a list of types."""
    return max(int(value.i), len(value.list.type))


def _check_constants(path: str, graph_def: Any) -> None:
    """Raise ModelError for constants that are larger than what is stored of them, or smaller."""
    total = 0
    functions = [node for f in graph_def.library.function for node in f.node_def]
    for node in (*graph_def.node, *functions):
        if node.op == "Const" and not node.attr["value"].HasField("tensor"):
            raise ModelError(f"{path}: the constant {node.name!r} is damaged: it has no value")
        for key in ("value", "shape"):
            if key not in node.attr:
                continue
            value = node.attr[key]
            shape = value.tensor.tensor_shape if value.HasField("tensor") else value.shape
            dims = [dim.size for dim in shape.dim]
            beyond = shape_fault(dims)
            if beyond is not None:
                raise ModelError(f"{path}: {node.name!r} {beyond}")
            if not value.HasField("tensor"):
                continue
            count = math.prod(max(dim, 1) for dim in dims)
            fault = _fault(value.tensor, 0 if 0 in dims else count)
            if fault is not None:
                raise ModelError(f"{path}: the constant {node.name!r} is damaged: {fault}")
            if not value.tensor.tensor_content:
                total += 8 * count  # of at most 8 bytes each
    if total > CONSTANT_BYTES.most:
        raise ModelError(f"{path}: {CONSTANT_BYTES.refusal(total)}")


def _fault(tensor: Any, count: int) -> str | None:
    """Return what is wrong with the values of a constant of ``count`` elements.

    TensorFlow repeats the last one where there are too few, and looks at the bytes of a constant
    only where it runs; ``make_ndarray`` ends with whatever error NumPy has.
    """
    try:
        dtype = tensorflow().as_dtype(tensor.dtype)
    except TypeError:
        return f"it is of a type that has the number {tensor.dtype}"
    if tensor.tensor_shape.unknown_rank or any(dim.size < 0 for dim in tensor.tensor_shape.dim):
        return "its shape is not known"
    if tensor.tensor_content:
        wanted, stored = count * dtype.size, len(tensor.tensor_content)
        if dtype == "string" or stored != wanted:
            return f"{count:,} values of {dtype.name} are no {stored:,} bytes"
        return None
    lists = [value for field, value in tensor.ListFields() if field.name.endswith("_val")]
    stored = sum(map(len, lists)) // (2 if dtype.is_complex else 1)
    return f"it has {stored:,} values in the place of {count:,}" if stored > count else None


def _called(nodes: Iterable[Any]) -> list[str]:
    """Return the operators that nodes are, and the functions that they are given."""
    found = []
    for node in nodes:
        found.append(node.op)
        for value in node.attr.values():
            if value.HasField("func"):
                found.append(value.func.name)
            elif value.HasField("list"):
                found += [function.name for function in value.list.func]
    return found
