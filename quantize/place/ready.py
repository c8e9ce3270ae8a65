"""A float graph in the form in which ranges are measured and layers quantized."""

from __future__ import annotations

import hashlib

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.lift import lift
from onnxgraft.graph.model import Model
from onnxgraft.graph.opset import raise_opset

__all__ = ["OLDEST_OPSET", "fingerprint", "measurable", "ready"]

# Scales per channel came with it.
OLDEST_OPSET = 13


def ready(model: Model) -> Model:
    """Return a graph in float32 and an opset that has scales per channel.

    Raises:
        NotSupportedError: See `lift` and `raise_opset`.
    """
    return raise_opset(lift(model), OLDEST_OPSET)


def measurable(model: Model) -> Model:
    """Return the graph that is `ready`; one whose opset can't be raised in float32 alone.

    Its ranges can still be written to a calibration cache.
    """
    lifted = lift(model)
    try:
        return raise_opset(lifted, OLDEST_OPSET)
    except NotSupportedError:
        return lifted


def fingerprint(model: Model) -> str:
    """Return the SHA-256 of what the graph computes: its nodes and initializers, not its notes.

    A graph in float16, bfloat16 or an old opset is the same as the one in which it is measured.
    """
    graph = measurable(model).to_onnx().graph
    digest = hashlib.sha256()
    for part in (*graph.input, *graph.node, *sorted(graph.initializer, key=lambda i: i.name)):
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()
