"""Time by layer: what libraries count, by the graph's nodes and the framework's names."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field

from onnxgraft.graph.model import Model
from onnxgraft.run.layer_nodes import Called, Groups, Placed, Planned, call, called, place
from onnxgraft.run.layers import LayerTimes, plain_precision
from onnxgraft.stages.validate.report import LayersTimedRow, LayerTimeRow
from onnxgraft.targets import FORMATS

__all__ = ["Timed", "layer_times"]

# Less of an engine's time than this, as a fraction, keeps it from nothing.
_LITTLE = 0.01
# What a layer does in a precision that takes less than this part of its time is not told.
_PART = 0.1
# So many layers are named in a sentence.
_NAMED = 3


@dataclass(frozen=True)
class Timed:
    """An engine whose layers were timed.

    Attributes:
        name: In tables.
        library: That runs it.
        batch: Images in one inference.
        times: As its library counts them.
        model: The graph that it was built from; None where that is not at hand.
    """

    name: str
    library: str
    batch: int
    times: LayerTimes
    model: Model | None


@dataclass
class _Share:
    """What one engine spends on one layer of the network.

    Attributes:
        moving: Milliseconds in what is moved and converted for it.
        runs: Milliseconds in what it computes, by the precision that the engine tells.
        stands: The same by the precision in the graph.
    """

    moving: float = 0.0
    runs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    stands: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def milliseconds(self) -> float:
        """All that it takes."""
        return self.moving + sum(self.runs.values())

    def add(self, placed: Placed, planned: str) -> None:
        spent = placed.layer.milliseconds or 0.0
        if placed.layer.role == "layer":
            self.runs[plain_precision(placed.layer.precision)] += spent
            self.stands[planned] += spent
        else:
            self.moving += spent


def _joined(shares: Mapping[str, float]) -> str:
    """Return the precisions that most is computed in, that of the most first."""
    known = {name: spent for name, spent in shares.items() if name}
    least = _PART * sum(known.values())
    return " + ".join(
        name for name in sorted(known, key=lambda name: -known[name]) if known[name] >= least
    )


def layer_times(engines: Sequence[Timed]) -> tuple[list[LayerTimeRow], list[LayersTimedRow]]:
    """Return a row for each layer and engine, and one for each engine.

    What one engine fuses and another does not is one layer in all of them.
    """
    placed = [_placed(engine) for engine in engines]
    plans = [Planned(engine.model) for engine in engines]
    groups = Groups()
    for found in placed:
        for one in found:
            if one.layer.role == "layer":
                groups.join(one.nodes)
    names: dict[str, Called] = {}
    for engine in engines:
        if engine.model is not None:
            names = called(engine.model, groups) | names
    rows: list[LayerTimeRow] = []
    wholes: list[LayersTimedRow] = []

    def name(node: str) -> Called:
        root = groups.of(node)
        return names.get(root, Called(root, root, ""))

    for engine, found, plan in zip(engines, placed, plans, strict=True):
        shares: dict[str, _Share] = defaultdict(_Share)
        for one in found:
            if one.found:
                node = one.beside or one.nodes[0]
                shares[groups.of(node)].add(one, plan.of(one.nodes))
        mine = [
            LayerTimeRow(
                engine.name, name(key).layer, name(key).node, name(key).operator,
                _joined(share.runs), _joined(share.stands), share.milliseconds, share.moving,
            )
            for key, share in shares.items()
        ]  # fmt: skip
        rows += sorted(mine, key=lambda row: groups.place(row.node))
        times = [one.layer.milliseconds or 0.0 for one in found]
        lost = [spent for one, spent in zip(found, times, strict=True) if not one.found]
        whole = LayersTimedRow(
            engine.name, engine.batch, engine.times.total, math.fsum(times), math.fsum(lost)
        )
        if any(_quantized(f"{row.precision} {row.graph}") for row in mine):
            told = [*_moving(whole, found, name), *_in_float(whole, found, plan, engine.model)]
            whole.slow = [sentence for _, sentence in sorted(told, reverse=True)]
        wholes.append(whole)
    _compare(rows, wholes, {engine.name: engine.library for engine in engines})
    return rows, wholes


def _placed(engine: Timed) -> list[Placed]:
    """Return an engine's layers in the graph; without it, each under the name of its first node."""
    if engine.model is not None:
        return place(engine.model, engine.times.layers)
    return [
        Placed(layer, (layer.nodes or (layer.name,))[:1])
        if layer.role == "layer"
        else Placed(layer, (), (layer.nodes or (layer.name,))[0])
        for layer in engine.times.layers
    ]


# What keeps INT8 from being faster --------------------------------------------------------------


def _moving(
    whole: LayersTimedRow, found: Sequence[Placed], name: Callable[[str], Called]
) -> Iterator[tuple[float, str]]:
    """Yield what reorders and conversions take, with a sentence on it."""
    for role, words in (
        ("reorder", "reorders, which move tensors into another layout, took"),
        ("conversion", "conversions between precisions took"),
    ):
        costs: dict[str, float] = defaultdict(float)
        for one in found:
            if one.layer.role == role:
                layer = name(one.beside).layer if one.beside else one.layer.name
                change = f" ({one.layer.change})" if one.layer.change else ""
                costs[f"for {layer}{change}"] += one.layer.milliseconds or 0.0
        yield from _sentence(whole, words, costs)


def _in_float(
    whole: LayersTimedRow, found: Sequence[Placed], plan: Planned, model: Model | None
) -> Iterator[tuple[float, str]]:
    """Yield what layers in float take, with a sentence on it; quantized in the graph or not."""
    refused: dict[str, float] = defaultdict(float)
    kinds = {plan.of(one.nodes) for one in found} & set(FORMATS) or {"int8"}
    kind = " or ".join(sorted(kinds)).upper()
    kept: dict[str, float] = defaultdict(float)
    for one in found:
        inside = ("", *FORMATS)
        if one.layer.role == "layer" and plain_precision(one.layer.precision) not in inside:
            nodes = plan.nodes(one.nodes or [one.beside])
            known = call(model, nodes) if model is not None and nodes else None
            told = one.layer.name if known is None else f"{known.layer} ({known.operator})"
            costs = refused if plan.of(one.nodes) in FORMATS else kept
            costs[told] += one.layer.milliseconds or 0.0
    yield from _sentence(
        whole,
        f"{_count(refused)} that the graph has in {kind} ran in float, for which the library has "
        f"no {kind} kernel here, and took",
        refused,
    )
    where = "ran in float" if model is None else "the graph has in float"
    yield from _sentence(whole, f"{_count(kept)} that {where} took", kept)


def _quantized(precision: str) -> bool:
    return any(kind in precision for kind in FORMATS)


def _count(layers: Sized) -> str:
    return f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"


def _sentence(
    whole: LayersTimedRow, words: str, costs: Mapping[str, float]
) -> list[tuple[float, str]]:
    """Return a sentence on what some layers take, with that; none where it is little."""
    spent = sum(costs.values())
    if not whole.layers or spent < _LITTLE * whole.layers:
        return []
    most = sorted(costs.items(), key=lambda item: -item[1])[:_NAMED]
    told = ", ".join(f"{name} {cost:.3g} ms" for name, cost in most if cost > 0)
    more = ", and more" if len(costs) > _NAMED else ""
    share = 100 * spent / whole.layers
    return [(spent, f"{words} {spent:.3g} ms ({share:.0f} %): {told}{more}")]


def _compare(
    rows: Sequence[LayerTimeRow], wholes: Sequence[LayersTimedRow], libraries: Mapping[str, str]
) -> None:
    """Add to each INT8 engine which of its INT8 layers are no faster than in the float engine."""
    engines: dict[str, dict[str, LayerTimeRow]] = {}
    for row in rows:
        engines.setdefault(row.engine, {})[row.layer] = row
    integers = {row.engine for row in rows if _quantized(row.precision)}
    floats = [whole.engine for whole in wholes if whole.engine not in integers]
    for whole in wholes:
        # Of the same library, or else the first.
        own = [name for name in floats if libraries[name] == libraries[whole.engine]]
        float_ = next(iter((*own, *floats)), None)
        if whole.engine not in integers or float_ is None:
            continue
        theirs = engines[float_]
        mine = engines[whole.engine].values()
        late = {
            f"{row.layer} ({row.milliseconds:.3g} ms, {theirs[row.layer].milliseconds:.3g} in "
            "float)": row.milliseconds - theirs[row.layer].milliseconds
            for row in mine
            if _quantized(row.precision) and row.layer in theirs
            and row.milliseconds >= theirs[row.layer].milliseconds > 0
        }  # fmt: skip
        lost = sum(late.values())
        if late and lost >= _LITTLE * whole.layers:
            most = sorted(late, key=lambda name: -late[name])[:_NAMED]
            more = ", and more" if len(late) > _NAMED else ""
            kind = "FP8" if any("fp8" in row.precision for row in mine) else "INT8"
            whole.slow.append(
                f"{kind} was no faster than {float_} in {_count(late)}: {', '.join(most)}{more}"
            )
