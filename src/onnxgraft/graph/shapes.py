"""The type and shape of each tensor: the one inference of the product.

onnx's own inference gives each operator's rule (`onnx.shape_inference.infer_node_outputs`); it
is fed and read with dimensions such as ``N*168960``, and what it can't follow - the arithmetic on
shape tensors, a Reshape whose target is computed - is followed here. So are the bodies of If, Loop
and Scan, in `body_rules`. An operator or an opset that onnx does not know is no error: what it
makes is not known. `inference` asks for all tensors of a graph at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxgraft.graph.body_rules import bind_bodies, made_by_bodies
from onnxgraft.graph.dims import Dim, Shape, Value
from onnxgraft.graph.operators import constant_value, is_op, op_key, op_of
from onnxgraft.graph.shape_rules import MOST_VALUES, SHAPE_RULES, VALUE_RULES
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import own_bodies

__all__ = ["Shapes", "misfit_of"]

_MOST_CONSTANT = 1024
# What onnx has no rule for: what they make is of the type and the shape of what they read.
_ALIKE = ("GroupNormalization", "MeanVarianceNormalization")
_INT64 = onnx.TensorProto.INT64
_INTEGERS = frozenset({
    onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32, _INT64,
    onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
})  # fmt: skip


def misfit_of(model: onnx.ModelProto) -> str | None:
    """Return what onnx finds that does not fit of the types and shapes of a model, in one line."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # its errors have no common base
        return " ".join(str(error).split())
    return None


class Shapes:
    """The symbolic shape and the type of each tensor of a graph, and the value of shape tensors."""

    def __init__(
        self,
        graph: gs.Graph,
        sizes: Mapping[str, Sequence[int]] | None = None,
        *,
        free: int | None = None,
        declared: bool = False,
    ) -> None:
        """Know the inputs of ``graph``; everything else is inferred when it is asked for.

        What is known of a tensor stays known as long as the tensor lives: graphs may be rewritten
        in between, as long as every tensor keeps its value.

        Args:
            graph: Is not changed.
            sizes: Shapes that inputs are fed in, by name, in place of their own.
            free: What every other free dimension of an input is taken for.
            declared: Believe what the graph says of a tensor's shape, where it is not inferred.
        """
        self._seen: dict[int, gs.Tensor] = {}
        self._shape: dict[int, Shape] = {}
        self._value: dict[int, Value] = {}
        self._dims: dict[str, Dim] = {}
        self._fresh = 0
        self._versions = {e.domain: e.version for e in graph.import_domains or ()} | {
            "": graph.opset
        }
        self._imports = [onnx.helper.make_opsetid(*entry) for entry in self._versions.items()]
        self._functions = {(f.domain or "", f.name): f for f in graph.functions}
        self._element: dict[int, int] = {}
        # Sequences, maps and optionals, as onnx has them.
        self._other: dict[int, onnx.TypeProto] = {}
        self._inputs = {id(tensor): tensor for tensor in graph.inputs}
        self._sizes, self._free, self._declared = sizes or {}, free, declared
        made = (tensor for node in graph.nodes for tensor in node.outputs)
        self._main = {id(tensor) for tensor in made} if declared else set()

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

    def element(self, tensor: gs.Tensor) -> int | None:
        """Return onnx's number of the tensor's type, or None; what is no tensor has none."""
        dtype = _declared(tensor)
        if dtype is not None:
            # A type that numpy does not have stands in the graph as onnx's number.
            known = isinstance(dtype, int)
            return dtype if known else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._ask(tensor)
        return self._element.get(id(tensor)) or None  # onnx infers "undefined" of some

    def dtype(self, tensor: gs.Tensor) -> Any:
        """Return the tensor's numpy dtype, or onnx's number where the graph has that, or None."""
        dtype = _declared(tensor)
        if dtype is not None:
            return dtype
        element = self.element(tensor)
        return None if element is None else onnx.helper.tensor_dtype_to_np_dtype(element)

    def forget(self, *, everything: bool = False) -> None:
        """Infer anew what is not wholly known: rewrites may have made it known."""
        for key in list(self._seen):
            if everything or not self._settled(key):
                for table in (self._seen, self._shape, self._value, self._element, self._other):
                    table.pop(key, None)

    def _settled(self, key: int) -> bool:
        """Tell whether nothing more can be learnt of a tensor."""
        shape, value = self._shape.get(key), self._value.get(key)
        if shape is None or not all(dim.known for dim in shape):
            return False
        if value is not None:
            return all(dim is not None and dim.known for dim in value)
        return len(shape) > 1 or self._element.get(key, _INT64) not in _INTEGERS

    # What body_rules say ----------------------------------------------------------------------

    def bind(self, tensor: gs.Tensor, source: gs.Tensor, shape: Shape | None = None) -> None:
        """Begin with an input of a body, which is of the type of ``source``, and of ``shape``."""
        if id(tensor) not in self._seen:
            self._begin(tensor)
        self.put(tensor, source, shape)

    def put(self, tensor: gs.Tensor, source: gs.Tensor, shape: Shape | None = None) -> None:
        """Give a tensor the type of ``source``, and ``shape``, as far as they are known."""
        element = self.element(source)
        if element is not None:
            self._element[id(tensor)] = element
        if id(source) in self._other:
            self._other[id(tensor)] = self._other[id(source)]
        if shape is not None:
            self._shape[id(tensor)] = shape

    def unknown(self) -> Dim:
        """Return a dimension that equals no other."""
        self._fresh += 1
        return Dim(1, (f"?{self._fresh}",))

    # Asking -----------------------------------------------------------------------------------

    def _ask(self, tensor: gs.Tensor) -> None:
        """Visit the nodes that a tensor depends on, those first that the others depend on."""
        waiting = [tensor]
        while waiting:
            current = waiting[-1]
            if not self._missing([current]):
                waiting.pop()
                continue
            if not current.inputs:
                self._begin(current)
                continue
            node = current.inputs[0]
            missing = self._missing(node.inputs)
            bodies = [] if missing else own_bodies(node)
            if bodies:
                bind_bodies(self, node)
                missing = self._missing(end for body in bodies for end in body.outputs)
            if missing:
                waiting += missing
                continue
            # Before the visit: its rules ask for the node's own outputs too.
            self._seen.update((id(output), output) for output in node.outputs)
            self._visit(node)

    def _missing(self, tensors: Iterable[gs.Tensor]) -> list[gs.Tensor]:
        return [
            t for t in tensors
            if t.name and id(t) not in self._seen and not isinstance(t, gs.Constant)
        ]  # fmt: skip

    def _begin(self, tensor: gs.Tensor) -> None:
        """Take in a tensor that no node makes; the names of dimensions hold in the main graph."""
        self._seen[id(tensor)] = tensor
        main = id(tensor) in self._inputs
        if main and tensor.name in self._sizes:
            self._shape[id(tensor)] = tuple(Dim(int(size)) for size in self._sizes[tensor.name])
        elif tensor.shape is not None:
            dims = (self._dim(dim, named=main) for dim in tensor.shape)
            free = self._free if main else None
            self._shape[id(tensor)] = tuple(
                dim if dim.fixed or free is None else Dim(free) for dim in dims
            )
        if tensor.dtype is not None and _kind(tensor) == "sequence_type":
            self._other[id(tensor)] = OnnxExporter.export_value_info_proto(tensor, False).type

    def _dim(self, dim: Any, *, named: bool = True) -> Dim:
        if isinstance(dim, (int, np.integer)) and dim >= 0:
            return Dim(int(dim))
        name = dim if named and isinstance(dim, str) else ""
        # A file may call dimensions that have nothing to do with each other by question marks.
        if not name or (name.startswith("?") and name not in self._dims):
            return self.unknown()
        return self._dims.setdefault(name, Dim(1, (name,)))

    def _visit(self, node: gs.Node) -> None:
        rule = VALUE_RULES.get(op_of(node))
        if rule:
            value = rule(self, node)
            if value is not None and len(value) <= MOST_VALUES:
                self._value[id(node.outputs[0])] = value
        if own_bodies(node):
            made_by_bodies(self, node)
        else:
            self._infer(node)
        self._cut_off(node.outputs[0])
        shape_rule = SHAPE_RULES.get(op_of(node))
        if shape_rule:
            shape = shape_rule(self, node)
            if shape is not None:
                self._shape[id(node.outputs[0])] = shape
        if self._declared:
            for tensor in node.outputs:
                self._believe(tensor)

    def _cut_off(self, tensor: gs.Tensor) -> None:
        """Forget those of the known numbers that their type does not hold: they wrap around.

        A size that is not known may be more than a byte or two hold.
        """
        value = self._value.get(id(tensor))
        dtype = None if value is None else self.dtype(tensor)
        if value is None or dtype is None or np.dtype(dtype).kind not in "iu":
            return
        limits, wide = np.iinfo(dtype), np.dtype(dtype).itemsize > 2
        self._value[id(tensor)] = tuple(
            dim if dim and (limits.min <= dim.number <= limits.max if dim.fixed else wide) else None
            for dim in value
        )

    def _infer(self, node: gs.Node) -> None:
        """Ask onnx for the types and shapes of the node's outputs."""
        try:
            found = self._found(node)
        except Exception:  # onnx's errors have no common base; an unknown shape is no error here
            return
        for tensor in node.outputs:
            kind = found.get(tensor.name)
            if kind is None:
                continue
            if not kind.HasField("tensor_type"):
                self._other[id(tensor)] = kind
                continue
            if kind.tensor_type.elem_type:
                self._element[id(tensor)] = kind.tensor_type.elem_type
            if kind.tensor_type.HasField("shape"):
                self._shape[id(tensor)] = tuple(
                    self._dim(d.dim_value if d.HasField("dim_value") else d.dim_param)
                    for d in kind.tensor_type.shape.dim
                )

    def _found(self, node: gs.Node) -> dict[str, onnx.TypeProto]:
        read = [tensor for tensor in node.inputs if tensor.name]
        types = {tensor.name: self._type(tensor) for tensor in read}
        data = {
            tensor.name: onnx.numpy_helper.from_array(value, tensor.name)
            for tensor in read
            if (value := self._data(tensor)) is not None
        }
        domain, name = op_key(node)
        if (domain, name) in self._functions:
            return self._called(node, types, data)
        if not domain and name in _ALIKE:
            return {node.outputs[0].name: types[node.inputs[0].name]}
        schema = onnx.defs.get_schema(name, self._versions.get(domain, 1), domain)
        return onnx.shape_inference.infer_node_outputs(
            schema, OnnxExporter.export_node(node), types, data,
            opset_imports=self._imports, ir_version=onnx.IR_VERSION,
        )  # fmt: skip

    def _called(
        self, node: gs.Node, types: dict[str, onnx.TypeProto], data: dict[str, onnx.TensorProto]
    ) -> dict[str, onnx.TypeProto]:
        """Let onnx look into a function of the model: it is given a graph of the call alone."""
        call = onnx.helper.make_graph(
            [OnnxExporter.export_node(node)],
            "call",
            [onnx.ValueInfoProto(name=name, type=kind) for name, kind in types.items()],
            [onnx.ValueInfoProto(name=tensor.name) for tensor in node.outputs if tensor.name],
            list(data.values()),
        )
        model = onnx.helper.make_model(
            call,
            functions=list(map(OnnxExporter.export_function, self._functions.values())),
            opset_imports=self._imports,
        )
        made = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
        return {value.name: value.type for value in made if value.type.WhichOneof("value")}

    def _believe(self, tensor: gs.Tensor) -> None:
        """Take from the graph what is not inferred of a tensor's shape."""
        known = self._shape.get(id(tensor))
        if tensor.shape is None or (known is not None and len(known) != len(tensor.shape)):
            return
        told = [self._dim(dim, named=id(tensor) in self._main) for dim in tensor.shape]
        self._shape[id(tensor)] = tuple(
            one if one.fixed or (one.known and not other.fixed) else other
            for one, other in zip(known or told, told, strict=True)
        )

    def _type(self, tensor: gs.Tensor) -> onnx.TypeProto:
        shape = self.shape(tensor)
        other = self._other.get(id(tensor))
        if other is not None:
            return other
        dims = None if shape is None else [d.number if d.fixed else self._known(d) for d in shape]
        return onnx.helper.make_tensor_type_proto(self.element(tensor) or 0, dims)

    def _known(self, dim: Dim) -> str:
        self._dims[str(dim)] = dim
        return str(dim)

    def _data(self, tensor: gs.Tensor) -> Array | None:
        """Return the value of a small tensor, if it is known."""
        if isinstance(tensor, gs.Constant):
            return np.asarray(tensor.values) if math.prod(tensor.shape) <= _MOST_CONSTANT else None
        maker = tensor.inputs[0] if tensor.inputs else None
        if is_op(maker, "Constant"):
            stored = constant_value(maker)
            return stored if stored is not None and stored.size <= _MOST_CONSTANT else None
        value, shape, element = self.value(tensor), self.shape(tensor), self.element(tensor)
        if value is None or shape is None or len(shape) > 1 or element is None:
            return None
        numbers = [dim.number for dim in value if dim is not None and dim.fixed]
        if len(numbers) < len(value):
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
        return np.array(numbers, dtype).reshape([-1] if shape else [])


def _declared(tensor: gs.Tensor) -> Any:
    """Return the type that the graph gives a tensor; of a sequence it gives its elements'."""
    return tensor.dtype if _kind(tensor) == "tensor_type" else None


def _kind(tensor: gs.Tensor) -> str:
    return str(getattr(tensor, "type", "tensor_type"))
