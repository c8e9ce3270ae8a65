"""A .pt2 as it is read: its program, and what its inputs, outputs and modules are called."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxgraft.errors import ModelError, NotSupportedError, reason_in
from onnxgraft.files import existing_file, sha256
from onnxgraft.files.trust import Trust, trusts
from onnxgraft.graph.model import Source
from onnxgraft.graph.names import free
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.optional import optional
from onnxgraft.stages.convert.pytorch.archive import check_program, computed_size
from onnxgraft.stages.convert.pytorch.quantizing import register
from onnxgraft.stages.convert.tensorflow.quiet import quiet

__all__ = [
    "Port", "Program", "arguments", "innermost", "modules_of", "read_program", "resolved",
    "to_array", "to_tensor",
]  # fmt: skip


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        spec: What it is called, its type and its shape.
        node: The node of PyTorch's graph that it is.
        state: The buffer that it is, if the network changes it.
    """

    spec: TensorSpec
    node: str
    state: str = ""


@dataclass(frozen=True)
class Program:
    """A program of torch.export.

    Attributes:
        source: The file.
        exported: PyTorch's ExportedProgram; it returns a flat tuple of tensors and sizes.
        inputs: Those that the user gives, and then the states that an output depends on.
        outputs: Those that the network returns, and then what becomes of the states.
        constants: The values of inputs that the export fixed, by their nodes.
        lost: Buffers that the network changes, and that no output depends on.
    """

    source: Source
    exported: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


def read_program(path: str | os.PathLike[str], trust: Trust) -> Program:
    """Read a .pt2, after a look at what would be run of it, unless it is trusted.

    Raises:
        ModelError: It is damaged, holds what would be run, or is in training mode.
        NotSupportedError: An input or output is no tensor that ONNX has.
    """
    file = existing_file(path, "the PyTorch program")
    with optional("Reading a PyTorch program", "pytorch"), quiet():
        import torch

        register()
    if not trusts(trust, file.name, os.fspath(path)):
        _needs(file, check_program(file))
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.load(os.fspath(file))
        except Exception as error:  # it raises whatever it meets
            raise ModelError(f"{file}: PyTorch can't load it: {innermost(error)}") from error
    # Without them PyTorch does not make a program of the guards, which are texts in the file.
    exported.example_inputs = None
    _check_mode(file, exported)
    return _described(Source(os.fspath(path), "pytorch", sha256(file)), exported)


def _needs(file: os.PathLike[str], graph: dict[str, Any]) -> None:
    """Import the package whose operators a program has."""
    if '"torch.ops.torchvision.' in str(graph).replace("'", '"'):
        try:
            with quiet():
                import torchvision  # noqa: F401
        except (ImportError, RuntimeError) as error:
            raise ModelError(
                f"{file}: it has operators of torchvision, which can't be imported ({error}); "
                "pip install torchvision"
            ) from error


def innermost(error: BaseException) -> str:
    """Return what an error of PyTorch's was raised for, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason_in(error)


def _check_mode(file: os.PathLike[str], exported: Any) -> None:
    """Refuse a network in training mode, by the module."""
    for node in _nodes(exported.graph_module):
        name = str(node.target).removeprefix("aten.")
        args = arguments(node)
        training = (
            (name in ("dropout.default", "dropout_.default", "feature_dropout.default",
                      "alpha_dropout.default", "rrelu.default")
             and args.get("train", args.get("training")) and args.get("p", 1.0) > 0)
            or (name == "batch_norm.default" and args.get("training")
                and args.get("running_mean") is not None)
            or (name == "_native_batch_norm_legit.default" and args.get("training"))
        )  # fmt: skip
        if training:
            raise ModelError(
                f"{file}: {_path(node) or node.name!r} is in training mode; call model.eval() "
                "before torch.export.export"
            )


def _nodes(graph_module: Any) -> Iterator[Any]:
    """Yield the calls of a graph and of the branches and bodies in it."""
    import torch

    for module in graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield from (node for node in module.graph.nodes if node.op == "call_function")


def arguments(node: Any) -> dict[str, Any]:
    """Return what an operator is given, by name, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    names = [argument.name for argument in schema.arguments]
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return {**given, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _described(source: Source, exported: Any) -> Program:
    """Name the inputs and outputs, and find the states."""
    import torch
    from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

    placeholders = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    signature, call = exported.graph_signature, exported.call_spec
    entries = [s for s in signature.input_specs if s.kind == InputKind.USER_INPUT]
    names = exported.module_call_graph[0].signature.forward_arg_names
    wishes = _wishes(call.in_spec, len(entries), names or [], [s.arg.name for s in entries])
    sizes, taken = _Sizes(), set[str]()
    inputs, constants = [], {}
    for entry, wish in zip(entries, wishes, strict=True):
        if isinstance(entry.arg, ConstantArgument):
            constants[entry.arg.name] = entry.arg.value
        else:
            value = placeholders[entry.arg.name].meta["val"]
            for dim in getattr(value, "shape", ()):
                if not isinstance(dim, int) and not dim.node.expr.is_symbol:
                    raise computed_size(source.path, str(dim.node.expr))
            spec = sizes.spec(source.path, free(taken, wish), value)
            inputs.append(Port(spec, entry.arg.name))
    states, lost = _states(source.path, exported)
    for buffer, node in states.items():
        spec = sizes.spec(source.path, free(taken, buffer), placeholders[node].meta["val"])
        inputs.append(Port(spec, node, buffer))

    (end,) = exported.graph.find_nodes(op="output")
    returned = end.args[0]
    wishes = _wishes(call.out_spec, len(returned), None, [f"output.{i}" for i in range(999)])
    taken = set()
    outputs = [
        Port(sizes.spec(source.path, free(taken, wish), node.meta["val"]), node.name)
        for wish, node in zip(wishes, returned, strict=True)
        if isinstance(node, torch.fx.Node)
    ]
    for port in inputs:
        if port.state:
            name = free(taken, f"{port.spec.name}.next")
            outputs.append(Port(TensorSpec(name, port.spec.dtype, port.spec.shape), "", port.state))
    _flatten(exported, OutputKind)
    return Program(source, exported, tuple(inputs), tuple(outputs), constants, tuple(lost))


def _wishes(spec: Any, count: int, arguments: list[str] | None, others: list[str]) -> list[str]:
    """Return what inputs or outputs are called: ``batch.image``, ``boxes``, ``output.1``.

    Args:
        spec: How they are nested; a pair of positional and keyword arguments for inputs.
        count: How many there are.
        arguments: The names of the arguments; None for outputs.
        others: What is taken where there is no such name.
    """
    from torch.utils import _pytree as pytree

    if spec is None or spec.num_leaves != count:
        return others[:count]
    paths = pytree.tree_flatten_with_path(pytree.tree_unflatten([0] * count, spec))[0]
    wishes = []
    for (path, _), other in zip(paths, others, strict=False):
        parts = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
        if arguments is None:
            first = [] if path and hasattr(path[0], "key") else ["output"]
            wishes.append(".".join([*first, *parts]))
        elif parts[0] == "1":
            wishes.append(".".join(parts[1:]))
        elif int(parts[1]) < len(arguments):
            wishes.append(".".join([arguments[int(parts[1])], *parts[2:]]))
        else:
            wishes.append(other)
    return wishes


class _Sizes:
    """What free axes are called: equal names are equal sizes."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def spec(self, file: str, name: str, value: Any) -> TensorSpec:
        """Return the spec of an input or output by PyTorch's example of it."""
        import torch

        if isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
            return TensorSpec(name, "int64", ())
        if not isinstance(value, torch.Tensor):
            raise NotSupportedError(
                f"{file}: {name} is a {type(value).__name__}; only tensors and sizes can be given "
                "and returned"
            )
        dtype = str(value.dtype).removeprefix("torch.")
        try:
            np.dtype(dtype)
        except TypeError:
            raise NotSupportedError(f"{file}: {name} is of the type {dtype}; cast it") from None
        if value.dtype.is_complex or value.layout != torch.strided:
            raise NotSupportedError(
                f"{file}: {name} is complex or sparse, which ONNX has not; "
                "use torch.view_as_real or to_dense"
            )
        return TensorSpec(name, dtype, tuple(self._dims(name, value.shape)))

    def _dims(self, name: str, shape: Iterable[Any]) -> Iterator[int | str]:
        for axis, dim in enumerate(shape):
            if isinstance(dim, int):
                yield dim
                continue
            batch = axis == 0 and "N" not in self._known.values()
            yield self._known.setdefault(str(dim.node.expr), "N" if batch else f"{name}.{axis}")


def _states(file: str, exported: Any) -> tuple[dict[str, str], list[str]]:
    """Return the changed buffers that an output depends on, with their nodes, and the others."""
    from torch.export.graph_signature import InputKind, OutputKind

    if not any(_changes(node) for node in _nodes(exported.graph_module)):
        return {}, []
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            functional = exported.run_decompositions({})
        except Exception as error:  # it raises whatever it meets
            raise ModelError(
                f"{file}: PyTorch can't export the network: {innermost(error)}"
            ) from error
    changed = [
        spec.target
        for spec in functional.graph_signature.output_specs
        if spec.kind == OutputKind.BUFFER_MUTATION
    ]
    named = {
        s.target: s.arg.name
        for s in functional.graph_signature.input_specs
        if s.kind == InputKind.BUFFER
    }
    ours = {
        s.target: s.arg.name
        for s in exported.graph_signature.input_specs
        if s.kind == InputKind.BUFFER
    }
    (end,) = functional.graph.find_nodes(op="output")
    specs = zip(functional.graph_signature.output_specs, end.args[0], strict=True)
    # A state that only another state depends on matters where that one does.
    needed = {node for spec, node in specs if spec.kind == OutputKind.USER_OUTPUT}
    made = {
        spec.target: node
        for spec, node in zip(functional.graph_signature.output_specs, end.args[0], strict=True)
        if spec.kind == OutputKind.BUFFER_MUTATION
    }
    states: dict[str, str] = {}
    while True:
        above = _above(needed)
        more = [name for name in changed if name not in states and named[name] in above]
        if not more:
            return states, [name for name in changed if name not in states]
        for name in more:
            states[name] = ours[name]
            needed.add(made[name])


def _above(ends: Iterable[Any]) -> set[str]:
    """Return the names of the nodes that some depend on."""
    seen: set[str] = set()
    stack = [node for node in ends if hasattr(node, "all_input_nodes")]
    while stack:
        node = stack.pop()
        if node.name not in seen:
            seen.add(node.name)
            stack += node.all_input_nodes
    return seen


def _changes(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _flatten(exported: Any, kinds: Any) -> None:
    """Let a program return its tensors alone, in one tuple: the exporter knows nothing else."""
    import torch
    from torch.utils import _pytree as pytree

    (end,) = exported.graph.find_nodes(op="output")
    pairs = [
        (spec, node)
        for spec, node in zip(exported.graph_signature.output_specs, end.args[0], strict=True)
        if isinstance(node, torch.fx.Node)
    ]
    end.args = (tuple(node for _, node in pairs),)
    exported.graph_signature.output_specs = [spec for spec, _ in pairs]
    users = sum(spec.kind == kinds.USER_OUTPUT for spec, _ in pairs)
    exported.module_call_graph[0].signature.out_spec = pytree.tree_flatten((0,) * users)[1]
    exported.graph_module.recompile()


def modules_of(graph: Any) -> dict[str, str]:
    """Return for each call of a module that returns one tensor the node that makes it.

    A module that is called again is ``act@1``. The innermost module that returns a tensor comes
    last of those that do.
    """
    stacks = {node: _calls(node) for node in graph.nodes}
    inside: dict[str, list[Any]] = {}
    for node, calls in stacks.items():
        for call in calls:
            inside.setdefault(call, []).append(node)
    found = {}
    for call in sorted(inside, key=lambda call: (call.count("."), call)):
        returned = [
            node
            for node in inside[call]
            if any(call not in stacks[user] for user in node.users) and _is_tensor(node)
        ]
        if len(returned) == 1:
            found[call] = returned[0].name
    return found


def resolved(program: Program, options: Iterable[TensorOption]) -> tuple[TensorOption, ...]:
    """Return the options with what a tensor is called in the graph where several modules return it.

    It is called by the innermost, and by the input or output that it is.
    """
    modules = modules_of(program.exported.graph)
    called = {node: module for module, node in modules.items()}
    called |= {port.node: port.spec.name for port in (*program.inputs, *program.outputs)}
    ports = {port.spec.name for port in (*program.inputs, *program.outputs)}
    return tuple(
        option
        if option.name in ports or option.name not in modules
        else option._replace(name=called[modules[option.name]])
        for option in options
    )


def _calls(node: Any) -> list[str]:
    """Return the calls of modules that a node is in, from the outside in."""
    if "nn_module_stack" not in node.meta and str(node.target).endswith("getitem>"):
        return _calls(node.args[0])
    calls = []
    for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
        number = key.rpartition("@")[2] if "@" in key else ""
        if path and not path.startswith("_empty"):
            calls.append(f"{path}@{number}" if number.isdigit() else path)
    return calls


def _path(node: Any) -> str:
    return (_calls(node) or [""])[-1]


def _is_tensor(node: Any) -> bool:
    import torch

    return isinstance(node.meta.get("val"), torch.Tensor)


def to_tensor(value: Array) -> Any:
    """Return an array as a tensor of its own memory."""
    import torch

    held = np.array(value, order="C")
    known = getattr(torch, held.dtype.name)
    if held.dtype.kind in "fiub" and held.dtype.isbuiltin == 1:
        return torch.from_numpy(held)
    plain = held.view(np.dtype(f"uint{8 * held.itemsize}"))
    return torch.from_numpy(plain).view(known)


def to_array(value: Any) -> Array:
    """Return a tensor or a size as an array of its own memory."""
    import torch

    if not isinstance(value, torch.Tensor):
        return np.array(int(value), np.int64)
    held = value.detach().resolve_conj().resolve_neg().contiguous()
    name = str(held.dtype).removeprefix("torch.")
    try:
        return np.array(held.numpy())
    except TypeError:
        plain = held.view(getattr(torch, f"uint{8 * held.element_size()}")).numpy()
        return np.array(plain).view(np.dtype(name))
