"""Frozen TensorFlow graphs: read, cut at named tensors, training flags set for inference."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from onnxgraft.convert._branches import resolve_branches
from onnxgraft.convert._leftovers import (
    PLACEHOLDER_OPS,
    choose_values,
    freeze_batchnorm,
    training_notes,
)
from onnxgraft.convert._repairs import reach_with_zeros
from onnxgraft.convert._tensorflow import import_graph, tensorflow
from onnxgraft.convert._unshaped import shape_from_use
from onnxgraft.convert._weights import take_weights
from onnxgraft.errors import InputError, ModelError, nearest
from onnxgraft.files import existing_file, sha256
from onnxgraft.model import Source
from onnxgraft.runtime import Array, TensorSpec
from onnxgraft.tensor_option import TensorOption, Value

__all__ = [
    "Cut",
    "FrozenGraph",
    "Public",
    "import_checked",
    "loose_ends",
    "parse_graphdef",
    "prepare",
    "read_graphdef",
    "variables",
]

VARIABLE_OPS = frozenset({"Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable"})
# What feeds a training graph instead of a placeholder.
QUEUES = re.compile(r"QueueDequeue.*|IteratorGetNext.*|.*Iterator.*GetNext.*")
# What a graph may leave unconsumed without meaning it as an output.
_NOT_OUTPUTS = re.compile(
    r"Const|NoOp|Switch|Shape|ShapeN|Size|Rank|BroadcastGradientArgs|Assert|Placeholder.*|Assign.*|Apply.*|Resource.*|Save.*|Restore.*|.*Summary.*|Print.*"
)
# What has further outputs for training or for the runtime's own use.
_ONE_OUTPUT = re.compile(r"FusedBatchNorm.*|Merge")


@dataclass(frozen=True)
class Cut:
    """What a user asks of a graph.

    Attributes:
        inputs: Where to cut its beginning; none takes what is there.
        outputs: Where to cut its end; none takes what is there.
        values: Placeholders and constants to set.
        freeze_batchnorm: Run batch normalizations that are in training mode with the statistics
            that they store.
    """

    inputs: Sequence[TensorOption] = ()
    outputs: Sequence[TensorOption] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    freeze_batchnorm: bool = False


@dataclass(frozen=True)
class Public:
    """The names that a model itself has for its inputs and outputs: name -> tensor, in order."""

    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class FrozenGraph:
    """A graph ready for conversion, beside the graph as it was read.

    Attributes:
        source: The file.
        original: The GraphDef as read, without its weights; it runs as the judge.
        prepared: The same with flags baked in, selects resolved and dead branches gone.
        weights: The large constants of both, by node.
        inputs: What is fed, by the model's own names.
        outputs: What is fetched, by the model's own names.
        fed: The tensors of ``inputs`` in ``original``.
        places: The placeholders of ``inputs`` in ``prepared``.
        fetched: The tensors of ``outputs``.
        values: Placeholders that were set, by node name.
        notes: A sentence for each thing that was decided.
    """

    source: Source
    original: Any
    prepared: Any
    weights: dict[str, Array]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fed: tuple[str, ...]
    places: tuple[str, ...]
    fetched: tuple[str, ...]
    values: dict[str, Value]
    notes: tuple[str, ...]


def parse_graphdef(path: str | os.PathLike[str]) -> Any:
    """Read a GraphDef, binary or text.

    Raises:
        ModelError: It is neither, or is cut short.
    """
    file = existing_file(path, "the TensorFlow graph")
    tf = tensorflow()
    data = file.read_bytes()
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(data)
    except DecodeError:
        graph.Clear()
    if not graph.node:  # a text can pass for a message of unknown fields
        try:
            text_format.Parse(data.decode(), graph)
        except (UnicodeDecodeError, text_format.ParseError, DecodeError):
            graph.Clear()
    if not graph.node:
        raise ModelError(
            f"{file}: not a TensorFlow GraphDef, neither binary nor text; it may be cut short or "
            "be another kind of file"
        )
    return graph


def read_graphdef(path: str | os.PathLike[str], cut: Cut) -> FrozenGraph:
    """Read a frozen graph and prepare it for conversion.

    Raises:
        ModelError: The file can't be read, or its variables are not frozen.
        InputError: A tensor or a placeholder that was named is not in the graph.
    """
    source = Source(os.fspath(path), "tensorflow", sha256(path))
    return prepare(source, parse_graphdef(path), cut)


def prepare(source: Source, original: Any, cut: Cut, public: Public | None = None) -> FrozenGraph:
    """Cut a frozen graph and bake in what inference does not feed.

    Args:
        source: The file.
        original: The frozen GraphDef.
        cut: What the user asks.
        public: The names that the model itself has for its inputs and outputs.
    """
    path, public = source.path, public or Public({}, {})
    left = variables(original)
    if left:
        raise ModelError(
            f"{path}: {len(left)} variables are not frozen ({', '.join(left[:3])}"
            f"{', ...' if len(left) > 3 else ''}); freeze the graph first "
            "(tf.compat.v1.graph_util.convert_variables_to_constants)"
        )
    notes: list[str] = []
    original, weights = take_weights(original)
    if cut.freeze_batchnorm:
        original = freeze_batchnorm(original, notes)
    graph = import_checked(path, original)
    ends = [_tensor(path, graph, option.name, public.outputs) for option in cut.outputs]
    if not ends:
        names = list(public.outputs.values())
        ends = [graph.get_tensor_by_name(n) for n in names] or loose_ends(original, graph)
    if not ends:
        raise ModelError(f"{path}: found no outputs; name them with --outputs")
    fixed = choose_values(path, original, cut.values, notes)
    prepared = _prepare(original, graph, fixed, weights, [tensor.op.name for tensor in ends])
    notes += training_notes(prepared)
    starts = [
        (_tensor(path, graph, option.name, public.inputs), option.shape) for option in cut.inputs
    ] or [(tensor, None) for tensor in _fed(prepared, graph, public)]
    if not starts:
        raise InputError(f"{path}: the outputs need no input; name the inputs with --inputs")
    fed = [_input_spec(tensor, shape, notes) for tensor, shape in starts]
    _cut(prepared, fed)
    prepared = _reachable(prepared, [tensor.op.name for tensor in ends])
    places = [fed_node(spec.name, fed) for spec in fed]
    for node in prepared.node:
        if node.op in PLACEHOLDER_OPS and node.name not in places:
            raise InputError(
                f"{path}: the outputs need the placeholder {node.name!r} too; name it in --inputs, "
                f"or give its value with --set {node.name}=..."
            )
    called_in = {tensor: name for name, tensor in public.inputs.items()}
    called_out = {tensor: name for name, tensor in public.outputs.items()}
    fetched = [_output_spec(tensor) for tensor in ends]
    return FrozenGraph(
        source,
        original,
        prepared,
        weights,
        tuple(replace(spec, name=called_in.get(spec.name, spec.name)) for spec in fed),
        tuple(replace(spec, name=called_out.get(spec.name, spec.name)) for spec in fetched),
        tuple(spec.name for spec in fed),
        tuple(f"{place}:0" for place in places),
        tuple(spec.name for spec in fetched),
        fixed,
        tuple(notes),
    )


def _fed(prepared: Any, graph: Any, public: Public) -> list[Any]:
    """Return what queues give and the placeholders that are left, in the model's own order."""
    used = {name if ":" in name else f"{name}:0" for n in prepared.node for name in n.input}
    queued = [
        tensor
        for node in prepared.node
        if QUEUES.fullmatch(node.op)
        for tensor in graph.get_operation_by_name(node.name).outputs
        if tensor.name in used
    ]
    left = [f"{node.name}:0" for node in prepared.node if node.op in PLACEHOLDER_OPS]
    first = [tensor for tensor in public.inputs.values() if tensor in left]
    ordered = [*first, *(name for name in left if name not in first)]
    return [*queued, *map(graph.get_tensor_by_name, ordered)]


def variables(graph_def: Any) -> list[str]:
    """Return the names of the variables that are left in the graph."""
    return [node.name for node in graph_def.node if node.op in VARIABLE_OPS]


def import_checked(path: str | os.PathLike[str], graph_def: Any) -> Any:
    """Return the tf.Graph of a GraphDef, or raise ModelError saying why TensorFlow refuses it."""
    tf = tensorflow()
    try:
        return import_graph(graph_def)
    except (ValueError, KeyError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: TensorFlow refuses the graph: {reason}") from error


def _tensor(path: str, graph: Any, wanted: str, public: Mapping[str, str]) -> Any:
    name = public.get(wanted, wanted if ":" in wanted else f"{wanted}:0")
    try:
        return graph.get_tensor_by_name(name)
    except (KeyError, ValueError) as error:
        known = [tensor.name for op in graph.get_operations() for tensor in op.outputs]
        hint = nearest(wanted, [*public, *known])
        raise InputError(f"{path}: no tensor is called {wanted!r}; {hint}") from error


def loose_ends(graph_def: Any, graph: Any) -> list[Any]:
    """Return the outputs of the nodes that no other node consumes."""
    tf = tensorflow()
    used = {_node_of(name) for node in graph_def.node for name in node.input}
    ops = {node.name: node.op for node in graph_def.node}
    ends = []
    for node in graph_def.node:
        source = ops.get(_node_of(node.input[0])) if node.input else None
        # The pivots of a conditional are an Identity behind a Switch that nothing may hang on.
        pivot = node.op == "Identity" and source == "Switch"
        if node.name in used or pivot or _NOT_OUTPUTS.fullmatch(node.op):
            continue
        outputs = graph.get_operation_by_name(node.name).outputs
        ends += outputs[:1] if _ONE_OUTPUT.fullmatch(node.op) else outputs
    ends = [tensor for tensor in ends if tensor.dtype not in (tf.variant, tf.resource)]
    return [tensor for tensor in ends if not _is_counter(tensor)] or ends


def _is_counter(tensor: Any) -> bool:
    """Tell whether a tensor is a whole number that a loop gives back, as it does all it counts."""
    operation = tensor.op
    loop = operation.type == "Exit" or (
        operation.type == "Identity" and operation.inputs[0].op.type in ("While", "StatelessWhile")
    )
    return bool(loop and tensor.dtype.is_integer and tensor.shape.rank in (0, None))


def _node_of(name: str) -> str:
    return name.removeprefix("^").split(":")[0]


def _prepare(
    original: Any,
    graph: Any,
    values: Mapping[str, Value],
    weights: dict[str, Array],
    ends: Sequence[str],
) -> Any:
    """Return a copy with ``values`` as constants and every branch that they decide resolved."""
    tf = tensorflow()
    prepared = tf.compat.v1.GraphDef()
    prepared.CopyFrom(original)
    for node in prepared.node:
        if node.name in values:
            dtype = tf.as_dtype(node.attr["dtype"].type)
            constant = tf.make_tensor_proto(values[node.name], dtype, shape=())
            node.op = "Const"
            del node.input[:]
            for key in [key for key in node.attr if key != "dtype"]:
                del node.attr[key]
            node.attr["value"].tensor.CopyFrom(constant)
    reach_with_zeros(prepared, resolve_branches(prepared, graph), weights)
    return _reachable(prepared, ends)


def _reachable(graph_def: Any, ends: Sequence[str]) -> Any:
    tf = tensorflow()
    nodes = {node.name: node for node in graph_def.node}
    wanted, stack = set(), list(ends)
    while stack:
        name = stack.pop()
        if name not in wanted and name in nodes:
            wanted.add(name)
            stack.extend(_node_of(source) for source in nodes[name].input)
    kept = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    kept.node.extend(node for node in graph_def.node if node.name in wanted)
    return kept


def _cut(graph_def: Any, inputs: Sequence[TensorSpec]) -> None:
    """Make a placeholder of each tensor that is fed; one of several outputs gets a node of its own.

    The placeholder of a second output, ``queue:1``, is called ``queue__1``.
    """
    tf = tensorflow()
    nodes = {node.name: node for node in graph_def.node}
    for spec in inputs:
        place = fed_node(spec.name, inputs)
        node = nodes.get(place)
        if node is None:
            node = graph_def.node.add(name=place)
            for other in graph_def.node:
                for at, source in enumerate(other.input):
                    if (source if ":" in source else f"{source}:0") == spec.name:
                        other.input[at] = place
        node.op = "Placeholder"
        del node.input[:]
        node.ClearField("attr")
        node.attr["dtype"].type = tf.as_dtype(np.dtype(spec.dtype)).as_datatype_enum
        shape = [dim if isinstance(dim, int) else None for dim in spec.shape]
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())


def fed_node(tensor: str, inputs: Sequence[TensorSpec]) -> str:
    """Return the name of the placeholder that `_cut` makes of a tensor."""
    name, index = tensor.rsplit(":", 1)
    several = sum(_node_of(other.name) == name for other in inputs) > 1
    return name if index == "0" and not several else f"{name}__{index}"


def _input_spec(tensor: Any, shape: Sequence[int] | None, notes: list[str]) -> TensorSpec:
    """Return the spec of an input; where no shape is recorded, what consumes it tells."""
    if shape is None and tensor.shape.rank is None:
        told = shape_from_use(tensor)
        if told is None:
            raise InputError(
                f"the rank of {tensor.name} is not recorded; give its shape with --inputs "
                f"{tensor.name}[...]"
            )
        shape, consumer = told
        dims = ", ".join(str(dim) if dim >= 0 else "?" for dim in shape)
        notes.append(
            f"{tensor.name} has no recorded shape; {consumer} wants ({dims}); --inputs "
            f"{tensor.name}[...] decides otherwise"
        )
    return _spec(tensor, shape)


def _spec(tensor: Any, shape: Sequence[int] | None) -> TensorSpec:
    """Return the tensor's spec; a free dimension is called N on axis 0, else by its place."""
    if shape is None:
        shape = [-1 if dim is None else dim for dim in tensor.shape.as_list()]
    dims: tuple[int | str, ...] = tuple(
        dim if dim >= 0 else ("N" if axis == 0 else f"{tensor.op.name}.{axis}")
        for axis, dim in enumerate(shape)
    )
    return TensorSpec(tensor.name, tensor.dtype.as_numpy_dtype.__name__, dims)


def _output_spec(tensor: Any) -> TensorSpec:
    """Return the spec of an output; where not even the rank is known its shape is ``...``."""
    if tensor.shape.rank is None:
        return TensorSpec(tensor.name, tensor.dtype.as_numpy_dtype.__name__, ("...",))
    return _spec(tensor, None)
