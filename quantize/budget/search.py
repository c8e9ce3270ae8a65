"""Which layers to leave in float, so that a budget is kept and little time is lost.

1. `sensitivities`: each layer alone is quantized, the others stay in float, and the error of the
   outputs is measured on a few samples. To first order the errors of layers are independent, so
   that of a mix is the sum of those of its INT8 layers.
2. `search`: layers go to float in the order of sensitivity per second lost. How many have to is
   found by doubling and halving, each step measured by the real metric; then those that cost most
   are tried in INT8 again, one by one.

Nothing is drawn at random: the same inputs give the same mix. The caller's function remembers what
was measured, so that a search that was cut short goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Outputs
from onnxgraft.progress import track
from onnxgraft.run.exact import exact
from onnxgraft.stages.quantize.improve.improve import Prepared
from onnxgraft.stages.quantize.place.costs import LayerCost
from onnxgraft.stages.quantize.place.placement import Placement
from onnxgraft.stages.quantize.place.qdq import quantize

__all__ = ["Mix", "Trial", "order", "search", "sensitivities"]

LossOf = Callable[[frozenset[str]], float]


@dataclass(frozen=True)
class Trial:
    """One mix, measured by the real metric.

    Attributes:
        float_layers: The layers in float.
        loss: In the unit of the budget; NaN counts as more than any.
        seconds: What its layers are estimated to take.
    """

    float_layers: frozenset[str]
    loss: float
    seconds: float

    def within(self, budget: float) -> bool:
        """Tell whether the loss is a number and in the budget."""
        return self.loss <= budget


@dataclass(frozen=True)
class Mix:
    """What a search found.

    Attributes:
        best: The fastest mix within the budget; where there is none, the most accurate one.
        found: Whether the best is within the budget.
        trials: All that were measured, in order.
    """

    best: Trial
    found: bool
    trials: tuple[Trial, ...]


def sensitivities(
    prepared: Prepared,
    table: Placement,
    layers: Sequence[str],
    samples: Samples,
    known: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return what each layer alone in INT8 adds to the outputs' error: noise over signal power.

    Args:
        prepared: The model, its ranges and what `improve` found.
        table: Of the target.
        layers: That run in INT8 where nothing is kept in float.
        samples: A few; each is run once for each layer.
        known: Those that were measured before.
    """
    found = dict(known or {})
    missing = [name for name in layers if name not in found]
    if not missing:
        return {name: found[name] for name in layers}
    with exact(prepared.model, name="float") as session:
        expected = [session.infer(sample.feeds) for sample in samples]
    for name in track(missing, "measuring sensitivity", len(missing)):
        model = mixed(prepared, table, set(layers) - {name})
        with exact(model, name=f"INT8 {name}") as session:
            ratios = [
                noise(right, session.infer(sample.feeds))
                for sample, right in zip(samples, expected, strict=True)
            ]
        found[name] = float(np.mean(ratios))
    return {name: found[name] for name in layers}


def mixed(prepared: Prepared, table: Placement, float_layers: Iterable[str]) -> Model:
    """Return the graph with those layers in float and all others that can be in INT8."""
    return quantize(
        prepared.model, prepared.ranges, table,
        keep_float=float_layers, improved=prepared.improved,
    )[0]  # fmt: skip


def noise(expected: Outputs, actual: Outputs) -> float:
    """Return the power of the difference over that of what was expected; the worst output's."""
    ratios = []
    for name, right in expected.items():
        if right.dtype.kind == "f":
            signal = float(np.square(right, dtype=np.float64).sum())
            error = float(np.square(right.astype(np.float64) - actual[name]).sum())
            ratios.append(error / signal if signal else float(error > 0))
    return max(ratios, default=0.0)


def order(
    sensitivity: Mapping[str, float], costs: Mapping[str, LayerCost], slower: Mapping[str, float]
) -> list[str]:
    """Return the layers by the accuracy that float buys per second that it loses, best first.

    Args:
        sensitivity: Of `sensitivities`.
        costs: Break ties: of two equal ones that with fewer multiplications comes first.
        slower: Seconds by which each layer is slower in float; where it is not, float is free.
    """
    floor = max(max(slower.values(), default=0.0), 1e-12) * 1e-3

    def gain(name: str) -> tuple[float, int, str]:
        bought = sensitivity[name] / max(slower.get(name, 0.0), floor)
        return -bought, costs[name].macs if name in costs else 0, name

    return sorted(sensitivity, key=gain)


def search(
    ranked: Sequence[str],
    loss_of: LossOf,
    seconds: Callable[[Collection[str]], float],
    budget: float,
    *,
    always: Iterable[str] = (),
    most: int = 24,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Mix:
    """Return the fastest mix within the budget that was found.

    Args:
        ranked: The layers that may go to float, best first.
        loss_of: Returns what a mix with these layers in float loses.
        seconds: Estimates how long it takes with these layers in float.
        budget: That the loss must not exceed.
        always: Layers that are in float whatever the loss.
        most: How many mixes are tried at most.
        tell: Is called with each trial.
    """
    trials: dict[frozenset[str], Trial] = {}
    base = frozenset(always)

    def trial(layers: Iterable[str]) -> Trial:
        key = base | frozenset(layers)
        if key not in trials:
            loss = loss_of(key)
            trials[key] = Trial(key, math.inf if math.isnan(loss) else loss, seconds(key))
            tell(trials[key])
        return trials[key]

    low, high = -1, 0  # more than `low` layers are needed, `high` may be enough
    while not trial(ranked[:high]).within(budget) and high < len(ranked):
        low, high = high, min(max(1, 2 * high), len(ranked))
    if trial(ranked[:high]).within(budget):
        while high - low > 1 and len(trials) < most:
            middle = (low + high) // 2
            if trial(ranked[:middle]).within(budget):
                high = middle
            else:
                low = middle
        # What costs most is tried in INT8 again, if the rest may already be enough.
        kept = list(ranked[:high])
        for name in sorted(kept, key=lambda n: seconds(base) - seconds(base | {n})):
            if len(trials) >= most:
                break
            fewer = [other for other in kept if other != name]
            if trial(fewer).within(budget):
                kept = fewer
    within = [t for t in trials.values() if t.within(budget)]
    if within:
        best = min(within, key=lambda t: (t.seconds, t.loss, len(t.float_layers)))
    else:
        best = min(trials.values(), key=lambda t: (t.loss, t.seconds))
    return Mix(best, bool(within), tuple(trials.values()))
