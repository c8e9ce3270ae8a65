"""Data in the types of a model's inputs, as long as that changes none of their values.

A cast between numbers says nothing of what it loses: -100 becomes 156 in uint8, 0.5 becomes 0, and
an id beyond 2^31 another id. What floats round away is no loss in that sense, what becomes
infinite is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, TensorSpec

__all__ = ["cast", "check_recipe", "numpy_type"]


def cast(values: Array, spec: TensorSpec, where: str, cure: str) -> Array:
    """Return ``values`` in the type of an input.

    Args:
        values: Any numbers.
        spec: Of the input.
        where: Begins the message: whose values they are.
        cure: Ends it: what to do.

    Raises:
        InputError: A value would become another one.
    """
    dtype = numpy_type(spec)
    if values.dtype == dtype:
        return values
    fault = _fault(values, dtype)
    if fault is not None:
        raise InputError(f"{where}: {fault}; the input {spec} takes {_range(dtype)}; {cure}")
    return values.astype(dtype)


def check_recipe(recipe: Preprocess, spec: TensorSpec) -> None:
    """Raise InputError if a recipe's mean and scale make values that an input can't hold.

    All 256 values of a pixel are tried, so that no image has to be met that shows it.
    """
    keys = {
        key: f"{key} = {[*values]}"
        for key, values, usual in (
            ("mean", recipe.mean, 0.0),
            ("scale", recipe.scale, 1.0),
            ("std", recipe.std, 1.0),
        )
        if any(value != usual for value in values)
    }
    if not keys:
        return
    dtype = numpy_type(spec)
    channels = 1 if recipe.color == "gray" else 3
    every = np.repeat(np.arange(256, dtype=np.uint8), channels).reshape(256, 1, channels)
    for pixel, values in enumerate(recipe.normalized(every)):
        fault = _fault(values, dtype)
        if fault is not None:
            raise InputError(
                f"[preprocess] {' and '.join(keys.values())}: of a pixel of {pixel}, {fault}; the "
                f"input {spec} takes {_range(dtype)}; leave {' and '.join(keys)} out, or give the "
                "model a float input"
            )


def numpy_type(spec: TensorSpec) -> np.dtype[Any]:
    """Return the type of arrays for a tensor; raise InputError where numpy has none."""
    try:
        return np.dtype(spec.dtype)
    except TypeError as error:
        raise InputError(f"{spec} is of a type that no array has here") from error


def _fault(values: Array, dtype: np.dtype[Any]) -> str | None:
    """Return which values a type does not hold; None where it holds all."""
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
        return f"values of {values.dtype} are no real numbers"
    if dtype.kind == "b":
        return _told(values, (values != 0) & (values != 1), "neither 0 nor 1")
    if dtype.kind in "iu":
        whole = np.isfinite(values) & (values == np.trunc(values))
        return _told(values, ~whole, "no whole numbers") or _told(
            values, ~_between(values, np.iinfo(dtype)), "out of range"
        )
    with np.errstate(over="ignore"):
        lost = np.isfinite(values) & ~np.isfinite(values.astype(dtype))
    return _told(values, lost, f"more than {dtype.name} holds")


def _between(values: Array, limits: np.iinfo[Any]) -> Array:
    """Tell which values are in the range of an integer type.

    numpy compares integers of all types exactly; of floats the number above the largest is asked
    for, because the largest int64 is no float64, and that number is one.
    """
    if values.dtype.kind in "biu":
        return np.asarray((values >= limits.min) & (values <= limits.max))
    wide = values.astype(np.float64)
    return np.asarray((wide >= float(limits.min)) & (wide < float(limits.max) + 1.0))


def _told(values: Array, wrong: Array, what: str) -> str | None:
    count = int(np.count_nonzero(wrong))
    if not count:
        return None
    first = values[wrong].flat[0].item()
    such = str(first) if isinstance(first, int) else f"{first:g}"
    return f"{count} of {values.size} values are {what}, such as {such}"


def _range(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b":
        return "0 and 1"
    if dtype.kind in "iu":
        return f"whole numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}"
    return f"the numbers of {dtype.name}"
