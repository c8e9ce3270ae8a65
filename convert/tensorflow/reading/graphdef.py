"""Frozen TensorFlow graphs: read, cut at named tensors, training flags set for inference."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from onnxgraft.errors import InputError, ModelError, NotSupportedError, nearest
from onnxgraft.files import existing_file, sha256
from onnxgraft.files.limits import BUFFER_BYTES
from onnxgraft.graph.model import Source
from onnxgraft.graph.tensor_option import TensorOption, Value
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.stages.convert.tensorflow.lower.repairs import repair
from onnxgraft.stages.convert.tensorflow.lower.weights import take_weights
from onnxgraft.stages.convert.tensorflow.names import full_name, node_of
from onnxgraft.stages.convert.tensorflow.prepare.branches import resolve_branches
from onnxgraft.stages.convert.tensorflow.prepare.leftovers import (
    PLACEHOLDER_OPS,
    bake,
    choose_values,
    freeze_batchnorm,
    training_notes,
)
from onnxgraft.stages.convert.tensorflow.reading.cutting import (
    fits,
    input_spec,
    make_placeholders,
    output_spec,
    reachable,
    without_clashes,
)
from onnxgraft.stages.convert.tensorflow.reading.declared import check_declared
from onnxgraft.stages.convert.tensorflow.reading.forbidden import check_operators
from onnxgraft.stages.convert.tensorflow.reading.survey import is_message
from onnxgraft.stages.convert.tensorflow.reading.text import parse_graph
from onnxgraft.stages.convert.tensorflow.running import import_graph, refusing, tensorflow

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
# What an assertion leaves behind.
_ASSERTION = re.compile(r"(?:^|/)AssertGuard(?:_\d+)?/")
# What a conditional of TensorFlow 1 calls its predicate.
_PREDICATE = re.compile(r"(^|/)pred_id(_\d+)?$")
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
    """The names that a model itself has for its inputs and outputs: name -> tensor, in order.

    Attributes:
        inputs: Of its inputs.
        outputs: Of its outputs.
        others: Other names that users know these tensors by.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FrozenGraph:
    """A graph ready for conversion, beside the graph as it was read.

    Attributes:
        source: The file.
        original: The GraphDef as read, without its weights; it runs as the reference.
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

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights."""
        return sum(value.nbytes for value in self.weights.values())


def parse_graphdef(path: str | os.PathLike[str]) -> Any:
    """Read a GraphDef, binary or text.

    Raises:
        ModelError: It is neither, or is cut short.
    """
    file = existing_file(path, "the TensorFlow graph", BUFFER_BYTES)
    data = file.read_bytes()
    graph = tensorflow().compat.v1.GraphDef()
    binary = is_message(data, graph, f"{file}:")
    try:
        if binary:
            graph.ParseFromString(data)
    except DecodeError:
        graph.Clear()
    if not graph.node:  # a text can pass for a message of unknown fields
        try:
            parse_graph(data, graph, f"{file}:")
        except (UnicodeDecodeError, RecursionError, text_format.ParseError, DecodeError):
            graph.Clear()
    if not graph.node:
        named = file.suffix in (".pb", ".pbtxt")
        raise ModelError(
            f"{file}: not {'a' if named else 'a model: neither ONNX nor a'} TensorFlow GraphDef, "
            "binary or text; it may be cut short or be another kind of file"
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
    _check_frozen(path, original)
    check_declared(path, original)
    notes: list[str] = []
    original, weights = take_weights(original)
    graph = import_checked(path, original)
    ends = [
        _tensor(path, graph, option.name, {**public.others, **public.outputs})
        for option in cut.outputs
    ]
    if not ends:
        names = list(public.outputs.values())
        ends = [graph.get_tensor_by_name(n) for n in names] or loose_ends(original, graph)
    if not ends:
        raise ModelError(f"{path}: found no outputs; name them with --outputs")
    named = [
        _tensor(path, graph, option.name, {**public.others, **public.inputs})
        for option in cut.inputs
    ]
    if not public.outputs:
        _check_twice("--outputs", ends)
    _check_twice("--inputs", named)

    prepared = tensorflow().compat.v1.GraphDef()
    prepared.CopyFrom(original)
    fed = [
        input_spec(tensor, option.shape, notes)
        for tensor, option in zip(named, cut.inputs, strict=True)
    ]
    places = make_placeholders(prepared, fed)
    if not all(map(fits, named, fed)):  # TensorFlow feeds a recorded shape alone
        original = tensorflow().compat.v1.GraphDef()
        original.CopyFrom(prepared)
    fixed = choose_values(path, prepared, cut.values, places, notes)
    bake(prepared, fixed)
    with refusing(path):
        resolve_branches(path, prepared)
    prepared = reachable(prepared, [tensor.op.name for tensor in ends])
    if cut.freeze_batchnorm:
        freeze_batchnorm(prepared, original, notes)
    if not named:
        fed = [input_spec(tensor, None, notes) for tensor in _fed(prepared, graph, public)]
        places = make_placeholders(prepared, fed)
        prepared = reachable(prepared, [tensor.op.name for tensor in ends])
    notes += training_notes(prepared)
    _check_types(path, prepared)
    repair(path, prepared, import_checked(path, prepared), weights)
    kept = [*(tensor.op.name for tensor in ends), *map(node_of, places)]
    prepared = reachable(prepared, kept)  # an input may be read no more
    _check_inputs(path, prepared, fed, places)
    original_names = {node.name for node in original.node}
    called_out = {tensor: name for name, tensor in public.outputs.items()}
    called_in = without_clashes(
        {tensor: name for name, tensor in public.inputs.items()}, called_out, notes
    )
    fetched = [output_spec(tensor) for tensor in ends]
    check_operators(path, original, [s.name for s in fetched], [node_of(s.name) for s in fed])
    return FrozenGraph(
        source,
        original,
        prepared,
        weights,
        tuple(replace(spec, name=called_in.get(spec.name, spec.name)) for spec in fed),
        tuple(replace(spec, name=called_out.get(spec.name, spec.name)) for spec in fetched),
        tuple(
            f"{place}:0" if place in original_names else spec.name
            for spec, place in zip(fed, places, strict=True)
        ),
        tuple(f"{place}:0" for place in places),
        tuple(spec.name for spec in fetched),
        fixed,
        tuple(notes),
    )


def _check_frozen(path: str, graph_def: Any) -> None:
    left = variables(graph_def)
    if left:
        raise ModelError(
            f"{path}: {len(left)} variables are not frozen ({', '.join(left[:3])}"
            f"{', ...' if len(left) > 3 else ''}); freeze the graph first "
            "(tf.compat.v1.graph_util.convert_variables_to_constants)"
        )


def _check_twice(option: str, tensors: Sequence[Any]) -> None:
    for name, count in Counter(tensor.name for tensor in tensors).items():
        if count > 1:
            raise InputError(f"{option}: {name} is named twice")


def _check_types(path: str, prepared: Any) -> None:
    """Raise NotSupportedError for types that no engine has."""
    tf = tensorflow()
    for node in prepared.node:
        for key in ("dtype", "T", "DstT", "Tparams"):
            kind = node.attr[key].type if key in node.attr else 0
            if kind in (tf.string.as_datatype_enum, tf.bfloat16.as_datatype_enum):
                name = tf.as_dtype(kind).name
                raise NotSupportedError(
                    f"{path}: {node.name} ({node.op}) is of type {name}, which can't be converted; "
                    "cut the graph with --inputs and --outputs so that it is left out"
                    + (", or export it as float32" if name == "bfloat16" else "")
                )


def _check_inputs(path: str, prepared: Any, fed: Sequence[TensorSpec], places: list[str]) -> None:
    """Raise InputError unless the placeholders that are left are those that are fed."""
    if not fed:
        raise InputError(f"{path}: the outputs need no input; name the inputs with --inputs")
    left = [node.name for node in prepared.node if node.op in PLACEHOLDER_OPS]
    for spec, place in zip(fed, places, strict=True):
        if place not in left:
            raise InputError(
                f"{path}: no output needs {spec.name}, once training is left out; do not name it "
                "in --inputs"
            )
    for name in left:
        if name not in places:
            raise InputError(
                f"{path}: the outputs need the placeholder {name!r} too; name it in --inputs, "
                f"or give its value with --set {name}=..."
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
    with refusing(path, KeyError):
        graph = import_graph(graph_def)
        for operation in graph.get_operations():
            for tensor in operation.outputs:
                _ = tensor.shape  # which TensorFlow makes here, and may be of negative sizes
    return graph


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
    used = {node_of(name) for node in graph_def.node for name in node.input}
    ops = {node.name: node.op for node in graph_def.node}
    predicates = {full_name(n.input[1]) for n in graph_def.node if n.op == "Switch"}
    ends = []
    for node in graph_def.node:
        source = ops.get(node_of(node.input[0])) if node.input else None
        # The pivots of a conditional are an Identity behind a Switch that nothing may hang on, and
        # one of its predicate.
        pivot = node.op == "Identity" and (
            source == "Switch"
            or (full_name(node.input[0]) in predicates and _PREDICATE.search(node.name))
        )
        guard = _ASSERTION.search(node.name)
        if node.name in used or pivot or guard or _NOT_OUTPUTS.fullmatch(node.op):
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
