"""Model + Ranges + Samples -> an INT8 graph that loses less, by methods that are switched singly.

`IMPROVEMENTS` lists them in the order in which they are applied: each works on what those before it
left, and stays only where the whole network gets better by it (`whole.Judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from onnxgraft.data.ranges import BY_HAND, Range, Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.pairs import fitting
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.stages.quantize.improve.activations import choose_activations, fake_quantized
from onnxgraft.stages.quantize.improve.auto import AUTO, most_chosen, settle
from onnxgraft.stages.quantize.improve.bias import added_by, left_in_outputs
from onnxgraft.stages.quantize.improve.equalize import equalize
from onnxgraft.stages.quantize.improve.products import Product, observe
from onnxgraft.stages.quantize.improve.rounding import (
    Stored,
    along,
    mse_scale,
    nearest_numbers,
    numbers_of,
    output_numbers,
    weight_scale,
)
from onnxgraft.stages.quantize.improve.smooth import smooth
from onnxgraft.stages.quantize.improve.whole import Judge, held_out, spread
from onnxgraft.stages.quantize.measure.calibrate import calibrate
from onnxgraft.stages.quantize.measure.thresholds import METHODS
from onnxgraft.stages.quantize.place.placement import (
    Placement,
    layers,
    origin,
    placed_in,
    placement,
    scale_axis,
)
from onnxgraft.stages.quantize.place.qdq import Improved, quantize
from onnxgraft.stages.quantize.place.ready import fingerprint, ready
from onnxgraft.words import several

__all__ = ["IMPROVEMENTS", "Improvement", "Prepared", "improve"]

Improvement = Literal["equalize", "smooth", "activations", "weights", "rounding", "bias"]
IMPROVEMENTS: tuple[Improvement, ...] = get_args(Improvement)

# What these take away is wrong in every sample alike, and decides between classes by more than its
# part of the noise: they stay where that is not surely more, in a network that keeps so much of its
# signal, in dB. In one that keeps less what noise adds is chance.
_SYSTEMATIC, _SIGNAL = ("bias",), 6.0
# A network with other weights is measured anew on all samples: that takes almost as long as
# calibrating did, and is done for so many dB.
_WORTH = 0.5

# How many samples are run to look at layers and channels, and to see what outputs are off.
SAMPLES, RUN = 16, 8


@dataclass(frozen=True)
class Prepared:
    """What is quantized in place of the model and ranges that `improve` got.

    Attributes:
        model: Computes the same; another one only where channels were equalized.
        ranges: Of that model.
        improved: What its layers get.
        methods: That were applied, and made the network better.
        notes: A sentence on each, and on those that were taken back.
    """

    model: Model
    ranges: Ranges
    improved: Improved = field(default_factory=Improved)
    methods: tuple[Improvement, ...] = ()
    notes: tuple[str, ...] = ()


def improve(
    model: Model,
    ranges: Ranges,
    target: str | Placement,
    samples: Samples,
    methods: Collection[str] = IMPROVEMENTS,
    *,
    seed: int = 0,
) -> Prepared:
    """Return what `quantize` needs to lose less accuracy.

    After each method the exact reference runs on samples that were kept apart; one that does not
    make the network better is taken back.

    Args:
        model: The float graph that ``ranges`` was measured on.
        ranges: With histograms, so that every method's range can be chosen.
        target: Whose form the graph will have.
        samples: What was calibrated on, never what is validated on.
        methods: Of `IMPROVEMENTS`:
            ``equalize`` moves scales between channels and calibrates again;
            ``smooth`` moves them from what layer normalizations make into the weights behind;
            ``activations`` chooses each range by the error in the outputs of its readers;
            ``weights`` cuts weights where their mean squared error is smallest;
            ``rounding`` rounds them so that the error in their layer's output is small;
            ``bias`` takes off each layer's bias what quantization adds on average.
        seed: Chooses the positions that are looked at.

    Raises:
        InputError: A method is unknown, or the ranges are of another graph.
    """
    for name in methods:
        if name not in IMPROVEMENTS:
            raise InputError(f"no method is called {name!r}; {nearest(name, IMPROVEMENTS)}")
    model = ready(model)
    if ranges.model != fingerprint(model):
        raise InputError(
            f"{ranges.file}: was measured on another graph than {model.file}; calibrate again"
        )
    table = placement(target) if isinstance(target, str) else target
    fitted, kept = held_out(samples, ranges.skipped)
    notes = []
    if ranges.method == AUTO and ranges.chosen_for != table.name and ranges.histograms:
        ranges = settle(model, ranges, samples, table)
        notes.append(ranges.choice)
    work = _Work(table, fitted, seed)
    judge = Judge(model, kept, table, work.others)
    best = Prepared(model, ranges)
    least = judge.noise(model, ranges)
    for name in (name for name in IMPROVEMENTS if name in methods):
        found, done = _STEPS[name](work, best)
        if found is best:
            continue  # there was nothing to do
        noise = judge.noise(found.model, found.ranges, found.improved, than=least)
        stays, why = noise.better_than(least), "no sure gain"
        if stays and found.model is not best.model:
            # Whether it is worth while a few samples tell; what is used is measured on all.
            if noise.gain(least)[0] > _WORTH:
                found = replace(found, ranges=_again(found.model, best.ranges, samples, table))
                noise = judge.noise(found.model, found.ranges, found.improved)
                stays = noise.better_than(least)
            else:
                stays, why = False, "too little for another pass over the samples"
        with_it, without = f"{-noise.mean:.1f} dB", f"{-least.beside(noise).mean:.1f} dB"
        free = name in _SYSTEMATIC and least.mean < -_SIGNAL
        if stays or (free and noise.no_worse_than(least)):
            best, least = replace(found, methods=(*best.methods, name)), noise
            notes.append(f"{done}: {without} of signal over noise became {with_it}")
        else:
            gain = f", {why}," if noise.gain(least)[0] > 0 else ""
            notes.append(
                f"{name} was taken back: signal over noise is {with_it} with it{gain} and "
                f"{without} without"
            )
    inside = [
        node.name for part in placed_in(model.graph, table)[1:] for node in layers(part, table)
    ]
    if inside and methods:
        notes.append(
            f"the methods that make {table.format.upper()} lose less leave layers in the bodies "
            f"of If, Loop and Scan as they are: {', '.join(inside)}"
        )
    return replace(best, notes=tuple(notes))


@dataclass
class _Work:
    """What the methods look at.

    Attributes:
        table: Of the target.
        fitted: Samples that a method may fit to.
        seed: Chooses positions in them.
    """

    table: Placement
    fitted: Samples
    seed: int
    _observed: tuple[Model, dict[str, Product]] | None = None

    @property
    def few(self) -> Samples:
        """Those that layers are looked at on."""
        return spread(self.fitted, SAMPLES)

    @property
    def others(self) -> Samples:
        """Those of which nothing but ranges is known."""
        looked_at = {*self.few.indices}
        indices = tuple(index for index in self.fitted.indices if index not in looked_at)
        return replace(self.fitted, indices=indices)

    def products(self, model: Model) -> dict[str, Product]:
        """Return the layers of a model with what their kernels met."""
        if self._observed is None or self._observed[0] is not model:
            nodes = layers(model.graph, self.table)
            self._observed = model, observe(model, nodes, self.few, self.seed)
        return self._observed[1]


def _equalize(work: _Work, state: Prepared) -> tuple[Prepared, str]:
    keep = _by_hand(state.ranges)
    # Where products are computed in integers, one by a factor for each channel would stay in float.
    model, done = equalize(state.model, work.few, keep, integers=work.table.also)
    if not done:
        return state, ""
    ranges = _again(model, state.ranges, work.few, work.table)
    tensors = several(len(done), "tensor")
    return replace(state, model=model, ranges=ranges), f"channels of {tensors} equalized"


def _again(model: Model, ranges: Ranges, samples: Samples, table: Placement) -> Ranges:
    """Return the ranges of a model that computes what that of ``ranges`` does, chosen likewise."""
    # Another table may want what no target does.
    usual = table == placement(table.target, kind=table.format)
    found = calibrate(
        model, samples, most_chosen(ranges), targets=[table.target] if usual else ranges.targets,
        skip_bad=bool(ranges.skipped),
    )  # fmt: skip
    return found.with_overrides(_by_hand(ranges), ranges.file)


def _by_hand(ranges: Ranges) -> dict[str, tuple[float, float]]:
    return {n: (v.low, v.high) for n, v in ranges.tensors.items() if v.origin == BY_HAND}


def _smooth(work: _Work, state: Prepared) -> tuple[Prepared, str]:
    keep = _by_hand(state.ranges)
    model, done = smooth(state.model, work.few, keep)
    if not done:
        return state, ""
    ranges = _again(model, state.ranges, work.few, work.table)
    return replace(state, model=model, ranges=ranges), (
        f"scales of {several(len(done), 'tensor')} moved into weights"
    )


def _activations(work: _Work, state: Prepared) -> tuple[Prepared, str]:
    ranges, chosen = choose_activations(state.ranges, work.products(state.model), work.table)
    return replace(state, ranges=ranges), (
        f"activation ranges of {several(len(chosen), 'tensor')} chosen by layer output error "
        f"({_counted(chosen)})"
    )


def _weights(work: _Work, state: Prepared) -> tuple[Prepared, str]:
    found = _weighed(work, state, {*state.methods, "weights"})
    layers = several(len(found.improved.weights), "layer")
    return found, f"per-channel weight ranges of {layers} chosen by MSE"


def _rounding(work: _Work, state: Prepared) -> tuple[Prepared, str]:
    found = _weighed(work, state, {*state.methods, "rounding"})
    layers = several(len(found.improved.weights), "layer")
    return found, f"weights of {layers} rounded by layer output error"


def _weighed(work: _Work, state: Prepared, methods: Collection[str]) -> Prepared:
    products = work.products(state.model)
    weights = {
        name: _stored(product, state.ranges, work.table, methods)
        for name, product in track(products.items(), "rounding weights", len(products))
    }
    return replace(state, improved=Improved(weights, state.improved.bias))


def _bias(work: _Work, state: Prepared) -> tuple[Prepared, str]:
    bias = {}
    for name, product in work.products(state.model).items():
        value = _input_range(product, state.ranges)
        if value is None:
            continue
        stored = state.improved.weights.get(name) or _stored(product, state.ranges, work.table, ())
        added = added_by(product, stored, value, work.table, len(work.few))
        if added is not None:
            bias[name] = added
    improved = Improved(state.improved.weights, bias)
    quantized, report = quantize(state.model, state.ranges, work.table, improved=improved)
    for name, left in left_in_outputs(state.model, quantized, spread(work.fitted, RUN)).items():
        bias[name] = bias.get(name, 0) + left
    bias = {name: added for name, added in bias.items() if name in report.layers}
    if not bias:
        return state, ""
    improved = Improved(state.improved.weights, bias)
    return replace(state, improved=improved), f"biases of {several(len(bias), 'layer')} corrected"


_STEPS: Mapping[str, Callable[[_Work, Prepared], tuple[Prepared, str]]] = {
    "equalize": _equalize,
    "smooth": _smooth,
    "activations": _activations,
    "weights": _weights,
    "rounding": _rounding,
    "bias": _bias,
}


def _stored(product: Product, ranges: Ranges, table: Placement, methods: Collection[str]) -> Stored:
    values, axis = product.weights, scale_axis(table, product.node)
    numbers = numbers_of(table.format)
    choose = mse_scale if "weights" in methods else weight_scale
    scale = choose(values, axis, numbers=numbers)
    value = _input_range(product, ranges)
    if "rounding" not in methods or value is None:

        def rounded(scale: Array) -> Array:
            return nearest_numbers(values, scale, axis, numbers)

    else:
        vectors = fake_quantized(product.vectors, value, table)

        def rounded(scale: Array) -> Array:
            steps = np.broadcast_to(along(scale, axis, values.ndim), values.shape)
            found = output_numbers(product.matrix(values), product.matrix(steps), vectors, numbers)
            return product.unmatrix(found)

    if table.pairs:
        integers, scale = fitting(product.node, scale, axis, rounded)
        return Stored(integers, scale, axis)
    return Stored(rounded(scale), scale, axis)


def _input_range(product: Product, ranges: Ranges) -> Range | None:
    """Return the range of what a layer reads; None where it is not known, or zero."""
    tensor = product.node.inputs[0]
    value = ranges.tensors.get(tensor.name) or ranges.tensors.get(origin(tensor).name)
    return None if value is None or not value.amax > 0 else value


def _counted(chosen: Mapping[str, str]) -> str:
    """Return such as ``mse for 12, a fraction of the maximum for 9``."""
    names = list(chosen.values())
    parts = [f"{m} for {names.count(m)}" for m in METHODS if m in names]
    rest = sum(name not in METHODS for name in names)
    return ", ".join([*parts, *([f"a fraction of the maximum for {rest}"] if rest else [])])
