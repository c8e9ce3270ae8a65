"""What a model would take of a machine by what it declares, held against what it stores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from onnxgraft.errors import ModelError
from onnxgraft.files import calls
from onnxgraft.files.limits import BODY_NAMES, CONSTANT_BYTES, NODES, shape_fault
from onnxgraft.graph.external import PACKED
from onnxgraft.graph.kept import same_values
from onnxgraft.graph.messages import bodies, parts
from onnxgraft.graph.operators import is_own_domain, op_key, op_of
from onnxgraft.graph.tensors import Array

__all__ = [
    "check_bodies", "check_calls", "check_counts", "check_declared", "check_dense", "check_values",
]  # fmt: skip

# What can be read at a place, with the initializers among it.
_Names = dict[str, onnx.TensorProto | None]
# Attributes that say how many inputs or outputs a node has, by the operator.
_COUNTING = {("", "Split"): "num_outputs", ("", "Scan"): "num_scan_inputs"}
# Where a tensor may store its values, but for raw_data.
_FIELDS = (
    "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data",
)  # fmt: skip


def check_values(tensor: onnx.TensorProto, model: Path) -> None:
    """Raise ModelError unless a tensor stores as many values as its dimensions say."""
    name = tensor.name or "a constant"
    dims = list(tensor.dims)
    fault = shape_fault(dims)
    if fault is not None:
        raise ModelError(f"{model}: {name!r} {fault}")
    if tensor.HasField("segment"):
        raise ModelError(f"{model}: {name!r} is a segment of a tensor, which nothing reads")
    count = math.prod(dims)
    stored = {field: len(getattr(tensor, field)) for field in _FIELDS}
    kind = tensor.data_type
    for text in tensor.string_data:
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ModelError(
                f"{model}: {name!r} holds strings that are not UTF-8, as ONNX wants them; export "
                "the network again"
            ) from error
    try:
        width = 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
        kind_name = onnx.TensorProto.DataType.Name(kind)
        own = onnx.helper.tensor_dtype_to_field(kind)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{model}: {name!r} is of a type that ONNX has not ({kind}); export the network again"
        ) from error
    width = PACKED.get(kind_name, width)
    if tensor.raw_data:
        fits = len(tensor.raw_data) == (count * width + 7) // 8 and not any(stored.values())
    else:
        wanted = 2 * count if kind_name.startswith("COMPLEX") else count
        packed = (count * width + 7) // 8 if kind_name in PACKED else wanted
        found = stored.pop(own)
        fits = found in (wanted, packed) and not any(stored.values())
    if min(dims, default=0) < 0 or not fits:
        raise ModelError(
            f"{model}: {name!r} does not store as many values as the declared shape and type have "
            f"({dims})"
        )


def check_declared(graph: onnx.GraphProto, model: Path) -> None:
    """Raise ModelError if a graph declares a tensor that no machine holds."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        fault = shape_fault(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if fault is not None:
            raise ModelError(f"{model}: {value.name!r} {fault}")


def check_dense(total: int, model: Path) -> None:
    """Raise ModelError if the sparse tensors of a model have too many values, with the zeros."""
    if 8 * total > CONSTANT_BYTES.most:  # of at most 8 bytes each
        raise ModelError(f"{model}: {CONSTANT_BYTES.refusal(8 * total)}")


def check_bodies(model: onnx.ModelProto, path: Path, weights: Mapping[str, Array]) -> None:
    """Raise ModelError if the bodies of operators see too many tensors, or hide one.

    onnx-graphsurgeon makes a list of the tensors around each body, and takes a tensor around it for
    an initializer of the same name, which ONNX does not allow and onnxruntime reads. It writes such
    initializers itself, of the same values.

    Args:
        model: The model.
        path: Of its file.
        weights: The initializers of the graph that have no data in it.
    """
    seen = 0
    left: list[tuple[onnx.GraphProto, _Names]] = [(model.graph, {})]
    for function in model.functions:
        inner = [body for node in function.node for a in node.attribute for body in bodies(a)]
        outside = dict.fromkeys([*function.input, *_made(function)])
        left += [(body, outside) for body in inner]
    while left:
        graph, around = left.pop()
        stored: _Names = {t.values.name: None for t in graph.sparse_initializer}
        stored |= {t.name: t for t in graph.initializer}
        for name in sorted((stored.keys() & around.keys()) - {""}):
            if not _same(stored[name], around[name], weights):
                raise ModelError(
                    f"{path}: the initializer {name!r} of a body has the name of a tensor around "
                    "it; give one of them another name"
                )
        inner = [body for node in graph.node for a in node.attribute for body in bodies(a)]
        if not inner:
            continue
        others = [value.name for value in (*graph.input, *graph.value_info)]
        names = {**around, **dict.fromkeys([*others, *_made(graph)]), **stored}
        seen += len(inner) * len(names)
        if seen > BODY_NAMES.most:
            raise ModelError(f"{path}: {BODY_NAMES.refusal(seen)}; export it with fewer of them")
        left += [(body, names) for body in inner]


def _made(part: onnx.GraphProto | onnx.FunctionProto) -> list[str]:
    """Return what the nodes of a graph or function make."""
    return [name for node in part.node for name in node.output]


def _same(
    inner: onnx.TensorProto | None, outer: onnx.TensorProto | None, weights: Mapping[str, Array]
) -> bool:
    """Tell whether two initializers of one name have the same values."""
    if inner is None or outer is None:
        return False
    if outer.name in weights:
        outer = onnx.numpy_helper.from_array(np.asarray(weights[outer.name]), outer.name)
    return same_values(inner, outer)


def check_counts(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError if a node says to have more inputs or outputs than it has.

    onnxruntime makes a list of all first. In a function an attribute can stand for one that the
    call brings: for any of that name.
    """
    nodes = [part for part in parts(model) if isinstance(part, onnx.NodeProto)]
    counting = []
    for node in nodes:
        name = _COUNTING.get(op_key(node))
        counting += [(node, a) for a in node.attribute if name is not None and a.name == name]
    if not counting:
        return
    given: dict[str, int] = {}
    defaults = (attribute for f in model.functions for attribute in f.attribute_proto)
    for attribute in itertools.chain(defaults, *(node.attribute for node in nodes)):
        given[attribute.name] = max(given.get(attribute.name, 0), attribute.i)
    for node, attribute in counting:
        said = max(attribute.i, given.get(attribute.ref_attr_name, 0))
        there = max(len(node.input), len(node.output))
        if said > there and not (attribute.ref_attr_name and said <= NODES.most):
            raise ModelError(
                f"{path}: {node.name or op_of(node)!r} has {attribute.name} {said:,}, more than "
                "it has inputs or outputs; export the network again"
            )


def check_calls(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError if the model's functions come to too many nodes, or one is not known."""
    functions: dict[tuple[str, str], list[tuple[str, str]]] = {}
    seen: set[tuple[str, str, str]] = set()
    for function in model.functions:
        key = "" if is_own_domain(function.domain) else function.domain, function.name
        named = all((function.name, *function.input, *function.output))
        fault = None if named else "a function, or a parameter of it, has no name"
        if (*key, function.overload) in seen:
            fault = f"it has two functions {function.name!r}"
        if fault is not None:
            raise ModelError(f"{path}: not a valid ONNX file ({fault})")
        seen.add((*key, function.overload))
        functions[key] = _called(function)
    if functions:
        calls.check_calls(_called(model.graph), functions, f"{path}:")


def _called(part: onnx.GraphProto | onnx.FunctionProto) -> list[tuple[str, str]]:
    """Return what operators the nodes of a graph or function are, those of its bodies too."""
    found = []
    left = [part]
    while left:
        for node in left.pop().node:
            found.append(op_key(node))
            left += [body for attribute in node.attribute for body in bodies(attribute)]
    return found
