"""What a PyTorch program takes when it runs, by the sizes of its tensors, before it runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from onnxgraft.run.demand import Step, check_steps, limited, peak, size_of, tell_unknown
from onnxgraft.stages.convert.pytorch.program import Program

__all__ = ["check_sizes"]

# Operators that make a tensor of any size of a few numbers; what a loop carries keeps its size.
_SIZED = re.compile(
    r"affine_grid\w*|arange|broadcast_to|col2im|(constant_)?pad\w*|empty\w*|expand|eye|full"
    r"|linspace|logspace|new_\w+|one_hot|ones|rand\w*|repeat|repeat_interleave|tile"
    r"|tri[lu]_indices|upsample\w*|zeros"
)
# Of these it is the values of a tensor.
_OF_VALUES = ("bincount.default", "repeat_interleave.Tensor", "repeat_interleave.self_Tensor")
# They make a number of a tensor.
_NUMBERS = ("_local_scalar_dense.default", "item.default")


def check_sizes(program: Program) -> None:
    """Raise ModelError if the tensors of a program take more than is allowed, one sample's.

    The file notes a size for each tensor, but nothing holds it to it: PyTorch is asked what its
    operators make, of tensors without values.
    """
    if not limited():
        return
    graph, sizes = program.exported.graph, _Sizes()
    places = {port.node for port in program.inputs}  # the others are stored
    fed = (node for node in graph.find_nodes(op="placeholder") if node.name in places)
    given = {node.name: sum(map(_bytes, _noted(node))) for node in fed}
    check_steps(sizes.steps(graph), given, (), program.source.path)
    if sizes.unknown is not None:
        stored = [*program.exported.state_dict.values(), *program.exported.constants.values()]
        tell_unknown(sizes.unknown, sum(getattr(value, "nbytes", 0) for value in stored))


class _Sizes:
    """What the operators of a graph take, and of the graphs that they run.

    Attributes:
        unknown: A node whose tensor has a size that follows from values, if there is one.
    """

    def __init__(self) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.unknown: str | None = None
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._bodies: dict[int, int] = {}

    def steps(self, graph: Any) -> Iterator[Step]:
        """Yield what the operators do."""
        from torch.fx.node import map_arg

        values: dict[Any, Any] = {}
        numbers: set[Any] = set()  # that follow from values
        for node in graph.nodes:
            if node.op != "call_function":
                values[node] = _made(self._mode, node)
                continue
            self._note(node, numbers)
            bodies, made = list(_bodies(node)), _noted(node)
            try:
                args = map_arg(node.args, values.__getitem__)
                kwargs = map_arg(node.kwargs, values.__getitem__)
                with self._mode:
                    value = _made(self._mode, node) if bodies else node.target(*args, **kwargs)
                made = value if isinstance(value, list | tuple) else (value,)
            except Exception:  # what follows from values, or can't run: as the file has it
                value = _made(self._mode, node)
            values[node] = value
            reads = [read.name for read in node.all_input_nodes]
            inner = max(map(self._body, bodies), default=0)
            yield Step(reads, {node.name: sum(map(_bytes, made))}, inner)

    def _body(self, graph: Any) -> int:
        """Return what a graph takes that an operator runs; each is looked at once."""
        if id(graph) not in self._bodies:
            self._bodies[id(graph)] = peak(list(self.steps(graph)), {}, ())[0]
        return self._bodies[id(graph)]

    def _note(self, node: Any, numbers: set[Any]) -> None:
        """Note a node that makes a tensor of a size that follows from values, or such a number."""
        kind = str(node.target).removeprefix("aten.")
        follows = not numbers.isdisjoint(node.all_input_nodes)
        if kind in _OF_VALUES or (follows and _SIZED.fullmatch(kind.split(".")[0])):
            self.unknown = self.unknown or str(node.name)
        elif kind in _NUMBERS or (follows and not hasattr(node.target, "_schema")):
            numbers.add(node)


def _made(mode: Any, node: Any) -> Any:
    """Return what a node makes as the file notes it, tensors without values, of one sample."""
    import torch

    def like(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return _size(value)
        with contextlib.suppress(RuntimeError), mode:  # a type or size that PyTorch can't have
            return torch.empty(list(map(_size, value.shape)), dtype=value.dtype)

    made = list(map(like, _noted(node)))
    return made if isinstance(node.meta.get("val"), list | tuple) else made[0]


def _noted(node: Any) -> Sequence[Any]:
    value = node.meta.get("val")
    return value if isinstance(value, list | tuple) else (value,)


def _size(value: Any) -> Any:
    """Return 1 for a size that is free."""
    import torch

    return 1 if isinstance(value, torch.SymInt) else value


def _bodies(node: Any) -> Iterator[Any]:
    """Yield the graphs that an operator runs: branches, and what a loop repeats."""
    for read in node.all_input_nodes:
        if read.op == "get_attr":
            body = getattr(getattr(node.graph.owning_module, read.target, None), "graph", None)
            if body is not None:
                yield body


def _bytes(value: Any) -> int:
    """Return what a tensor takes; a size that is free counts as 1."""
    import torch

    if not isinstance(value, torch.Tensor):
        return 0
    return size_of(map(_size, value.shape), value.element_size())
