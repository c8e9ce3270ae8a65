"""Conversion as a user wants it: lowered, cleaned, and compared with the original."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import numpy as np
import onnx

from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.files import atomic
from onnxgraft.graph.half import computes_in_half
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import (
    Feeds,
    Outputs,
)
from onnxgraft.progress import status
from onnxgraft.run.engine import (
    Engine,
)
from onnxgraft.run.feeds import (
    random_feeds,
)
from onnxgraft.run.session import (
    OnnxRuntime,
)
from onnxgraft.run.tolerances import (
    FLOAT_TOLERANCE,
    HALF_TOLERANCE,
)
from onnxgraft.run.verdicts import (
    Verdict,
    check_pair,
    judge,
)
from onnxgraft.stages import convert as stage
from onnxgraft.stages.surgery import SurgeryReport, run
from onnxgraft.stages.validate import Parting, adapted, find_parting, like

__all__ = ["Converted", "convert"]

# Feeds, and what the original makes of them.
Run = tuple[Feeds, Outputs]
# Of the positions of a whole-number output, such as an argmax over classes: where two scores are as
# good as equal, rounding decides which is the larger.
TIES = 1e-3
# Sizes that are tried for an image's free dimensions.
_SIZES = (64, 224)


@dataclass
class Converted:
    """A converted model and what is known about it.

    Attributes:
        model: The ONNX model.
        surgery: What the clean-up did; None if it was left out.
        verdicts: The comparison with the original; empty if it was left out.
        notes: A sentence for each thing that was decided.
        parting: Where the two part, if a comparison failed and the original's tensors can be read.
    """

    model: Model
    surgery: SurgeryReport | None
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parting: Parting | None = None

    @property
    def passed(self) -> bool:
        """Whether every comparison that was made is within its tolerance."""
        return all(verdict.passed for verdict in self.verdicts)


def convert(
    model: str | os.PathLike[str],
    *,
    opset: int = stage.DEFAULT_OPSET,
    io_layout: stage.IoLayout = "keep",
    raw: bool = False,
    verify: bool = True,
    out: str | os.PathLike[str] | None = None,
    **how: Unpack[stage.Opening],
) -> Converted:
    """Convert ``model``, clean the graph and compare it with the original.

    Args:
        model: Whatever `onnxgraft.stages.convert.load` reads.
        opset: Of the ONNX graph.
        io_layout: ``nchw`` and ``nhwc`` change the layout of 4-D inputs and outputs.
        raw: Stop after conversion, without surgery.
        verify: Compare with the original, on seeded samples of batch 1 and 2.
        out: Where to write the ONNX file; None writes none.
        how: See `onnxgraft.stages.convert.Opening`.
    """
    runs: list[Run] = []
    unjudged: list[str] = []
    with status(f"reading {os.fspath(model)}"):
        opened = stage.Opened(model, **how)
    if verify:
        # First, and closed again: original and conversion are not held in memory together.
        try:
            with status("running the original"), opened.original(frugal=True) as original:
                runs = _expected(original)
        except NotSupportedError as error:
            unjudged.append(f"not compared with the original: {error}")
    with status(f"converting {os.fspath(model)}"):
        lowered, notes = opened.lower(opset, io_layout)
        del opened
        # Inputs that the user names stay, whatever they are called.
        skip = ["freeze_training"] if how.get("inputs") else []
        cleaned, report = (lowered, None) if raw else run(lowered, skip=skip)
    result = Converted(cleaned, report, notes=[*notes, *unjudged])
    if out is None:
        failed = _compare(result, runs, cleaned.to_onnx())
    else:
        with atomic(out) as temporary:
            cleaned.save(temporary, data=f"{Path(out).name}.data")
            # From the file: a large model is not held in memory once more.
            failed = _compare(result, runs, temporary)
    if failed is not None:
        with (
            status("looking for the tensor where it begins"),
            stage.original(model, **how) as original,
        ):
            result.parting = find_parting(original, cleaned, failed)
    return result


def _expected(original: Engine) -> list[Run]:
    """Run the original on seeded feeds of batch 1 and, where the batch is free, 2.

    Images of a free size are tried larger where they are too small for the network.
    """
    free = any(spec.shape and isinstance(spec.shape[0], str) for spec in original.inputs)
    for size in _SIZES:
        feeds = [random_feeds(original.inputs, n, size=size) for n in ((1, 2) if free else (1,))]
        try:
            return [(feed, original.infer(feed)) for feed in feeds]
        except ModelError:
            if size == _SIZES[-1]:
                raise
    raise AssertionError


def _compare(
    result: Converted, runs: list[Run], model: onnx.ModelProto | os.PathLike[str]
) -> Feeds | None:
    """Add the verdicts on ``runs`` to the result; return the feeds of the first that fails."""
    if not runs:
        return None
    tolerance = HALF_TOLERANCE if computes_in_half(result.model) else FLOAT_TOLERANCE
    failed = None
    try:
        with (
            status("comparing with the original"),
            # As it stands: optimizing would hold a large model several times.
            OnnxRuntime(model, name="converted", optimize=False) as candidate,
        ):
            for feeds, expected in runs:
                # Surgery may have frozen an input: a flag of training.
                wanted = {spec.name for spec in candidate.inputs}
                fed = {k: v for k, v in adapted(feeds, candidate).items() if k in wanted}
                actual = like(expected, candidate.infer(fed))
                found = _judged(expected, actual, tolerance, result.notes)
                result.verdicts += found
                if failed is None and not all(verdict.passed for verdict in found):
                    failed = feeds
    except NotSupportedError as error:
        result.notes.append(f"not compared with the original: {error}")
    return failed


def _judged(
    expected: Outputs, actual: Outputs, tolerance: float, notes: list[str]
) -> list[Verdict]:
    """Judge a run; what is not finite in the original must be just so in the converted graph."""
    verdicts = []
    for name, value in expected.items():
        try:
            check_pair(name, value, actual)
        except InputError as error:
            notes.append(str(error))
            verdicts.append(Verdict(name, False, math.inf, math.inf, tolerance))
            continue
        ours = actual[name]
        if value.dtype.kind in "iu":
            share = float(np.mean(value != ours))
            verdicts.append(Verdict(name, share <= TIES, share, share, TIES))
            continue
        if value.dtype.kind == "f":
            odd = ~np.isfinite(value)
            if odd.any() and np.array_equal(value[odd], ours[odd], equal_nan=True):
                notes.append(
                    f"{name}: {odd.sum()} values of the original are NaN or infinite on random "
                    "numbers, and are just so in the converted graph"
                )
                value, ours = np.where(odd, 0, value), np.where(odd, 0, ours)
        verdicts += judge({name: value}, {name: ours}, tolerance)
    return verdicts
