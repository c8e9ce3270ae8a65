"""What running a network takes at least, by the sizes of its tensors, before any of it runs.

A few bytes can say a tensor of any size: a Tile, a Fill, a Range, an input's shape. A library finds
out when it has filled the memory. So where sizes are known, of one sample, the tensors that are
there at the same time are added up first: each from the operator that makes it to the last one that
reads it. What an operator takes beside them is not known before: a command's limit of memory is for
that. Nor are sizes that follow from the values that are fed, and whoever watches the memory is told
of them, so that the limit is closer then.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxgraft.errors import ModelError
from onnxgraft.files.limits import RUNNING_BYTES

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnxgraft.graph.model import Model
    from onnxgraft.graph.shapes import Shapes

__all__ = [
    "Step", "allow", "bounded", "check_model", "check_steps", "grown", "limited", "peak", "size_of",
    "tell_unknown", "watchers",
]  # fmt: skip

# Are told of a tensor whose size nobody knows before, and of the bytes that may be taken beyond
# what is taken already.
watchers: list[Callable[[str, int], None]] = []
# Operators that make a tensor of any size of a few numbers; of a Loop, what it carries may grow.
_SIZED = frozenset({
    "ConstantOfShape", "Expand", "MaxUnpool", "OneHot", "Pad", "Range", "Resize", "Tile",
    "Upsample",
})  # fmt: skip

# In the environment, as what a command starts has the same limit.
_ALLOWED = "ONNXGRAFT_RUNNING_BYTES"


@dataclass(frozen=True)
class Step:
    """What an operator does to the memory.

    Attributes:
        reads: The tensors that it reads.
        makes: The tensors that it makes, with their bytes; 0 for what is not known.
        within: Bytes that its own body takes meanwhile.
    """

    reads: Sequence[str]
    makes: Mapping[str, int]
    within: int = 0


def allow(memory: int | None) -> None:
    """Check networks from now on, in this process and in those that it starts.

    Args:
        memory: Bytes that the user allows; None stands for `RUNNING_BYTES`.
    """
    os.environ[_ALLOWED] = str(memory or 0)


def limited() -> bool:
    """Tell whether networks are checked: within commands, not where Python calls functions."""
    return _ALLOWED in os.environ


def check_model(model: Model) -> None:
    """Raise ModelError if a graph takes more than is allowed, by the sizes of its tensors."""
    if not limited():
        return
    from onnxgraft.graph.shapes import Shapes

    graph = _written_out(model)
    shapes = Shapes(graph, free=1, declared=True)
    given = {tensor.name: _bytes(tensor, shapes) for tensor in graph.inputs}
    kept = {tensor.name for tensor in graph.outputs}
    check_steps(_steps(graph, shapes), given, kept, model.file)
    name = _unknown(graph, shapes)
    if name is not None:
        tell_unknown(name, model.weight_bytes())


def tell_unknown(tensor: str, stored: int) -> None:
    """Tell of a tensor whose size follows from values that are computed.

    Args:
        tensor: Its name.
        stored: Bytes of the network's weights.
    """
    for tell in watchers:
        tell(tensor, RUNNING_BYTES.most + grown(stored))


def check_steps(
    steps: Iterable[Step], given: Mapping[str, int], kept: Collection[str], where: str
) -> None:
    """Raise ModelError if a network takes more than is allowed.

    Args:
        steps: Its operators, in an order in which they can run.
        given: The bytes of what is fed.
        kept: The tensors that it returns.
        where: Begins the sentence of a refusal.
    """
    if not limited():
        return
    told = int(os.environ[_ALLOWED])
    most = told or RUNNING_BYTES.most
    taken, name = peak(list(steps), given, kept)
    if taken <= most:
        return
    size, up = _gigabytes(taken), math.ceil(2 * taken / (1 << 30))
    limit = "--max-memory allows" if told else "a network may take without --max-memory"
    raise ModelError(
        f"{where}: one sample takes {size} or more, by the sizes of its tensors, most of it for "
        f"{name!r}, and {_gigabytes(most)} is what {limit}; if it is meant to be so large, allow "
        f"it with --max-memory {up}GB"
    )


def peak(steps: Sequence[Step], given: Mapping[str, int], kept: Collection[str]) -> tuple[int, str]:
    """Return the most bytes that are there at once, and the largest tensor that is there then."""
    last = {name: place for place, step in enumerate(steps) for name in step.reads}
    sizes = dict(given)
    taken = sum(sizes.values())
    most, when = taken, next(iter(given), "")
    for place, step in enumerate(steps):
        sizes.update(step.makes)
        taken += sum(step.makes.values())
        if taken + step.within > most:
            most = taken + step.within
            there = step.makes if step.within > taken else sizes
            when = max(there, key=there.__getitem__, default="")
        for name in {*step.reads, *step.makes}:
            if last.get(name, place) == place and name not in kept:
                taken -= sizes.pop(name, 0)
    return most, when


def grown(stored: int) -> int:
    """Return what a stored tensor may become without being counted: weights of 4 bits as floats."""
    return 8 * stored


@contextlib.contextmanager
def bounded(stored: int) -> Iterator[None]:
    """Let allocations fail that are larger than anything a network needs while it is read.

    TensorFlow runs what depends on constants alone to learn shapes: a few bytes can ask for any
    size. What it can't allocate it does without, and the shape is not known.

    Args:
        stored: Bytes of the network's file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if not limited() or soft != resource.RLIM_INFINITY:
        yield  # to functions that Python calls, or to --max-memory
        return
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    taken = 1024 * int(re.findall(r"(?m)^VmData:\s*(\d+) kB", text)[0])
    resource.setrlimit(resource.RLIMIT_DATA, (taken + RUNNING_BYTES.most + grown(stored), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def size_of(dims: Iterable[int | None], width: int) -> int:
    """Return the bytes of a tensor; a dimension that is not known counts as 1."""
    return width * math.prod(max(int(dim), 0) if dim is not None else 1 for dim in dims)


def _written_out(model: Model) -> gs.Graph:
    """Return a model's graph with its functions in the place of their calls."""
    if not model.graph.functions:
        return model.graph
    from onnx.inliner import inline_local_functions

    from onnxgraft.graph.surgeon import graph_of

    light, _ = model.without_weights()
    try:
        return graph_of(inline_local_functions(light))
    except Exception:  # its errors have no common base; what is wrong onnxruntime says
        return model.graph


def _steps(graph: gs.Graph, shapes: Shapes) -> Iterator[Step]:
    """Yield what the nodes of a graph or body do."""
    from onnxgraft.graph.walk import own_bodies, read_by

    for node in graph.nodes:
        given = [tensor for tensor in node.inputs if tensor.name]
        stored = all(map(_is_constant, given))
        free = grown(sum(int(t._values.nbytes) for t in given)) if stored else 0
        makes = {tensor.name: _bytes(tensor, shapes) for tensor in node.outputs if tensor.name}
        makes = {name: size if size > free else 0 for name, size in makes.items()}
        inner = (peak(list(_steps(body, shapes)), {}, ())[0] for body in own_bodies(node))
        reads = [tensor.name for tensor in read_by(node) if not _is_constant(tensor)]
        yield Step(reads, makes, max(inner, default=0))


def _unknown(graph: gs.Graph, shapes: Shapes) -> str | None:
    """Return a tensor whose size follows from values that are computed, if there is one."""
    from onnxgraft.graph.operators import is_op
    from onnxgraft.graph.walk import nodes_within

    for node in nodes_within(graph):
        made = node.outputs[:1] if is_op(node, *_SIZED) else []
        if is_op(node, "Loop"):
            made = node.outputs[: len(node.inputs) - 2]
        for tensor in made:
            shape = shapes.shape(tensor) if tensor.name else ()
            if shape is None or not all(dim.fixed for dim in shape):
                return str(tensor.name)
    return None


def _is_constant(tensor: gs.Tensor) -> bool:
    import onnx_graphsurgeon as gs

    return isinstance(tensor, gs.Constant)


def _bytes(tensor: gs.Tensor, shapes: Shapes) -> int:
    import onnx

    shape, element = shapes.shape(tensor), shapes.element(tensor)
    if shape is None or not element:
        return 0
    width = onnx.helper.tensor_dtype_to_np_dtype(element).itemsize
    return size_of((dim.number if dim.fixed else None for dim in shape), int(width))


def _gigabytes(count: int) -> str:
    return f"{count / (1 << 30):.3g} GB"
