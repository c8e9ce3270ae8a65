"""Model + Ranges + Samples -> an INT8 graph that loses less, by methods that are switched singly.

`METHODS_TO_IMPROVE` lists them in the order in which they are applied: each works on what those
before it left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.model import Model
from onnxgraft.graph.pairs import fitting
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.stages.quantize.improve.activations import choose_activations, fake_quantized
from onnxgraft.stages.quantize.improve.bias import corrections
from onnxgraft.stages.quantize.improve.equalize import equalize
from onnxgraft.stages.quantize.improve.products import Product, observe
from onnxgraft.stages.quantize.improve.rounding import (
    Stored,
    along,
    mse_scale,
    nearest_integers,
    output_integers,
    weight_scale,
)
from onnxgraft.stages.quantize.measure.calibrate import calibrate, fingerprint
from onnxgraft.stages.quantize.measure.thresholds import METHODS
from onnxgraft.stages.quantize.place.placement import (
    Placement,
    layers,
    origin,
    placement,
    scale_axis,
)
from onnxgraft.stages.quantize.place.qdq import Improved, quantize
from onnxgraft.stages.quantize.place.ready import ready

__all__ = ["DEFAULT_IMPROVEMENTS", "IMPROVEMENTS", "Improvement", "Prepared", "improve", "spread"]

Improvement = Literal["equalize", "activations", "weights", "rounding", "bias"]
IMPROVEMENTS: tuple[Improvement, ...] = get_args(Improvement)
# The others take minutes; what each is worth is in benchmarks/quantization.md.
DEFAULT_IMPROVEMENTS: tuple[Improvement, ...] = ("activations", "weights", "rounding")

# How many samples are run to look at layers, and for each layer to correct its bias.
SAMPLES = 16
BIAS_SAMPLES = 8
# What the methods that work on a layer's weights did, in words.
_NOTED = {
    "weights": "per-channel weight ranges refined by MSE",
    "rounding": "weights rounded by layer output error",
}


@dataclass(frozen=True)
class Prepared:
    """What is quantized in place of the model and ranges that `improve` got.

    Attributes:
        model: Computes the same; another one only where channels were equalized.
        ranges: Of that model.
        improved: What its layers get.
        methods: That were applied.
        notes: A sentence on each.
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
    methods: Collection[str] = DEFAULT_IMPROVEMENTS,
    *,
    seed: int = 0,
) -> Prepared:
    """Return what `quantize` needs to lose less accuracy.

    Args:
        model: The float graph that ``ranges`` was measured on.
        ranges: With histograms, so that every method's range can be chosen.
        target: Whose form the graph will have.
        samples: What was calibrated on, never what is validated on.
        methods: Of `IMPROVEMENTS`:
            ``equalize`` moves scales between channels and calibrates again;
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
    few, notes = spread(samples, SAMPLES), []
    if "equalize" in methods:
        model, done = equalize(model, few)
        notes.append(f"channels of {len(done)} tensors equalized")
        if done:
            method = ranges.method if ranges.method in METHODS else "entropy"
            ranges = calibrate(model, samples, method)
    products: dict[str, Product] = {}
    if {"activations", "rounding", "weights"} & set(methods):
        products = observe(model, layers(model.graph, table), few, seed)
    if "activations" in methods:
        ranges, chosen = choose_activations(ranges, products, table)
        notes.append(
            f"activation ranges of {len(chosen)} tensors chosen by layer output error: "
            f"{_counted(chosen)}"
        )
    weights: dict[str, Stored] = {}
    if {"rounding", "weights"} & set(methods):
        for name, product in track(products.items(), "rounding weights", len(products)):
            weights[name] = _stored(product, ranges, table, methods)
        notes += [f"{_NOTED[m]} in {len(weights)} layers" for m in _NOTED if m in methods]
    bias: dict[str, Array] = {}
    if "bias" in methods:

        def quantized(found: Mapping[str, Array]) -> Model:
            return quantize(model, ranges, table, improved=Improved(weights, found))[0]

        chosen_layers = set(quantize(model, ranges, table)[1].layers)
        nodes = [n for n in layers(model.graph, table) if n.name in chosen_layers]
        bias = corrections(model, nodes, quantized, spread(samples, BIAS_SAMPLES))
        notes.append(f"biases corrected in {len(bias)} layers")
    applied = tuple(name for name in IMPROVEMENTS if name in methods)
    return Prepared(model, ranges, Improved(weights, bias), applied, tuple(notes))


def spread(samples: Samples, count: int) -> Samples:
    """Return ``count`` samples from all over: neighbours are often frames of one film."""
    total = len(samples)
    chosen = [samples.indices[i * total // count] for i in range(min(count, total))]
    return replace(samples, indices=tuple(chosen) if total > count else samples.indices)


def _stored(product: Product, ranges: Ranges, table: Placement, methods: Collection[str]) -> Stored:
    values, axis = product.weights, scale_axis(table, product.node)
    scale = (mse_scale if "weights" in methods else weight_scale)(values, axis)
    tensor = product.node.inputs[0]
    value = ranges.tensors.get(tensor.name) or ranges.tensors.get(origin(tensor).name)
    if "rounding" not in methods or value is None or not value.amax > 0:

        def rounded(scale: Array) -> Array:
            return nearest_integers(values, scale, axis)

    else:
        vectors = fake_quantized(product.vectors, value, table)

        def rounded(scale: Array) -> Array:
            steps = np.broadcast_to(along(scale, axis, values.ndim), values.shape)
            found = output_integers(product.matrix(values), product.matrix(steps), vectors)
            return product.unmatrix(found)

    if table.pairs:
        integers, scale = fitting(product.node, scale, axis, rounded)
        return Stored(integers, scale, axis)
    return Stored(rounded(scale), scale, axis)


def _counted(chosen: Mapping[str, str]) -> str:
    """Return such as ``mse for 12, a fraction of the maximum for 9``."""
    names = list(chosen.values())
    parts = [f"{m} for {names.count(m)}" for m in METHODS if m in names]
    rest = sum(name not in METHODS for name in names)
    return ", ".join([*parts, *([f"a fraction of the maximum for {rest}"] if rest else [])])
