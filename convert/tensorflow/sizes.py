"""What a TensorFlow graph takes when it runs, by the sizes of its tensors, before it runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.run.demand import Step, check_steps, grown, peak, size_of, tell_unknown
from onnxgraft.stages.convert.tensorflow.running import (
    graph_of_function,
    import_graph,
    import_into,
    tensorflow,
)

__all__ = ["SIZED", "check_sizes"]

# What takes no memory but what is stored; weights may be placeholders here.
_STORED = re.compile(r"Const|Identity|Placeholder(WithDefault)?")
# Operators that make a tensor of any size of a few numbers. In loops of TensorFlow 1 no shapes are
# known: what a loop carries may grow there, and nothing is said of that.
SIZED = re.compile(
    r"BroadcastTo|Conv\dDBackpropInput(V2)?|CropAndResize|(Dense)?Bincount|DynamicStitch|Empty"
    r"|Fill|ImageProjectiveTransformV[23]|LinSpace|MatrixDiagV[23]|MirrorPad|OneHot|Pad(V2)?|Range"
    r"|Resize(Area|Bicubic|Bilinear|NearestNeighbor)|ScatterNd|Segment\w+|SparseToDense"
    r"|(Stateless|Parameterized)?(Random|TruncatedNormal)\w*|Tile|UnsortedSegment\w+"
)
_WHILE = ("StatelessWhile", "While")
# Operators that make a list of so many tensors, by the input that says how many.
_LISTS = {"TensorArrayV3": 0, "TensorListReserve": 1}
# What an element takes while it is empty (measured: 64 of the first, 32 of the second).
_ELEMENT = 64
# Operators whose first input chooses what is called.
_CHOOSING = ("Case", "If", "StatelessCase", "StatelessIf")


def check_sizes(
    path: str,
    graph_def: Any,
    fed: Mapping[str, TensorSpec],
    fetched: Collection[str],
    stored: int,
) -> None:
    """Raise ModelError if the tensors of a graph take more than is allowed.

    Args:
        path: Of the file.
        graph_def: The GraphDef.
        fed: The tensors that are fed, with what is known of them.
        fetched: The tensors that are returned.
        stored: Bytes of its weights.
    """
    graph, places = _of_one_sample(graph_def, fed)
    sizes = _Sizes(graph_def)
    given = {name: _bytes(graph.get_tensor_by_name(name)) for name in places}
    steps = list(sizes.steps(graph, _needed(graph, fetched, places), places))
    check_steps(steps, given, fetched, path)
    if sizes.unknown is not None:
        tell_unknown(sizes.unknown, stored)


def _of_one_sample(graph_def: Any, fed: Mapping[str, TensorSpec]) -> tuple[Any, list[str]]:
    """Return the graph in which what is fed has the shape of one sample, and what is fed there."""
    tf = tensorflow()
    graph = tf.Graph()
    try:
        with graph.as_default():
            ones = {
                name: tf.compat.v1.placeholder(
                    spec.dtype, [dim if isinstance(dim, int) else 1 for dim in spec.shape]
                )
                for name, spec in fed.items()
            }
            import_into(graph_def, ones)
    except ValueError:  # a graph may be of another batch, or of inputs that no shape is known of
        return import_graph(graph_def), list(fed)
    return graph, [tensor.name for tensor in ones.values()]


def _needed(graph: Any, fetched: Iterable[str], fed: Collection[str]) -> set[str]:
    """Return the names of the operations that run when tensors are fetched."""
    needed, left = set[str](), [graph.get_tensor_by_name(name).op for name in fetched]
    while left:
        operation = left.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            left += [tensor.op for tensor in operation.inputs if tensor.name not in fed]
            left += operation.control_inputs
    return needed


class _Sizes:
    """What the operations of a graph take, and of the functions that it calls.

    Attributes:
        unknown: A tensor whose size follows from values that are computed, if there is one.
    """

    def __init__(self, graph_def: Any) -> None:
        self.unknown: str | None = None
        self._functions = {f.signature.name: f for f in graph_def.library.function}
        self._known: dict[tuple[str, str], tuple[int, list[Any]]] = {}

    def steps(self, graph: Any, needed: Collection[str], fed: Collection[str]) -> Iterator[Step]:
        """Yield what the operations do that are needed; what is fed is not made."""
        for operation in graph.get_operations():
            if operation.name not in needed or _STORED.fullmatch(operation.type):
                continue
            given = list(operation.inputs)
            stored = all(_STORED.fullmatch(t.op.type) and t.name not in fed for t in given)
            free = grown(sum(map(_bytes, given))) if stored else 0
            makes = {t.name: _bytes(t) for t in operation.outputs if t.name not in fed}
            makes = {name: size if size > free else 0 for name, size in makes.items()}
            if operation.type in _LISTS:
                makes[operation.outputs[0].name] = _list_bytes(given[_LISTS[operation.type]])
            if SIZED.fullmatch(operation.type):
                self._note(operation.outputs, [tensor.shape for tensor in operation.outputs])
            yield Step([tensor.name for tensor in given], makes, self._called(graph, operation))

    def _note(self, tensors: Iterable[Any], shapes: Iterable[Any]) -> None:
        for tensor, shape in zip(tensors, shapes, strict=True):
            if tensor.dtype.is_numpy_compatible and not shape.is_fully_defined():
                self.unknown = self.unknown or str(tensor.name)

    def _called(self, graph: Any, operation: Any) -> int:
        """Return the bytes that the functions take which an operation calls."""
        names = [operation.type]
        for value in operation.node_def.attr.values():
            names += [value.func.name, *(each.name for each in value.list.func)]
        args = [tensor.shape for tensor in operation.inputs]
        args = args[1:] if operation.type in _CHOOSING else args
        most = 0
        for name in filter(self._functions.__contains__, names):
            taken, results = self._function(graph, name, args)
            most = max(most, taken)
            if operation.type in _WHILE and len(results) == len(args):  # not its condition
                same = [
                    shape if shape.is_fully_defined() and shape == before else shape.__class__(None)
                    for shape, before in zip(results, args, strict=True)
                ]
                self._note(operation.outputs, same)
        return most

    def _function(self, graph: Any, name: str, args: list[Any]) -> tuple[int, list[Any]]:
        """Return what a function takes that is given tensors of such shapes, and what it returns.

        Of one that TensorFlow can't read nothing is known, and it can't run.
        """
        key = name, repr(args)
        if key not in self._known:
            self._known[key] = 0, []
            function = type(self._functions[name])()
            function.CopyFrom(self._functions[name])
            function.arg_attr.clear()  # the shapes that it was written with
            try:
                with graph.as_default():
                    body = graph_of_function(function, args)
            except (LookupError, RuntimeError, TypeError, ValueError):
                return self._known[key]
            places = [tensor.name for tensor in body.inputs]
            needed = {operation.name for operation in body.get_operations()}
            steps = list(self.steps(body, needed, places))
            taken, _ = peak(steps, {}, ())
            self._known[key] = taken, [tensor.shape for tensor in body.outputs]
        return self._known[key]


def _bytes(tensor: Any) -> int:
    """Return what a tensor takes, as far as its shape is known."""
    if tensor.shape.rank is None or tensor.dtype.is_numpy_compatible is False:
        return 0
    return size_of(tensor.shape.as_list(), tensor.dtype.size)


def _list_bytes(count: Any) -> int:
    """Return what a list takes, if its number of elements is a constant."""
    value = tensorflow().get_static_value(count) if count.op.type == "Const" else None
    return _ELEMENT * max(value.item(), 0) if value is not None and value.size == 1 else 0
