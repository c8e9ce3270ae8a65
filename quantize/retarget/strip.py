"""Q and DQ taken out of a graph: what they stood for, and the integers of weights.

Q with a zero point at the end of its type cuts off what is negative. Tools that quantize leave out
the Relu or Clip before such a Q, so it is written here again: a Clip between 0 and the largest
value that Q holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import Range
from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.node import Node
from onnxgraft.graph.operators import QUANTIZERS, is_op, op_of
from onnxgraft.graph.signs import fixed_value, never_negative
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import tidy
from onnxgraft.stages.quantize.improve.activations import activation_grid
from onnxgraft.stages.quantize.improve.rounding import Stored, along, store
from onnxgraft.stages.quantize.place.placement import KEEPING, Placement

__all__ = ["Found", "Steps", "strip"]

# Operators on integers that hand on values of their first input, or choose among them.
_MOVING = (
    *KEEPING, "DepthToSpace", "Expand", "Gather", "Identity", "Slice", "SpaceToDepth", "Split",
    "Tile",
)  # fmt: skip
# Those that only look at the order of values, or at the shape.
_LOOKING = ("ArgMax", "ArgMin", "Shape", "Size")


@dataclass(frozen=True)
class Steps:
    """The values that an integer stands for: ``scale * (integer - zero)``."""

    scale: float
    zero: int
    least: int
    most: int

    @property
    def low(self) -> float:
        """What the smallest integer stands for."""
        return self.scale * (self.least - self.zero)

    @property
    def high(self) -> float:
        """What the largest integer stands for."""
        return self.scale * (self.most - self.zero)

    def range(self, table: Placement) -> Range:
        """Return the range from which a table gets this scale, where its form has it."""
        low = self.low
        if table.symmetric and self.zero == 0 and self.least < 0:
            low = -self.high  # -128 is not used there
        return Range(low, self.high, low, self.high, "given")


@dataclass
class Found:
    """What was found in a graph.

    Attributes:
        steps: Of the activations, by name.
        stored: The integers of weights, by the id of the constant of what they stand for.
        several: The activations that have several scales.
        kept: Tensors that are known by their ids, so that no id is used again.
    """

    steps: dict[str, Steps] = field(default_factory=dict)
    stored: dict[int, Stored] = field(default_factory=dict)
    several: set[str] = field(default_factory=set)
    kept: list[gs.Tensor] = field(default_factory=list)

    def store(self, constant: gs.Constant, stored: Stored) -> None:
        """Remember of which integers a constant was made."""
        self.stored[id(constant)] = stored
        self.kept.append(constant)


def strip(model: Model, table: Placement) -> Found:
    """Take Q and DQ out of a graph, in place, and return what they said.

    Args:
        model: In the order in which its nodes run, without quantized operators.
        table: Of the target, which tells whether outputs may be quantized: an Identity makes each.

    Raises:
        NotSupportedError: See `retarget`.
    """
    found = Found()
    _Stripper(model, found, table).run()
    tidy(model.graph)
    if not table.outputs:
        _end_without_identity(model.graph, found)
    _turn_weights(model.graph, found)
    return found


class _Stripper:
    """Takes Q and DQ out of a graph, in the order in which its nodes run."""

    def __init__(self, model: Model, found: Found, table: Placement) -> None:
        self.graph, self.file, self.found = model.graph, model.file, found
        self.table = table
        self.names = FreeNames(model.graph, model.names)
        self.outputs = {id(tensor) for tensor in model.graph.outputs}
        self.inputs = {id(tensor) for tensor in model.graph.inputs}
        # By the id of a tensor of integers: the float tensor that it stands for, and how.
        self.standing: dict[int, tuple[gs.Tensor, Steps]] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if is_op(node, "QuantizeLinear", domain=QUANTIZERS):
                self._quantizer(node)
            elif is_op(node, "DequantizeLinear", domain=QUANTIZERS):
                self._dequantizer(node)
            elif any(id(tensor) in self.standing for tensor in node.inputs):
                self._between(node)

    def _quantizer(self, node: gs.Node) -> None:
        source, made = node.inputs[0], node.outputs[0]
        scale, zero = self._parameters(node, np.uint8)
        value = fixed_value(source)
        if value is not None:
            self._replace(node, gs.Constant(self.names.tensor(made.name), self._integers(
                value, scale, zero, int(node.attrs.get("axis", 1))
            )))  # fmt: skip
            return
        if id(made) in self.outputs:
            raise NotSupportedError(
                f"{self.file}: the output {made.name!r} is in integers; export the graph with "
                "float outputs, or cut it before with onnxgraft surgery --outputs"
            )
        steps = self._steps(node, scale, zero)
        if self._cuts(source, steps):
            source = self._clipped(source, steps)
        self._note(source, steps)
        self._stands_for(made, source, steps)

    def _dequantizer(self, node: gs.Node) -> None:
        source, made = node.inputs[0], node.outputs[0]
        scale, zero = self._parameters(node, np.uint8)
        value = fixed_value(source)
        if value is not None:
            self._weights(node, value, scale, zero)
            return
        if id(source) not in self.standing:
            what = "is an input in integers" if id(source) in self.inputs else "is no such tensor"
            raise NotSupportedError(
                f"{self.file}: DequantizeLinear {node.name!r} wants what a QuantizeLinear made, "
                f"and {source.name!r} {what}; export the graph with float inputs and Q and DQ "
                "around each operator"
            )
        held, steps = self.standing[id(source)]
        mine = self._steps(node, scale, zero)
        if (mine.zero, mine.least) != (steps.zero, steps.least):
            raise NotSupportedError(
                f"{self.file}: DequantizeLinear {node.name!r} has another zero point or type than "
                f"the QuantizeLinear of {held.name!r}; give both the same"
            )
        if mine.scale != steps.scale:  # a multiplication
            held = self._times(held, mine.scale / steps.scale, made)
            self._note(held, mine)
        self._replace(node, held)

    def _between(self, node: gs.Node) -> None:
        """Let an operator on integers work on what they stand for."""
        if is_op(node, *_LOOKING):
            self._read_floats(node)
            return
        known = [self.standing.get(id(tensor)) for tensor in node.inputs]
        data = known if is_op(node, "Concat") else known[:1]
        steps = {entry[1] for entry in data if entry is not None}
        moves = is_op(node, *_MOVING, "Concat") and None not in data
        if is_op(node, "Resize") and node.attrs.get("mode", "nearest") in ("nearest", b"nearest"):
            moves = None not in data
        if not moves or len(steps) != 1:
            raise NotSupportedError(
                f"{self.file}: {op_of(node)} {node.name!r} computes with the integers of a "
                "quantized tensor; export the graph with a DequantizeLinear before it"
            )
        self._read_floats(node)
        for index, tensor in enumerate(node.outputs):
            if id(tensor) in self.outputs:
                raise NotSupportedError(
                    f"{self.file}: the output {tensor.name!r} is in integers; export the graph "
                    "with float outputs, or cut it before with onnxgraft surgery --outputs"
                )
            name = self.names.tensor(f"{tensor.name}/float")
            node.outputs[index] = made = gs.Variable(name, np.dtype(np.float32), tensor.shape)
            self._stands_for(tensor, made, next(iter(steps)))

    def _stands_for(self, integers: gs.Tensor, tensor: gs.Tensor, steps: Steps) -> None:
        self.standing[id(integers)] = tensor, steps
        self.found.kept.append(integers)

    def _read_floats(self, node: gs.Node) -> None:
        for index, tensor in enumerate(node.inputs):
            if id(tensor) in self.standing:
                node.inputs[index] = self.standing[id(tensor)][0]

    def _parameters(self, node: gs.Node, default: type[np.generic]) -> tuple[Array, Array]:
        """Return scale and zero point of a node, which are constant."""
        scale = fixed_value(node.inputs[1])
        given = len(node.inputs) > 2 and bool(node.inputs[2].name)
        zero = fixed_value(node.inputs[2]) if given else None
        if scale is None or (given and zero is None):
            raise NotSupportedError(
                f"{self.file}: scale or zero point of {op_of(node)} {node.name!r} are not "
                "constant; fold the constants with onnxgraft surgery, or quantize the float model"
            )
        if node.attrs.get("block_size", 0):
            raise NotSupportedError(
                f"{self.file}: {op_of(node)} {node.name!r} has a scale for each block, which no "
                "target's INT8 takes; quantize the float model"
            )
        if zero is None:
            value = fixed_value(node.inputs[0])
            integers = is_op(node, "DequantizeLinear", domain=QUANTIZERS) and value is not None
            kind = value.dtype if integers and value is not None else self._type(node, default)
            zero = np.zeros(scale.shape, kind)
        if zero.dtype.kind not in "iu":
            raise NotSupportedError(
                f"{self.file}: {op_of(node)} {node.name!r} has {zero.dtype} in place of integers; "
                "calibrate and quantize the float model"
            )
        if scale.dtype.kind in "biu" or not np.isfinite(scale).all() or (scale < 0).any():
            raise self._no_scale(node, scale)
        return np.asarray(scale, np.float32), np.asarray(zero)

    def _no_scale(self, node: gs.Node, scale: Array) -> ModelError:
        shown = ", ".join(f"{value:.6g}" for value in scale.reshape(-1)[:3])
        return ModelError(
            f"{self.file}: {op_of(node)} {node.name!r} has the scale {shown} in {scale.dtype}; "
            "scales are finite floats above 0: quantize the network again"
        )

    def _type(self, node: gs.Node, default: type[np.generic]) -> np.dtype[np.generic]:
        """Return the type of the integers of a node without a zero point."""
        if node.inputs and id(node.inputs[0]) in self.standing:
            steps = self.standing[id(node.inputs[0])][1]
            ends = {np.iinfo(kind).max: kind for kind in ("int8", "uint8", "int16", "uint16")}
            return np.dtype(ends.get(steps.most, default))
        chosen = node.attrs.get("output_dtype", 0)
        if chosen:
            return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(chosen)))
        return np.dtype(default)

    def _steps(self, node: gs.Node, scale: Array, zero: Array) -> Steps:
        if scale.size != 1 or zero.size != 1:
            raise NotSupportedError(
                f"{self.file}: {op_of(node)} {node.name!r} has a scale for each channel of an "
                "activation, which no target's INT8 takes; quantize the float model"
            )
        if not scale.all():
            raise self._no_scale(node, scale)
        limits = np.iinfo(zero.dtype)
        return Steps(float(scale.item()), int(zero.item()), int(limits.min), int(limits.max))

    def _note(self, tensor: gs.Tensor, steps: Steps) -> None:
        known = self.found.steps.get(tensor.name)
        if known is not None and known != steps:
            self.found.several.add(tensor.name)
            steps = max(known, steps, key=lambda entry: entry.high - entry.low)
        self.found.steps[tensor.name] = steps

    def _cuts(self, tensor: gs.Tensor, steps: Steps) -> bool:
        """Tell whether a QuantizeLinear cuts off what the target's does not, or is the Relu too."""
        if steps.low == 0 and not never_negative(tensor, self.inputs):
            return True  # which what runs in float wants as well; inputs are as they were measured
        grid = activation_grid(steps.range(self.table), self.table)
        limits = np.iinfo(grid.dtype)
        low, high = ((end - grid.zero_point) * grid.scale for end in (limits.min, limits.max))
        more = max(steps.low - low, high - steps.high) > 1.5 * steps.scale
        return more and not (steps.low == 0 and never_negative(tensor))

    def _clipped(self, tensor: gs.Tensor, steps: Steps) -> gs.Tensor:
        """Write the Clip that a QuantizeLinear is too."""
        made = gs.Variable(self.names.tensor(f"{tensor.name}/clipped"), np.float32, tensor.shape)
        bounds = [
            gs.Constant(self.names.tensor(f"{made.name}/{end}"), np.array(value, np.float32))
            for end, value in (("low", steps.low), ("high", steps.high))
        ]
        name = self.names.node(f"{tensor.name}/Clip")
        self.graph.nodes.append(Node("Clip", name, {}, [tensor, *bounds], [made]))
        return made

    def _times(self, tensor: gs.Tensor, factor: float, like: gs.Tensor) -> gs.Tensor:
        made = gs.Variable(self.names.tensor(f"{like.name}/scaled"), np.float32, tensor.shape)
        number = gs.Constant(self.names.tensor(f"{made.name}/factor"), np.array(factor, np.float32))
        name = self.names.node(f"{made.name}/Mul")
        self.graph.nodes.append(Node("Mul", name, {}, [tensor, number], [made]))
        return made

    def _integers(self, value: Array, scale: Array, zero: Array, axis: int) -> Array:
        """Return the integers that a QuantizeLinear makes of a constant."""
        place = axis % value.ndim if scale.size > 1 else None
        steps, offset = (along(_flat(entry), place, value.ndim) for entry in (scale, zero))
        limits = np.iinfo(zero.dtype)
        rounded = np.rint(value / steps) + offset.astype(np.float64)
        return np.asarray(np.clip(rounded, limits.min, limits.max), zero.dtype)

    def _weights(self, node: gs.Node, value: Array, scale: Array, zero: Array) -> None:
        """Write the numbers that stored integers stand for, and remember the integers."""
        axis = int(node.attrs.get("axis", 1)) % value.ndim if scale.size > 1 else None
        steps, offset = (along(_flat(entry), axis, value.ndim) for entry in (scale, zero))
        # A channel of scale 0 is one of zeros, with the scale that such a one has here.
        whole = np.where(steps > 0, value.astype(np.int64) - offset.astype(np.int64), 0)
        scale = np.where(scale > 0, scale, np.float32(1))
        number = gs.Constant(
            self.names.tensor(f"{node.outputs[0].name}/value"),
            np.asarray(whole.astype(np.float32) * steps, np.float32),
        )
        if whole.size and -128 <= whole.min() and whole.max() <= 127:
            stored = Stored(whole.astype(np.int8), _flat(scale), axis)
        else:  # of another type; the target gets the nearest
            stored = store(number.values, axis)
        self.found.store(number, stored)
        self._replace(node, number)

    def _replace(self, node: gs.Node, tensor: gs.Tensor) -> None:
        """Let all that read a node's output read ``tensor``."""
        made = node.outputs[0]
        _read_instead(made, tensor)
        if id(made) not in self.outputs:
            return
        node.inputs.clear()
        node.outputs.clear()
        name = self.names.node(f"{made.name}/Identity")
        self.graph.nodes.append(Node("Identity", name, {}, [tensor], [made]))


def _read_instead(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let all nodes that read one tensor read another."""
    for reader in list(old.outputs):
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new


def _flat(value: Array) -> Array:
    """Return a scale or zero point as () or (channels,)."""
    return value.reshape(()) if value.size == 1 else value.reshape(-1)


def _end_without_identity(graph: gs.Graph, found: Found) -> None:
    """Let what made a value make the output of the graph in which it ends."""
    ends = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    for made in graph.outputs:
        last = made.inputs[0] if made.inputs else None
        if not is_op(last, "Identity") or not last.inputs[0].inputs or id(last.inputs[0]) in ends:
            continue
        source = last.inputs[0]
        (maker,) = source.inputs
        last.inputs.clear()
        last.outputs.clear()
        _read_instead(source, made)
        place = next(i for i, tensor in enumerate(maker.outputs) if tensor is source)
        maker.outputs[place] = made
        if source.name in found.steps:
            found.steps[made.name] = found.steps.pop(source.name)
    tidy(graph)


def _turn_weights(graph: gs.Graph, found: Found) -> None:
    """Transpose stored weights that a layer reads behind a Transpose."""
    for node in list(graph.nodes):
        if not is_op(node, "Transpose") or id(node.inputs[0]) not in found.stored:
            continue
        source = node.inputs[0]
        stored = found.stored[id(source)]
        perm = [int(a) for a in node.attrs.get("perm", range(stored.numbers.ndim)[::-1])]
        turned = gs.Constant(node.outputs[0].name, np.transpose(source.values, perm).copy())
        axis = None if stored.axis is None else perm.index(stored.axis)
        found.store(turned, Stored(stored.numbers.transpose(perm), stored.scale, axis))
        _read_instead(node.outputs[0], turned)
    tidy(graph)
