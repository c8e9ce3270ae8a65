"""Where two networks part: the first tensor, in the order of the graph, that is not the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxgraft.compare import FLOAT_TOLERANCE, judge
from onnxgraft.model import Model, Origin
from onnxgraft.reference import OnnxRuntime, exposing
from onnxgraft.runtime import Array, Engine, Feeds, Probing
from onnxgraft.validate._stream import adapted

__all__ = ["Parting", "find_parting"]

# So many tensors are read in one run: all of a network's at once may not fit into memory.
_AT_ONCE = 64


@dataclass(frozen=True)
class Parting:
    """The first tensor that differs.

    Attributes:
        tensor: Its name in the ONNX graph.
        origin: The framework's name for it.
        operator: The ONNX operator that makes it.
        relative: The largest difference, as a fraction of the original tensor's range.
        agreed: The framework's name of the last tensor before it that is the same; None if it is
            the first that both have.
    """

    tensor: str
    origin: str
    operator: str
    relative: float
    agreed: str | None

    def __str__(self) -> str:
        """Return the sentence that a person reads."""
        after = f"; {self.agreed} is still the same" if self.agreed else ""
        return (
            f"they part at {self.origin} ({self.operator} {self.tensor!r} of the ONNX graph), "
            f"by {self.relative:.1e} of its range{after}"
        )


def find_parting(
    original: Engine, model: Model, feeds: Feeds, tolerance: float = FLOAT_TOLERANCE
) -> Parting | None:
    """Return the first tensor of ``model`` that is not what the original computes.

    Args:
        original: Asked for its inner tensors.
        model: Run in onnxruntime, node by node.
        feeds: Of the original.
        tolerance: As a fraction of a tensor's range.

    Returns:
        None if the original can't be asked, or every tensor that both have is the same.
    """
    if not isinstance(original, Probing):
        return None
    shared = [
        (tensor.name, model.names[tensor.name], node.op)
        for node in model.graph.nodes
        for tensor in node.outputs
        if tensor.name in model.names
    ]
    proto = model.to_onnx()
    agreed: str | None = None
    for start in range(0, len(shared), _AT_ONCE):
        part = shared[start : start + _AT_ONCE]
        theirs = original.probe([origin.name for _, origin, _ in part], feeds)
        with OnnxRuntime(exposing(proto, [name for name, *_ in part]), optimize=False) as session:
            ours = session.infer(adapted(feeds, session))
        for name, origin, operator in part:
            if origin.name not in theirs:
                continue
            relative = _relative(_seen(theirs[origin.name], origin), ours[name])
            if relative > tolerance:
                return Parting(name, origin.name, operator, relative, agreed)
            agreed = origin.name
    return None


def _seen(value: Array, origin: Origin) -> Array:
    return value if origin.perm is None else np.ascontiguousarray(value.transpose(origin.perm))


def _relative(expected: Array, actual: Array) -> float:
    """Return the largest difference over the range; infinite where the shapes differ."""
    if expected.shape != actual.shape:
        return np.inf
    if expected.size == 0 or np.array_equal(expected, actual, equal_nan=expected.dtype.kind == "f"):
        return 0.0
    verdict = judge({"": expected}, {"": actual}, tolerance=1.0)[0]
    return verdict.max_abs / verdict.tolerance
