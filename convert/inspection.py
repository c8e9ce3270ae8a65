"""What a model file holds, for a person and for scripts."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.nbits import stores_bits
from onnxgraft.graph.operators import op_of
from onnxgraft.graph.quantized import stored_weights
from onnxgraft.graph.tensors import TensorSpec
from onnxgraft.targets.tensorrt import TENSORRT

if TYPE_CHECKING:
    from onnxgraft.stages.convert.tensorflow.reading.graphdef import FrozenGraph

__all__ = ["Inspection", "free_dimensions", "inspect_frozen", "inspect_graphdef", "inspect_onnx"]


@dataclass(frozen=True)
class Inspection:
    """The lint of a model file.

    Attributes:
        path: The file.
        framework: Whose it is.
        inputs: One line each.
        outputs: One line each.
        operators: How often each occurs, most frequent first.
        parameters: Number of values in constants.
        variables: Variables that are not frozen.
        training: What is left of training: flags, probabilities, batch norms in training mode.
        dynamic: What has no fixed shape.
        layout: Of the operators that have one, with their number.
        unsupported: Operators that ONNX lacks, or TensorRT, with where they are.
        layers: Of a Caffe network: one line each, with the shapes of its tops.
        notes: A sentence for each thing that is left out, or can't be converted.
    """

    path: str
    framework: str
    inputs: list[str]
    outputs: list[str]
    operators: dict[str, int]
    parameters: int
    variables: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    dynamic: list[str] = field(default_factory=list)
    layout: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    passed = True

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def inspect_onnx(model: Model) -> Inspection:
    """Return what an ONNX model holds."""
    from onnx_graphsurgeon import Constant

    constants = [t for t in model.graph.tensors().values() if isinstance(t, Constant)]
    # A byte of theirs holds several.
    packing = [node for node in model.graph.nodes if stores_bits(node)]
    parts = {id(node.inputs[1]): 8 // stores_bits(node) for node in packing}
    stored = stored_weights(model)
    return Inspection(
        path=model.file,
        framework="onnx",
        inputs=[str(spec) for spec in model.inputs],
        outputs=[str(spec) for spec in model.outputs],
        operators=model.operators(),
        parameters=sum(_size(tensor.shape) * parts.get(id(tensor), 1) for tensor in constants),
        dynamic=free_dimensions(model.inputs),
        unsupported=_lacking((op_of(node), node.name) for node in model.graph.nodes),
        notes=[f"weights are stored as {stored}, activations are float"] if stored else [],
    )


def inspect_graphdef(path: str | os.PathLike[str], graph_def: Any) -> Inspection:
    """Return what a TensorFlow graph holds, frozen or not."""
    from onnxgraft.stages.convert.tensorflow.prepare.leftovers import (
        PLACEHOLDER_OPS,
        training_flags,
        training_lines,
    )
    from onnxgraft.stages.convert.tensorflow.reading.declared import check_declared
    from onnxgraft.stages.convert.tensorflow.reading.graphdef import (
        import_checked,
        loose_ends,
        variables,
    )

    check_declared(os.fspath(path), graph_def)
    graph = import_checked(path, graph_def)
    flags = training_flags(graph_def)
    inputs = [
        graph.get_tensor_by_name(f"{node.name}:0")
        for node in graph_def.node
        if node.op in PLACEHOLDER_OPS and node.name not in flags
    ]
    return Inspection(
        path=os.fspath(path),
        framework="tensorflow",
        inputs=[_line(tensor) for tensor in inputs],
        outputs=[_line(tensor) for tensor in loose_ends(graph_def, graph)],
        operators=dict(collections.Counter(n.op for n in graph_def.node).most_common()),
        parameters=sum(
            _size([dim.size for dim in n.attr["value"].tensor.tensor_shape.dim])
            for n in graph_def.node
            if n.op == "Const"
        ),
        variables=variables(graph_def),
        training=training_lines(graph_def),
        dynamic=_unshaped(graph),
        layout=_layouts(graph_def),
    )


def inspect_frozen(frozen: FrozenGraph) -> Inspection:
    """Return what a frozen graph holds, and what stands in the way of converting it."""
    from onnxgraft.stages.convert.tensorflow.lower.lowering import to_onnx, unknown_operators

    found = inspect_graphdef(frozen.source.path, frozen.original)
    notes = list(frozen.notes)
    unsupported: list[str] = []
    try:
        proto, _ = to_onnx(frozen, _OPSET)
        unsupported = [f"{told}: ONNX has none" for told in _grouped(unknown_operators(proto))]
        unsupported += _lacking((op_of(node), node.name) for node in proto.graph.node)
    except OnnxgraftError as error:
        notes.append(f"can't be converted: {error}")
    return replace(
        found,
        inputs=[str(spec) for spec in frozen.inputs],
        outputs=[str(spec) for spec in frozen.outputs],
        dynamic=[*free_dimensions(frozen.inputs), *found.dynamic],
        unsupported=unsupported,
        notes=notes,
    )


# What the ONNX operators of a lint are looked up in.
_OPSET = 17


def _lacking(nodes: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each operator of ONNX that TensorRT has no equivalent for."""
    lacking = [(op, name) for op, name in nodes if op in TENSORRT.lacks]
    return [f"{told}: TensorRT has no equivalent" for told in _grouped(lacking)]


def _grouped(nodes: Sequence[tuple[str, str]]) -> list[str]:
    """Return ``2 Unique (a, b)`` for each operator."""
    places: dict[str, list[str]] = {}
    for op, name in nodes:
        places.setdefault(op, []).append(name)
    return [
        f"{len(names)} {op} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for op, names in places.items()
    ]


def free_dimensions(inputs: Iterable[TensorSpec]) -> list[str]:
    """Return a line for each input with free dimensions besides the batch."""
    lines = []
    for spec in inputs:
        axes = [axis for axis, dim in enumerate(spec.shape) if isinstance(dim, str)]
        if axes and axes != [0]:
            lines.append(f"{spec.name}: its dimensions {', '.join(map(str, axes))} are free")
        elif axes:
            lines.append(f"{spec.name}: its batch is free")
    return lines


def _unshaped(graph: Any) -> list[str]:
    """Return a line about the tensors whose rank TensorFlow can't tell."""
    unknown = [
        tensor.name
        for operation in graph.get_operations()
        for tensor in operation.outputs
        if tensor.shape.rank is None and tensor.dtype.name not in ("resource", "variant")
    ]
    if not unknown:
        return []
    more = ", ..." if len(unknown) > 3 else ""
    return [f"{len(unknown)} tensors of unknown rank ({', '.join(unknown[:3])}{more})"]


def _layouts(graph_def: Any) -> list[str]:
    """Return the layouts that operators say they have, most frequent first."""
    found = collections.Counter(
        node.attr["data_format"].s.decode(errors="replace")
        for node in graph_def.node
        if node.attr["data_format"].s
    )
    return [f"{layout}: {count} operators" for layout, count in found.most_common()]


def _size(shape: Any) -> int:
    size = 1
    for dim in shape or ():
        size *= dim
    return size


def _line(tensor: Any) -> str:
    rank = tensor.shape.rank
    dims = "unknown" if rank is None else ", ".join(str(d or "?") for d in tensor.shape.as_list())
    return f"{tensor.name} ({dims}) {tensor.dtype.name}"
