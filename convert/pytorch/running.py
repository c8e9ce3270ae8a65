"""PyTorch itself, running a program of torch.export as the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxgraft.errors import InputError, ModelError, nearest, reason_in
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.graph.wanted import Wants
from onnxgraft.run.engine import Resource, check_feeds
from onnxgraft.stages.convert.pytorch.program import (
    Program,
    modules_of,
    to_array,
    to_tensor,
)
from onnxgraft.stages.convert.pytorch.sizes import check_sizes
from onnxgraft.stages.convert.pytorch.wants import wants_of_program

__all__ = ["PyTorch"]

# What depends on inputs that are not fed, as others are that come after them.
_MISSING = object()


class PyTorch(Resource):
    """A program in PyTorch, operator by operator on the CPU: the reference of what is made of it.

    Args:
        program: The program.
        inputs: Modules in whose place values are fed; those of the program if empty.
        outputs: Modules to end at.
    """

    name = "pytorch"

    def __init__(
        self,
        program: Program,
        inputs: Sequence[TensorOption] = (),
        outputs: Sequence[TensorOption] = (),
    ) -> None:
        self._program = program
        exported = program.exported
        check_sizes(program)
        self._places = modules_of(exported.graph)
        self._places |= {port.spec.name: port.node for port in program.inputs}
        self._places |= {port.spec.name: port.node for port in program.outputs if port.node}
        self._values = _values(exported)
        self._fed = {port.spec.name: port.node for port in program.inputs}
        self.inputs = tuple(port.spec for port in program.inputs)
        self.outputs = tuple(port.spec for port in program.outputs)
        self._given = {port.spec.name: port.node for port in program.outputs if port.node}
        self._given |= {port.spec.name: port.state for port in program.outputs if port.state}
        if inputs:
            self._fed = {option.name: self._place(option.name) for option in inputs}
            self.inputs = tuple(self._spec(option) for option in inputs)
        if outputs:
            self._given = {option.name: self._place(option.name) for option in outputs}
            self.outputs = tuple(self._spec(option) for option in outputs)
        self._returned = {port.spec.name for port in program.outputs}

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        made = self._run(self._given, feeds)
        for name in self._given:
            if name not in made:
                raise InputError(
                    f"{self._program.source.path}: {name} needs more inputs than "
                    f"{', '.join(self._fed)}; name them in --inputs"
                )
        return made

    def probe(self, tensors: Sequence[str], feeds: Feeds) -> Outputs:
        """Return what those of ``tensors`` that are modules return, by name."""
        places = {name: self._places[name] for name in tensors if name in self._places}
        return self._run(places, feeds)

    def wants(self) -> Wants:
        """Return what the program says of its inputs."""
        return wants_of_program(self._program, self._fed)

    def close(self) -> None:
        """Give back the weights."""
        self._values = {}

    def _place(self, name: str) -> str:
        if name not in self._places:
            raise InputError(
                f"{self._program.source.path}: no module is called {name!r}; "
                f"{nearest(name, self._places)}"
            )
        return self._places[name]

    def _spec(self, option: TensorOption) -> TensorSpec:
        node = self._place(option.name)
        (found,) = (n for n in self._program.exported.graph.nodes if n.name == node)
        value = found.meta["val"]
        dims = option.shape or tuple(d if isinstance(d, int) else -1 for d in value.shape)
        shape = tuple(f"{option.name}.{a}" if d < 0 else d for a, d in enumerate(dims))
        return TensorSpec(option.name, str(value.dtype).removeprefix("torch."), shape)

    def _run(self, places: dict[str, str], feeds: Feeds) -> Outputs:
        """Run the graph; a name stands for a node, or a state's buffer.

        What is changed in place behind the node that made it is returned as it is then; within the
        network it is what the node made.
        """
        import torch

        checked = check_feeds(self.name, self.inputs, feeds)
        fed = {self._fed[name]: value for name, value in checked.items()}
        states = {port.node: port.state for port in self._program.inputs if port.state}
        values: list[Any] = []
        changed: dict[str, Any] = {}
        for node in self._program.exported.graph.find_nodes(op="placeholder"):
            value = self._values.get(node.name)
            if node.name in fed:
                value = _given(node, fed[node.name])
            elif node.name in self._program.constants:
                value = self._program.constants[node.name]
            elif isinstance(value, torch.Tensor) and node.name in self._values:
                # The network may write to it, and begins each time as it was stored.
                value = value.clone() if node.name in self._buffers else value
            elif node.name not in self._values:
                value = _MISSING
            if node.name in states:
                changed[states[node.name]] = value
            values.append(value)
        seen: dict[str, Array] = {}
        kept: dict[str, Any] = {
            place: _MISSING for name, place in places.items() if name in self._returned
        }
        wanted = {place for name, place in places.items() if name not in self._returned}
        module = self._program.exported.graph_module
        runner = _interpreter(module, fed, wanted, seen, kept)
        try:
            with torch.no_grad():
                runner.run(*values, enable_io_processing=False)
        except Exception as error:  # operators raise whatever they meet
            raise ModelError(f"PyTorch can't run the network: {reason_in(error)}") from error
        ends = (kept | changed).items()
        last = {place: to_array(value) for place, value in ends if value is not _MISSING}
        found = {name: last if name in self._returned else seen for name in places}
        return {n: found[n][place] for n, place in places.items() if place in found[n]}

    @property
    def _buffers(self) -> set[str]:
        signature = self._program.exported.graph_signature
        return set(signature.inputs_to_buffers) | set(signature.inputs_to_lifted_tensor_constants)


def _values(exported: Any) -> dict[str, Any]:
    """Return the weights, buffers and constants by the inputs of the graph that they are."""
    signature = exported.graph_signature
    held = {**exported.state_dict, **exported.constants}
    lifted = (
        signature.inputs_to_parameters, signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    )  # fmt: skip
    return {node: held[name] for names in lifted for node, name in names.items()}


def _given(node: Any, value: Array) -> Any:
    import torch

    return to_tensor(value) if isinstance(node.meta["val"], torch.Tensor) else int(value)


def _interpreter(
    graph_module: Any,
    fed: dict[str, Array],
    wanted: set[str],
    seen: dict[str, Array],
    kept: dict[str, Any],
) -> Any:
    """Return what runs a graph node by node, and keeps the values or the tensors of some."""
    import torch

    class Watching(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            if n.op == "call_function" and n.name in fed:
                value = to_tensor(fed[n.name])
            elif any(self.env[node] is _MISSING for node in n.all_input_nodes):
                value = _MISSING
            else:
                value = super().run_node(n)
            if n.name in wanted and value is not _MISSING:
                seen[n.name] = to_array(value)
            if n.name in kept:
                kept[n.name] = value
            return value

    return Watching(graph_module)
