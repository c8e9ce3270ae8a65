"""TensorFlow 1's loops - frames of Enter, Merge, Switch and NextIteration - as functional loops.

Given:  Exit(Switch(Merge(Enter(a), NextIteration(body)), LoopCond(cond)))
Result: While(a; cond, body)

and TensorArrays, which such loops read and write, as TensorLists, so that one thing is left to
convert. Frames within frames are lifted from the inside out. What no frame of TensorFlow's own
writing looks like is refused by the frame's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.names import free
from onnxgraft.stages.convert.tensorflow.names import node_of
from onnxgraft.stages.convert.tensorflow.running import (
    graph_of_function,
    import_graph,
    reason_of,
    tensorflow,
)

__all__ = ["add_constant", "lift_frames", "tensor_arrays_to_lists"]

# What TensorArraySizeV3 is, or was made.
_SIZES = ("TensorArraySizeV3", "TensorListLength")
_FRAME_OPS = frozenset({"Enter", "Exit", "LoopCond", "NextIteration"})


def lift_frames(path: str, graph_def: Any) -> None:
    """Replace in place each frame by a While with functions for its condition and its body.

    Raises:
        NotSupportedError: A frame is not one that TensorFlow writes for a loop.
    """
    lifted = 0
    while True:
        frames = {n.attr["frame_name"].s.decode() for n in graph_def.node if n.op == "Enter"}
        if not frames:
            break
        graph = _imported(path, graph_def)
        for name in sorted(frames):
            frame = _Frame(path, name, graph_def)
            if not frame.holds_another():
                frame.lift(graph_def, graph, _free_scope(graph_def, f"{name}/lifted_{lifted}"))
                lifted += 1
                break
        else:
            raise NotSupportedError(
                f"{path}: the loops {', '.join(sorted(frames))} are nested in each other; cut the "
                "graph before them with --outputs"
            )
    if lifted > 1:
        _find_shapes(path, graph_def)
    left = [node for node in graph_def.node if node.op in _FRAME_OPS]
    if left:
        raise NotSupportedError(
            f"{path}: {left[0].op} {left[0].name!r} belongs to no loop's frame; cut the graph "
            "before it with --outputs"
        )


def _imported(path: str, graph_def: Any) -> Any:
    try:
        return import_graph(graph_def)
    except ValueError as error:
        raise NotSupportedError(
            f"{path}: a loop uses its lists or TensorArrays in a way that can't be converted: "
            f"{reason_of(error)}; cut the graph before it with --outputs"
        ) from error


def _find_shapes(path: str, graph_def: Any) -> None:
    """Find the shapes of loops within loops, which were lifted before those around them."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    changed = True
    while changed:
        graph = _imported(path, graph_def)
        with graph.as_default():
            changed = _find_shapes_in(graph, graph_def.node, functions)


def _find_shapes_in(graph: Any, nodes: Any, functions: Mapping[str, Any]) -> bool:
    """Give the loops among ``nodes``, of ``graph``, shapes; return whether any were new."""
    changed = False
    for node in nodes:
        if node.op != "StatelessWhile" or node.attr["body"].func.name not in functions:
            continue
        shapes = [tensor.shape for tensor in graph.get_operation_by_name(node.name).inputs]
        body = functions[node.attr["body"].func.name]
        while True:
            inner = graph_of_function(body, [shape.as_proto() for shape in shapes])
            if _find_shapes_in(inner, body.node_def, functions):
                changed = True
                continue
            wider = _wider(shapes, [tensor.shape for tensor in inner.outputs])
            if wider is None:
                break
            shapes = wider
        protos = [shape.as_proto() for shape in shapes]
        if list(node.attr["output_shapes"].list.shape) != protos:
            del node.attr["output_shapes"].list.shape[:]
            node.attr["output_shapes"].list.shape.extend(protos)
            changed = True
    return changed


def _wider(shapes: Sequence[Any], ends: Sequence[Any]) -> list[Any] | None:
    """Return shapes that hold what enters a loop and what comes round; None where they do."""
    wider = [one.most_specific_compatible_shape(two) for one, two in zip(shapes, ends, strict=True)]
    return None if list(map(str, wider)) == list(map(str, shapes)) else wider


@dataclass(frozen=True)
class _Variable:
    """A loop variable: the nodes that it passes through, and what it becomes."""

    enter: Any
    merge: Any
    update: str
    switches: tuple[str, ...]
    exits: tuple[Any, ...]


class _Frame:
    """The nodes of one frame."""

    def __init__(self, path: str, name: str, graph_def: Any) -> None:
        self.path = path
        self.name = name
        self.nodes = {node.name: node for node in graph_def.node}
        enters = [
            n for n in graph_def.node if n.op == "Enter" and n.attr["frame_name"].s.decode() == name
        ]
        entered = {node.name for node in enters}
        merges = {
            node_of(source): node
            for node in graph_def.node
            if node.op == "Merge"
            for source in node.input
            if node_of(source) in entered
        }
        self.variables = [self._variable(n, merges[n.name]) for n in enters if n.name in merges]
        conditions = {
            node_of(self.nodes[switch].input[1])
            for variable in self.variables
            for switch in variable.switches
        }
        if len(conditions) != 1:
            raise self._refusal(f"it has {len(conditions)} conditions")
        self.condition = self.nodes[conditions.pop()].input[0]
        # What the functions are given, by the tensors that they read it from.
        self.arguments: dict[str, int] = {}
        for number, variable in enumerate(self.variables):
            for tensor in (variable.merge.name, *(f"{s}:1" for s in variable.switches)):
                self.arguments[tensor] = number
        read = {
            node_of(source)
            for node in self._inside([self.condition, *(v.update for v in self.variables)])
            for source in node.input
        }
        self.entered = entered
        self.captures = [n for n in enters if n.name not in merges and n.name in read]
        for node in self.captures:
            if not node.attr["is_constant"].b:
                raise self._refusal(f"what {node.name!r} gives is there in its first step alone")
        for number, node in enumerate(self.captures, len(self.variables)):
            self.arguments[node.name] = number

    def _refusal(self, reason: str) -> NotSupportedError:
        return NotSupportedError(
            f"{self.path}: the loop in the frame {self.name!r} can't be converted: {reason}; cut "
            "the graph before it with --outputs"
        )

    def _variable(self, enter: Any, merge: Any) -> _Variable:
        others = [source for source in merge.input if node_of(source) != enter.name]
        update = self.nodes.get(node_of(others[0])) if len(others) == 1 else None
        if update is None or update.op != "NextIteration":
            raise self._refusal(f"{merge.name!r} does not join Enter with NextIteration")
        if enter.attr["is_constant"].b:
            raise self._refusal(f"what {enter.name!r} gives comes in each step anew")
        readers = [n for n in self.nodes.values() if merge.name in map(node_of, n.input)]
        switches = tuple(
            n.name
            for n in readers
            if n.op == "Switch" and self.nodes[node_of(n.input[1])].op == "LoopCond"
        )
        exits = tuple(
            n for n in self.nodes.values() if n.op == "Exit" and node_of(n.input[0]) in switches
        )
        return _Variable(enter, merge, update.input[0], switches, exits)

    def _inside(self, roots: list[str]) -> Iterator[Any]:
        """Yield the nodes between the roots and the frame's edge."""
        stack, seen = [_tensor(root) for root in roots], set()
        while stack:
            tensor = stack.pop()
            name = node_of(tensor)
            if tensor in self.arguments or name in seen:
                continue
            seen.add(name)
            node = self.nodes[name]
            yield node
            if node.op == "Enter" and node.attr["frame_name"].s.decode() == self.name:
                continue
            stack.extend(_tensor(source) for source in node.input if not source.startswith("^"))

    def holds_another(self) -> bool:
        """Tell whether another frame's loop is in this one's body or condition."""
        roots = [self.condition, *(variable.update for variable in self.variables)]
        return any(node.op in _FRAME_OPS for node in self._inside(roots))

    def lift(self, graph_def: Any, graph: Any, name: str) -> None:
        """Write the While, make an Identity of each Exit, and drop the frame's nodes."""
        tf = tensorflow()
        entered = [*(variable.enter for variable in self.variables), *self.captures]
        types = [tf.int32.as_datatype_enum] * 2 + [node.attr["T"].type for node in entered]
        body = [variable.update for variable in self.variables]
        body += [node.name for node in self.captures]
        shapes = [tf.TensorShape([])] * 2
        shapes += [graph.get_operation_by_name(n.name).inputs[0].shape for n in entered]
        while True:  # until what goes round the loop has the shape that it came with
            made, ends = self._function(f"{name}_body", body, types, shapes, graph_def, True)
            wider = _wider(shapes, ends)
            if wider is None:
                break
            shapes = wider
        condition, _ = self._function(f"{name}_cond", [self.condition], types, shapes, graph_def)
        functions = {"cond": condition, "body": made}
        graph_def.library.function.extend(functions.values())
        _constant(graph_def, f"{name}/counter", 0)
        _constant(graph_def, f"{name}/limit", -1)
        inputs = [f"{name}/counter", f"{name}/limit", *(node.input[0] for node in entered)]
        loop = graph_def.node.add(name=name, op="StatelessWhile", input=inputs)
        loop.attr["T"].list.type.extend(types)
        loop.attr["output_shapes"].list.shape.extend(shape.as_proto() for shape in shapes)
        loop.attr["parallel_iterations"].i = 10
        for key, function in functions.items():
            loop.attr[key].func.name = function.signature.name
        for number, variable in enumerate(self.variables, 2):
            for node in variable.exits:
                node.op = "Identity"
                node.input[:] = [f"{name}:{number}"]
        gone = {node_of(tensor) for tensor in self.arguments}
        gone |= self.entered
        gone |= {node_of(v.merge.input[i]) for v in self.variables for i in range(2)}
        gone |= {n for v in self.variables for n in v.switches}
        gone |= {n.name for n in graph_def.node if n.op == "LoopCond" and self._mine(n)}
        roots = [self.condition, *body]
        gone |= {node.name for node in self._inside(roots) if node.op != "Const"}
        size = 0
        while len(gone) > size:  # and what hangs on them unread, such as another variable's Exit
            size = len(gone)
            gone |= {n.name for n in graph_def.node if not gone.isdisjoint(map(node_of, n.input))}
        kept = [node for node in graph_def.node if node.name not in gone]
        wanted = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
        wanted.node.extend(kept)
        graph_def.CopyFrom(wanted)

    def _mine(self, node: Any) -> bool:
        return bool(node.input[0] == self.condition)

    def _function(
        self,
        name: str,
        roots: list[str],
        types: list[int],
        shapes: list[Any],
        graph_def: Any,
        counted: bool = False,
    ) -> tuple[Any, list[Any]]:
        """Return a FunctionDef of the nodes between the frame's edge and ``roots``.

        Its results' shapes come with it; ``counted`` adds the step counter and the limit.
        """
        from tensorflow.python.framework.graph_to_function_def import graph_to_function_def

        tf = tensorflow()
        inner = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
        for number, (kind, shape) in enumerate(zip(types, shapes, strict=True)):
            place = inner.node.add(name=f"{name}/arg_{number}", op="Placeholder")
            place.attr["dtype"].type = kind
            place.attr["shape"].shape.CopyFrom(shape.as_proto())

        def renamed(tensor: str) -> str:
            known = self.arguments.get(_tensor(tensor))
            return tensor if known is None else f"{name}/arg_{known + 2}"

        for node in self._inside(roots):
            if node.op in ("Placeholder", *_FRAME_OPS):
                raise self._refusal(f"it reads {node.op} {node.name!r} without an Enter")
            copy = inner.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [renamed(s) for s in node.input if not s.startswith("^")]
        results = [renamed(root) for root in roots]
        sources = list(types)
        if counted:
            _constant(inner, f"{name}/one", 1)
            step = inner.node.add(name=f"{name}/next", op="AddV2")
            step.input[:] = [f"{name}/arg_0", f"{name}/one"]
            step.attr["T"].type = types[0]
            results = [f"{name}/next", f"{name}/arg_1", *results]
        else:
            sources = [tf.bool.as_datatype_enum]
        for number, (result, kind) in enumerate(zip(results, sources, strict=True)):
            end = inner.node.add(name=f"{name}/ret_{number}", op="Identity", input=[result])
            end.attr["T"].type = kind
        graph = _imported(self.path, inner)
        given = [graph.get_tensor_by_name(f"{name}/arg_{n}:0") for n in range(len(types))]
        ends = [graph.get_tensor_by_name(f"{name}/ret_{n}:0") for n in range(len(results))]
        own = {tensor.op.name for tensor in given}
        operations = [op for op in graph.get_operations() if op.name not in own]
        function = graph_to_function_def(graph, operations, given, ends)
        function.signature.name = name.replace("/", "_")
        for number, shape in enumerate(shapes):
            attributes = function.arg_attr[number].attr
            attributes["_output_shapes"].list.shape.add().CopyFrom(shape.as_proto())
        return function, [tensor.shape for tensor in ends]


def _free_scope(graph_def: Any, wish: str) -> str:
    """Return a name that no node's and no function's begins with."""
    nodes = {node.name for node in graph_def.node}
    functions = {function.signature.name for function in graph_def.library.function}
    while any(name.startswith(wish) for name in nodes) or any(
        name.startswith(wish.replace("/", "_")) for name in functions
    ):
        wish += "_"
    return wish


def _tensor(name: str) -> str:
    return name.removesuffix(":0")


def add_constant(nodes: Any, name: str, value: Any, dtype: int | None = None) -> Any:
    """Add a constant, int32 if nothing else is said, to a list of nodes and return its node.

    It is called ``name``, or something like it if that is taken.
    """
    tf = tensorflow()
    tensor = tf.make_tensor_proto(value, tf.as_dtype(dtype) if dtype else tf.int32)
    node = nodes.add(name=free({node.name for node in nodes}, name), op="Const")
    node.attr["dtype"].type = tensor.dtype
    node.attr["value"].tensor.CopyFrom(tensor)
    return node


def _constant(graph_def: Any, name: str, value: Any) -> str:
    return str(add_constant(graph_def.node, name, value).name)


# TensorArrays ------------------------------------------------------------------------------------


def tensor_arrays_to_lists(graph_def: Any, ends: Sequence[str]) -> None:
    """Replace in place TensorArrays by TensorLists, which travel where the arrays' flows do.

    TensorArrayV3 TensorListReserve; Read GetItem; Write SetItem; Scatter of everything FromTensor;
    Gather Stack, and a GatherV2 unless it is of everything; Size the size that was asked for, or
    the list's length where it may have grown. What is none of these stays, and what ``ends`` do not
    need goes.
    """
    nodes = {node.name: node for node in graph_def.node}
    arrays = {node.name: node for node in graph_def.node if node.op == "TensorArrayV3"}
    if not arrays:
        return
    sizes = {name: node.input[0] for name, node in arrays.items()}
    for node in list(graph_def.node):
        if not node.op.startswith("TensorArray") or node.op == "TensorArrayV3":
            continue
        array = nodes[node_of(node.input[0])]
        while array.op == "Enter":
            array = nodes[node_of(array.input[0])]
        if array.op == "TensorArrayV3":
            _to_list(graph_def, nodes, node, array, sizes[array.name])
    for name, node in arrays.items():
        shape = _element_shape(graph_def, name, node)
        dtype = node.attr["dtype"].type
        _become(node, "TensorListReserve", [shape, sizes[name]], element_dtype=dtype)
        node.attr["shape_type"].type = tensorflow().int32.as_datatype_enum
    _pass_on_lists(graph_def, arrays)
    for node in graph_def.node:
        node.input[:] = [
            s.removesuffix(":1") if node_of(s) in arrays and s.endswith(":1") else s
            for s in node.input
        ]
    _drop_unread(graph_def, ends)


def _drop_unread(graph_def: Any, ends: Sequence[str]) -> None:
    nodes = {node.name: node for node in graph_def.node}
    wanted: set[str] = set()
    stack = [node_of(end) for end in ends]
    while stack:
        name = stack.pop()
        if name in nodes and name not in wanted:
            wanted.add(name)
            stack.extend(map(node_of, nodes[name].input))
    for number in range(len(graph_def.node) - 1, -1, -1):
        if graph_def.node[number].name not in wanted:
            del graph_def.node[number]


def _to_list(graph_def: Any, nodes: Mapping[str, Any], node: Any, array: Any, size: str) -> None:
    """Rewrite one operator of an array."""
    dtype = array.attr["dtype"].type
    inputs = list(node.input)
    flow = inputs[-1]
    if node.op == "TensorArrayReadV3":
        shape = _element_shape(graph_def, node.name, array)
        _become(node, "TensorListGetItem", [flow, inputs[1], shape], element_dtype=dtype)
    elif node.op == "TensorArrayWriteV3":
        _become(node, "TensorListSetItem", [flow, inputs[1], inputs[2]], element_dtype=dtype)
    elif node.op == "TensorArrayScatterV3" and _range_end(nodes, inputs[1]) is not None:
        shape = _element_shape(graph_def, node.name, array)
        _become(node, "TensorListFromTensor", [inputs[2], shape], element_dtype=dtype)
        node.attr["shape_type"].type = tensorflow().int32.as_datatype_enum
    elif node.op == "TensorArrayGatherV3":
        end = _range_end(nodes, inputs[1])
        whole = end is not None and (end == size or nodes[node_of(end)].op in _SIZES)
        shape = _element_shape(graph_def, node.name, array)
        if whole:
            stack = node
        else:
            taken = {other.name for other in graph_def.node}
            stack = graph_def.node.add(name=free(taken, f"{node.name}/stack"))
            axis = _constant(graph_def, f"{node.name}/axis", 0)
            _become(node, "GatherV2", [stack.name, inputs[1], axis])
            for key, kind in (("Tparams", dtype), ("Tindices", 3), ("Taxis", 3)):
                node.attr[key].type = kind
        _become(stack, "TensorListStack", [flow, shape], element_dtype=dtype)
        stack.attr["num_elements"].i = -1
    elif node.op == "TensorArraySizeV3" and array.attr["dynamic_size"].b:
        _become(node, "TensorListLength", [flow])
    elif node.op == "TensorArraySizeV3":
        _become(node, "Identity", [size], T=tensorflow().int32.as_datatype_enum)


def _become(node: Any, op: str, inputs: list[str], **types: int) -> None:
    node.op = op
    node.ClearField("attr")
    node.input[:] = inputs
    for key, value in types.items():
        node.attr[key].type = value


def _element_shape(graph_def: Any, name: str, array: Any) -> str:
    """Add a constant with the shape of an array's elements, -1 where it is not known."""
    shape = tensorflow().TensorShape(array.attr["element_shape"].shape)
    dims = -1 if shape.rank is None else [-1 if dim is None else dim for dim in shape.as_list()]
    return _constant(graph_def, f"{name}/element_shape", dims)


def _range_end(nodes: Mapping[str, Any], name: str) -> str | None:
    """Return the n of ``range(0, n, 1)``."""
    node = nodes[node_of(name)]
    if node.op != "Range":
        return None
    tf = tensorflow()
    first, step = (nodes[node_of(node.input[i])] for i in (0, 2))
    if first.op != "Const" or step.op != "Const":
        return None
    values = [int(tf.make_ndarray(n.attr["value"].tensor)) for n in (first, step)]
    return str(node.input[1]) if values == [0, 1] else None


def _pass_on_lists(graph_def: Any, arrays: Mapping[str, Any]) -> None:
    """Make variants of the flows that are lists by now, and drop what passes on the handles."""
    variant = tensorflow().variant.as_datatype_enum
    makers = ("TensorListSetItem", "TensorListFromTensor")
    lists = {node.name for node in graph_def.node if node.op in makers}
    flows, handles = {f"{name}:1" for name in arrays}, set(arrays)
    passing = ("Enter", "Exit", "Identity", "Merge", "NextIteration", "Switch")
    size = 0
    while len(lists) + len(handles) > size:
        size = len(lists) + len(handles)
        for node in graph_def.node:
            if node.op not in passing:
                continue
            if node.input[0] in flows or node_of(node.input[0]) in lists:
                node.attr["T"].type = variant
                lists.add(node.name)
            elif _tensor(node.input[0]) in handles or node_of(node.input[0]) in handles - set(
                arrays
            ):
                handles.add(node.name)
    for number in range(len(graph_def.node) - 1, -1, -1):
        if graph_def.node[number].name in handles - set(arrays):
            del graph_def.node[number]
