"""A program of torch.export as ONNX, by PyTorch's own exporter."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.model import Model, Origin
from onnxgraft.graph.names import free
from onnxgraft.optional import optional
from onnxgraft.stages.convert.pytorch.operators import WRONG, operators
from onnxgraft.stages.convert.pytorch.program import Port, Program, innermost, modules_of
from onnxgraft.stages.convert.pytorch.sizes import check_sizes
from onnxgraft.stages.convert.tensorflow.quiet import quiet

__all__ = ["lower_program"]

# Where the exporter writes from which node of PyTorch's graph, in which modules, a node came.
_SCOPES = "pkg.torch.onnx.name_scopes"
_MISSING = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


def lower_program(program: Program, opset: int) -> tuple[Model, list[str]]:
    """Return the program as ONNX, and a sentence for each thing decided.

    Tensors and nodes are called by the modules that made them.

    Raises:
        ModelError: PyTorch's exporter fails.
        NotSupportedError: ONNX has no such operator.
    """
    with optional("Converting a PyTorch program", "pytorch"), quiet():
        import onnxscript  # noqa: F401
        import torch
    file = program.source.path
    check_sizes(program)
    for node in program.exported.graph.nodes:
        if str(node.target) in WRONG:
            name = str(node.target).removesuffix(".default")
            raise NotSupportedError(
                f"{file}: ONNX has no {name}, and what PyTorch writes for it overflows; write that "
                "part of the network in other operators yourself"
            )
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made: Any = torch.onnx.export(
                program.exported, dynamo=True, optimize=False, verbose=False, verify=False,
                opset_version=opset, custom_translation_table=operators(),
            )  # fmt: skip
            _end(made, program)
            made.optimize()
            _mend(made.model.graph)
        except Exception as error:  # the exporter raises whatever it meets
            missing = _MISSING.search(_chain(error))
            if missing:
                raise _missing(file, missing[1]) from error
            raise ModelError(
                f"{file}: PyTorch can't export the network: {innermost(error)}"
            ) from error
        names = _rename(made, program)
        proto = made.model_proto
    (version,) = (entry.version for entry in proto.opset_import if entry.domain == "")
    if version != opset:
        raise NotSupportedError(
            f"{file}: PyTorch writes it in opset {version} alone; convert with --opset {version}"
        )
    _describe(proto, program)
    notes = [
        f"the buffer {port.state!r}, which the network changes, is the input {port.spec.name}, and "
        f"what it becomes an output"
        for port in program.inputs
        if port.state
    ]
    notes += [
        f"what becomes of the buffer {name!r} is left out: no output depends on it"
        for name in program.lost
    ]
    notes += [
        f"the input {name} is fixed to {value!r}, as in the export"
        for name, value in program.constants.items()
        if value is not None
    ]
    return Model.from_onnx(proto, program.source, names), notes


def _missing(file: str, operator: str) -> NotSupportedError:
    return NotSupportedError(
        f"{file}: ONNX has no {operator}, and PyTorch does not write it in other operators; write "
        "that part of the network in others yourself"
    )


def _end(made: Any, program: Program) -> None:
    """Make inputs and outputs of the states, and give each output a tensor of its own.

    The exporter sums numbers in half precision in float32, and leaves the sum so.
    """
    import onnx_ir as ir

    graph = made.model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    changed = made.exported_program.graph_signature.buffers_to_mutate
    written = {buffer: name for name, buffer in changed.items()}
    for port in program.inputs:
        if port.state:
            value = graph.initializers.pop(port.state)
            value.const_value = None
            graph.inputs.append(value)
            graph.outputs.append(values.get(written[port.state], value))
    seen: set[Any] = set(graph.inputs) | set(graph.initializers.values())
    for number, (value, port) in enumerate(zip(graph.outputs, program.outputs, strict=True)):
        kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(port.spec.dtype)))
        other = value.dtype is not None and value.dtype != kind.dtype
        if value in seen or other:
            changes = {"to": kind.dtype} if other else {}
            node = ir.node("Cast" if other else "Identity", [value], changes, num_outputs=1)
            own = node.outputs[0]
            own.name, own.type, own.shape = f"{value.name}/output_{number}", kind, value.shape
            graph.append(node)
            graph.outputs[number] = own
        seen.add(value)


def _mend(graph: Any) -> None:
    """Put those constants back that the exporter's optimizer lost, and nodes before outputs.

    It makes a Clip of a Min and a Max, and names the limits after the tensor: of two pairs on one
    tensor, the later limits take the place of the earlier ones. An output that is constant it makes
    an initializer, whose name is no output's.
    """
    import onnx_ir as ir

    for node in graph.all_nodes():
        for value in node.inputs:
            made = value is None or value.producer() is not None or value.is_graph_input()
            if not made and value.const_value is not None and not value.is_initializer():
                value.name = free(set(node.graph.initializers), value.name)
                node.graph.register_initializer(value)
    for number, value in enumerate(graph.outputs):
        if value.is_initializer():
            node = ir.node("Identity", [value], num_outputs=1)
            own = node.outputs[0]
            own.name, own.type, own.shape = f"{value.name}/output_{number}", value.type, value.shape
            graph.append(node)
            graph.outputs[number] = own


def _rename(made: Any, program: Program) -> dict[str, Origin]:
    """Call tensors and nodes by the modules that made them; return the map of names."""
    graph = made.model.graph
    modules = {node: call for call, node in modules_of(made.exported_program.graph).items()}
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    ports = {port.spec.name for port in (*program.inputs, *program.outputs)}
    taken = ports | set(graph.initializers)
    names: dict[str, Origin] = {}
    nodes: set[str] = set()
    for value, port in zip(graph.inputs, program.inputs, strict=True):
        value.name = port.spec.name
        names[value.name] = Origin(value.name)
    known = modules_of(program.exported.graph)
    ported = {id(v): p for v, p in zip(graph.outputs, program.outputs, strict=True)}
    for node in graph:
        scope, made_by = _scope(node)
        node.name = free(nodes, f"{scope}/{made_by}" if scope else made_by or node.name)
        for value in node.outputs:
            module = modules.get(value.name or "")
            if id(value) in ported:
                value.name = ported[id(value)].spec.name
            elif id(value) not in ends and value.name:
                wish = module or (f"{scope}/{value.name}" if scope else value.name)
                value.name = free(taken, wish)
            if module in known and module not in ports:
                names[value.name] = Origin(module)
    for port in program.outputs:
        names.setdefault(port.spec.name, Origin(port.spec.name))
    return names


def _scope(node: Any) -> tuple[str, str]:
    """Return the module that a node is in, and the node of PyTorch's graph that it came from.

    A layer with weights is in the module that has them, whatever was merged into it.
    """
    import ast

    told = node.metadata_props.get(_SCOPES)
    try:
        scopes = [str(part) for part in ast.literal_eval(told)] if told else []
    except (SyntaxError, ValueError):
        scopes = []
    path = scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith("_empty") else ""
    made_by = scopes[-1] if scopes else ""
    if len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].is_initializer():
        owner, _, kind = (node.inputs[1].name or "").rpartition(".")
        if kind == "weight" and owner:
            return owner, node.op_type
    return path, made_by


def _describe(proto: Any, program: Program) -> None:
    """Write the shapes of inputs and outputs with the names of free axes that the specs have."""
    ends: list[tuple[Any, Port]] = [
        *zip(proto.graph.input, program.inputs, strict=True),
        *zip(proto.graph.output, program.outputs, strict=True),
    ]
    for value, port in ends:
        shape = value.type.tensor_type.shape
        shape.Clear()
        for dim in port.spec.shape:
            entry = shape.dim.add()
            if isinstance(dim, str):
                entry.dim_param = dim
            else:
                entry.dim_value = dim
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        del node.metadata_props[:]


def _chain(error: BaseException | None) -> str:
    told = []
    while error is not None:
        told.append(str(error))
        error = error.__cause__
    return "\n".join(told)
