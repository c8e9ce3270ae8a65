"""An engine that gives other answers than its graph says is built anew, from another form of it.

The first layer at which the two differ is found by building engines of beginnings of the graph,
halving: adding outputs to the engine itself would change what its library fuses. For that layer the
target's other forms are tried in turn, and the first is kept with which its beginning is right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.cut import extract
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import WEIGHTED, is_op
from onnxgraft.graph.quantized import (
    explicit_pads,
    in_float,
    int8_layers,
    narrowed,
    signed_inputs,
    with_offset,
)
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.tensors import Feeds
from onnxgraft.progress import status
from onnxgraft.run.proof import Proof, Reference, worst

__all__ = ["Mended", "mend"]

# So many layers are given another form one by one; then all are.
_MOST_LAYERS = 12

# Builds a graph into an engine, and holds it against a reference.
Attempt = Callable[[Model, Reference], list[Proof]]


@dataclass
class Mended:
    """A graph from which a right engine could be built, or the best there was.

    Attributes:
        model: The graph.
        proofs: Of its engine.
        notes: What was given another form, and why.
    """

    model: Model
    proofs: list[Proof]
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the engine computes what its graph says."""
        return all(proof.passed for proof in self.proofs)


@dataclass(frozen=True)
class _Form:
    """Another form of a layer.

    Attributes:
        name: In a sentence: ``conv1 is built with NAME``.
        of: Returns the graph with the named layers in that form; None where nothing changes.
    """

    name: str
    of: Callable[[Model, Collection[str]], Model | None]


def _offset(model: Model, layers: Collection[str]) -> Model | None:
    wanted = [node for node in int8_layers(model) if node.name in layers]
    tensors = set(signed_inputs(model, wanted).values())
    return with_offset(model, tensors) if tensors else None


def _pads(model: Model, layers: Collection[str]) -> Model | None:
    return explicit_pads(model)


FORMS = {
    "pads": _Form("explicit pads in place of auto_pad", _pads),
    "offset": _Form("uint8 activations, zero point 128, in place of int8", _offset),
    "narrow": _Form("weights of seven bits", lambda model, layers: narrowed(model, layers)),
    "float": _Form("float arithmetic", lambda model, layers: in_float(model, layers)),
}


def mend(
    model: Model,
    feeds: Sequence[Feeds],
    attempt: Attempt,
    *,
    forms: Sequence[str],
    precision: str = "fp32",
    title: str,
) -> Mended:
    """Return the graph to build from: the given one, or one with other forms of some layers.

    Args:
        model: The graph.
        feeds: What engines are run on.
        attempt: Builds an engine of a graph, runs it and holds it against a reference.
        forms: Which of `FORMS` the target has, in the order in which they are tried.
        precision: Of float layers.
        title: What notes call the target.
    """
    with status("computing the exact answers"):
        reference = Reference(model, feeds, precision)
    found = Mended(model, attempt(model, reference))
    seen: set[str] = set()
    while not found.passed and len(seen) < _MOST_LAYERS:
        with status("looking for the layer where the engine departs from its graph"):
            layer = _first_wrong(found.model, feeds, attempt, precision)
        if layer is None or layer in seen:
            break
        seen.add(layer)
        better = _another_form(found.model, layer, feeds, attempt, forms, precision)
        if better is None:
            found.notes.append(
                f"{title}'s engine departs from its graph at {layer}, in every form of it: "
                f"{worst(found.proofs)}"
            )
            return found
        name, graph = better
        before = worst(found.proofs)
        proofs = attempt(graph, Reference(graph, feeds, precision))
        note = (
            f"{title}'s engine departs from its graph at {layer} ({before}); it is built with "
            f"{name}"
        )
        found = Mended(graph, proofs, [*found.notes, note])
    if not found.passed:
        found.notes.append(f"{title}'s engine departs from its graph: {worst(found.proofs)}")
    return found


def _another_form(
    model: Model, layer: str, feeds: Sequence[Feeds], attempt: Attempt, forms: Sequence[str],
    precision: str,
) -> tuple[str, Model] | None:  # fmt: skip
    """Return the first form of a layer with which the graph up to it is right, and the graph.

    What helps one layer is given to all that are fed alike, where that is right too.
    """
    for kind in forms:
        form = FORMS[kind]
        graph = form.of(model, {layer})
        if graph is None or not _right(graph, layer, feeds, attempt, precision):
            continue
        if kind in ("offset", "narrow"):
            everywhere = form.of(model, {node.name for node in int8_layers(model)})
            if everywhere is not None and _right(everywhere, layer, feeds, attempt, precision):
                return f"{form.name}, in all layers", everywhere
        return form.name, graph
    return None


def _first_wrong(
    model: Model, feeds: Sequence[Feeds], attempt: Attempt, precision: str
) -> str | None:
    """Return the first layer after which the engine is wrong, or None if there is none."""
    layers = [node.name for node in model.graph.nodes if is_op(node, *WEIGHTED)]
    if not layers:
        return None
    low, high = -1, len(layers) - 1  # right after `low`, wrong after `high`
    if _right(model, layers[high], feeds, attempt, precision):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _right(model, layers[middle], feeds, attempt, precision):
            low = middle
        else:
            high = middle
    return str(layers[high])


def _right(
    model: Model, layer: str, feeds: Sequence[Feeds], attempt: Attempt, precision: str
) -> bool:
    """Tell whether an engine of the graph up to a layer is right."""
    node = next((node for node in model.graph.nodes if node.name == layer), None)
    if node is None:
        return False
    try:
        part = extract(model, (), (TensorOption(node.outputs[0].name, None),))
        reference = Reference(part, feeds, precision)
        return all(proof.passed for proof in attempt(part, reference))
    except OnnxgraftError:
        return False
