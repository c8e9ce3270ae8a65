"""Where a divergence comes from: the stage, and in surgery the pass, that first makes it."""

from __future__ import annotations

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.answers import answers
from onnxgraft.run.difference import relative_error
from onnxgraft.run.engine import Engine
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import FLOAT_TOLERANCE
from onnxgraft.stages import surgery
from onnxgraft.stages.convert import Original
from onnxgraft.stages.surgery import PASSES
from onnxgraft.stages.validate import Divergence

__all__ = ["blame", "differs", "guilty_pass"]


def blame(original: Original, running: Engine, divergence: Divergence, feeds: Feeds) -> str:
    """Return a sentence that names the stage and the pass, found by going the road again.

    Args:
        original: The model, and how it is opened.
        running: The same, running.
        divergence: Of the candidate.
        feeds: One sample.
    """
    if divergence.quantizer:
        return "caused by quantization: the graph computes the same without that range"
    try:
        lowered, _ = original.lower()
    except OnnxgraftError as error:
        return f"the stage is not known: {error}"
    if differs(running, lowered, feeds):
        return "caused by the conversion: the graph differs before any clean-up"
    guilty = guilty_pass(running, lowered, feeds)
    if guilty is not None:
        return f"caused by surgery, in the pass {guilty}"
    return (
        "caused after conversion and surgery, which give the original's answers here: the "
        "candidate was quantized, built or changed afterwards, or comes from another tool"
    )


def guilty_pass(original: Engine, lowered: Model, feeds: Feeds) -> str | None:
    """Return the first pass after which the graph gives other answers, or None."""
    names = [item.name for item in PASSES]
    if not differs(original, surgery.run(lowered)[0], feeds):
        return None
    low, high = 0, len(names)  # with the first `low` passes they agree, with `high` they differ
    while high - low > 1:
        middle = (low + high) // 2
        cleaned, _ = surgery.run(lowered, only=names[:middle])
        low, high = (low, middle) if differs(original, cleaned, feeds) else (middle, high)
    return names[high - 1]


def differs(original: Engine, model: Model, feeds: Feeds) -> bool:
    """Tell whether a float graph gives other answers than the original."""
    expected = answers(original, feeds)
    try:
        with OnnxRuntime(model.to_onnx(), optimize=False) as session:
            actual = answers(session, feeds, expected)
    except OnnxgraftError:
        return True
    return any(
        name not in actual or relative_error(value, actual[name]) > FLOAT_TOLERANCE
        for name, value in expected.items()
        if value.dtype.kind == "f"
    )
