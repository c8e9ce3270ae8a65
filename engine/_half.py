"""The graph in FP16, for libraries that take the precision from the graph.

Given:   x (float32) -> Conv -> Relu -> y (float32)
Result:  x (float32) -> Cast -> Conv (float16) -> Relu (float16) -> Cast -> y (float32)

Inputs and outputs keep their types. What FP16 can't hold stays in float32 between two Casts:
operators that add up or raise many values (FP16 ends at 65504), constants beyond that, and
operators whose definition has float32 inputs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import NotSupportedError
from onnxgraft.model import Model

__all__ = ["to_half"]

_LARGEST = 65504.0  # of float16
_SMALLEST = 2.0**-14  # that float16 holds to its 11 bits

_KEPT = frozenset({
    # Sums of squares, powers and the like pass 65504 where their inputs do not.
    "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization",
    "LpNormalization", "MeanVarianceNormalization", "Pow", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softplus",
    # Their sizes, scales or coordinates are float32 by definition, or too coarse in FP16.
    "DequantizeLinear", "DynamicQuantizeLinear", "GridSample", "NonMaxSuppression",
    "QuantizeLinear", "Range", "Resize", "RoiAlign", "Upsample",
    # They make float32 out of nothing.
    "Bernoulli", "ConstantOfShape", "EyeLike", "Multinomial", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike",
})  # fmt: skip


def to_half(model: Model) -> Model:
    """Return ``model`` with its float32 layers in float16.

    Raises:
        NotSupportedError: It has subgraphs, or integers of a quantized graph.
    """
    typed = onnx.shape_inference.infer_shapes(model.to_onnx())
    graph = gs.import_onnx(typed)
    for node in graph.nodes:
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            raise NotSupportedError(
                f"{model.file}: {node.op} {node.name!r} holds a graph, which can't be written in "
                "FP16 yet; fold it with onnxgraft surgery, or build in fp32"
            )
        if node.op == "QuantizeLinear":
            raise NotSupportedError(
                f"{model.file}: what is not INT8 in a quantized graph can't be written in FP16 "
                "yet; build it as int8"
            )
    _Rewrite(graph).run()
    graph.cleanup().toposort()
    proto = gs.export_onnx(graph)
    return replace(Model.from_onnx(proto, model.source, model.names), file=model.file)


class _Rewrite:
    """The state of one rewrite: the casts that are there already."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._casts: dict[tuple[int, str], gs.Variable] = {}
        self._constants: dict[int, gs.Constant] = {}

    def run(self) -> None:
        kept = {
            id(node)
            for node in self.graph.nodes
            if node.op in _KEPT or any(_out_of_range(tensor) for tensor in node.inputs)
        }
        # float32 as they are: inputs, outputs, and what kept nodes hand to kept nodes alone.
        full = {id(tensor) for tensor in (*self.graph.inputs, *self.graph.outputs)}
        for tensor in self.graph.tensors().values():
            makers, readers = tensor.inputs, tensor.outputs
            if makers and readers and all(id(node) in kept for node in (*makers, *readers)):
                full.add(id(tensor))
        for node in list(self.graph.nodes):
            whole = id(node) in kept
            for index, tensor in enumerate(node.inputs):
                if not _is(tensor, np.float32):
                    continue
                if isinstance(tensor, gs.Constant):
                    node.inputs[index] = tensor if whole else self._constant(tensor)
                elif whole != (id(tensor) in full):
                    node.inputs[index] = self._cast(tensor, "float32" if whole else "float16")
            for index, tensor in enumerate(node.outputs):
                if _is(tensor, np.float32) and whole != (id(tensor) in full):
                    self._between(node, index, tensor, "float32" if whole else "float16")
            if node.op == "Cast" and not whole and node.attrs.get("to") == onnx.TensorProto.FLOAT:
                node.attrs["to"] = onnx.TensorProto.FLOAT16
        made = {id(tensor) for tensor in self._casts.values()}
        for tensor in self.graph.tensors().values():
            inner = isinstance(tensor, gs.Variable) and id(tensor) not in full | made
            if inner and _is(tensor, np.float32):
                tensor.dtype = np.dtype(np.float16)

    def _constant(self, tensor: gs.Constant) -> gs.Constant:
        if id(tensor) not in self._constants:
            values = np.asarray(tensor.values).astype(np.float16)
            self._constants[id(tensor)] = gs.Constant(f"{tensor.name}.fp16", values)
        return self._constants[id(tensor)]

    def _cast(self, tensor: gs.Variable, kind: str) -> gs.Variable:
        """Return ``tensor`` as ``kind``; who reads it twice shares the Cast."""
        key = (id(tensor), kind)
        if key not in self._casts:
            made = gs.Variable(f"{tensor.name}.{kind}", np.dtype(kind), tensor.shape)
            self._casts[key] = made
            self._add(tensor, made, kind)
        return self._casts[key]

    def _between(self, node: gs.Node, index: int, tensor: gs.Variable, kind: str) -> None:
        """Let ``node`` make its output in its own ``kind``, and a Cast make ``tensor`` of it."""
        made = gs.Variable(f"{tensor.name}.{kind}", np.dtype(kind), tensor.shape)
        node.outputs[index] = made
        self._casts[id(tensor), kind] = made
        self._add(made, tensor, "float16" if kind == "float32" else "float32")

    def _add(self, source: gs.Variable, result: gs.Variable, kind: str) -> None:
        to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        self.graph.nodes.append(
            gs.Node("Cast", f"{result.name}.cast", {"to": to}, [source], [result])
        )


def _is(tensor: gs.Tensor, kind: type[np.generic]) -> bool:
    try:
        return tensor.dtype is not None and np.dtype(tensor.dtype) == kind
    except TypeError:  # a type that numpy does not have
        return False


def _out_of_range(tensor: gs.Tensor) -> bool:
    """Tell whether FP16 would make infinities of a constant, or next to nothing of all of it."""
    if not (isinstance(tensor, gs.Constant) and _is(tensor, np.float32)):
        return False
    largest = np.abs(np.asarray(tensor.values)).max(initial=0)
    return bool(largest > _LARGEST or 0 < largest < _SMALLEST)
