"""What a PyTorch program says of its inputs: which of them index tables, and which are masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxgraft.graph.wanted import Indices, Use, Wants, followed
from onnxgraft.stages.convert.pytorch.program import Program, arguments

__all__ = ["wants_of_program"]

# Operators that hand values on of what they are given first; a list stands there, too.
_HANDS_ON = frozenset(
    "_to_copy alias as_strided broadcast_to cat chunk clone concat constant_pad_nd contiguous "
    "detach detach_ dropout expand expand_as flatten flip gather getitem index index_select lift "
    "lift_fresh_copy movedim narrow pad permute repeat repeat_interleave reshape roll select "
    "slice split split_with_sizes squeeze stack swapaxes swapdims t take tile to transpose type_as "
    "unbind unflatten unsqueeze unsqueeze_ view".split()
)
# Operators that index along an axis, which read from its beginning alone.
_ALONG_AXIS = frozenset(
    "gather index_add index_copy index_fill index_reduce index_select scatter scatter_add "
    "scatter_reduce take_along_dim".split()
)


def wants_of_program(program: Program, fed: Mapping[str, str]) -> Wants:
    """Return what a program says of its inputs.

    Args:
        program: The program.
        fed: The node of each input.
    """
    import torch

    nodes = {node.name: node for node in program.exported.graph.nodes}
    starts = {name: nodes[node] for name, node in fed.items()}
    free = {
        str(dim.node.expr): named
        for port in program.inputs
        for dim, named in zip(_shape(nodes[port.node]) or (), port.spec.shape, strict=True)
        if isinstance(dim, torch.SymInt) and isinstance(named, str)
    }
    return followed(
        {name: start for name, start in starts.items() if _may_count(start)},
        lambda node: _uses(node, free),
    )


def _may_count(node: Any) -> bool:
    """Tell whether an input may be an index or mask: whole numbers, or floats of few axes."""
    kind, shape = getattr(node.meta["val"], "dtype", None), _shape(node)
    if kind is None or shape is None or str(kind) == "torch.bool":
        return False
    return not kind.is_floating_point or len(shape) < 3


def _shape(node: Any) -> Any:
    """Return the shape that a tensor has in the export; None for what is no tensor."""
    return getattr(node.meta.get("val"), "shape", None)


def _operator(node: Any) -> str:
    """Return what an operator is called, without overloads: ``index_select``."""
    name = str(getattr(node.target, "__name__", node.target))
    return name.partition(".")[0]


def _uses(node: Any, free: Mapping[str, str]) -> Iterator[Use]:
    """Yield what is done with a tensor's values."""
    import torch

    for user in node.users:
        if user.op != "call_function":
            continue
        kind, given = _operator(user), arguments(user)
        limits = tuple(_limits(kind, given, node, free))
        made = getattr(user.meta.get("val"), "dtype", None)
        if kind in ("to", "_to_copy") and made == torch.bool:
            yield Use(limits, mask=True)
            continue
        mask = kind == "rsub" and given["self"] is node and given["other"] == 1
        value = given.get("other") if kind in ("eq", "ne") else None
        numbers = (int, float)
        special = {int(value)} if isinstance(value, numbers) and value == value // 1 else ()
        first = user.args[0] if user.args else None
        among = first if isinstance(first, list) else [first]
        if kind == "where":
            among = [given.get("self"), given.get("other")]
        goes_on = kind in (*_HANDS_ON, "where") and any(other is node for other in among)
        yield Use(limits, frozenset(special), mask, (user,) if goes_on else ())


def _limits(
    kind: str, given: Mapping[str, Any], node: Any, free: Mapping[str, str]
) -> Iterator[Indices]:
    """Yield what is legal where a tensor is an index of an operator."""
    if kind in ("embedding", "embedding_bag", "_embedding_bag") and given["indices"] is node:
        yield from _rows(given["weight"], 0, 0, free)
    elif kind in _ALONG_AXIS and given.get("index", given.get("indices")) is node:
        if given.get("dim") is not None:
            yield from _rows(given.get("self"), given["dim"], 0, free)
    elif kind in ("index", "index_put", "index_put_"):
        axis = 0
        for index in given["indices"]:
            if index is node:
                yield from _rows(given["self"], axis, -1, free)
            mask = index is not None and str(index.meta["val"].dtype) == "torch.bool"
            axis += len(_shape(index)) if mask else 1
    elif kind == "one_hot" and given["num_classes"] > 0:
        yield Indices(0, given["num_classes"] - 1)


def _rows(table: Any, axis: int, first: int, free: Mapping[str, str]) -> Iterator[Indices]:
    shape = _shape(table)
    if not shape or not -len(shape) <= axis < len(shape):
        return
    size = shape[axis]
    if isinstance(size, int):
        yield Indices(first if size else 0, size - 1)
    elif str(size.node.expr) in free:
        yield Indices(first, -1, free[str(size.node.expr)])
