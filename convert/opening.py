"""How a model file is opened: one set of parameters, from the command line to the reader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

from onnxgraft.files.trust import Trust

__all__ = ["Opening"]


class Opening(TypedDict, total=False):
    """The parameters of `load`, `original` and `inspect`, passed on as they are.

    Attributes:
        weights: Of a Caffe network.
        inputs: Where to cut the graph's beginning, such as ``a:0,b:0[1,224,224,3]``; without it the
            inputs are found.
        outputs: Where to cut its end, such as ``c:0``; without it, what nothing else consumes.
        values: Placeholders to set, such as ``is_training=false``.
        signature: Of a SavedModel.
        freeze_batchnorm: Run batch normalizations that are in training mode with the statistics
            that they store, which changes what the network computes.
        trust: Load a Keras file that brings code of its own: True, or the names of its layers or
            classes that may.
    """

    weights: str | os.PathLike[str] | None
    inputs: str | None
    outputs: str | None
    values: Sequence[str]
    signature: str | None
    freeze_batchnorm: bool
    trust: Trust
