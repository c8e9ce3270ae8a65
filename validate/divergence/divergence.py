"""Where two networks first differ: the layer that makes something else of the same values.

Every layer of the candidate is run on what the original computed (see `_forced`), so that a layer
is measured by itself: what came in wrong is not its fault, and what rounding adds up to on
the way is nobody's. All shared tensors are read in one run where memory allows, else by halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnxgraft.errors import ModelError
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op, op_of
from onnxgraft.graph.tensors import Array, Feeds, Outputs
from onnxgraft.run.answers import adapted
from onnxgraft.run.difference import relative_error, sqnr
from onnxgraft.run.engine import Engine
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.run.tolerances import (
    HALF_LAYER_TOLERANCE,
    LAYER_TOLERANCE,
    LEAST_INT4_LAYER_SQNR,
    LEAST_LAYER_SQNR,
    LEAST_RANGE_SQNR,
)
from onnxgraft.stages.validate.divergence.forced import (
    HALF_TYPES,
    ForcedGraph,
    Quantizer,
    Segment,
    label,
)
from onnxgraft.stages.validate.divergence.memory import available_memory, tensor_sizes
from onnxgraft.stages.validate.divergence.shared import Inside, Shared, inside_of, shared_tensors
from onnxgraft.stages.validate.report import LayerRow

__all__ = ["Bisection", "Divergence", "bisect", "find_divergence"]

# What a layer in integers has to keep, in dB.
_LEAST_KEPT = {"int8": LEAST_LAYER_SQNR, "fp8": LEAST_LAYER_SQNR, "int4": LEAST_INT4_LAYER_SQNR}

LARGEST_HALF = 65504.0
_CHOOSING = ("NonMaxSuppression", "TopK", "Unique")
_PLACES = ("ArgMax", "ArgMin")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16,
           onnx.TensorProto.DOUBLE)  # fmt: skip
# A run holds the original's values, the same in the candidate's layout and type, and the results.
_COPIES = 4


@dataclass(frozen=True)
class Divergence:
    """The first layer that makes something else.

    Attributes:
        tensor: What it makes, by its name in the ONNX graph.
        origin: The framework's name for that.
        operator: The ONNX operator that makes it.
        relative: The largest difference, as a fraction of the original tensor's range.
        agreed: The framework's name of the last tensor before it that was seen to be the same;
            None if there is none.
        nodes: Every node that may be to blame: those between the tensors that both have.
        reason: What was seen, in words.
        quantizer: Whether it is the range of ``tensor`` that is to blame, and no layer.
        first: Whether it works on what the network is fed, so that a mistake in preparing that may
            be the cause.
        own: The candidate's framework's name for ``origin``, where that is another.
    """

    tensor: str
    origin: str
    operator: str
    relative: float
    agreed: str | None
    nodes: tuple[str, ...] = ()
    reason: str = ""
    quantizer: bool = False
    first: bool = False
    own: str = ""

    def __str__(self) -> str:
        """Return what a person reads; ``first`` goes before it where it is the first."""
        after = f"; {self.agreed} is the last tensor that agrees" if self.agreed else ""
        if self.quantizer:
            return (
                f"difference at the range of {self.origin} ({self.tensor!r}): {self.reason}{after}"
            )
        among = f", or another of the {len(self.nodes)} nodes" if len(self.nodes) > 1 else ""
        why = f": {self.reason}" if self.reason else ""
        own = f", which is {self.own} in the candidate" if self.own else ""
        which = f"{self.operator} {self.tensor!r} of the ONNX graph"
        by = f"{self.relative:.1e} of its range"
        return f"difference at {self.origin}{own} ({which}{among}) of {by}{why}{after}"


@dataclass
class Bisection:
    """What a search found.

    Attributes:
        divergences: Every layer that makes something else, in the order of the graph.
        layers: Everything that was looked at, in the order of the graph.
        runs: How often the candidate was run.
        nonfinite: The original's name of its first tensor that holds NaN or infinity, if one does.
    """

    divergences: list[Divergence] = field(default_factory=list)
    layers: list[LayerRow] = field(default_factory=list)
    runs: int = 0
    nonfinite: str | None = None


def find_divergence(
    original: Engine | Model | Inside,
    model: Model,
    feeds: Feeds,
    tolerance: float = LAYER_TOLERANCE,
    *,
    memory: int | None = None,
) -> Divergence | None:
    """Return the first layer of ``model`` that makes something else than the original does.

    Args:
        original: Asked for its inner tensors; a `MatchedGraph` where the two share no names.
        model: Run in onnxruntime, node by node.
        feeds: Of the original.
        tolerance: Of float32 layers, as a fraction of a tensor's range.
        memory: Bytes that tensors may take; None takes half of what is free.

    Returns:
        None if the original can't be asked, or every layer does the same.
    """
    inside = inside_of(original)
    if inside is None:
        return None
    search = _Search(inside, model, feeds, tolerance, memory)
    found = search.first(0, len(search.shared))
    return found[0] if found else None


def bisect(
    original: Engine | Model | Inside,
    model: Model,
    feeds: Feeds,
    tolerance: float = LAYER_TOLERANCE,
    *,
    memory: int | None = None,
) -> Bisection | None:
    """Look at every layer of ``model``; the parameters are those of `find_divergence`."""
    inside = inside_of(original)
    if inside is None:
        return None
    search = _Search(inside, model, feeds, tolerance, memory, arrived=True)
    search.all(0, len(search.shared))
    return search.result


class _Search:
    """One search: what both have, and what has been seen so far."""

    def __init__(
        self,
        inside: Inside,
        model: Model,
        feeds: Feeds,
        tolerance: float,
        memory: int | None,
        *,
        arrived: bool = False,
    ) -> None:
        self.inside, self.model, self.feeds = inside, model, feeds
        self.tolerance, self.arrived = tolerance, arrived
        self.graph = ForcedGraph(model)
        graph = self.graph
        # What is the same whatever is fed is not computed. Of integers and booleans, which may be
        # sizes in one layout, the outputs alone are looked at, and no layer is fed them.
        ends = {value.name for value in graph.proto.graph.output}
        floats = {name for name in graph.makers if graph.types.get(name, _FLOATS[0]) in _FLOATS}
        made = [name for name in graph.makers if name in graph.varying and name in floats | ends]
        self.shared = shared_tensors(inside, model, made)
        self._readable = [entry for entry in self.shared if entry.tensor in floats]
        self._whole = [entry for entry in self.shared if entry.tensor not in floats]
        self._agreed: list[Shared] = []
        self.order = {name: index for index, name in enumerate(graph.makers)}
        self.result = Bisection()
        self.budget = (available_memory() // 2 if memory is None else memory) // _COPIES
        self.sizes = tensor_sizes(model, adapted(feeds, model))

    # -- Which tensors are looked at together -------------------------------------------------

    def _fits(self, low: int, high: int) -> bool:
        bytes_ = sum(self.sizes.get(entry.tensor, 0) for entry in self.shared[low:high])
        return high - low == 1 or bytes_ <= self.budget

    def all(self, low: int, high: int) -> None:
        """Look at everything, in as few runs as fit into memory."""
        if low == high:
            return
        if self._fits(low, high):
            self._examine(low, high)
            return
        middle = (low + high) // 2
        self.all(low, middle)
        self.all(middle, high)

    def first(self, low: int, high: int) -> list[Divergence]:
        """Return what is found in the first part in which anything is found."""
        if low == high:
            return []
        if self._fits(low, high):
            return self._examine(low, high)
        middle = (low + high) // 2
        halves = [(low, middle), (middle, high)]
        if self._agree_at(middle - 1):
            halves.reverse()  # what is before it is probably the same, and looked at last
        for half in halves:
            found = self.first(*half)
            if found:
                return found
        return []

    def _agree_at(self, index: int) -> bool:
        """Tell whether one tensor is the same when nothing is forced."""
        entry = self.shared[index]
        theirs = self.inside.values([entry.asked], self.feeds).get(entry.asked)
        if theirs is None:
            return False
        ours = self._free([entry.tensor]).get(entry.tensor)
        if ours is None:
            return False
        agree = relative_error(entry.seen(theirs), ours) <= self.tolerance
        if agree:
            self._agreed.append(entry)
        return agree

    # -- Looking ------------------------------------------------------------------------------

    def _examine(self, low: int, high: int) -> list[Divergence]:
        """Look at the shared tensors from ``low`` up to ``high`` in one run of each side."""
        window = self.shared[low:high]
        quantizers = self._quantizers(low, high)
        wanted = list(dict.fromkeys([e.tensor for e in window] + [q.tensor for q in quantizers]))
        while True:
            names = {entry.tensor for entry in self._readable}
            segments = {name: self.graph.segment(name, names) for name in wanted}
            read = set(wanted).union(*(segment.given for segment in segments.values()))
            needed = [entry for entry in (*self._readable, *self._whole) if entry.tensor in read]
            theirs = self._theirs(needed)
            if len(theirs) == len(needed):
                break
            # What the original turns out not to have is no border of segments.
            self._readable, self._whole = (
                [e for e in entries if e.tensor in theirs or e.tensor not in read]
                for entries in (self._readable, self._whole)
            )
        # One that a quantizer alone makes of an input has no layer.
        window = [
            e for e in window if e.tensor in theirs and self._is_judged(e, segments[e.tensor])
        ]
        # A runtime may keep more digits between nodes than the graph says, but not in its outputs.
        wanted += [name for segment in segments.values() for name in self._halves(segment)]
        whole = {entry.tensor for entry in self._whole}
        floats = {name: value for name, value in theirs.items() if name not in whole}
        given = self._given([entry for entry in needed if entry.tensor in floats], floats)
        ours = self.graph.run(
            [name for name in dict.fromkeys(wanted) if name in self.graph.makers],
            given,
            self.feeds,
        )
        free = self._free([entry.tensor for entry in window]) if self.arrived else {}
        self.result.runs += 1
        found = self._judged(window, segments, theirs, ours, free)
        values = adapted(self.feeds, self.model) | ours | given
        found += [p for q in quantizers if (p := self._saturating(q, values[q.tensor]))]
        found.sort(key=lambda d: (self.order.get(d.tensor, -1), d.quantizer))
        found = [replace(divergence, agreed=self._before(divergence)) for divergence in found]
        self.result.divergences += found
        return found

    def _is_judged(self, entry: Shared, segment: Segment) -> bool:
        """Tell whether a segment's result says something of its nodes.

        A rounding on the way to an integer or a boolean can be another number's in the end, and of
        what is equal either may be chosen.
        """
        if entry not in self._whole:
            return bool(segment.nodes)
        if len(segment.nodes) != 1 or segment.precision != "fp32":
            return False
        (node,) = segment.nodes
        last = is_op(node, *_PLACES) and any(
            each.name == "select_last_index" and each.i for each in node.attribute
        )
        return not last and not is_op(node, *_CHOOSING)

    def _halves(self, segment: Segment) -> list[str]:
        """Return the half-precision tensors within a segment."""
        if segment.precision != "fp16":
            return []
        made = (name for node in segment.nodes[1:] for name in node.output)
        return [name for name in made if self.graph.types.get(name) in HALF_TYPES]

    def _before(self, divergence: Divergence) -> str | None:
        """Return the framework's name of the last tensor before ``divergence`` that is the same."""
        place = self.order.get(divergence.tensor, -1)
        before = [e for e in self._agreed if self.order[e.tensor] < place]
        return max(before, key=lambda e: self.order[e.tensor]).origin if before else None

    def _quantizers(self, low: int, high: int) -> list[Quantizer]:
        """Return the quantizers that stand between two places in the list of shared tensors."""
        last = len(self.shared)
        begin = self.order[self.shared[low].tensor] if low else -1
        end = self.order[self.shared[high].tensor] if high < last else len(self.order)
        return [q for q in self.graph.quantizers if begin <= self.order.get(q.tensor, -1) < end]

    def _theirs(self, entries: Sequence[Shared]) -> Outputs:
        """Return the original's values in the candidate's layouts, by the candidate's names."""
        asked = list(dict.fromkeys(entry.asked for entry in entries))
        found = self.inside.values(asked, self.feeds)
        return {e.tensor: e.seen(found[e.asked]) for e in entries if e.asked in found}

    def _given(self, entries: Sequence[Shared], theirs: Outputs) -> Outputs:
        """Return the values as the original's layers read them: rounded, where they are there."""
        behind = {e: self.inside.behind(e.asked) for e in entries}
        rounded = {entry: name for entry, name in behind.items() if name != entry.asked}
        if not rounded:
            return theirs
        found = self.inside.values(list(dict.fromkeys(rounded.values())), self.feeds)
        return theirs | {e.tensor: e.seen(found[n]) for e, n in rounded.items() if n in found}

    def _free(self, tensors: Sequence[str]) -> Outputs:
        """Return what the candidate makes of the inputs; nothing where it can't be run."""
        try:
            with OnnxRuntime(exposing(self.graph.proto, tensors), optimize=False) as session:
                return session.infer(adapted(self.feeds, session))
        except ModelError:
            return {}

    def _judged(
        self,
        window: Sequence[Shared],
        segments: dict[str, Segment],
        theirs: Outputs,
        ours: Outputs,
        free: Outputs,
    ) -> list[Divergence]:
        found = []
        for entry in window:
            name, segment = entry.tensor, segments[entry.tensor]
            sides = [theirs[name], ours[name], *([free[name]] if name in free else [])]
            if all(np.isfinite(v).all() and v.shape == sides[0].shape for v in sides):
                sides = [self.graph.as_read(name, value) for value in sides]
            expected, actual = sides[:2]
            operator = op_of(segment.nodes[0])
            relative, kept = relative_error(expected, actual), sqnr(expected, actual)
            if self.result.nonfinite is None and not np.isfinite(expected).all():
                self.result.nonfinite = entry.origin
            self.result.layers.append(
                LayerRow(
                    name, entry.origin, operator, segment.precision, relative, kept,
                    sqnr(expected, sides[2]) if name in free else None,
                )
            )  # fmt: skip
            precision = segment.precision
            if precision == "fp32" and self.inside.in_half:
                precision = "fp16"  # the original's layer may round
            reason = self._broken(precision, relative, kept, expected, actual)
            for inner in self._halves(segment):
                if not np.isfinite(ours[inner]).all() and np.isfinite(expected).all():
                    reason = f"{inner!r} on the way to it is beyond the {LARGEST_HALF:.0f} of FP16"
                    relative = np.inf
            if reason is not None:
                nodes = tuple(label(node) for node in segment.nodes)
                found.append(
                    Divergence(
                        name, entry.origin, operator, relative, None, nodes, reason,
                        first=self._is_first(segment), own=entry.own,
                    )
                )  # fmt: skip
            else:
                self._agreed.append(entry)
        return found

    def _is_first(self, segment: Segment) -> bool:
        fed = set(self.graph.inputs) - set(self.graph.constants)
        return any(name in fed for node in segment.nodes for name in node.input)

    def _broken(
        self, precision: str, relative: float, kept: float, expected: Array, actual: Array
    ) -> str | None:
        """Return what is wrong with what a layer makes, or None."""
        if expected.shape != actual.shape:
            return f"its shape is {actual.shape}, {expected.shape} in the original"
        lost = np.isfinite(expected) & ~np.isfinite(actual)
        if lost.any():
            largest = float(np.abs(expected[lost]).max())
            beyond = precision == "fp16" and largest > LARGEST_HALF
            why = f", beyond the {LARGEST_HALF:.0f} of FP16" if beyond else ""
            return (
                f"{int(lost.sum())} values are NaN or infinite where the original's are finite, "
                f"up to {largest:.4g}{why}"
            )
        least = _LEAST_KEPT.get(precision)
        if least is not None:
            return None if kept >= least else (
                f"its SQNR in {precision.upper()} is {kept:.1f} dB, at least {least:.0f} are "
                "required"
            )  # fmt: skip
        allowed = (
            self.tolerance if precision == "fp32" else max(self.tolerance, HALF_LAYER_TOLERANCE)
        )
        return None if relative <= allowed else f"{allowed:.0e} is allowed in {precision}"

    def _saturating(self, quantizer: Quantizer, value: Array) -> Divergence | None:
        """Return the divergence that a range is by itself, if it cuts off too much of ``value``."""
        value = np.asarray(value, np.float32)
        clipped = quantizer.clipped(value)
        kept = sqnr(value, clipped)
        if kept >= LEAST_RANGE_SQNR:
            return None
        low, high = quantizer.limits()
        reason = (
            f"its INT8 range of {low:.4g} to {high:.4g} saturates, the values are from "
            f"{float(value.min()):.4g} to {float(value.max()):.4g}; the SQNR is {kept:.1f} dB, at "
            f"least {LEAST_RANGE_SQNR:.0f} are required"
        )
        origin = self.model.names[quantizer.tensor].name if (
            quantizer.tensor in self.model.names
        ) else quantizer.tensor  # fmt: skip
        return Divergence(
            quantizer.tensor, origin, "QuantizeLinear", relative_error(value, clipped),
            None, (quantizer.node,), reason, quantizer=True,
        )  # fmt: skip
