"""How large channels get, and the factors that make them as large as one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgraft.data.samples import Samples
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.progress import track
from onnxgraft.run.session import OnnxRuntime, at_rest, exposing

__all__ = ["even_factors", "largest_values"]

# Factors beyond this would make single weights tiny, for channels that are hardly ever used.
_LARGEST_FACTOR = 64.0


def largest_values(
    model: Model, names: Sequence[str], samples: Samples, axis: int
) -> dict[str, Array]:
    """Return the largest magnitude of each channel of tensors, (channels,).

    Args:
        model: A float graph.
        names: Of the tensors.
        samples: Which are run.
        axis: Of the channels.
    """
    found: dict[str, Array] = {}
    exposed = exposing(model.to_onnx(), names)
    with OnnxRuntime(exposed, name="channels", configure=at_rest) as session:
        for sample in track(samples, "measuring channels", len(samples)):
            for name, value in session.infer(sample.feeds).items():
                others = tuple(a for a in range(value.ndim) if a != axis % value.ndim)
                high = value.max(axis=others, initial=0.0)
                amax = np.maximum(high, -value.min(axis=others, initial=0.0))
                found[name] = np.maximum(found.get(name, amax), amax)
    return found


def even_factors(values: Array, weights: Array, *, whole: bool = False) -> Array:
    """Return (channels,) powers of two near sqrt(a / w), or near a, normalized to a mean of 1.

    Args:
        values: a, the largest value of each channel, float64.
        weights: w, the largest weight that reads it.
        whole: Whether weights have a scale for each channel, so that the factor costs them nothing.
    """
    used = (values > 0) & (weights > 0)
    ratio = np.divide(values, weights, out=np.ones_like(values), where=used)
    if whole:
        ratio = np.where(used, values, 1.0) ** 2
    ratio = np.sqrt(ratio)
    if used.any():
        ratio[used] /= np.exp(np.mean(np.log(ratio[used])))
    ratio[~used] = 1.0
    exact = np.exp2(np.rint(np.log2(np.clip(ratio, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR))))
    return np.asarray(exact)
