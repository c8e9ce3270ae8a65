"""The same tensors in two graphs that have no name in common, such as two frameworks' exports.

First by what they hold: a pair of tensors of the same shape, in one layout or another, that agree
on one sample. Then by what makes them: where the inputs of two nodes are pairs, so are their
outputs, if nothing else that is made of them is as much like them. That is how the layer at which
the two differ first, and those behind it, are found: nothing in the other graph holds their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import QUANTIZERS, is_op, op_of
from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.answers import adapted
from onnxgraft.run.difference import sqnr
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.stages.validate.divergence.memory import available_memory, tensor_sizes
from onnxgraft.stages.validate.divergence.shared import InsideGraph, Shared

__all__ = ["MatchedGraph"]

# Of each tensor so many places are compared.
_PLACES = 4096
# What INT8 leaves of the signal after all layers is 20 dB and more; tensors that have nothing to do
# with each other stay below 5.
_LEAST = 20.0
# Beyond that they are the same, and their order tells.
_SAME = 80.0
# By so much more, in dB, a tensor has to be like one than like another.
_BETTER = 3.0
_LAYOUTS = (None, (0, 3, 1, 2), (0, 2, 3, 1))
# They change nothing, or only the layout or the precision.
_PASSING = ("Cast", "Dropout", "Identity", "Transpose")
_ROUNDING = ("DequantizeLinear", "QuantizeLinear")

Perm = tuple[int, ...] | None
Sketch = NDArray[np.float32]


class MatchedGraph(InsideGraph):
    """A graph that stands for the original, whose tensors are found by value and by structure.

    Args:
        original: Its graph.
        candidate: The other one.
        feeds: One sample.
        memory: Bytes that tensors may take; None takes a quarter of what is free.
    """

    def __init__(
        self, original: Model, candidate: Model, feeds: Feeds, *, memory: int | None = None
    ) -> None:
        super().__init__(original)
        budget = available_memory() // 4 if memory is None else memory
        mine, theirs = _Graph(original), _Graph(candidate)
        known = mine.sketches(feeds, budget, (None,))
        found = theirs.sketches(feeds, budget, _LAYOUTS)
        pairs = _by_value(mine, theirs, known, found)
        pairs |= _by_structure(mine, theirs, known, found, pairs)
        self.pairs = {
            name: Shared(name, asked, perm, _origin(original, asked), _origin(candidate, name))
            for name, (asked, perm) in pairs.items()
        }

    def find(self, tensor: str, origin: object, ambiguous: bool) -> Shared | None:
        """Return how the original is asked for a tensor of the candidate's graph."""
        return self.pairs.get(tensor)


Pairs = dict[str, tuple[str, Perm]]


@dataclass(frozen=True)
class _Key:
    """A tensor in one layout."""

    name: str
    perm: Perm
    shape: tuple[int, ...]


class _Graph:
    """What is asked of each of the two graphs."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.proto = model.to_onnx()
        self.makers = {name: n for n in self.proto.graph.node for name in n.output if name}
        self.order = {name: index for index, name in enumerate(self.makers)}
        held = {entry.name for entry in self.proto.graph.initializer}
        self.inputs = [v.name for v in self.proto.graph.input if v.name not in held]
        self.varying = set(self.inputs)
        for node in self.proto.graph.node:
            if any(name in self.varying for name in node.input):
                self.varying.update(node.output)
        self.own = [
            name for name, node in self.makers.items() if name in self.varying and not _passes(node)
        ]

    def root(self, name: str) -> str:
        """Return the tensor that ``name`` holds, before what only passes it on."""
        while name in self.makers and _passes(self.makers[name]):
            name = self.makers[name].input[0]
        return name

    def sources(self, name: str) -> tuple[str, ...]:
        """Return what a tensor is made of, constants left out."""
        return tuple(self.root(n) for n in self.makers[name].input if n in self.varying)

    def sketches(self, feeds: Feeds, budget: int, layouts: tuple[Perm, ...]) -> dict[_Key, Sketch]:
        """Return some values of every float tensor, in each of the layouts."""
        sizes = tensor_sizes(self.model, adapted(feeds, self.model))
        found: dict[_Key, Sketch] = {}
        for part in _parts(self.own, sizes, budget):
            with OnnxRuntime(exposing(self.proto, part), optimize=False) as session:
                values = session.infer(adapted(feeds, session))
            for name, value in values.items():
                if value.dtype.kind != "f":
                    continue
                for perm in layouts if value.ndim == 4 else (None,):
                    view = value if perm is None else value.transpose(perm)
                    # The candidate's is a transposition of the original's, so the other way round.
                    back = None if perm is None else tuple(perm.index(axis) for axis in range(4))
                    places = np.random.default_rng(view.shape).integers(
                        0, view.shape, (_PLACES, view.ndim)
                    )
                    found[_Key(name, back, view.shape)] = view[tuple(places.T)].astype(np.float32)
        return found


def _passes(node: onnx.NodeProto) -> bool:
    return is_op(node, *_PASSING) or is_op(node, *_ROUNDING, domain=QUANTIZERS)


def _parts(names: list[str], sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    """Yield the names in parts whose tensors fit into memory together."""
    part: list[str] = []
    held = 0
    for name in names:
        size = sizes.get(name, 0)
        if part and held + size > budget:
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    if part:
        yield part


def _by_value(
    mine: _Graph, theirs: _Graph, known: dict[_Key, Sketch], found: dict[_Key, Sketch]
) -> Pairs:
    """Pair the tensors that agree, those that agree best first."""
    scores = []
    for asked, one in known.items():
        for key, other in found.items():
            if key.shape != asked.shape or not np.isfinite(one).all():
                continue
            kept = min(sqnr(one, other), _SAME)
            if kept >= _LEAST:
                same = op_of(mine.makers[asked.name]) == op_of(theirs.makers[key.name])
                apart = abs(
                    mine.order[asked.name] / len(mine.order)
                    - theirs.order[key.name] / len(theirs.order)
                )
                scores.append((-kept, not same, apart, asked.name, key.name, key.perm))
    pairs: Pairs = {}
    taken: set[str] = set()
    for _, _, _, asked_name, name, perm in sorted(scores, key=lambda entry: entry[:5]):
        if asked_name not in taken and name not in pairs:
            pairs[name] = asked_name, perm
            taken.add(asked_name)
    return pairs


def _by_structure(
    mine: _Graph,
    theirs: _Graph,
    known: dict[_Key, Sketch],
    found: dict[_Key, Sketch],
    pairs: Pairs,
) -> Pairs:
    """Pair what is made of pairs, where one way to do it is better than the others."""
    roots = {theirs.root(name): mine.root(asked) for name, (asked, _) in pairs.items()}
    roots |= _inputs(mine, theirs)
    taken = {asked for asked, _ in pairs.values()}
    shapes = {key.name: key.shape for key in known}
    samples = {key.name: sketch for key, sketch in known.items()}
    other = {(key.name, key.perm): sketch for key, sketch in found.items()}
    layouts: dict[str, list[_Key]] = {}
    for key in found:
        layouts.setdefault(key.name, []).append(key)
    more: Pairs = {}
    for name in theirs.own:
        if name in pairs or name not in layouts:
            continue
        wanted = tuple(roots.get(source, "") for source in theirs.sources(name))
        fitting = [
            (asked, key.perm)
            for asked in mine.own
            if asked not in taken and asked in shapes and mine.sources(asked) == wanted
            for key in layouts[name]
            if key.shape == shapes[asked]
        ]
        for alike in (op_of, _kernel):
            kind = alike(theirs.makers[name])
            fitting = [e for e in fitting if alike(mine.makers[e[0]]) == kind] or fitting
        # Of several, that which is nearest in value, by more than chance.
        kept = sorted(
            ((sqnr(samples[asked], other[name, perm]), asked, perm) for asked, perm in fitting),
            key=lambda entry: entry[:2],
        )
        rivals = [entry for entry in kept if entry[1] != kept[-1][1]]
        if wanted and kept and (not rivals or kept[-1][0] >= max(rivals[-1][0], 0.0) + _BETTER):
            _, asked, perm = kept[-1]
            more[name] = asked, perm
            taken.add(asked)
            roots[name] = asked
    return more


def _kernel(node: onnx.NodeProto) -> list[bytes]:
    """Return what tells layers of the same inputs apart; pads may be what is wrong."""
    named = [a for a in node.attribute if a.name in ("kernel_shape", "group", "dilations")]
    return sorted(attribute.SerializeToString(deterministic=True) for attribute in named)


def _inputs(mine: _Graph, theirs: _Graph) -> dict[str, str]:
    """Return which input of the original each one of the candidate is."""
    if len(mine.inputs) == len(theirs.inputs) == 1:
        return {theirs.inputs[0]: mine.inputs[0]}
    return {name: name for name in theirs.inputs if name in mine.inputs}


def _origin(model: Model, tensor: str) -> str:
    return model.names[tensor].name if tensor in model.names else tensor
