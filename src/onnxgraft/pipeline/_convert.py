"""Conversion as a user wants it: lowered, cleaned, and compared with the original."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnxgraft import convert as stage
from onnxgraft.compare import Verdict, judge
from onnxgraft.errors import NotSupportedError
from onnxgraft.files import atomic
from onnxgraft.model import Model
from onnxgraft.progress import status
from onnxgraft.reference import OnnxRuntime, random_feeds
from onnxgraft.runtime import Engine, Feeds, Outputs
from onnxgraft.surgery import SurgeryReport, run
from onnxgraft.validate._stream import adapted, like

__all__ = ["Converted", "convert"]

# Feeds, and what the original makes of them.
Run = tuple[Feeds, Outputs]


@dataclass
class Converted:
    """A converted model and what is known about it.

    Attributes:
        model: The ONNX model.
        surgery: What the clean-up did; None if it was left out.
        verdicts: The comparison with the original; empty if it was left out.
        notes: A sentence for each thing that was decided.
    """

    model: Model
    surgery: SurgeryReport | None
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every comparison that was made is within its tolerance."""
        return all(verdict.passed for verdict in self.verdicts)


def convert(
    model: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    values: Sequence[str] = (),
    opset: int = stage.DEFAULT_OPSET,
    io_layout: stage.IoLayout = "keep",
    signature: str | None = None,
    trust: bool = False,
    raw: bool = False,
    verify: bool = True,
    out: str | os.PathLike[str] | None = None,
) -> Converted:
    """Convert ``model``, clean the graph and compare it with the original.

    Args:
        model: A frozen TensorFlow graph, a Caffe prototxt or an ONNX file.
        weights: Of a Caffe network.
        inputs: Where to cut the graph's beginning; None finds the inputs.
        outputs: Where to cut its end; None takes what nothing else consumes.
        values: Placeholders to set, such as ``is_training=false``.
        opset: Of the ONNX graph.
        io_layout: ``nchw`` and ``nhwc`` change the layout of 4-D inputs and outputs.
        signature: Of a SavedModel.
        trust: Load a Keras file that brings code of its own.
        raw: Stop after conversion, without surgery.
        verify: Compare with the original, on seeded samples of batch 1 and 2.
        out: Where to write the ONNX file; None writes none.
    """
    with status(f"converting {os.fspath(model)}"):
        lowered, notes = stage.load(
            model, weights=weights, inputs=inputs, outputs=outputs, values=values, opset=opset,
            io_layout=io_layout, signature=signature, trust=trust,
        )  # fmt: skip
        cleaned, report = (lowered, None) if raw else run(lowered)
    result = Converted(cleaned, report, notes=notes)
    runs: list[Run] = []
    if verify:
        try:
            with (
                status("running the original"),
                stage.original(
                    model,
                    weights=weights,
                    inputs=inputs,
                    outputs=outputs,
                    values=values,
                    signature=signature,
                    trust=trust,
                ) as original,
            ):
                runs = _expected(original)
        except NotSupportedError as error:
            result.notes.append(f"not compared with the original: {error}")
    if out is None:
        result.verdicts = _verdicts(runs, cleaned.to_onnx()) if runs else []
        return result
    with atomic(out) as temporary:
        cleaned.save(temporary, data=f"{Path(out).name}.data")
        # From the file: a large model is not held in memory once more.
        result.verdicts = _verdicts(runs, temporary) if runs else []
    return result


def _expected(original: Engine) -> list[Run]:
    """Run the original on seeded feeds of batch 1 and, where the batch is free, 2."""
    free = any(spec.shape and isinstance(spec.shape[0], str) for spec in original.inputs)
    feeds = [random_feeds(original.inputs, batch) for batch in ((1, 2) if free else (1,))]
    return [(feed, original.infer(feed)) for feed in feeds]


def _verdicts(runs: list[Run], model: onnx.ModelProto | os.PathLike[str]) -> list[Verdict]:
    verdicts = []
    with status("comparing with the original"), OnnxRuntime(model, name="converted") as candidate:
        for feeds, expected in runs:
            actual = like(expected, candidate.infer(adapted(feeds, candidate)))
            verdicts += judge(expected, actual)
    return verdicts
