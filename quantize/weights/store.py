"""Model -> the same with the weights of MatMul and Gemm as integers; activations stay float.

No ranges are needed. With samples, integers are chosen by the error in their layers' outputs, and
stay so where the whole network is better by it, on samples that were kept apart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.lift import lifting
from onnxgraft.graph.model import Model
from onnxgraft.graph.names import FreeNames
from onnxgraft.graph.nbits import stores_bits
from onnxgraft.graph.operators import MICROSOFT, QUANTIZERS, RECURRENT, WEIGHTED, is_op, op_of
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.tensors import Array
from onnxgraft.graph.walk import bodies, tidy
from onnxgraft.progress import track
from onnxgraft.stages.quantize.improve.products import Product, observe
from onnxgraft.stages.quantize.improve.whole import Judge, held_out, spread
from onnxgraft.stages.quantize.place.placement import Placement
from onnxgraft.stages.quantize.place.qdq import FloatLayer, QuantizeReport
from onnxgraft.stages.quantize.place.ready import OLDEST_OPSET, ready
from onnxgraft.stages.quantize.weights.blocks import (
    BITS,
    Blocks,
    fitting_block,
    rounded,
    rounded_by_output,
)
from onnxgraft.stages.quantize.weights.forms import Writer, matrix_of, plain_gemm, turned
from onnxgraft.targets import BLOCKS, Storage, WeightType
from onnxgraft.words import several

__all__ = ["store_weights", "weights_opset"]

# DequantizeLinear has blocks, and ONNX has INT4, from here on; files from this version on.
_BLOCKED_OPSET, _BLOCKED_IR = 21, 10
# Layers are looked at on so many samples.
_SAMPLES = 16
# Where less of all weights is stored as integers, it is told.
_HARDLY = 0.2


@dataclass
class _Plan:
    """The layers whose weights are stored, with the inputs that share a scale, and the others."""

    layers: list[tuple[gs.Graph, gs.Node, int]] = field(default_factory=list)
    others: list[FloatLayer] = field(default_factory=list)


def weights_opset(
    model: Model, table: Placement, kind: WeightType, block: int | None = None
) -> int:
    """Return the opset that the graph of `store_weights` needs."""
    form = _form(table, kind, block)
    plan = _plan(ready(model).graph, form, BITS[kind], ())
    blocked = any(
        kind == "int4" or size < matrix_of(node).shape[2] or len(matrix_of(node)) > 1
        for _, node, size in plan.layers
    )
    return _BLOCKED_OPSET if blocked and form.reader == "DequantizeLinear" else OLDEST_OPSET


def store_weights(
    model: Model,
    table: Placement,
    kind: WeightType,
    *,
    block: int | None = None,
    keep_float: Collection[str] = (),
    samples: Samples | None = None,
    seed: int = 0,
) -> tuple[Model, QuantizeReport]:
    """Return a copy of ``model`` whose MatMuls and Gemms have their weights as integers.

    Args:
        model: A float graph; float16 and bfloat16 are made float32, and an opset that the form
            needs is raised to.
        table: Of the target, whose form is taken.
        kind: ``int8`` or ``int4``.
        block: How many weights along the input axis share a scale; None is the target's.
        keep_float: Layers to leave in float, by name.
        samples: Of calibration; what layers read of them decides how weights are rounded.
        seed: Chooses positions in them.

    Raises:
        InputError: The graph is quantized already, or a name or the block is unknown.
        NotSupportedError: The graph can't be made `ready`, or its opset not raised.
    """
    form = _form(table, kind, block)
    notes = [note] if (note := lifting(model)) else []
    opset = weights_opset(model, table, kind, block)
    if model.graph.opset < opset:
        notes.append(f"opset {model.graph.opset} was raised to {opset}")
    model = raise_opset(ready(model), opset)
    if any(map(_is_quantized, (node for body in bodies(model.graph) for node in body.nodes))):
        raise InputError(f"{model.file}: the graph is quantized already; take the float one")
    plan = _plan(model.graph, form, BITS[kind], keep_float)
    report = QuantizeReport(
        table.target, [node.name for _, node, _ in plan.layers], plan.others, notes=notes,
        weights=kind,
    )  # fmt: skip
    report.notes += [form.note] if form.note and plan.layers else []
    report.notes += _hardly(model, plan)
    found = _nearest(plan, BITS[kind], form.signed)
    graph = _written(model, form, plan, found)
    if not plan.layers:
        return graph, report
    if samples is None:
        report.notes.append(
            "weights were rounded to the nearest; name the calibration data with --samples, and "
            "they are rounded by the error in what their layers make"
        )
    else:
        fitted, kept = held_out(samples)
        judge = Judge(model, kept, table)
        better = _by_output(model, plan, found, spread(fitted, _SAMPLES), seed)
        other = _written(model, form, plan, better)
        least = judge.of(graph)
        noise = judge.of(other, least)
        before, after = (f"{-value.mean:.1f} dB" for value in (least.beside(noise), noise))
        if noise.better_than(least):
            graph, found = other, better
            report.notes.append(
                f"weights of {several(len(plan.layers), 'layer')} rounded by layer output error: "
                f"{before} of signal over noise became {after}"
            )
        else:
            report.notes.append(
                f"rounding by layer output error was taken back: signal over noise is {after} with "
                f"it and {before} without"
            )
    report.notes.append(_sizes(plan, found, kind))
    return graph, report


def _form(table: Placement, kind: WeightType, block: int | None) -> Storage:
    if kind not in table.stored:
        raise InputError(f"--weights {kind}: the table of {table.target} has no form for it")
    if block is not None and block not in BLOCKS:
        raise InputError(f"--block {block}: one of {', '.join(map(str, BLOCKS))}")
    form = table.stored[kind]
    return form if block is None else replace(form, block=block)


def _is_quantized(node: gs.Node) -> bool:
    stored = is_op(node, "DequantizeLinear", "QuantizeLinear", domain=QUANTIZERS)
    return stored or bool(stores_bits(node))


def _plan(graph: gs.Graph, form: Storage, bits: int, keep_float: Collection[str]) -> _Plan:
    plan = _Plan()
    able = []
    for body in bodies(graph):
        for node in body.nodes:
            if not is_op(node, *WEIGHTED, *RECURRENT):
                continue
            why, block = _fit(node, form, bits)
            if why is None:
                able.append(node.name)
            if why is None and node.name not in keep_float:
                plan.layers.append((body, node, block))
            else:
                plan.others.append(FloatLayer(node.name, why or "requested"))
    for name in keep_float:
        if name not in able:
            raise InputError(f"--keep-float {name}: no such layer; {nearest(name, able)}")
    return plan


def _fit(node: gs.Node, form: Storage, bits: int) -> tuple[str | None, int]:
    """Return why a layer's weights stay float, or None and how many inputs share a scale."""
    if not is_op(node, "Gemm", "MatMul"):
        return f"weights alone are stored of MatMul and Gemm, not of {op_of(node)}", 0
    weights = node.inputs[1]
    if not isinstance(weights, gs.Constant):
        first = isinstance(node.inputs[0], gs.Constant)
        return "its weights are not " + ("its second input" if first else "constant"), 0
    if weights.values.ndim < 2 or not weights.values.size:
        return "its weights are no matrix", 0
    if weights.values.dtype != np.float32:
        return f"its weights are {weights.values.dtype}", 0
    groups, outputs, depth = matrix_of(node).shape
    packs = form.reader == "MatMulNBits"
    if packs and weights.values.ndim > 2:
        return f"MatMulNBits takes one matrix, and its weights are {weights.values.shape}", 0
    if packs and is_op(node, "Gemm") and not plain_gemm(node):
        return "MatMulNBits has no alpha, beta and transA", 0
    block = fitting_block(depth, form.block, bits, whole=not packs)
    if block is None:
        return f"no block of {BLOCKS[0]} to {form.block} divides its {depth} inputs", 0
    count = -(-depth // block)
    length = count * block if packs else depth
    if groups * outputs * (length * bits / 8 + 4 * count) >= weights.values.nbytes:
        return f"its weights of {weights.values.shape} would take no less as integers", 0
    return None, block


def _keys(plan: _Plan) -> dict[str, tuple[int, bool]]:
    """Return, for each layer, what tells its weights: layers may share them."""
    return {node.name: (id(node.inputs[1]), turned(node)) for _, node, _ in plan.layers}


def _nearest(plan: _Plan, bits: int, signed: bool) -> dict[tuple[int, bool], Blocks]:
    """Return the nearest integers of all weights."""
    keys, found = _keys(plan), dict[tuple[int, bool], Blocks]()
    for _, node, block in track(plan.layers, "storing weights", len(plan.layers)):
        if keys[node.name] not in found:
            found[keys[node.name]] = rounded(matrix_of(node), block, bits, signed=signed)
    return found


def _by_output(
    model: Model, plan: _Plan, found: dict[tuple[int, bool], Blocks], samples: Samples, seed: int
) -> dict[tuple[int, bool], Blocks]:
    """Return integers by what the layers of the graph itself read; those in bodies stay."""
    keys = _keys(plan)
    outer = [node for body, node, _ in plan.layers if body is model.graph]
    seen: dict[tuple[int, bool], list[Product]] = {}
    for name, product in observe(model, outer, samples, seed).items():
        seen.setdefault(keys[name], []).append(product)
    better = dict(found)
    for key, products in track(seen.items(), "rounding weights", len(seen)):
        vectors: Array = np.concatenate([product.vectors for product in products], axis=1)
        better[key] = rounded_by_output(matrix_of(products[0].node), found[key], vectors)
    return better


def _written(
    model: Model, form: Storage, plan: _Plan, found: dict[tuple[int, bool], Blocks]
) -> Model:
    """Return a copy of the graph with stored weights."""
    copy = model.copy()
    keys = _keys(plan)
    names = FreeNames(copy.graph, copy.names)
    writer = Writer(names)
    packs = form.reader == "MatMulNBits"
    for body in bodies(copy.graph):
        for node in list(body.nodes):
            if node.name in keys:
                (writer.pack if packs else writer.dequantize)(body, node, found[keys[node.name]])
    if packs and keys:
        for body in bodies(copy.graph):
            imports = list(body.import_domains or ())
            if all(entry.domain != MICROSOFT for entry in imports):
                body.import_domains = [*imports, onnx.helper.make_opsetid(MICROSOFT, 1)]
    if copy.graph.opset >= _BLOCKED_OPSET:
        copy.graph.ir_version = max(copy.graph.ir_version, _BLOCKED_IR)
    tidy(copy.graph)
    return copy


def _floats(plan: _Plan) -> int:
    """Return the bytes of the float weights of all layers."""
    weights = {id(node.inputs[1]): node.inputs[1] for _, node, _ in plan.layers}
    return sum(tensor.values.nbytes for tensor in weights.values())


def _hardly(model: Model, plan: _Plan) -> list[str]:
    """Return a note where most weights stay float."""
    part = _floats(plan) / max(model.weight_bytes(), 1)
    note = (
        f"MatMul and Gemm have {part:.0%} of this network's weights, so that the file hardly gets "
        "smaller; INT8 with ranges stores the weights of convolutions too"
    )
    return [note] if part < _HARDLY else []


def _sizes(plan: _Plan, found: dict[tuple[int, bool], Blocks], kind: WeightType) -> str:
    sizes = sorted({blocks.block for blocks in found.values() if blocks.blocked})
    how = f"blocks of {', '.join(map(str, sizes))}" if sizes else "a scale for each output"
    after = sum(blocks.bytes for blocks in found.values())
    return (
        f"the weights of {several(len(plan.layers), 'layer')} take {after / 1e6:.2f} MB in "
        f"{kind.upper()} ({how}), {_floats(plan) / 1e6:.2f} in float32"
    )
