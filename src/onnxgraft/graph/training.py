"""How training code calls the switch between training and inference."""

from __future__ import annotations

import re

import numpy as np

from onnxgraft.graph.tensors import Array, TensorSpec

__all__ = ["inference", "is_flag", "is_training_flag"]

# TensorFlow 1's tf.layers, slim and Keras, and what is common in published graphs.
_FLAG = re.compile(
    r"(?:^|[/_])(is_?train(ing)?|train(ing)?(_?(mode|phase|flag))?|phase(_train)?|learning_phase)"
    r"(?:_\d+)?(?::0)?(?:$|/)",
    re.IGNORECASE,
)


def is_training_flag(name: str) -> bool:
    """Tell whether a tensor or node is called as training flags are.

    >>> is_training_flag("model/is_training:0"), is_training_flag("restraining")
    (True, False)
    """
    return _FLAG.search(name) is not None


def is_flag(spec: TensorSpec) -> bool:
    """Tell whether an input is a training flag: one boolean, called as such flags are."""
    single = all(dim == 1 for dim in spec.shape)
    return spec.dtype == "bool" and single and is_training_flag(spec.name)


def inference(spec: TensorSpec) -> Array:
    """Return what a training flag is at inference, as an array for the input."""
    return np.zeros(tuple(int(dim) for dim in spec.shape), np.bool_)
