"""Where each target wants QuantizeLinear and DequantizeLinear, as a table to read and change."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_args

import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError, NotSupportedError, nearest
from onnxgraft.files import existing_file, read_toml
from onnxgraft.files.limits import SETTINGS_BYTES
from onnxgraft.graph.operators import RECURRENT, WEIGHTED, is_op, op_of
from onnxgraft.graph.shapes import Shapes
from onnxgraft.graph.walk import bodies
from onnxgraft.targets import (
    BLOCKS,
    TARGETS,
    WEIGHT_TYPES,
    Format,
    Placement,
    Recurrent,
    Storage,
    StorageOp,
    WeightType,
    find_target,
    target_names,
)
from onnxgraft.targets.cpu import Cpu

__all__ = [
    "Joined", "Placement", "Point", "activations", "data", "entrance", "gate", "is_product",
    "joined", "layers", "no_kernel", "number", "origin", "placed_in", "placement", "placement_text",
    "points", "products", "read_placement", "scale_axis",
]  # fmt: skip

# Operators whose output holds values of their input alone: quantizing before or after is the
# same, and before is cheaper, because they then move bytes.
KEEPING = frozenset({"Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# Whose kernels add a second tensor to their result.
_ADDING = ("Conv", "ConvTranspose")
# Whose second input may be made by the network.
_PRODUCTS = ("Gemm", "MatMul")
# The widest Clip that is taken for a gate: relu6 has 6.
_GATE = 8


@dataclass(frozen=True)
class Point:
    """A tensor to quantize, and who then reads the quantized one.

    Attributes:
        tensor: Whose range is needed.
        consumers: The nodes that read the quantized tensor; None: all of them.
        operand: Of a product of two activations, which of them it is: 0, or 1, also if it is both.
    """

    tensor: gs.Tensor
    consumers: tuple[gs.Node, ...] | None
    operand: int | None = None


def placement(target: str, cpu: Cpu | None = None, kind: Format = "int8") -> Placement:
    """Return the table of a target.

    Args:
        target: Its name.
        cpu: That the graph is for; None makes no difference between CPUs.
        kind: What its quantized layers are in.

    Raises:
        InputError: There is none of that name.
        NotSupportedError: The target runs nothing in that format.
    """
    aim = find_target(target)
    if kind == "fp8":
        if aim.fp8 is None:
            able = " and ".join(other.name for other in TARGETS if other.fp8 is not None)
            raise NotSupportedError(
                f"--precision fp8: {aim.title} runs no FP8 here; {able} does, or quantize to int8"
            )
        return aim.fp8.placement
    if cpu is None or cpu.wide_sums or not aim.on_cpu:
        return aim.placement
    # Two activations can't be kept small: a product of signed bytes would saturate.
    kept = aim.placement.products and not aim.placement.symmetric
    return replace(aim.placement, pairs=True, products=kept)


def placement_text(table: Placement) -> str:
    """Return a table as the TOML that `read_placement` reads."""
    axes = {op: f'"{_TENSOR}"' if axis is None else axis for op, axis in table.weights.items()}
    weights = ", ".join(f"{op} = {axis}" for op, axis in axes.items())
    also = ", ".join(f'"{op}"' for op in sorted(table.also))
    recurrent = ", ".join(f'{op} = "{form}"' for op, form in table.recurrent.items())
    stored = ", ".join(
        f'{kind} = {{ reader = "{form.reader}", block = {form.block} }}'
        for kind, form in table.stored.items()
    )
    flags = "\n".join(f"{name} = {str(getattr(table, name)).lower()}" for name in _FLAGS)
    return (
        f"# What runs in {table.format.upper()}, with the axis of its weights' scales per "
        "channel.\n"
        f'target = "{table.target}"\nformat = "{table.format}"\nweights = {{ {weights} }}\n'
        "# int8 around zero, or uint8 with a zero point; whether what is never negative is uint8\n"
        "# all the same, and what is far less on one side of zero; whether outputs are quantized\n"
        "# too; whether biases become int32; whether pairs of products fit into 16 bits; whether\n"
        "# the shortcut of a residual Add is quantized; whether products of two activations run\n"
        "# in INT8; whether layers in the bodies of If, Loop and Scan do.\n"
        f"{flags}\n"
        "# How many tokens such products may have at most; 0 for any number.\n"
        f"tokens = {table.tokens}\n"
        "# How many inputs and outputs a layer has to have, how many places the kernel of a\n"
        "# convolution may have, both 0 for any number, and whether it may be in groups.\n"
        f"channels = {table.channels}\ntaps = {table.taps}\ngroups = {str(table.groups).lower()}\n"
        "# Operators without weights that run in INT8 between quantized tensors.\n"
        f"also = [{also}]\n"
        "# Recurrent operators with int8 weights: dynamic for onnxruntime's own kernel, weights\n"
        "# for a DequantizeLinear before each.\n"
        f"recurrent = {{ {recurrent} }}\n"
        "# How weights alone are stored, where activations stay float: the operator that reads\n"
        "# them, and how many share a scale; 0 for a scale for each output channel.\n"
        f"stored = {{ {stored} }}\n"
    )


def read_placement(
    path: str | os.PathLike[str], target: str, cpu: Cpu | None = None, kind: Format = "int8"
) -> Placement:
    """Return the table of ``target`` with what a TOML file changes in it.

    The keys are the attributes of `Placement`; an operator of ``weights`` has the axis of its
    scales, or ``"tensor"`` for one scale.

    Raises:
        InputError: It is no TOML file, or a key or value in it is not one of a table.
    """
    file = existing_file(path, "the placement table", SETTINGS_BYTES)
    try:
        given = read_toml(file)
    except ValueError as error:
        raise InputError(f"{file}: not a TOML file ({error})") from error
    table = placement(target, cpu, kind)
    known = {entry.name for entry in fields(Placement)}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{file}: {key} is not part of a table; {nearest(key, known)}")
        if key == "target" and value != target:
            raise InputError(f"{file}: is a table for {value}, not for {target}")
        if key == "format" and value != kind:
            raise InputError(
                f"{file}: is a table for {value}, not for {kind}; name it with --precision"
            )
        if key in (*_FLAGS, "groups") and not isinstance(value, bool):
            raise InputError(f"{file}: {key} is {value!r}; write true or false")
        counts = key in ("tokens", "channels", "taps")
        if counts and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InputError(f"{file}: {key} is {value!r}; write a number, 0 for any")
    if "weights" in given:
        given["weights"] = _axes(file, given["weights"])
    if "also" in given:
        operators = given["also"]
        if not isinstance(operators, list) or not all(isinstance(op, str) for op in operators):
            raise InputError(f"{file}: also is {operators!r}; write a list of operators")
        given["also"] = frozenset(operators)
    if "recurrent" in given:
        _check_recurrent(file, given["recurrent"])
    if "stored" in given:
        given["stored"] = {**table.stored, **_storages(file, given["stored"], table)}
    return replace(table, **given)


def _check_recurrent(file: Path, recurrent: object) -> None:
    if not isinstance(recurrent, dict):
        raise InputError(f'{file}: recurrent is {recurrent!r}; write {{ LSTM = "weights" }}')
    for op, form in recurrent.items():
        if op not in RECURRENT:
            raise InputError(f"{file}: {op} is not recurrent; {nearest(op, RECURRENT)}")
        if form not in get_args(Recurrent):
            raise InputError(f"{file}: the form of {op} is {form!r}; write dynamic or weights")
        if form == "dynamic" and op != "LSTM":
            raise InputError(f"{file}: onnxruntime has no dynamic kernel for {op}; write weights")


_TENSOR = "tensor"
_FLAGS = (
    "symmetric",
    "unsigned",
    "lopsided",
    "outputs",
    "bias",
    "pairs",
    "residual",
    "products",
    "bodies",
)


def _axes(file: Path, weights: object) -> dict[str, int | None]:
    if not isinstance(weights, dict):
        raise InputError(f"{file}: weights is {weights!r}; write {{ Conv = 0 }}")
    axes: dict[str, int | None] = {}
    for op, axis in weights.items():
        if op not in WEIGHTED:
            raise InputError(f"{file}: {op} has no weights; {nearest(op, WEIGHTED)}")
        if axis != _TENSOR and (isinstance(axis, bool) or not isinstance(axis, int) or axis < 0):
            raise InputError(f'{file}: the axis of {op} is {axis!r}; write a number or "{_TENSOR}"')
        axes[op] = None if axis == _TENSOR else axis
    return axes


def _storages(file: Path, stored: object, table: Placement) -> dict[WeightType, Storage]:
    usual = '{ int4 = { reader = "DequantizeLinear", block = 32 } }'
    if not isinstance(stored, dict):
        raise InputError(f"{file}: stored is {stored!r}; write {usual}")
    found: dict[WeightType, Storage] = {}
    for kind, form in stored.items():
        if kind not in WEIGHT_TYPES:
            raise InputError(
                f"{file}: weights are not stored as {kind}; {nearest(kind, WEIGHT_TYPES)}"
            )
        if not isinstance(form, dict) or set(form) != {"reader", "block"}:
            raise InputError(f"{file}: {kind} of stored is {form!r}; write {usual}")
        reader, block = form["reader"], form["block"]
        if reader not in get_args(StorageOp):
            raise InputError(
                f"{file}: stored has {reader!r}; {nearest(str(reader), get_args(StorageOp))}"
            )
        if isinstance(block, bool) or block not in (0, *BLOCKS):
            raise InputError(
                f"{file}: the block of {kind} is {block!r}; 0 or one of "
                f"{', '.join(map(str, BLOCKS))}"
            )
        usual_form = table.stored[kind]
        note = usual_form.note if reader == usual_form.reader else ""
        found[kind] = replace(usual_form, reader=reader, block=block, note=note)
    return found


def layers(graph: gs.Graph, table: Placement) -> list[gs.Node]:
    """Return the layers with constant weights that the target can run in integers."""
    return [
        node
        for node in graph.nodes
        if is_op(node, *table.weights)
        and len(node.inputs) > 1
        and isinstance(node.inputs[1], gs.Constant)
        and node.inputs[1].values.ndim >= 2
        and no_kernel(node, table) is None
    ]


def no_kernel(node: gs.Node, table: Placement) -> str | None:
    """Return why a target has no kernel for a layer with constant weights; None where it has."""
    shape = node.inputs[1].values.shape
    if is_op(node, "Conv"):
        group, taps = int(node.attrs.get("group", 1)), math.prod(shape[2:])
        fewest = min(shape[0], shape[1] * group)
        if group > 1 and not table.groups:
            return f"a convolution in {group} groups"
        if table.taps and taps > table.taps:
            return f"a kernel of {taps} places; at most {table.taps}"
    else:
        fewest = min(shape[-2:])
    if fewest < table.channels:
        return f"{fewest} inputs or outputs; at least {table.channels}"
    return None


def products(graph: gs.Graph, table: Placement) -> list[gs.Node]:
    """Return the products of two activations that the target can run in integers."""
    if not table.products:
        return []
    found = [node for node in graph.nodes if is_op(node, *table.weights) and is_product(node)]
    if table.tokens and found:
        shapes = Shapes(graph)
        found = [node for node in found if not _longer(node, shapes, table.tokens)]
    return found


def is_product(node: gs.Node) -> bool:
    """Tell whether a node multiplies two activations as kernels do: the first one as it is."""
    return (
        is_op(node, *_PRODUCTS)
        and not any(isinstance(tensor, gs.Constant) for tensor in node.inputs[:2])
        and not node.attrs.get("transA", 0)
    )


def _longer(node: gs.Node, shapes: Shapes, most: int) -> bool:
    """Tell whether a product is of more tokens, by either side of the scores; if unknown, it is."""
    weights = origin(node.inputs[0])
    behind = bool(weights.inputs) and is_op(weights.inputs[0], "Softmax")
    shape = shapes.shape(node.inputs[0] if behind else node.outputs[0])
    return shape is None or not all(dim.fixed and dim.number <= most for dim in shape[-2:])


def scale_axis(table: Placement, node: gs.Node) -> int | None:
    """Return the axis of a layer's weights along which it has its scales; None for one scale."""
    axis = table.weights[op_of(node)]
    if is_op(node, "Gemm", "MatMul") and axis is not None:
        if node.inputs[1].values.ndim != 2:
            return None  # a MatMul of stacked matrices
        return 1 - axis if node.attrs.get("transB", 0) else axis
    return axis


def points(graph: gs.Graph, table: Placement, chosen: list[gs.Node]) -> list[Point]:
    """Return what has to be quantized for the ``chosen`` layers, in the order of the graph."""
    wanted = {id(node) for node in chosen}
    own = {id(node) for node in graph.nodes}
    readers: dict[int, tuple[gs.Tensor, list[gs.Node] | None]] = {}
    operands: dict[int, int] = {}

    def told(tensor: gs.Tensor, node: gs.Node, place: int) -> None:
        if is_product(node):
            operands[id(tensor)] = max(place, operands.get(id(tensor), 0))

    for node, place in _read(chosen):
        tensor, reader = node.inputs[place], node
        while True:
            source = tensor.inputs[0] if tensor.inputs else None
            inner = all(id(consumer) in wanted for consumer in tensor.outputs)
            if not is_op(source, *KEEPING) or not inner or _fixed(graph, tensor):
                break
            if id(source) not in own:  # it is around the body
                break
            if table.outputs:
                # Its kernels run in integers only between a DequantizeLinear and a QuantizeLinear.
                readers[id(tensor)] = (tensor, None)
                told(tensor, node, place)
            wanted.add(id(source))
            tensor, reader = source.inputs[0], source
        told(tensor, node, place)
        _, nodes = readers.setdefault(id(tensor), (tensor, []))
        if nodes is not None and all(reader is not other for other in nodes):
            nodes.append(reader)
    if table.residual:
        for node, tensor in _shortcuts(graph, chosen):
            _, nodes = readers.setdefault(id(tensor), (tensor, []))
            if nodes is not None:
                nodes.append(node)
    if table.outputs:
        between = joined(graph, table, chosen)
        ended = [node for node in chosen if not is_op(node, *_PRODUCTS)]
        results = [_result(graph, node, own) for node in [*ended, *between.nodes]]
        for tensor in [*(tensor for node in between.nodes for tensor in data(node)), *results]:
            if not _fixed(graph, tensor) and id(tensor) not in between.scaled:
                readers[id(tensor)] = (tensor, None)
    return [
        Point(tensor, None if nodes is None else tuple(nodes), operands.get(key))
        for key, (tensor, nodes) in readers.items()
    ]


def _read(chosen: list[gs.Node]) -> list[tuple[gs.Node, int]]:
    """Return each input of layers that is no weight, as the layer and the input's place."""
    return [
        (node, place)
        for node in chosen
        for place in (0, 1)[: 1 if isinstance(node.inputs[1], gs.Constant) else 2]
    ]


def origin(tensor: gs.Tensor) -> gs.Tensor:
    """Return the tensor whose values ``tensor`` holds: the one before operators that keep them."""
    while tensor.inputs and is_op(tensor.inputs[0], *KEEPING):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def activations(graph: gs.Graph, targets: Collection[str] = ()) -> list[str]:
    """Return the tensors whose ranges some of the targets want; of all targets if none is named.

    A gate between layers (see `gate`) that no layer with weights reads is not measured. Of each
    body with layers its `entrance` is.
    """
    names: dict[str, None] = {}
    for table in map(placement, targets or target_names()):
        for part in placed_in(graph, table):
            chosen = [*layers(part, table), *products(part, table)]
            for point in points(part, table, chosen):
                tensor = origin(point.tensor)
                if gate(tensor) is None or any(is_op(node, *WEIGHTED) for node in tensor.outputs):
                    names[tensor.name] = None
            if part is not graph and chosen:
                names[entrance(part, table)] = None
    return list(names)


def placed_in(graph: gs.Graph, table: Placement) -> list[gs.Graph]:
    """Return the graph, and the bodies in it if the target runs INT8 there."""
    return list(bodies(graph)) if table.bodies else [graph]


def entrance(body: gs.Graph, table: Placement) -> str:
    """Return the tensor that tells whether a body was ever run: what its first layer makes."""
    able = {id(node) for node in [*layers(body, table), *products(body, table)]}
    return str(next(node.outputs[0].name for node in body.nodes if id(node) in able))


def bounds(tensor: gs.Tensor) -> tuple[float, float] | None:
    """Return between what a Clip holds a tensor; None where there is none, or one side is open."""
    node = tensor.inputs[0] if tensor.inputs else None
    if not is_op(node, "Clip") or len(node.inputs) != 3:
        return None
    low, high = map(_value, node.inputs[1:])
    return None if low is None or high is None else (low, high)


def gate(tensor: gs.Tensor) -> tuple[float, float] | None:
    """Return the range of what a narrow Clip makes of a sum, such as relu6(x + 3) in a hard swish.

    It is in the middle of its range where x is small. What another Clip makes may be small, too, or
    far from the bounds of a wide one: it has to be measured.
    """
    held = bounds(tensor)
    if held is None or not 0 < held[1] - held[0] <= _GATE:
        return None
    (made, *_) = tensor.inputs[0].inputs[0].inputs or [None]
    shifts = map(number, made.inputs) if is_op(made, "Add") else ()
    return held if any(s is not None and held[0] < s < held[1] for s in shifts) else None


def number(tensor: gs.Tensor) -> float | None:
    """Return the value of a constant that has one, and is finite."""
    value = _value(tensor)
    return value if value is not None and math.isfinite(value) else None


def _value(tensor: gs.Tensor) -> float | None:
    constant = isinstance(tensor, gs.Constant) and tensor.values.size == 1
    return float(tensor.values.item()) if constant else None


def _shortcuts(graph: gs.Graph, chosen: list[gs.Node]) -> list[tuple[gs.Node, gs.Tensor]]:
    """Return each Add that a chosen layer's kernel can do, with the input that is not the layer's.

    Where both are layers', the later one adds the earlier one's result.
    """
    order = {id(node.outputs[0]): index for index, node in enumerate(graph.nodes)}
    results = {
        id(node.outputs[0])
        for node in chosen
        if is_op(node, *_ADDING) and len(node.outputs[0].outputs) == 1
    }
    found = []
    for node in graph.nodes:
        if not is_op(node, "Add") or any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
            continue
        made = [tensor for tensor in node.inputs if id(tensor) in results]
        left, right = node.inputs
        if made and left is not right:
            last = max(made, key=lambda tensor: order[id(tensor)])
            found.append((node, right if last is left else left))
    return found


@dataclass(frozen=True)
class Joined:
    """Operators without weights that run in integers between quantized tensors.

    Attributes:
        nodes: Those that compute.
        scaled: The nodes that only change the scale, by the id of the tensor that they make.
    """

    nodes: list[gs.Node]
    scaled: dict[int, gs.Node]


def joined(graph: gs.Graph, table: Placement, chosen: list[gs.Node]) -> Joined:
    """Return the operators of the table that read results of layers, or each other's, and numbers.

    At least one input is no number.
    """
    own = {id(node) for node in graph.nodes}
    results = {
        id(_result(graph, node, own)) for node in chosen if isinstance(node.inputs[1], gs.Constant)
    }
    found = []
    for node in graph.nodes:
        if not is_op(node, *table.also) or not data(node):
            continue
        if all(id(tensor) in results or number(tensor) is not None for tensor in node.inputs):
            found.append(node)
            results.add(id(_result(graph, node, own)))
    names = {id(node) for node in found}
    scaled = {
        id(node.outputs[0]): node
        for node in found
        if is_op(node, "Mul")
        and any(_scales(factor, data(node)[0]) for factor in node.inputs)
        and node.outputs[0].outputs
        and all(id(reader) in names for reader in node.outputs[0].outputs)
        and not _fixed(graph, node.outputs[0])
    }
    computing = [node for node in found if id(node.outputs[0]) not in scaled]
    return Joined(computing, scaled)


def _scales(factor: gs.Tensor, tensor: gs.Tensor) -> bool:
    """Tell whether a Mul by ``factor`` gives ``tensor`` another scale and leaves its shape."""
    if (number(factor) or 0) <= 0:
        return False
    return bool(factor.values.ndim <= (0 if tensor.shape is None else len(tensor.shape)))


def data(node: gs.Node) -> list[gs.Tensor]:
    """Return the inputs of a node that are not constant."""
    return [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant)]


def _result(graph: gs.Graph, node: gs.Node, own: Collection[int]) -> gs.Tensor:
    """Return the tensor in which a layer ends: that of the Relu or Clip after it, if there is one.

    A Clip that holds back 0 is none: eight bits always hold 0. Nor is one in a body: ``own``
    has the ids of the graph's nodes.
    """
    tensor = node.outputs[0]
    if len(tensor.outputs) != 1 or _fixed(graph, tensor) or id(tensor.outputs[0]) not in own:
        return tensor
    after = tensor.outputs[0].outputs[0]
    if is_op(tensor.outputs[0], "Relu"):
        return after
    low, high = bounds(after) or (1.0, -1.0)
    return after if low <= 0 <= high else tensor


def _fixed(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return any(tensor is output for output in graph.outputs)
