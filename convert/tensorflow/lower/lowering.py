"""The lowering of a prepared TensorFlow graph to ONNX, by tf2onnx, and the checks it needs.

tf2onnx's exit status proves nothing: it can leave operators that ONNX does not have. So every
node is held against ONNX's own schemas before anything is returned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from onnxgraft.errors import ModelError, NotSupportedError, OnnxgraftError
from onnxgraft.graph.inference import infer
from onnxgraft.graph.model import Model, Origin
from onnxgraft.graph.operators import op_key, op_of
from onnxgraft.graph.surgeon import graph_of
from onnxgraft.run.demand import limited
from onnxgraft.stages.convert.tensorflow.loops.loops import prepare_loops
from onnxgraft.stages.convert.tensorflow.loops.recurrent import fuse_recurrent
from onnxgraft.stages.convert.tensorflow.lower.by_tf2onnx import by_tf2onnx
from onnxgraft.stages.convert.tensorflow.lower.operators import handlers
from onnxgraft.stages.convert.tensorflow.lower.weights import put_into_onnx, stand_ins
from onnxgraft.stages.convert.tensorflow.lower.writing import NewerOpset, own_tables
from onnxgraft.stages.convert.tensorflow.quiet import quiet
from onnxgraft.stages.convert.tensorflow.reading.graphdef import FrozenGraph
from onnxgraft.stages.convert.tensorflow.running import (
    import_graph,
    reason_of,
    refusing,
)
from onnxgraft.stages.convert.tensorflow.sizes import check_sizes

__all__ = ["check_operators", "lower", "raise_refused", "to_onnx", "unknown_operators"]

_TO_NCHW = (0, 3, 1, 2)


def lower(frozen: FrozenGraph, opset: int) -> tuple[Model, list[str]]:
    """Return the graph as ONNX with the map of its tensors to TensorFlow's.

    Raises:
        NotSupportedError: It has operators that tf2onnx can't lower; they are named.
    """
    proto, standing = to_onnx(frozen, opset)
    proto = fuse_recurrent(proto)
    check_operators(frozen.source.path, proto)
    _shape_outputs(proto)
    _name_dimensions(proto, frozen)
    names = _map_names(proto, frozen)
    for name in standing:
        names.pop(f"{name}:0", None)
    for tensors, specs in ((frozen.places, frozen.inputs), (frozen.fetched, frozen.outputs)):
        for tensor, spec in zip(tensors, specs, strict=True):
            _rename(proto, tensor, spec.name, names)
    model = Model.from_onnx(proto, frozen.source, names)
    put_into_onnx(model.graph, frozen.weights, standing)
    return model, list(frozen.notes)


def to_onnx(frozen: FrozenGraph, opset: int) -> tuple[onnx.ModelProto, list[str]]:
    """Return what tf2onnx makes of the graph, unchecked, and the weights that are inputs of it."""
    light, standing = stand_ins(frozen.prepared, frozen.weights)
    with refusing(frozen.source.path):
        prepare_loops(frozen.source.path, light, frozen.fetched)
        if limited():  # tf2onnx computes what depends on constants alone
            check_sizes(
                frozen.source.path,
                light,
                dict(zip(frozen.places, frozen.inputs, strict=True)),
                frozen.fetched,
                frozen.weight_bytes,
            )
    refused: dict[str, OnnxgraftError] = {}
    with quiet():
        try:
            proto = by_tf2onnx(
                light,
                refused.clear,
                input_names=[*frozen.places, *(f"{name}:0" for name in standing)],
                output_names=list(frozen.fetched),
                opset=opset,
                custom_op_handlers=handlers(refused),
            )
        except OnnxgraftError:
            raise
        except Exception as error:  # tf2onnx raises whatever it meets
            raise ModelError(
                f"{frozen.source.path}: tf2onnx can't convert {_suspects(light, str(error))}: "
                f"{reason_of(error)}"
            ) from error
    raise_refused(frozen.source.path, proto, refused)
    return proto, standing


def raise_refused(
    path: str | os.PathLike[str], proto: onnx.ModelProto, refused: Mapping[str, OnnxgraftError]
) -> None:
    """Raise what a handler raised for a node that is still there: tf2onnx goes on without a word.

    Raises:
        NewerOpset: The node can be written in a later opset.
        NotSupportedError: It can't.
    """
    for node in _nodes(proto.graph):  # what nothing reads was left out
        told = refused.get(node.name)
        if isinstance(told, NewerOpset):
            raise told
        if told is not None:
            raise NotSupportedError(f"{path}: {told}") from told


def _suspects(graph_def: Any, message: str) -> str:
    """Return what a message is about: the nodes it names, or those tf2onnx has nothing for."""
    known = set().union(*own_tables())
    quoted = {name.split(":")[0] for name in re.findall(r"'([^']+)'", message)}
    named = [node for node in graph_def.node if node.name in quoted]
    named = named or [node for node in graph_def.node if node.op not in known]
    told = ", ".join(f"{node.op} ({node.name})" for node in named[:3])
    return told or "the graph"


def _rename(proto: onnx.ModelProto, old: str, new: str, names: dict[str, Origin]) -> None:
    """Call an input or output by the name that the model itself has for it."""
    if old == new:
        return
    graph = proto.graph
    taken = {name for node in _nodes(graph) for name in (*node.input, *node.output)}
    if new in taken:  # an inner tensor that happens to be called so
        _rename(proto, new, f"{new}/inner", names)
    for node in _nodes(graph):  # a body reads what is around it by name, too
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                if name == old:
                    side[index] = new
    for value in (*graph.input, *graph.output):
        if value.name == old:
            value.name = new
    for constant in graph.initializer:  # an output may be one
        if constant.name == old:
            constant.name = new
    if old in names:
        names[new] = names.pop(old)


def check_operators(path: str, proto: onnx.ModelProto) -> None:
    """Raise NotSupportedError unless every node is one of ONNX's operators."""
    unknown = [f"{op} ({name})" for op, name in unknown_operators(proto)]
    if unknown:
        raise NotSupportedError(
            f"{path}: no ONNX operators for {', '.join(unknown[:5])}"
            f"{', ...' if len(unknown) > 5 else ''}; cut the graph before them with --outputs"
        )


def unknown_operators(proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """Return type and name of each node that is none of ONNX's operators."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    unknown = []
    for node in _nodes(proto.graph):
        domain, kind = op_key(node)
        try:
            onnx.defs.get_schema(kind, versions.get(domain, 0), domain)
        except onnx.defs.SchemaError:
            unknown.append((op_of(node), node.name))
    return unknown


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _shape_outputs(proto: onnx.ModelProto) -> None:
    """Give a shape, which ONNX wants, to outputs whose rank TensorFlow itself does not know."""
    bare = [v for v in proto.graph.output if not v.type.tensor_type.HasField("shape")]
    if not bare:
        return
    found = infer(graph_of(proto), declared=True)
    for value in bare:
        shape = value.type.tensor_type.shape
        shape.SetInParent()
        for size in (dim.written for dim in found[value.name].shape or ()):
            dim = shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            elif size:
                dim.dim_param = size


def _name_dimensions(proto: onnx.ModelProto, frozen: FrozenGraph) -> None:
    """Give the inputs' free dimensions the names that the specs have, and forget tf2onnx's."""
    specs = dict(zip(frozen.places, frozen.inputs, strict=True))
    for value in proto.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            wanted = specs[value.name].shape[axis] if value.name in specs else None
            if isinstance(wanted, str):
                dim.dim_param = wanted
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__"):
                dim.ClearField("value")
    del proto.graph.value_info[:]


def _map_names(proto: onnx.ModelProto, frozen: FrozenGraph) -> dict[str, Origin]:
    """Map the tensors that kept TensorFlow's name; shapes tell which are NCHW by now."""
    graph = import_graph(frozen.original)
    names = {}
    for name, kind in infer(graph_of(proto), declared=True).items():
        try:
            tensor = graph.get_tensor_by_name(name)
        except (KeyError, ValueError):
            continue
        theirs = tensor.shape.as_list() if tensor.shape.rank is not None else None
        ours = [dim.number or None if dim.fixed else None for dim in kind.shape or ()]
        if theirs is None or len(theirs) != len(ours):
            continue
        origin = _fitting(name, theirs, ours)
        if origin:
            names[name] = origin
    return names


def _fitting(name: str, theirs: list[Any], ours: list[Any]) -> Origin | None:
    """Return the origin if the shapes fit in exactly one layout."""

    def fits(expected: list[Any]) -> bool:
        return all(a is None or b is None or a == b for a, b in zip(expected, ours, strict=True))

    as_is = fits(theirs)
    transposed = len(theirs) == 4 and fits([theirs[axis] for axis in _TO_NCHW])
    if as_is and not (transposed and len(set(theirs[1:])) > 1):
        return None if transposed else Origin(name)
    return Origin(name, _TO_NCHW) if transposed and not as_is else None
