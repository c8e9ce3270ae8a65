"""A graph in a later version of ONNX's operators.

Most operators only gained types, attributes or inputs: they stay as they are. `_STEPS` has those
whose form or meaning changed, by the version that changed them; each step says what becomes what.
Whether an operator stays is told from onnx's own schemas: one that changed otherwise than a step
knows is left to onnx's version converter, and where that fails too, it is named. Bodies and
functions are raised as the graph itself, and every tensor keeps its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.onnx_file import fed
from onnxgraft.graph.operators import is_op, is_own_domain, op_key, op_of, set_op
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.surgeon import graph_of, is_reference
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import bodies, pinned

__all__ = ["raise_opset"]

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSumSquare",
)  # fmt: skip


class _Beyond(Exception):
    """A node can't be written in the later version; the message says which, and why."""


class _Unknown(_Beyond):
    """No step knows what a node becomes."""


def raise_opset(model: Model, opset: int) -> Model:
    """Return a copy of ``model`` in ``opset``, or the model itself where it is as late.

    Raises:
        NotSupportedError: An operator can't be written in it.
    """
    before = model.graph.opset
    if before >= opset:
        return model
    later = model.copy()
    graph = later.graph
    graph.functions = [function.copy() for function in graph.functions]
    try:
        shapes = Shapes(graph, declared=True)
        ends = pinned(graph)
        for part in (graph, *graph.functions):
            names = FreeNames(part, model.names)
            for body in bodies(part):
                _infer(body, shapes)
                _raise(_Place(body, names, shapes, ends), part.opset or before, opset)
    except _Unknown as unknown:
        return _by_onnx(model, opset, unknown)
    except _Beyond as beyond:
        raise _refusal(model, opset, beyond) from beyond
    for part in (graph, *graph.functions):
        imports = [
            onnx.helper.make_opsetid(entry.domain, opset) if is_own_domain(entry.domain) else entry
            for entry in part.import_domains
        ]
        for body in bodies(part):
            body.opset, body.import_domains = opset, imports
    return later


def _refusal(model: Model, opset: int, reason: _Beyond) -> NotSupportedError:
    return NotSupportedError(
        f"{model.file}: opset {model.graph.opset} can't be raised to {opset}: {reason}; export "
        f"the network with opset {opset}"
    )


def _by_onnx(model: Model, opset: int, reason: _Unknown) -> Model:
    """Let onnx's version converter raise a graph; large weights are inputs meanwhile."""
    light, weights = model.without_weights()
    try:
        raised = onnx.version_converter.convert_version(fed(light, weights), opset)
        onnx.checker.check_model(raised)
        graph = graph_of(raised)
    except Exception as error:  # it has several kinds, without a common base
        raise _refusal(model, opset, reason) from error
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in weights]
    tensors = graph.tensors()
    for name, value in weights.items():
        if name in tensors:
            tensors[name].to_constant(value)
    return Model(graph, model.source, dict(model.names), model.file, dict(model.metadata))


@dataclass
class _Place:
    """A graph, body or function whose nodes are raised, and what a step may ask."""

    part: Any
    names: FreeNames
    shapes: Shapes
    ends: Collection[int]

    def give(self, node: gs.Node, index: int, name: str, value: Array | None) -> None:
        """Make ``value`` the input ``index`` of a node; None leaves it out."""
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        if value is not None:
            wish = f"{node.outputs[0].name}/{name}"
            node.inputs[index] = gs.Constant(self.names.tensor(wish), value)

    def before(self, node: gs.Node, op: str, inputs: list[gs.Tensor], **attrs: Any) -> gs.Tensor:
        """Insert a node before ``node`` and return what it makes."""
        wish = f"{node.outputs[0].name}/{op}"
        made = gs.Variable(self.names.tensor(wish))
        self._insert(Node(op, self.names.node(wish), attrs, inputs, [made]), node, 0)
        return made

    def after(self, node: gs.Node, op: str, inputs: list[gs.Tensor]) -> None:
        """Insert a node behind ``node`` that makes its output of what it makes and ``inputs``."""
        target = node.outputs[0]
        inner = gs.Variable(self.names.tensor(f"{target.name}/{op_of(node)}"), target.dtype)
        node.outputs[0] = inner
        name = self.names.node(f"{target.name}/{op}")
        self._insert(Node(op, name, {}, [inner, *inputs], [target]), node, 1)

    def _insert(self, new: gs.Node, node: gs.Node, offset: int) -> None:
        place = next(index for index, other in enumerate(self.part.nodes) if other is node)
        self.part.nodes.insert(place + offset, new)

    def dtype(self, tensor: gs.Tensor) -> np.dtype[Any]:
        """Return the numpy type of a float tensor; float32 where it is not known."""
        element = self.shapes.element(tensor)
        return np.dtype(
            np.float32 if not element else onnx.helper.tensor_dtype_to_np_dtype(element)
        )


def _infer(part: Any, shapes: Shapes) -> None:
    """Look at what steps ask for, as long as the nodes are those of their opset."""
    for node in part.nodes:
        if is_op(node, "Clip", "GroupNormalization", "Hardmax", "LogSoftmax", "Pad", "Softmax"):
            shapes.shape(node.inputs[0])


def _raise(place: _Place, before: int, after: int) -> None:
    for node in list(place.part.nodes):
        for version in range(before + 1, after + 1):
            domain, kind = op_key(node)
            if domain:
                break
            step = _STEPS.get(version, {}).get(kind)
            if step is None:
                _check(node, version)
            else:
                step(node, place)


def _check(node: gs.Node, version: int) -> None:
    """Raise _Unknown where a version changed a node's operator in a way that touches the node."""
    _, kind = op_key(node)
    try:
        old = onnx.defs.get_schema(kind, version - 1, "")
        new = onnx.defs.get_schema(kind, version, "")
    except onnx.defs.SchemaError:
        return  # no operator of ONNX, which stays what it is
    if old.since_version == new.since_version:
        return
    wrong = [
        f"the attribute {name!r}"
        for name, attribute in old.attributes.items()
        if (name not in new.attributes and (name in node.attrs or attribute.required))
        or (
            name in new.attributes
            and name not in node.attrs
            and _default(attribute) != _default(new.attributes[name])
        )
    ]
    formal = [one.name for one in old.inputs], [one.name for one in new.inputs]
    if formal[1][: len(formal[0])] != formal[0] or len(node.inputs) < new.min_input:
        wrong.append("the inputs")
    if len(node.outputs) > new.max_output:
        wrong.append("the outputs")
    if new.deprecated or wrong:
        what = "it" if new.deprecated else " and ".join(wrong)
        raise _Unknown(f"opset {version} changes {what} of {_called(node)}")


def _default(attribute: Any) -> Any:
    value = attribute.default_value
    return onnx.helper.get_attribute_value(value) if value.type else None


def _called(node: gs.Node) -> str:
    return f"{op_of(node)} {node.name or node.outputs[0].name!r}"


# Steps ----------------------------------------------------------------------------------------


def _take(node: gs.Node, name: str) -> Any:
    """Remove an attribute and return its value; one that a function is called with stays."""
    value = node.attrs.pop(name, None)
    if is_reference(value):
        raise _Beyond(f"{_called(node)} in a function takes {name!r} from its caller")
    return value


def _integers(
    node: gs.Node, place: _Place, index: int, name: str, *, required: bool = False
) -> None:
    """The attribute ``name``, whole numbers, becomes the input ``index``."""
    value = _take(node, name)
    if value is not None:
        place.give(node, index, name, np.array(value, np.int64))
    elif required:
        raise _Beyond(f"{_called(node)} has no {name!r}")


def _axes(node: gs.Node, place: _Place) -> None:
    """Squeeze <axes = a> (x)  ->  Squeeze (x, a); a reduction of no axes is one of all."""
    _integers(node, place, 1, "axes", required=is_op(node, "Unsqueeze"))


def _batchnorm(node: gs.Node, place: _Place) -> None:
    """BatchNormalization <spatial = 1>  ->  BatchNormalization."""
    if _take(node, "spatial") == 0:
        raise _Beyond(f"{_called(node)} normalizes every value by itself (spatial = 0)")


def _scan(node: gs.Node, place: _Place) -> None:
    """Scan went over each sample of a batch; from opset 9 on there is none."""
    raise _Beyond(f"{_called(node)} goes over a batch, which it has no more from opset 9 on")


def _inference(node: gs.Node, place: _Place) -> None:
    """BatchNormalization with one output stays; with more it computes in training."""
    if any(tensor.name for tensor in node.outputs[1:]):
        raise _Beyond(f"{_called(node)} is in training mode")
    while len(node.outputs) > 1:
        node.outputs.pop()


def _upsample_scales(node: gs.Node, place: _Place) -> None:
    """Upsample <scales = s> (x)  ->  Upsample (x, s)."""
    scales = _take(node, "scales")
    if scales is None:
        raise _Beyond(f"{_called(node)} has no 'scales'")
    place.give(node, 1, "scales", np.array(scales, np.float32))


def _upsample(node: gs.Node, place: _Place) -> None:
    """Upsample (x, s)  ->  Resize (x, s), which is the same in opset 10."""
    set_op(node, "Resize")


def _resize(node: gs.Node, place: _Place) -> None:
    """Resize (x, s)  ->  Resize <asymmetric, floor> (x, , s), or <ceil> where it makes smaller."""
    scales = node.inputs[1]
    factors = np.asarray(scales.values) if isinstance(scales, gs.Constant) else np.ones(1)
    smaller = bool((factors < 1).any())
    if smaller and (factors > 1).any() and node.attrs.get("mode", "nearest") == "nearest":
        raise _Beyond(f"{_called(node)} makes one axis larger and another smaller")
    node.inputs.insert(1, gs.Variable.empty())
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    node.attrs["nearest_mode"] = "ceil" if smaller else "floor"


def _slice(node: gs.Node, place: _Place) -> None:
    """Slice <starts = b, ends = e, axes = a> (x)  ->  Slice (x, b, e, a)."""
    for index, name in enumerate(("starts", "ends", "axes"), 1):
        _integers(node, place, index, name, required=name != "axes")


def _top_k(node: gs.Node, place: _Place) -> None:
    """TopK <k = n> (x)  ->  TopK (x, [n])."""
    place.give(node, 1, "k", np.array([_take(node, "k")], np.int64))


def _clip(node: gs.Node, place: _Place) -> None:
    """Clip <min = a, max = b> (x)  ->  Clip (x, a, b); an end that is not said stays open."""
    dtype = place.dtype(node.inputs[0])
    for index, name in enumerate(("min", "max"), 1):
        value = _take(node, name)
        if value is not None:
            with np.errstate(over="ignore"):  # float32's largest number is infinite in float16
                place.give(node, index, name, np.array(value, dtype))


def _pad(node: gs.Node, place: _Place) -> None:
    """Pad <pads = p, value = v> (x)  ->  Pad (x, p, v)."""
    _integers(node, place, 1, "pads", required=True)
    value = _take(node, "value")
    if value:
        place.give(node, 2, "value", np.array(value, place.dtype(node.inputs[0])))


def _scatter(node: gs.Node, place: _Place) -> None:
    """Scatter  ->  ScatterElements."""
    set_op(node, "ScatterElements")


def _dropout(node: gs.Node, place: _Place) -> None:
    """Dropout <ratio = r> (x)  ->  Dropout (x, r), at inference both times."""
    ratio = _take(node, "ratio")
    if ratio is not None:
        place.give(node, 1, "ratio", np.array(ratio, np.float32))


def _dropout_mask(node: gs.Node, place: _Place) -> None:
    """The mask of Dropout is boolean from opset 10 on, a float before."""
    if any(t.name and (t.outputs or id(t) in place.ends) for t in node.outputs[1:]):
        raise _Beyond(f"the mask of {_called(node)} is read as a float")


def _softmax(node: gs.Node, place: _Place) -> None:
    """Softmax over all axes from ``axis`` on  ->  Softmax over one axis.

    Where these are more than one: Flatten <axis>, Softmax <-1>, Reshape to what it was.
    """
    axis = _take(node, "axis")
    axis = 1 if axis is None else axis
    source = node.inputs[0]
    shape = place.shapes.shape(source)
    if shape is not None and axis < 0:
        axis += len(shape)
    if axis == -1 or (shape is not None and axis == len(shape) - 1):
        node.attrs["axis"] = -1
    elif shape is not None and all(dim.fixed and dim.number == 1 for dim in shape[axis + 1 :]):
        node.attrs["axis"] = axis
    else:
        size = place.before(node, "Shape", [source])
        node.inputs[0] = place.before(node, "Flatten", [source], axis=axis)
        node.attrs["axis"] = -1
        place.after(node, "Reshape", [size])


def _split(node: gs.Node, place: _Place) -> None:
    """Split <split = s> (x)  ->  Split (x, s)."""
    _integers(node, place, 1, "split")


def _split_evenly(node: gs.Node, place: _Place) -> None:
    """Split (x) into equal parts  ->  Split <num_outputs = n> (x)."""
    if len(node.inputs) < 2 or not node.inputs[1].name:
        node.attrs["num_outputs"] = len(node.outputs)


def _roi_align(node: gs.Node, place: _Place) -> None:
    """RoiAlign  ->  RoiAlign <output_half_pixel>, which it was before it could be said."""
    node.attrs["coordinate_transformation_mode"] = "output_half_pixel"


def _grid_sample(node: gs.Node, place: _Place) -> None:
    """GridSample <bilinear> is called linear, <bicubic> cubic."""
    mode = _take(node, "mode") or "bilinear"
    node.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


def _group_norm(node: gs.Node, place: _Place) -> None:
    """GroupNormalization (x, s, b) of a value for each group  ->  of one for each channel."""
    shape, groups = place.shapes.shape(node.inputs[0]), node.attrs.get("num_groups")
    if shape is None or len(shape) < 2 or not shape[1].fixed:
        raise _Beyond(f"{_called(node)} has an unknown number of channels")
    if not isinstance(groups, int) or groups < 1:  # in a function it can be the caller's
        raise _Beyond(f"{_called(node)} has an unknown number of groups")
    each = shape[1].number // groups
    column, wide, flat = (
        gs.Constant(place.names.tensor(f"{node.outputs[0].name}/{name}"), np.array(sizes, np.int64))
        for name, sizes in (("column", [-1, 1]), ("wide", [1, each]), ("flat", [-1]))
    )
    for index in (1, 2):
        value = place.before(node, "Reshape", [node.inputs[index], column])
        value = place.before(node, "Expand", [value, wide])
        node.inputs[index] = place.before(node, "Reshape", [value, flat])


def _dft(node: gs.Node, place: _Place) -> None:
    """DFT <axis = a> (x, n)  ->  DFT (x, n, a)."""
    axis = _take(node, "axis")
    place.give(node, 2, "axis", np.array(1 if axis is None else axis, np.int64))


_Step = Callable[[gs.Node, _Place], None]
_STEPS: dict[int, dict[str, _Step]] = {
    9: {"BatchNormalization": _batchnorm, "Scan": _scan, "Upsample": _upsample_scales},
    10: {"Slice": _slice, "TopK": _top_k, "Upsample": _upsample, "Dropout": _dropout_mask},
    11: {"Clip": _clip, "Pad": _pad, "Resize": _resize, "Scatter": _scatter},
    12: {"Dropout": _dropout},
    13: {
        "Squeeze": _axes, "Unsqueeze": _axes, "ReduceSum": _axes, "Split": _split,
        "Softmax": _softmax, "LogSoftmax": _softmax, "Hardmax": _softmax,
    },
    14: {"BatchNormalization": _inference},
    16: {"RoiAlign": _roi_align},
    18: {**dict.fromkeys(_REDUCTIONS, _axes), "Split": _split_evenly},
    20: {"GridSample": _grid_sample, "DFT": _dft},
    21: {"GroupNormalization": _group_norm},
}  # fmt: skip
