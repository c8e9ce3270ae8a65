"""Symbolic shapes: every dimension a number times named unknowns, and the values of shape tensors.

onnx's own inference gives each operator's rule (`onnx.shape_inference.infer_node_outputs`); it
is fed and read with dimensions such as ``N*168960``, and what it can't follow - the arithmetic on
shape tensors, a Reshape whose target is computed - is followed here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxgraft.graph.dims import Dim, Shape, Value
from onnxgraft.graph.operators import is_op, op_key, op_of
from onnxgraft.graph.shape_rules import MOST_VALUES, SHAPE_RULES, VALUE_RULES

__all__ = ["Shapes"]

_MOST_CONSTANT = 1024


class Shapes:
    """The symbolic shape of each tensor of a graph, and the value of each shape tensor."""

    def __init__(self, graph: gs.Graph) -> None:
        """Know the inputs of ``graph``; everything else is inferred when it is asked for.

        What is known of a tensor stays known as long as the tensor lives: graphs may be rewritten
        in between, as long as every tensor keeps its value.
        """
        self._seen: dict[int, gs.Tensor] = {}
        self._shape: dict[int, Shape] = {}
        self._value: dict[int, Value] = {}
        self._dims: dict[str, Dim] = {}
        self._fresh = 0
        self._opset = graph.opset
        self._imports = [onnx.helper.make_opsetid("", graph.opset)]
        self._dtype: dict[int, Any] = {}
        self._inputs = {id(tensor): tensor for tensor in graph.inputs}

    def shape(self, tensor: gs.Tensor) -> Shape | None:
        """Return the tensor's shape, or None where not even its rank is known."""
        if isinstance(tensor, gs.Constant):
            return tuple(Dim(int(dim)) for dim in tensor.shape)
        self._ask(tensor)
        return self._shape.get(id(tensor))

    def value(self, tensor: gs.Tensor) -> Value | None:
        """Return the elements of an integer tensor of rank 0 or 1, or None."""
        if isinstance(tensor, gs.Constant):
            if math.prod(tensor.shape) > MOST_VALUES or len(tensor.shape) > 1:
                return None
            values = np.asarray(tensor.values)
            if values.dtype.kind not in "iu":
                return None
            return tuple(Dim(int(element)) for element in values.ravel())
        self._ask(tensor)
        return self._value.get(id(tensor))

    def forget(self, *, everything: bool = False) -> None:
        """Infer anew what is not wholly known: rewrites may have made it known."""
        for key in list(self._seen):
            if everything or not self._settled(key):
                for table in (self._seen, self._shape, self._value, self._dtype):
                    table.pop(key, None)

    def _settled(self, key: int) -> bool:
        """Tell whether nothing more can be learnt of a tensor."""
        shape, value = self._shape.get(key), self._value.get(key)
        if shape is None or any(s.startswith("?") for dim in shape for s in dim.symbols):
            return False
        if value is not None:
            return all(
                dim is not None and not any(s.startswith("?") for s in dim.symbols) for dim in value
            )
        dtype = self._dtype.get(key, np.int64)
        return len(shape) > 1 or isinstance(dtype, int) or np.dtype(dtype).kind not in "iu"

    def _ask(self, tensor: gs.Tensor) -> None:
        """Visit the nodes that a tensor depends on, those first that the others depend on."""
        waiting = [tensor]
        while waiting:
            current = waiting[-1]
            if id(current) in self._seen or isinstance(current, gs.Constant) or not current.name:
                waiting.pop()
                continue
            if not current.inputs:
                self._begin(current)
                continue
            node = current.inputs[0]
            before = [*node.inputs, *(t for body in node.subgraphs() for t in body.outputs)]
            missing = [
                t for t in before
                if t.name and id(t) not in self._seen and not isinstance(t, gs.Constant)
            ]  # fmt: skip
            if missing:
                waiting += missing
                continue
            # Before the visit: its rules ask for the node's own outputs too.
            self._seen.update((id(output), output) for output in node.outputs)
            self._visit(node)

    def _begin(self, tensor: gs.Tensor) -> None:
        """Take in a tensor that no node makes; the names of dimensions hold in the main graph."""
        self._seen[id(tensor)] = tensor
        main = id(tensor) in self._inputs
        if tensor.shape is not None:
            self._shape[id(tensor)] = tuple(
                self._dim(dim if main or isinstance(dim, int) else None) for dim in tensor.shape
            )
        if tensor.dtype is not None:
            self._dtype[id(tensor)] = tensor.dtype

    def dtype(self, tensor: gs.Tensor) -> Any:
        """Return the tensor's numpy dtype, or None."""
        if tensor.dtype is not None:
            return tensor.dtype
        self._ask(tensor)
        return self._dtype.get(id(tensor))

    def _dim(self, dim: Any) -> Dim:
        if isinstance(dim, (int, np.integer)) and dim >= 0:
            return Dim(int(dim))
        name = dim if isinstance(dim, str) and dim else ""
        if not name:
            self._fresh += 1
            name = f"?{self._fresh}"
        return self._dims.setdefault(name, Dim(1, (name,)))

    def _visit(self, node: gs.Node) -> None:
        rule = VALUE_RULES.get(op_of(node))
        if rule:
            value = rule(self, node)
            if value is not None and len(value) <= MOST_VALUES:
                self._value[id(node.outputs[0])] = value
        self._infer(node)
        shape_rule = SHAPE_RULES.get(op_of(node))
        if shape_rule:
            shape = shape_rule(self, node)
            if shape is not None:
                self._shape[id(node.outputs[0])] = shape

    def _infer(self, node: gs.Node) -> None:
        """Ask onnx for the shapes of the node's outputs."""
        if any(True for _ in node.subgraphs()):
            self._branches(node)
            return
        try:
            domain, name = op_key(node)
            schema = onnx.defs.get_schema(name, self._opset, domain)
        except onnx.defs.SchemaError:
            return
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for tensor in node.inputs:
            if tensor.name:
                known = self._type(tensor)
                if known is None:
                    return
                types[tensor.name] = known
                if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) <= _MOST_CONSTANT:
                    data[tensor.name] = onnx.numpy_helper.from_array(
                        np.asarray(tensor.values), tensor.name
                    )
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, OnnxExporter.export_node(node), types, data,
                opset_imports=self._imports, ir_version=onnx.IR_VERSION,
            )  # fmt: skip
        except Exception:  # its errors have no common base; an unknown shape is no error here
            return
        for tensor in node.outputs:
            kind = found.get(tensor.name)
            if kind is None or not kind.HasField("tensor_type"):
                continue
            if kind.tensor_type.elem_type:
                self._dtype[id(tensor)] = onnx.helper.tensor_dtype_to_np_dtype(
                    kind.tensor_type.elem_type
                )
            if kind.tensor_type.HasField("shape"):
                self._shape[id(tensor)] = tuple(
                    self._dim(d.dim_value if d.HasField("dim_value") else d.dim_param)
                    for d in kind.tensor_type.shape.dim
                )

    def _branches(self, node: gs.Node) -> None:
        """Take what both branches of an If agree on; a Loop's and a Scan's outputs are open."""
        if not is_op(node, "If"):
            return
        branches = [body.outputs for body in node.subgraphs()]
        for target, *ends in zip(node.outputs, *branches, strict=False):
            shapes = {self.shape(end) for end in ends}
            if len(shapes) == 1 and (shape := shapes.pop()) is not None:
                self._shape[id(target)] = shape
            types = [self.dtype(end) for end in ends]
            if types[0] is not None:
                self._dtype[id(target)] = types[0]

    def _type(self, tensor: gs.Tensor) -> onnx.TypeProto | None:
        dtype = self.dtype(tensor)
        if dtype is None:
            return None
        element = (
            onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            if not isinstance(dtype, int)
            else dtype
        )
        shape = self.shape(tensor)
        dims = None if shape is None else [d.number if d.fixed else self._known(d) for d in shape]
        return onnx.helper.make_tensor_type_proto(element, dims)

    def _known(self, dim: Dim) -> str:
        self._dims[str(dim)] = dim
        return str(dim)
