"""Layout and preprocessing mistakes, and outputs mistaken, told from numeric ones by trying them.

If the candidate gives the original's answers as soon as its input has, say, the channels reversed,
then no layer is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run.answers import adapted, arranged
from onnxgraft.run.difference import relative_error, sqnr
from onnxgraft.run.engine import Engine
from onnxgraft.stages.validate.measure.tally import class_axis

__all__ = ["find_mistake"]

Change = Callable[[Array], Array]

# What networks are trained with: (what people call it, factor, means in red, green, blue order).
_MEANS = (
    ("the means of Caffe's ImageNet models", (123.68, 116.779, 103.939)),
    ("a mean of 127.5", (127.5,)),
    ("a mean of 128", (128.0,)),
)
_SCALES = (1 / 255, 255.0, 1 / 127.5, 127.5, 1 / 128, 128.0, 2.0, 0.5)
_BETTER = 20.0  # dB


def find_mistake(
    original: Engine,
    candidate: Engine,
    feeds: Feeds,
    tolerance: float | None,
    mean: Sequence[float] = (),
    scale: Sequence[float] = (),
) -> str | None:
    """Return what is wrong with what the candidate is fed, or which of its outputs was taken.

    None if no change explains it.

    Args:
        original: The reference.
        candidate: Gives other answers.
        feeds: One sample.
        tolerance: Of float candidates; None for those of lower precision, whose answers have to
            keep 20 dB more of the signal than they do as they are fed.
        mean: Of the recipe.
        scale: Of the recipe.
    """
    expected = original.infer(adapted(feeds, original))
    given = adapted(feeds, candidate)

    def good(changed: Feeds) -> bool:
        try:
            actual = arranged(expected, candidate.infer(changed))
        except OnnxgraftError:
            return False
        return _agree(expected, actual, tolerance, before)

    try:
        actual = arranged(expected, candidate.infer(given))
    except OnnxgraftError:
        before = -np.inf
    else:
        if tolerance is not None and _agree(expected, actual, tolerance, 0):
            return None  # it fails by what is not compared here, such as NaN on both sides
        before = _kept(expected, actual)
        mistaken = _mistaken(expected, actual, tolerance, before)
        if mistaken is not None:
            return mistaken
    for name, value in given.items():
        spec = next(spec for spec in candidate.inputs if spec.name == name)
        for said, change in _changes(value, spec, tuple(mean), tuple(scale)):
            if good({**given, name: change(value)}):
                which = f" {name!r}" if len(given) > 1 else ""
                return (
                    f"the candidate's input{which} is prepared differently from the original's: "
                    f"both agree once {said}; no layer is to blame"
                )
    return None


def _changes(
    value: Array, spec: TensorSpec, mean: tuple[float, ...], scale: tuple[float, ...]
) -> Iterator[tuple[str, Change]]:
    """Yield changes of an input, the likely ones first: single ones, and then pairs."""
    if value.dtype.kind != "f" or value.ndim < 2:
        return
    axis = _channel_axis(value)
    single: list[tuple[str, Change]] = []
    orders = list(_orders(axis))
    for said, layout in _layouts(value):
        single.append((said, layout))
    single += orders
    shifts: list[tuple[str, Change]] = []
    for said, means in (("the recipe's mean", mean), *_MEANS):
        if not any(means) or axis is None or len(means) not in (1, value.shape[axis]):
            continue
        for each, words in ((means, ""), (means[::-1], " in the other order")):
            if words and (len(set(means)) == 1):
                continue
            shift = _along(each, value.ndim, axis)
            shifts.append((f"{said}{words} is not subtracted", _add(shift)))
            shifts.append((f"{said}{words} is subtracted once more", _add(-shift)))
    factors = dict.fromkeys([*(s for s in scale if s not in (0.0, 1.0)), *_SCALES])
    factors |= dict.fromkeys([1 / factor for factor in factors])
    scales = [(f"it is multiplied by {factor:.6g}", _times(factor)) for factor in factors]
    yield from [*single, *shifts, *scales]
    pairs = [
        *product(orders, [*shifts, *scales]),
        *product(shifts, scales),
        *product(scales, shifts),
    ]
    for (first, one), (second, other) in pairs:
        yield f"{first} and {second}", _both(one, other)


def _channel_axis(value: Array) -> int | None:
    """Return the axis of 3 channels, or of 1."""
    if value.ndim != 4:
        return None
    for size in (3, 1):
        for axis in (1, 3):
            if value.shape[axis] == size:
                return axis
    return None


def _orders(axis: int | None) -> Iterator[tuple[str, Change]]:
    if axis is not None:
        yield "its channels are reversed (BGR for RGB)", lambda v: np.flip(v, axis)


def _layouts(value: Array) -> Iterator[tuple[str, Change]]:
    """Yield the memory of one layout taken for the other, and height for width."""
    axis = _channel_axis(value)
    if axis is None:
        return
    shape = value.shape
    mine, other, perm = ("NHWC", "NCHW", (0, 3, 1, 2)) if axis == 3 else (
        "NCHW", "NHWC", (0, 2, 3, 1)
    )  # fmt: skip
    back = tuple(perm.index(place) for place in range(4))
    turned = tuple(shape[place] for place in perm)
    yield (
        f"its values are stored as {other} under the shape of {mine}",
        lambda v: np.ascontiguousarray(v.transpose(perm)).reshape(shape),
    )
    yield (
        f"its values, which are stored as {other}, are no longer read as {mine}",
        lambda v: np.ascontiguousarray(v.reshape(turned).transpose(back)),
    )
    rows, columns = (place for place in (1, 2, 3) if place != axis)
    if shape[rows] == shape[columns]:
        yield "height and width are exchanged", lambda v: v.swapaxes(rows, columns)


def _along(values: Sequence[float], rank: int, axis: int) -> Array:
    shape = [-1 if a == axis else 1 for a in range(rank)]
    return np.asarray(values, np.float32).reshape(shape if len(values) > 1 else [1] * rank)


def _add(shift: Array) -> Change:
    return lambda value: (value + shift).astype(value.dtype)


def _times(factor: float) -> Change:
    return lambda value: (value * np.float32(factor)).astype(value.dtype)


def _both(one: Change, other: Change) -> Change:
    return lambda value: other(one(value))


def _kept(expected: Outputs, actual: Outputs) -> float:
    """Return the least signal that an output keeps, in dB."""
    return min(
        (sqnr(v, actual[n]) for n, v in expected.items() if v.dtype.kind == "f" and n in actual),
        default=-np.inf,
    )


def _agree(expected: Outputs, actual: Outputs, tolerance: float | None, before: float) -> bool:
    if tolerance is None:
        return _kept(expected, actual) >= max(before, 0.0) + _BETTER
    floats = {name: value for name, value in expected.items() if value.dtype.kind == "f"}
    return bool(floats) and all(
        name in actual and relative_error(value, actual[name]) <= tolerance
        for name, value in floats.items()
    )


def _mistaken(
    expected: Outputs, actual: Outputs, tolerance: float | None, before: float
) -> str | None:
    """Return which output is another than the original's, if that explains why it differs."""
    for name, value in expected.items():
        other = actual.get(name)
        if other is None or value.dtype.kind != "f" or value.shape != other.shape:
            continue

        def same(one: Array, two: Array, name: str = name) -> bool:
            return _agree({name: one}, {name: two}, tolerance, before)

        if same(value, other):
            continue
        for axis in (1, value.ndim - 1):
            if value.ndim in (2, 4) and sqnr(value, np.flip(other, axis)) > 60:
                return f"the candidate's output {name!r} has its classes in reverse order"
        for kind, function in (("softmax", _softmax), ("sigmoid", _sigmoid)):
            if same(value, function(other)):
                said = f"the original's output {name!r} is the {kind} of the candidate's"
            elif same(function(value), other):
                said = f"the candidate's output {name!r} is the {kind} of the original's"
            else:
                continue
            return f"{said}: name the same tensor of both with --outputs and --candidate-outputs"
    return None


def _softmax(value: Array) -> Array:
    axis = class_axis(value)
    axis = -1 if axis is None else axis
    shifted = np.exp(value.astype(np.float64) - value.max(axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis, keepdims=True))


def _sigmoid(value: Array) -> Array:
    # In this form nothing overflows.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * value.astype(np.float64))))
