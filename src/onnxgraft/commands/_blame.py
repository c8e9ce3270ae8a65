"""Whose doing a parting is: the stage, and in surgery the pass, that first makes it."""

from __future__ import annotations

import os
from typing import Unpack

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import (
    Feeds,
)
from onnxgraft.run.difference import (
    relative_error,
)
from onnxgraft.run.engine import (
    Engine,
)
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import (
    FLOAT_TOLERANCE,
)
from onnxgraft.stages import convert, surgery
from onnxgraft.stages.surgery import PASSES
from onnxgraft.stages.validate import Parting, adapted, like

__all__ = ["blame", "guilty_pass", "parts"]


def blame(
    path: str | os.PathLike[str],
    original: Engine,
    parting: Parting,
    feeds: Feeds,
    **how: Unpack[convert.Opening],
) -> str:
    """Return a sentence that names the stage and the pass, found by going the road again.

    Args:
        path: The original.
        original: The same, running.
        parting: Of the candidate.
        feeds: One sample.
        how: The original was opened.
    """
    if parting.quantizer:
        return "made by quantization: the graph computes the same without that range"
    try:
        lowered, _ = convert.load(path, **how)
    except OnnxgraftError as error:
        return f"the stage can't be told: {error}"
    if parts(original, lowered, feeds):
        return "made by the conversion: the graph parts before any clean-up"
    guilty = guilty_pass(original, lowered, feeds)
    if guilty is not None:
        return f"made by surgery, in the pass {guilty}"
    return (
        "made after conversion and surgery, which give the original's answers here: the candidate "
        "was quantized, built or changed afterwards, or made by another tool"
    )


def guilty_pass(original: Engine, lowered: Model, feeds: Feeds) -> str | None:
    """Return the first pass after which the graph gives other answers, or None."""
    names = [item.name for item in PASSES]
    if not parts(original, surgery.run(lowered)[0], feeds):
        return None
    low, high = 0, len(names)  # with the first `low` passes they agree, with `high` they part
    while high - low > 1:
        middle = (low + high) // 2
        cleaned, _ = surgery.run(lowered, only=names[:middle])
        low, high = (low, middle) if parts(original, cleaned, feeds) else (middle, high)
    return names[high - 1]


def parts(original: Engine, model: Model, feeds: Feeds) -> bool:
    """Tell whether a float graph gives other answers than the original."""
    expected = original.infer(adapted(feeds, original))
    try:
        with OnnxRuntime(model.to_onnx(), optimize=False) as session:
            actual = like(expected, session.infer(adapted(feeds, session)))
    except OnnxgraftError:
        return True
    return any(
        name not in actual or relative_error(value, actual[name]) > FLOAT_TOLERANCE
        for name, value in expected.items()
        if value.dtype.kind == "f"
    )
