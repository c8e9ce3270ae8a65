"""The tensors that two networks share, whatever they are called and however they are laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnxgraft.graph.lift import halves
from onnxgraft.graph.model import Model, Origin
from onnxgraft.graph.operators import QUANTIZERS, is_op
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.answers import adapted
from onnxgraft.run.engine import Engine, Probing
from onnxgraft.run.session import OnnxRuntime, exposing

__all__ = ["Inside", "InsideGraph", "Shared", "inside_of", "shared_tensors"]


@dataclass(frozen=True)
class Shared:
    """A tensor that both networks have.

    Attributes:
        tensor: Its name in the candidate's graph.
        asked: What the original is asked for.
        perm: If given, the candidate's is ``numpy.transpose(the original's, perm)``.
        origin: The framework's name, for people.
        own: The candidate's framework's name, where that is another.
    """

    tensor: str
    asked: str
    perm: tuple[int, ...] | None
    origin: str
    own: str = ""

    def seen(self, value: Array) -> Array:
        """Return the original's value in the candidate's layout."""
        return value if self.perm is None else value.transpose(self.perm)


class Inside:
    """The tensors inside a network that serves as the original.

    Attributes:
        in_half: Whether it is known to compute in half precision.
    """

    in_half = False

    def __init__(self, engine: Probing) -> None:
        """Look into an engine that can be asked."""
        self.engine = engine

    def find(self, tensor: str, origin: Origin, ambiguous: bool) -> Shared | None:
        """Return how the original is asked for a tensor of the candidate's graph."""
        asked = tensor if ambiguous else origin.name
        return Shared(tensor, asked, origin.perm, origin.name)

    def behind(self, name: str) -> str:
        """Return what holds a tensor's values as they are read: rounded, if all that is read."""
        return name

    def values(self, names: Sequence[str], feeds: Feeds) -> Outputs:
        """Return those of the tensors that are there."""
        return self.engine.probe(names, adapted(feeds, self.engine))


class InsideGraph(Inside):
    """The tensors inside an ONNX graph that serves as the original, run node by node."""

    def __init__(self, model: Model) -> None:
        self.proto = model.to_onnx()
        self.names = model.names
        self.in_half = bool(halves(model))
        self.made = {name for node in self.proto.graph.node for name in node.output if name}
        self.by_origin: dict[str, list[str]] = {}
        for name, origin in model.names.items():
            if name in self.made:
                self.by_origin.setdefault(origin.name, []).append(name)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.proto.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def behind(self, name: str) -> str:
        """Return a tensor, or the one behind its Q and DQ if nothing else reads it."""
        quantizers = self._readers.get(name, [])
        if len(quantizers) == 1 and is_op(quantizers[0], "QuantizeLinear", domain=QUANTIZERS):
            readers = self._readers.get(quantizers[0].output[0], [])
            if readers and all(is_op(r, "DequantizeLinear", domain=QUANTIZERS) for r in readers):
                return str(readers[0].output[0])
        return name

    def find(self, tensor: str, origin: Origin, ambiguous: bool) -> Shared | None:
        """Return how the original's graph is asked for a tensor of the candidate's."""
        found = self.by_origin.get(origin.name, [])
        if tensor in self.made:
            asked = tensor
        elif len(found) == 1:
            asked = found[0]
        elif origin.name in self.made:
            asked = origin.name
        else:
            return None
        mine = self.names.get(asked, Origin(asked))
        perm = _between(mine.perm, origin.perm) if mine.name == origin.name else None
        return Shared(tensor, asked, perm, origin.name)

    def values(self, names: Sequence[str], feeds: Feeds) -> Outputs:
        """Return those of the tensors that the graph makes."""
        known = [name for name in names if name in self.made]
        if not known:
            return {}
        with OnnxRuntime(exposing(self.proto, known), optimize=False) as session:
            return session.infer(adapted(feeds, session))


def _between(
    theirs: tuple[int, ...] | None, ours: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Return the permutation from one layout of a tensor to another; both are of its original.

    >>> _between((0, 3, 1, 2), None)
    (0, 2, 3, 1)
    """
    if theirs == ours:
        return None
    rank = len(theirs or ours or ())
    theirs, ours = theirs or tuple(range(rank)), ours or tuple(range(rank))
    return tuple(theirs.index(axis) for axis in ours)


def inside_of(original: Engine | Model | Inside) -> Inside | None:
    """Return the tensors inside the original, or None if it can't be asked for them."""
    if isinstance(original, Inside):
        return original
    if isinstance(original, Model):
        return InsideGraph(original)
    return Inside(original) if isinstance(original, Probing) else None


def shared_tensors(inside: Inside, model: Model, made: Sequence[str]) -> list[Shared]:
    """Return those of the candidate's tensors ``made`` that both have, in that order.

    A tensor that the map of names does not have counts under its own name where the original is a
    graph too. An original may turn out not to have one after all.
    """
    names = model.names
    # In-place layers write versions of one blob: the tensor's own name tells which.
    versions = model.source.framework == "caffe"
    origins = {name: names.get(name, Origin(name)) for name in made}
    often = Counter((origin.name, origin.perm) for origin in origins.values())
    found = []
    for name in made:
        if name not in names and not isinstance(inside, InsideGraph):
            continue
        origin = origins[name]
        entry = inside.find(name, origin, versions or often[origin.name, origin.perm] > 1)
        if entry is not None:
            found.append(entry)
    return found
