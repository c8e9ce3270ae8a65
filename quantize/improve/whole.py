"""What the whole network loses in INT8: the exact reference's answers beside the float graph's.

A choice that is right for one layer may be wrong for the network. So what was chosen is run, on
calibration samples that had no part in the choice: a quarter of them, which `held_out` keeps
apart. The noise is in dB, less is better:

    10 log10 (sum of (y - y')^2 / sum of (y - mean y)^2)

for each channel of each output, and then the mean: the coordinates of boxes and the scores beside
them, or a class that is rare, count alike. A channel with more noise than signal is lost, and 0 dB:
how much more is chance, by which nothing is chosen.

Of a classifier's probabilities what a Softmax or Sigmoid takes counts: where it is sure, the
probability is 1 whatever the noise, and what is left of it says nothing of the next sample. Where a
sample has many, as of a map's pixels, those of which it is not sure are among them.

Of a few values the noise in dB is chance: that of one is off by 10 dB. There the outputs of several
samples count as one sample's. As a quarter may have too few, improvements are judged on some of the
other three, too, of which nothing but ranges was measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.data.ranges import Ranges
from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.operators import is_op
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.quantize.measure.measurer import last_quarter, quarter_last
from onnxgraft.stages.quantize.place.placement import Placement
from onnxgraft.stages.quantize.place.qdq import Improved, quantize

__all__ = ["Judge", "Noise", "held_out", "spread"]

# So many samples are run, at most; what is worse on each of the first few is not run on the others.
SAMPLES = 8
_FIRST = 3
# Of outputs of few values the noise of one sample is chance: so many together count as one.
_TOGETHER = 8
# Of dB; what is less is no difference.
_LEAST = 0.05
# By so many standard errors it is sure that a choice is not worse than that, in dB, where it gains,
# and where it does not.
_SURE, _WORSE, _MUCH = 2.0, 0.1, 0.3
# Nothing is below: a graph that computes the same.
_SILENT = -150.0
# A channel of fewer values is none.
_FEWEST = 16
# Of fewer predictions in a sample what goes into a Softmax or Sigmoid is judged.
_FEW = 256
# What may stand between it and an output: nothing that computes.
_STORED = ("QuantizeLinear", "DequantizeLinear")
_BETWEEN = (*_STORED, "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")


@dataclass(frozen=True)
class Noise:
    """The noise of one choice, in dB, on each sample that it ran on; less is better.

    Where the outputs have few values, several samples are one.
    """

    samples: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the samples."""
        return float(np.mean(self.samples))

    def beside(self, other: Noise) -> Noise:
        """Return it on those samples alone that ``other`` ran on."""
        return Noise(self.samples[: len(other.samples)])

    def better_than(self, other: Noise) -> bool:
        """Tell whether it is less, by more than what the few samples leave open.

        By more than a standard error; where a network's noise differs much from sample to sample,
        by so much that it is surely not worse.
        """
        gain, error = self.gain(other)
        return gain > max(_LEAST, error, _SURE * error - _WORSE)

    def no_worse_than(self, other: Noise) -> bool:
        """Tell whether it is not more by a standard error, and surely not by much."""
        gain, error = self.gain(other)
        return gain > max(-max(_LEAST, error), _SURE * error - _MUCH)

    def gain(self, other: Noise) -> tuple[float, float]:
        """Return by how much it is less on the same samples, and the standard error of that."""
        gains = np.array(other.beside(self).samples) - self.samples
        if not np.isfinite(gains).all():  # one of them is all wrong
            return (math.inf if self.mean < other.beside(self).mean else -math.inf), 0.0
        error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
        return float(gains.mean()), float(error)


class Judge:
    """Runs what was chosen for a network, and tells its noise."""

    def __init__(
        self, model: Model, samples: Samples, table: Placement, others: Samples | None = None
    ) -> None:
        """Run the float graph.

        Args:
            model: Whose answers are right.
            samples: On which it is judged.
            table: Of the target whose form the INT8 graph has.
            others: On which it is judged too, where its outputs have few values.
        """
        self._table = table
        self._groups: list[Samples] = []
        self._classified: tuple[str, ...] = ()
        found = _classified(model)
        ends: dict[str, _End] = {}
        with exact(model, outputs=_read(model, found), name="float", spinning=False) as session:
            if len(samples):
                answers = session.infer(next(iter(samples.head(1))).feeds)
                ends = {
                    name: end
                    for name, end in found.items()
                    if _predictions(answers[end.taken], end) < _FEW
                }
                values = sum(value.size for value in _judged(model, ends, answers).values())
                self._groups = _grouped(samples, others) if values < _FEW else _single(samples)
            self._expected = [_answers(model, ends, session, group) for group in self._groups]
        self._classified = tuple(ends)

    def noise(
        self,
        model: Model,
        ranges: Ranges,
        improved: Improved | None = None,
        than: Noise | None = None,
    ) -> Noise:
        """Return the noise of the INT8 graph.

        Args:
            model: A float graph that computes what the judge's does.
            ranges: Of it.
            improved: What its layers get.
            than: Of another choice; where each of the first samples is worse, they are enough.
        """
        return self.of(quantize(model, ranges, self._table, improved=improved)[0], than)

    def of(self, graph: Model, than: Noise | None = None) -> Noise:
        """Return the noise of a graph with Q and DQ, or with stored weights; see `noise`."""
        found: list[float] = []
        ends = _classified(graph)
        ends = {name: ends[name] for name in self._classified}
        with exact(graph, outputs=_read(graph, ends), name="quantized", spinning=False) as session:
            for right, group in zip(self._expected, self._groups, strict=True):
                found.append(noise_of(right, _answers(graph, ends, session, group)))
                if than is not None and len(found) == _FIRST:
                    worse = np.array(found) - than.samples[:_FIRST]
                    if (worse > _LEAST).all():
                        break
        return Noise(tuple(found))


@dataclass(frozen=True)
class _End:
    """What makes an output's probabilities.

    Attributes:
        taken: The tensor that it takes.
        axis: Of the classes that compete, of a Softmax.
    """

    taken: str
    axis: int | None


def _classified(model: Model) -> dict[str, _End]:
    """Return the outputs that a Softmax or Sigmoid makes, with what it takes."""
    found = {}
    for output in model.graph.outputs:
        tensor = _before(output, *_BETWEEN)
        end = _end(tensor.inputs[0]) if tensor.inputs else None
        if end is not None:
            found[output.name] = end
    return found


def _before(tensor: gs.Tensor, *names: str) -> gs.Tensor:
    """Return what such operators, one behind the other, make a tensor of."""
    while tensor.inputs and is_op(tensor.inputs[0], *names):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _end(node: gs.Node) -> _End | None:
    """Return what a node takes that makes probabilities; it may be the last one of a Softmax."""
    if is_op(node, "Sigmoid"):
        return _End(node.inputs[0].name, None)
    if is_op(node, "Softmax"):
        return _End(node.inputs[0].name, int(node.attrs.get("axis", -1)))
    if not is_op(node, "Div"):
        return None
    # As JAX writes it: e = Exp(x), then e over its own sum.
    exponentials = _before(node.inputs[0], *_STORED)
    total = _before(node.inputs[1], "Expand", *_BETWEEN)
    exp, summed = (tensor.inputs[0] if tensor.inputs else None for tensor in (exponentials, total))
    if not is_op(exp, "Exp") or not is_op(summed, "ReduceSum"):
        return None
    if _before(summed.inputs[0], *_STORED) is not exponentials:
        return None
    axes = summed.attrs.get("axes")
    if len(summed.inputs) > 1 and isinstance(summed.inputs[1], gs.Constant):
        axes = summed.inputs[1].values
    if axes is None or np.size(axes) != 1:
        return None
    return _End(exp.inputs[0].name, int(np.ravel(axes)[0]))


def _predictions(taken: Array, end: _End) -> int:
    """Return how many predictions a sample has, each of several classes."""
    if end.axis is not None:
        classes = taken.shape[end.axis]
    elif taken.ndim > 2:
        classes = min(taken.shape[1:])
    else:
        classes = taken.size
    return int(taken.size // max(classes, 1))


def _read(model: Model, ends: Mapping[str, _End]) -> list[str]:
    """Return the tensors to ask for: the outputs, and what is judged in their place."""
    if not ends:
        return []
    names = [tensor.name for tensor in model.graph.outputs]
    return list(dict.fromkeys([*names, *(end.taken for end in ends.values())]))


def _judged(model: Model, ends: Mapping[str, _End], answers: Outputs) -> Outputs:
    """Return the outputs, of those that are classified what is taken; no class's common part."""
    found = {}
    for output in model.graph.outputs:
        values = answers[output.name]
        end = ends.get(output.name)
        if end is not None:
            values = answers[end.taken]
            if end.axis is not None:
                values = values - values.mean(axis=end.axis, keepdims=True)
        found[output.name] = values
    return found


def _single(samples: Samples) -> list[Samples]:
    """Return the samples that are run, each for itself."""
    chosen = spread(samples, SAMPLES)
    return [replace(chosen, indices=(index,)) for index in chosen.indices]


def _grouped(samples: Samples, others: Samples | None) -> list[Samples]:
    """Return the samples that are run, neighbours together; `others` are of the same data."""
    indices = sorted({*samples.indices, *(others.indices if others else ())})
    chosen = spread(replace(samples, indices=tuple(indices)), SAMPLES * _TOGETHER).indices
    count = min(SAMPLES, len(chosen))
    cuts = [at * len(chosen) // count for at in range(count + 1)]
    return [replace(samples, indices=chosen[a:b]) for a, b in itertools.pairwise(cuts)]


def _answers(
    model: Model, ends: Mapping[str, _End], session: OnnxRuntime, group: Samples
) -> Outputs:
    """Return what is judged of the answers to some samples, one behind the other."""
    found = [_judged(model, ends, session.infer(sample.feeds)) for sample in group]
    return {name: _joined([values[name] for values in found]) for name in found[0]}


def _joined(arrays: list[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    alike = len({array.shape[1:] for array in arrays}) == 1 and arrays[0].ndim > 0
    return np.concatenate(arrays if alike else [array.ravel() for array in arrays])


def noise_of(expected: Outputs, actual: Outputs) -> float:
    """Return the noise of one sample's outputs, in dB; without any output, -150.

    Of integers, such as classes, the share that differs counts, and only where nothing is a float.
    """
    found = [
        _noise(right.astype(np.float64), actual[name].astype(np.float64))
        for name, right in expected.items()
        if right.dtype.kind == "f" and right.size
    ] or [_differing(right, actual[name]) for name, right in expected.items() if right.size]
    return float(np.mean(found)) if found else _SILENT


def _differing(expected: Array, actual: Array) -> float:
    if expected.shape != actual.shape:
        return 0.0
    return float(10 * np.log10(max(np.mean(expected != actual), 10 ** (_SILENT / 10))))


def _noise(expected: Array, actual: Array) -> float:
    if expected.shape != actual.shape or not np.isfinite(actual).all():
        return np.inf
    rows, others = _channels(expected), _channels(actual)
    signal = _energy(rows - rows.mean(axis=1, keepdims=True))
    wrong = _energy(rows - others)
    used = signal > 0
    if not used.any():  # nothing varies: what it is counts
        signal, wrong = _energy(rows).sum(keepdims=True), wrong.sum(keepdims=True)
        used = signal > 0
        if not used.any():
            return 0.0 if wrong.any() else _SILENT
    ratio = np.clip(wrong[used] / signal[used], 10 ** (_SILENT / 10), 1.0)
    return float(np.mean(10 * np.log10(ratio)))


def _energy(rows: Array) -> Array:
    """Return the sum of the squares of each row."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def _channels(values: Array) -> Array:
    """Return (channels, values); the shortest axis is that of the channels, if there is one."""
    axes = [axis for axis in range(1, values.ndim) if values.shape[axis] > 1]
    if values.ndim < 3 or not axes:
        return values.reshape(1, -1)
    axis = min(axes, key=lambda axis: values.shape[axis])
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return rows if rows.shape[1] >= _FEWEST else values.reshape(1, -1)


def held_out(samples: Samples, skipped: Collection[str] = ()) -> tuple[Samples, Samples]:
    """Return the samples that may be fitted to, and those on which it is judged.

    A quarter is kept apart, from all over; of fewer than four samples none can be, so that both are
    all.

    Args:
        samples: Of calibration.
        skipped: The names of those that can't be used.
    """
    ordered, first = quarter_last(samples), last_quarter(len(samples))
    usable = [i for i in range(len(ordered)) if ordered.name(i) not in skipped]
    fitted, kept = (
        replace(ordered, indices=tuple(ordered.indices[i] for i in usable if (i < first) is side))
        for side in (True, False)
    )
    if len(fitted) and len(kept):
        return fitted, kept
    both = replace(samples, indices=fitted.indices + kept.indices)
    return both, both


def spread(samples: Samples, count: int) -> Samples:
    """Return ``count`` samples from all over: neighbours are often frames of one film."""
    total = len(samples)
    chosen = [samples.indices[i * total // count] for i in range(min(count, total))]
    return replace(samples, indices=tuple(chosen) if total > count else samples.indices)
