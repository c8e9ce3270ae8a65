"""`inspect`: what a model file holds."""

from __future__ import annotations

from onnxgraft.commands._opening import ModelGiven, Place
from onnxgraft.files.trust import Trust
from onnxgraft.stages.convert import Inspection, Original

__all__ = ["inspect"]


def inspect(
    model: ModelGiven,
    *,
    weights: Place | None = None,
    signature: str | None = None,
    trust: Trust = False,
) -> Inspection:
    """Return what a model file holds: inputs, outputs, operators, training leftovers.

    Args:
        model: A TensorFlow graph, SavedModel or checkpoint, a Keras or TFLite file, a PyTorch
            program (.pt2), a Caffe prototxt or an ONNX file; or a model as `convert` takes it.
        weights: The weights of a Caffe network.
        signature: The signature of a SavedModel.
        trust: Load a Keras file or a .pt2 that brings code: True, or the names of what may.

    Raises:
        InputError: It can't be read.
    """
    return Original.of(model, weights=weights, signature=signature, trust=trust).inspect()
