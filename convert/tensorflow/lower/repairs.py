"""What a handler of an operator would see too late, put right in the GraphDef.

A transposed convolution whose output is larger than its kernels reach gets zeros behind the kernel;
a batch normalization in training mode, as Keras writes it, is made one that tf2onnx takes for such;
what is quantized to a narrow range is held in it; signs are read without bits; ranks and shapes
that are known become constants; where floats are divided by constants they are multiplied; and what
reads several identities at once reads what they are of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.names import free
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.tensorflow.running import tensorflow

__all__ = ["repair"]

# What tf2onnx writes as QuantizeLinear and DequantizeLinear.
_QUANTIZERS = tuple(f"QuantizeAndDequantizeV{version}" for version in (2, 3, 4))
# What makes a step of the smallest difference; a function may do so, too.
_STEPS = frozenset({
    "Case", "Cast", "Ceil", "Equal", "Floor", "FloorDiv", "FloorMod", "Greater", "GreaterEqual",
    "If", "Less", "LessEqual", "Mod", "NotEqual", "PartitionedCall", "Rint", "Round", "Sign",
    "StatefulPartitionedCall", "StatelessCase", "StatelessIf", "StatelessWhile", "TruncateDiv",
    "TruncateMod", "While",
})  # fmt: skip
# What rounds many numbers into one, or reads none.
_LAYERS = frozenset({
    "BatchMatMul", "BatchMatMulV2", "Conv2D", "Conv2DBackpropInput", "Conv3D", "Rank", "Shape",
    "DepthwiseConv2dNative", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "MatMul",
    "ShapeN", "Size",
})  # fmt: skip


def repair(path: str, graph_def: Any, graph: Any, weights: Mapping[str, Array]) -> None:
    """Repair in place what a handler would see too late.

    Args:
        path: Of the file, for errors.
        graph_def: Is changed.
        graph: The same, imported, for static shapes.
        weights: The constants that are empty in it.
    """
    for node in list(graph_def.node):
        if node.op == "Rank":
            rank = graph.get_operation_by_name(node.name).inputs[0].shape.rank
            if rank is not None:
                node.op = "Const"
                node.ClearField("attr")
                del node.input[:]
                value = tensorflow().make_tensor_proto(rank, "int32")
                node.attr["dtype"].type = value.dtype
                node.attr["value"].tensor.CopyFrom(value)
        if node.op == "ShapeN":
            for number, tensor in enumerate(graph.get_operation_by_name(node.name).inputs):
                if tensor.shape.is_fully_defined():
                    _put_constant(graph_def, node, number, tensor.shape.as_list())
        # It weighs the statistics that training would keep; with it tf2onnx takes the node for one
        # of inference.
        if node.op.startswith("FusedBatchNorm") and "exponential_avg_factor" in node.attr:
            node.attr["exponential_avg_factor"].f = 1.0
    _pass_identities(graph_def)
    _read_signs(graph_def, weights)
    _multiply(graph_def)
    _reach_with_zeros(graph_def, graph, weights)
    _hold_in_narrow_ranges(path, graph_def, graph, weights)


def _constant(nodes: Mapping[str, Any], name: str, weights: Mapping[str, Array]) -> Array | None:
    """Return what a tensor holds, if it is a constant."""
    source = nodes.get(name.removesuffix(":0"))
    while source is not None and source.op == "Identity":
        source = nodes.get(source.input[0].removesuffix(":0"))
    if source is None or source.op != "Const":
        return None
    if source.name in weights:
        return weights[source.name]
    return np.asarray(tensorflow().make_ndarray(source.attr["value"].tensor))


def _pass_identities(graph_def: Any) -> None:
    """Let what reads an IdentityN read what that reads, so that it holds no output that is unread.

    A batch normalization with outputs that are read is one of training to tf2onnx.
    """
    passed = {
        f"{node.name}:{number}": source
        for node in graph_def.node
        if node.op == "IdentityN"
        for number, source in enumerate(node.input)
        if not source.startswith("^")
    }
    for node in graph_def.node:
        for at, source in enumerate(node.input):
            full = source if ":" in source else f"{source}:0"
            while full in passed:
                node.input[at] = passed[full]
                full = passed[full] if ":" in passed[full] else f"{passed[full]}:0"


def _read_signs(graph_def: Any, weights: Mapping[str, Array]) -> None:
    """Write what reads the sign of float32 from its bits, as Keras does, without bits.

    Less(BitwiseAnd(Bitcast(x), 0x80000000), 0)  ->  x < 0 or 1 / x < 0, which -0 is by the second.
    """
    nodes = {node.name: node for node in graph_def.node}
    float32 = tensorflow().float32.as_datatype_enum
    for node in [node for node in graph_def.node if node.op == "Less"]:
        masked = nodes.get(node.input[0].removesuffix(":0"))
        if masked is None or masked.op != "BitwiseAnd":
            continue
        bits = nodes.get(masked.input[0].removesuffix(":0"))
        if bits is None or bits.op != "Bitcast" or bits.attr["T"].type != float32:
            continue
        mask = _constant(nodes, masked.input[1], weights)
        zero = _constant(nodes, node.input[1], weights)
        if mask is None or mask.size != 1 or mask.item() != np.iinfo(np.int32).min:
            continue
        if zero is None or zero.size != 1 or zero.item() != 0:
            continue
        source, name = bits.input[0], node.name
        nought = _add(graph_def, nodes, f"{name}/nought", "Const", float32)
        nought.attr["value"].tensor.CopyFrom(tensorflow().make_tensor_proto(np.float32(0)))
        inverse = _add(graph_def, nodes, f"{name}/inverse", "Reciprocal", float32, source)
        below = [
            _add(graph_def, nodes, f"{name}/below", "Less", float32, tensor, nought.name).name
            for tensor in (source, inverse.name)
        ]
        node.op = "LogicalOr"
        node.ClearField("attr")
        del node.input[:]
        node.input.extend(below)


def _multiply(graph_def: Any) -> None:
    """Write a division by a constant as a product, as TensorFlow's own optimizer does.

    Transposes move through products, and layers take them in. The result may be the neighbouring
    float, so that what makes steps of it (49 / 49 = 1, whose floor is 1) keeps the division.
    """
    tf = tensorflow()
    nodes = {node.name: node for node in graph_def.node}
    kinds = (tf.float32, tf.float64, tf.complex64, tf.complex128)
    floats = {kind.as_datatype_enum for kind in kinds}
    stepped = _stepped(graph_def, nodes)
    for node in [node for node in graph_def.node if node.op in ("Div", "RealDiv")]:
        kind = node.attr["T"].type
        divisor = _constant(nodes, node.input[1], {}) if kind in floats else None
        if divisor is None or not divisor.size or node.name in stepped:
            continue
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            reciprocal = 1 / divisor
        if not (np.isfinite(reciprocal) & (abs(reciprocal) >= np.finfo(divisor.dtype).tiny)).all():
            continue
        made = _add(graph_def, nodes, f"{node.name}/reciprocal", "Const", kind)
        made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(reciprocal))
        node.op = "Mul"
        node.input[1] = made.name


def _stepped(graph_def: Any, nodes: Mapping[str, Any]) -> set[str]:
    """Return the nodes whose numbers are rounded or compared before the next layer."""
    tf = tensorflow()
    floats = {kind.as_datatype_enum for kind in (tf.bfloat16, tf.float16, tf.float32, tf.float64)}
    left = [
        source
        for node in graph_def.node
        if node.op in _STEPS and not (node.op == "Cast" and node.attr["DstT"].type in floats)
        for source in node.input
    ]
    found: set[str] = set()
    while left:
        node = nodes.get(left.pop().removeprefix("^").partition(":")[0])
        if node is not None and node.name not in found:
            found.add(node.name)
            left += () if node.op in _LAYERS else node.input
    return found


def _put_constant(graph_def: Any, node: Any, number: int, value: Sequence[int]) -> None:
    """Let what reads an output of a node read a constant of the node's ``out_type``."""
    tf = tensorflow()
    taken = {other.name for other in graph_def.node}
    kind = node.attr["out_type"].type or tf.int32.as_datatype_enum
    made = graph_def.node.add(name=free(taken, f"{node.name}/shape_{number}"), op="Const")
    made.attr["dtype"].type = kind
    made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, kind))
    read = {f"{node.name}:{number}"} | ({node.name} if number == 0 else set())
    for other in graph_def.node:
        for at, source in enumerate(other.input):
            if source in read:
                other.input[at] = made.name


def _reach_with_zeros(graph_def: Any, graph: Any, weights: Mapping[str, Array]) -> None:
    """Add zeros behind the kernels of transposed convolutions that do not reach their output.

    TensorFlow lets the output be larger than stride (in - 1) + kernel, as it is where the kernel is
    smaller than the stride; ONNX would want a negative pad for that.
    """
    tf = tensorflow()
    nodes = {node.name: node for node in graph_def.node}
    for node in list(graph_def.node):
        if node.op != "Conv2DBackpropInput" or node.attr["data_format"].s == b"NCHW":
            continue
        filters = nodes.get(node.input[1].split(":")[0])
        while filters is not None and filters.op == "Identity":
            filters = nodes.get(filters.input[0].split(":")[0])
        if filters is None or filters.op != "Const":
            continue
        kernel = weights.get(filters.name)
        if kernel is None:
            kernel = tf.make_ndarray(filters.attr["value"].tensor)
        missing = _missing(node, graph, kernel.shape[:2])
        if not any(missing):
            continue
        widened = np.pad(kernel, [(0, missing[0]), (0, missing[1]), (0, 0), (0, 0)])
        name = free(set(nodes), f"{node.name}/kernel_with_zeros")
        place = nodes[name] = graph_def.node.add(name=name, op="Const")
        place.attr["dtype"].type = filters.attr["dtype"].type
        place.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(widened))
        node.input[1] = place.name


def _add(graph_def: Any, nodes: dict[str, Any], wish: str, op: str, kind: int, *inputs: str) -> Any:
    """Add a node of a type of values, by that name if it is free, and return it."""
    made = graph_def.node.add(name=free(set(nodes), wish), op=op)
    made.input.extend(inputs)
    made.attr["dtype" if op == "Const" else "T"].type = kind
    nodes[made.name] = made
    return made


def _hold_in_narrow_ranges(
    path: str, graph_def: Any, graph: Any, weights: Mapping[str, Array]
) -> None:
    """Cut off what is below -127 steps, where these are the least: QuantizeLinear goes to -128.

    Raises:
        NotSupportedError: There are more or less than 8 bits, which tf2onnx reads over.
    """
    nodes = {node.name: node for node in graph_def.node}
    for node in [node for node in graph_def.node if node.op in _QUANTIZERS]:
        told = np.array(node.attr["num_bits"].i)
        bits = _constant(nodes, node.input[3], weights) if len(node.input) > 3 else told
        if bits is None or (bits != 8).any():
            raise NotSupportedError(
                f"{path}: {node.op} ({node.name}) does not round to 8 bits, and no other number "
                "is written; cut the graph before it with --outputs"
            )
        ends = [_constant(nodes, name, weights) for name in node.input[1:3]]
        held = nodes.get(node.input[0].removesuffix(":0"))
        flags = (node.attr[key].b for key in ("narrow_range", "signed_input", "range_given"))
        if not all(flags) or (held is not None and held.op in ("Relu", "Relu6")):
            continue
        if ends[0] is None or ends[1] is None:
            continue  # which tf2onnx refuses
        kind, least = node.attr["T"].type, -np.maximum(-ends[0], ends[1])
        if least.size > 1:
            rank = graph.get_operation_by_name(node.name).inputs[0].shape.rank or 0
            least = least.reshape([-1 if a == node.attr["axis"].i else 1 for a in range(rank)])
        limit = _add(graph_def, nodes, f"{node.name}/least", "Const", kind)
        limit.attr["value"].tensor.CopyFrom(tensorflow().make_tensor_proto(least, kind))
        wish = f"{node.name}/held"
        held = _add(graph_def, nodes, wish, "Maximum", kind, node.input[0], limit.name)
        node.input[0] = held.name


def _missing(node: Any, graph: Any, kernel: Sequence[int]) -> tuple[int, int]:
    """Return how many rows and columns the kernel is short of its output."""
    operation = graph.get_operation_by_name(node.name)
    source = operation.inputs[2].shape
    target = operation.outputs[0].shape
    strides = list(node.attr["strides"].list.i)[1:3]
    short = []
    for axis, (stride, size) in enumerate(zip(strides, kernel, strict=True), 1):
        before = source[axis] if source.rank is not None else None
        after = target[axis] if target.rank is not None else None
        if before is not None and after is not None:
            more = after - (stride * (before - 1) + size)
            short.append(more if 0 < more < stride else 0)  # TensorFlow runs no larger one
        else:  # SAME makes the output stride times the input
            short.append(max(0, stride - size) if node.attr["padding"].s == b"SAME" else 0)
    return short[0], short[1]
