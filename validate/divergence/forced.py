"""A graph in which each layer is fed what the original computed, so that errors do not travel.

Given:   a' -> Conv -> b' -> Relu -> c'        (the candidate's tensors)
Result:  a  -> Conv -> b'    b -> Relu -> c'   (fed the original's a and b)

What b' and c' are off by now is the doing of one layer each. Quantizers of activations are taken
out, and measured by themselves: they are a rounding and a range, no computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from onnxgraft.graph import float8
from onnxgraft.graph.inference import infer
from onnxgraft.graph.messages import bodies
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import DYNAMIC_LSTM, MICROSOFT, QUANTIZERS, is_op
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.answers import adapted
from onnxgraft.run.depth import OF_INTEGERS
from onnxgraft.run.session import OnnxRuntime

__all__ = ["HALF_TYPES", "ForcedGraph", "Quantizer", "Segment", "label"]

_GIVEN = "@original"
HALF_TYPES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# What computes in integers, and so rounds.
_INTEGER_OPS = frozenset({
    *OF_INTEGERS, "DequantizeLinear", "QuantizeLinear", DYNAMIC_LSTM,
})  # fmt: skip
_FOUR_BITS = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear of an activation with the DequantizeLinear behind it.

    Attributes:
        node: The QuantizeLinear's name.
        tensor: What it quantizes.
        scale: () or (channels,) float.
        zero: Of the same shape.
        axis: Of the channels.
        low: The smallest integer, or number of FP8.
        high: The largest.
    """

    node: str
    tensor: str
    scale: Array
    zero: Array
    axis: int
    low: float
    high: float

    def limits(self) -> tuple[float, float]:
        """Return the range of values that it keeps, the widest of all channels."""
        scale, zero = self.scale.astype(np.float64), self.zero.astype(np.float64)
        return float(((self.low - zero) * scale).min()), float(((self.high - zero) * scale).max())

    def clipped(self, value: Array) -> Array:
        """Return ``value`` with what is beyond the range cut off."""
        shape = [-1 if axis == self.axis % value.ndim else 1 for axis in range(value.ndim)]
        scale, zero = (
            (part.astype(np.float32).reshape(shape) if part.ndim else part.astype(np.float32))
            for part in (self.scale, self.zero)
        )
        return np.asarray(
            np.clip(value.astype(np.float32), (self.low - zero) * scale, (self.high - zero) * scale)
        )


@dataclass(frozen=True)
class Segment:
    """What makes one tensor out of the nearest ones that the original has too.

    Attributes:
        nodes: Its nodes, the last one first.
        given: The shared tensors that it reads.
        precision: ``fp32``, ``fp16``, ``int8``, ``fp8`` or ``int4``: of the coarsest thing in it.
    """

    nodes: tuple[onnx.NodeProto, ...]
    given: frozenset[str]
    precision: str


class ForcedGraph:
    """The candidate's graph, to be run layer by layer on the original's values.

    Args:
        model: The candidate.

    Attributes:
        types: The element types of its tensors.
        quantizers: Of activations, in the order of the graph.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.proto = proto = model.to_onnx()
        self.constants = {entry.name: entry for entry in proto.graph.initializer}
        found = {name: kind.element for name, kind in infer(model.graph).items()}
        found |= {entry.name: entry.data_type for entry in proto.graph.initializer}
        self.types = {name: kind for name, kind in found.items() if kind is not None}
        self.makers = {name: node for node in proto.graph.node for name in node.output if name}
        self.inputs = {value.name: value for value in proto.graph.input}
        self.quantizers: list[Quantizer] = []
        self._alias: dict[str, str] = {}
        self._strip()

    def _strip(self) -> None:
        """Find the quantizers of activations, and take them out."""
        for node in self.proto.graph.node:
            if not is_op(node, "DequantizeLinear", domain=QUANTIZERS):
                continue
            before = self.makers.get(node.input[0])
            if not is_op(before, "QuantizeLinear", domain=QUANTIZERS):
                continue
            parameters = self._parameters(before)
            if parameters is None or self._parameters(node) != parameters:
                continue
            self._alias[node.output[0]] = before.input[0]
            found = self._quantizer(before)
            if all(found.node != known.node for known in self.quantizers):
                self.quantizers.append(found)

    def _parameters(self, node: onnx.NodeProto) -> tuple[bytes, ...] | None:
        """Return the scale and zero point of a quantizer as bytes, None if they are computed."""
        names = node.input[1:]
        if not all(name in self.constants for name in names):
            return None
        return tuple(onnx.numpy_helper.to_array(self.constants[n]).tobytes() for n in names)

    def _quantizer(self, node: onnx.NodeProto) -> Quantizer:
        scale = onnx.numpy_helper.to_array(self.constants[node.input[1]])
        zero = (
            onnx.numpy_helper.to_array(self.constants[node.input[2]])
            if len(node.input) > 2
            else np.zeros(scale.shape, np.uint8)
        )
        low, high = -float8.LARGEST, float8.LARGEST
        if not float8.is_float8(zero.dtype):
            limits = np.iinfo(zero.dtype)
            low, high = float(limits.min), float(limits.max)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        return Quantizer(label(node), self._resolved(node.input[0]), scale, zero, axis, low, high)

    def _resolved(self, name: str) -> str:
        while name in self._alias:
            name = self._alias[name]
        return name

    @cached_property
    def _cut(self) -> dict[str, Quantizer]:
        """The quantizers that alone read what they quantize."""
        readers: dict[str, set[str]] = {}
        for node in self.proto.graph.node:
            for name in _reads(node):
                readers.setdefault(name, set()).add(label(node))
        for value in self.proto.graph.output:
            readers.setdefault(value.name, set()).add("")
        return {q.tensor: q for q in self.quantizers if readers.get(q.tensor) == {q.node}}

    def as_read(self, tensor: str, value: Array) -> Array:
        """Return what is left of a tensor's values for those that read it.

        A quantizer whose range begins at 0 is a Relu too, and some tools leave the Relu out: what
        its layer makes below is nothing that anyone sees.
        """
        quantizer = self._cut.get(tensor)
        return value if quantizer is None else quantizer.clipped(value)

    @cached_property
    def varying(self) -> frozenset[str]:
        """The tensors that depend on the inputs of the graph."""
        found = set(self.inputs) - set(self.constants)
        for node in self.proto.graph.node:
            if any(name in found for name in _reads(node)):
                found.update(node.output)
        return frozenset(found)

    def segment(self, tensor: str, shared: set[str]) -> Segment:
        """Return what makes ``tensor`` out of shared tensors, inputs and constants."""
        nodes: dict[str, onnx.NodeProto] = {}
        given: set[str] = set()
        waiting = [self._resolved(tensor)]
        while waiting:
            maker = self.makers.get(waiting.pop())
            if maker is None or maker.output[0] in nodes:
                continue
            nodes[maker.output[0]] = maker
            inner = set(_captured(maker))
            for name in (*map(self._resolved, maker.input), *inner):
                if name in shared and name not in inner:
                    given.add(name)
                else:
                    waiting.append(name)
        kinds = [self._precision(node) for node in nodes.values()]
        coarse = ("int4", "fp8", "int8", "fp16")
        precision = next((kind for kind in coarse if kind in kinds), "fp32")
        return Segment(tuple(nodes.values()), frozenset(given), precision)

    def _precision(self, node: onnx.NodeProto) -> str:
        types = {self.types.get(name) for name in (*node.input, *node.output)}
        if is_op(node, "MatMulNBits", domain=MICROSOFT):
            bits = next((a.i for a in node.attribute if a.name == "bits"), 4)
            return "int4" if bits <= 4 else "int8"
        if _in_integers(node):
            if onnx.TensorProto.FLOAT8E4M3FN in types:
                return "fp8"
            return "int4" if types & _FOUR_BITS else "int8"
        return "fp16" if types & set(HALF_TYPES) else "fp32"

    def run(self, wanted: Sequence[str], given: Mapping[str, Array], feeds: Feeds) -> Outputs:
        """Return the tensors ``wanted``, each computed from ``given``; those that are fed are not.

        Args:
            wanted: Tensors of the graph.
            given: The original's values of shared tensors, in the graph's layouts.
            feeds: The inputs of the graph.
        """
        shared = set(given)
        segments = [self.segment(name, shared) for name in wanted]
        keep = {node.output[0] for segment in segments for node in segment.nodes}
        read = set().union(*(segment.given for segment in segments))
        part = onnx.ModelProto()
        part.CopyFrom(_shell(self.proto))
        used: set[str] = set()
        for node in self.proto.graph.node:
            if not node.output or node.output[0] not in keep:
                continue
            copy = part.graph.node.add()
            copy.CopyFrom(node)
            for index, name in enumerate(map(self._resolved, node.input)):
                copy.input[index] = f"{name}{_GIVEN}" if name in read else name
            used.update(copy.input, _captured(node))
        part.graph.initializer.extend(self.constants[name] for name in used & set(self.constants))
        inputs = [v for name, v in self.inputs.items() if name in used - set(self.constants)]
        part.graph.input.extend(inputs)
        types = {name: self._type(name, given[name]) for name in read}
        part.graph.input.extend(
            onnx.helper.make_tensor_value_info(f"{name}{_GIVEN}", types[name], given[name].shape)
            for name in sorted(read)
        )
        targets = {name: self._resolved(name) for name in wanted}
        part.graph.output.extend(
            onnx.ValueInfoProto(name=name)
            for name in dict.fromkeys(targets.values())
            if name in self.makers
        )
        if not part.graph.output:
            return {}
        with OnnxRuntime(part, optimize=False) as session:
            fed = {value.name for value in inputs}
            values: dict[str, Array] = {
                name: value for name, value in adapted(feeds, self.model).items() if name in fed
            }
            with np.errstate(over="ignore"):  # a value that FP16 does not have becomes infinite
                for name in read:
                    dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
                    values[f"{name}{_GIVEN}"] = given[name].astype(dtype)
            made = session.infer(values)
        return {name: made[target] for name, target in targets.items() if target in made}

    def _type(self, name: str, value: Array) -> int:
        return self.types.get(name) or onnx.helper.np_dtype_to_tensor_dtype(value.dtype)


def label(node: onnx.NodeProto) -> str:
    """Return the node's name, or that of its first output."""
    return node.name or node.output[0]


def _shell(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what is in its graph."""
    shell = onnx.ModelProto(ir_version=proto.ir_version, graph=onnx.GraphProto(name="part"))
    shell.opset_import.extend(proto.opset_import)
    shell.functions.extend(proto.functions)
    return shell


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    yield from _captured(node)


def _captured(node: onnx.NodeProto) -> Iterable[str]:
    """Return the tensors of the graph that the bodies of a node, as of If and Loop, read."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    for body in bodies:
        own = {value.name for value in body.input} | {entry.name for entry in body.initializer}
        own |= {name for inner in body.node for name in inner.output}
        for inner in body.node:
            yield from (name for name in _reads(inner) if name not in own)
        yield from (value.name for value in body.output if value.name not in own)


def _in_integers(node: onnx.NodeProto) -> bool:
    """Tell whether a node computes in integers, or one in a body of it does."""
    return is_op(node, *_INTEGER_OPS, domain=QUANTIZERS) or any(
        _in_integers(inner)
        for attribute in node.attribute
        for body in bodies(attribute)
        for inner in body.node
    )
