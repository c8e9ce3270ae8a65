"""`convert`: a framework's model as a clean ONNX graph, compared with the original."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxgraft.commands._integer_kernels import held_by_rounding
from onnxgraft.commands._opening import ModelGiven, Place
from onnxgraft.commands._outputs import ONNX, check_output
from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.files import atomic
from onnxgraft.files.trust import Trust
from onnxgraft.graph.half import computes_in_half
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.progress import status
from onnxgraft.run.answers import answers
from onnxgraft.run.demand import check_model
from onnxgraft.run.difference import relative_error
from onnxgraft.run.engine import Engine
from onnxgraft.run.feeds import MANNERS, PLAIN, Manner
from onnxgraft.run.movement import Movement, at_once
from onnxgraft.run.noise import moved, noise_floors
from onnxgraft.run.saturation import Ends, ends, unresolved
from onnxgraft.run.selections import Selector
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import FLOAT_TOLERANCE, HALF_TOLERANCE
from onnxgraft.run.trial import Trial
from onnxgraft.run.verdicts import Verdict, hold
from onnxgraft.stages.convert import IoLayout, Original
from onnxgraft.stages.surgery import SurgeryReport, run
from onnxgraft.stages.validate import Divergence, find_divergence

__all__ = ["Converted", "convert"]

# Feeds, and what the original makes of them.
Run = tuple[Feeds, Outputs]
# What a free axis of an image begins with.
_IMAGE = 64
# How a note begins of what nothing here can run.
_NOT_COMPARED = "not compared with the original: "


@dataclass
class Converted:
    """A converted model and what is known about it.

    Attributes:
        model: The ONNX model.
        surgery: What the clean-up did; None if it was left out.
        out: Where it was written; empty if nowhere.
        verified: Whether a comparison with the original was asked for.
        verdicts: The comparison with the original; empty if it was left out.
        notes: A sentence for each thing that was decided.
        divergence: Where the two begin to differ, if a comparison failed and the original's tensors
            can be read.
    """

    model: Model
    surgery: SurgeryReport | None
    out: str = ""
    verified: bool = True
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    divergence: Divergence | None = None

    @property
    def passed(self) -> bool:
        """Whether every comparison that was made is within its tolerance."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def warnings(self) -> list[str]:
        """The notes that say that a comparison was asked for and could not be made."""
        return [note for note in self.notes if note.startswith(_NOT_COMPARED)]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model as plain values."""
        return {
            "out": self.out,
            "nodes": sum(self.model.operators().values()),
            "operators": self.model.operators(),
            "inputs": [str(spec) for spec in self.model.inputs],
            "outputs": [str(spec) for spec in self.model.outputs],
            "notes": self.notes,
            "verified": self.verified,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "divergence": None if self.divergence is None else asdict(self.divergence),
        }


def convert(
    model: ModelGiven,
    out: Place | None = None,
    *,
    weights: Place | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    values: Sequence[str] = (),
    io_layout: IoLayout = "keep",
    opset: int | None = None,
    signature: str | None = None,
    freeze_batchnorm: bool = False,
    trust: Trust = False,
    raw: bool = False,
    verify: bool = True,
    force: bool = False,
) -> Converted:
    """Convert a model to a clean ONNX graph and compare it with the original.

    Args:
        model: A TensorFlow graph, SavedModel or checkpoint, a Keras or TFLite file, a PyTorch
            program (.pt2), a Caffe prototxt or an ONNX file; or a Keras model, a ``tf.Module``, an
            ``onnx.ModelProto``, or a pair of a torch module and its example inputs.
        out: Where to write the ONNX file; None writes none.
        weights: The weights of a Caffe network.
        inputs: Where to cut the graph's beginning, such as ``a:0,b:0[1,224,224,3]``.
        outputs: Where to cut its end, such as ``c:0,d:0``.
        values: Placeholders and constants to set, such as ``is_training=false``.
        io_layout: ``nchw`` and ``nhwc`` change the layout of 4-D inputs and outputs.
        opset: Of the ONNX graph; None writes 17, and keeps that of an ONNX file.
        signature: The signature of a SavedModel.
        freeze_batchnorm: Run batch normalizations that are in training mode with stored statistics.
        trust: Load a Keras file or a .pt2 that brings code: True, or the names of what may.
        raw: Stop after conversion, without clean-up.
        verify: Compare with the original, on seeded samples of batch 1 and 2 and of several sizes.
        force: Replace an existing file of another kind, too.

    Raises:
        InputError: The model can't be read or converted, or an option does not fit it.
    """
    check_output(out, ONNX, force=force)
    original = Original.of(
        model, weights=weights, inputs=inputs, outputs=outputs, values=values,
        signature=signature, freeze_batchnorm=freeze_batchnorm, trust=trust,
    )  # fmt: skip
    runs: list[Run] = []
    ran: list[str] = []
    if verify:
        # First, and closed again: original and conversion are not held in memory together.
        loaded = False
        try:
            with status("running the original"), original.run(frugal=True) as running:
                loaded = True
                runs, ran = _expected(running, original)
        except InputError as error:  # what is wrong with the file itself, converting it finds too
            if not loaded:
                original.check_types()
            ran = [f"{_NOT_COMPARED}{error}"]
    with status(f"converting {original.path}"):
        lowered, notes = original.lower(opset, io_layout)
        original.forget()
        if verify:
            check_model(lowered)
        # Inputs that the user names stay, whatever they are called.
        skip = ["freeze_training"] if inputs else []
        cleaned, report = (lowered, None) if raw else run(lowered, skip=skip)
    result = Converted(cleaned, report, "" if out is None else str(out), verify)
    result.notes = [*notes, *ran]
    if out is None:
        failed = _compare(result, runs, cleaned.to_onnx(), original)
    else:
        with atomic(out) as temporary:
            cleaned.save(temporary, data=f"{Path(out).name}.data")
            # From the file: a large model is not held in memory once more.
            failed = _compare(result, runs, temporary, original)
    if failed is not None:
        with status("looking for the first tensor that differs"), original.run() as running:
            try:
                result.divergence = find_divergence(running, cleaned, failed)
            except InputError as error:  # that the outputs differ is known all the same
                result.notes.append(f"the first tensor that differs was not found: {error}")
    return result


def _expected(running: Engine, original: Original) -> tuple[list[Run], list[str]]:
    """Run the original on feeds that it takes, and return them with what there is to say of them.

    Where an output does not move on plain numbers, others are tried too.
    """

    def run(samples: Sequence[Feeds]) -> list[Outputs]:
        # An engine may write its next answers to where these are.
        return [
            {name: np.array(value) for name, value in running.infer(feeds).items()}
            for feeds in samples
        ]

    trial = Trial(running.inputs, original.wants(running), _IMAGE)

    def drawn(manner: Manner) -> list[Feeds]:
        return [trial.feeds(setting, manner) for setting in trial.settings]

    plain = trial.begin(run)
    seen = Movement()
    seen.note(PLAIN, plain)
    runs = list(zip(drawn(PLAIN), plain, strict=True))
    if not seen.enough:
        for manner in MANNERS[1:]:
            # There are networks that take no numbers but plain ones.
            with contextlib.suppress(InputError):
                seen.note(manner, run(drawn(manner)))
        most = at_once([part for pair in runs for part in pair])
        for manner in seen.chosen[1:most]:
            feeds = drawn(manner)
            runs += zip(feeds, run(feeds), strict=True)
    return runs, trial.notes


def _compare(
    result: Converted, runs: list[Run], model: onnx.ModelProto | Place, original: Original
) -> Feeds | None:
    """Add the verdicts on ``runs`` to the result; return the feeds of the first that fails."""
    if not runs:
        return None
    tolerance = HALF_TOLERANCE if computes_in_half(result.model) else FLOAT_TOLERANCE
    limits = ends(result.model)
    compared: list[tuple[Run, Outputs, list[Verdict]]] = []
    try:
        with (
            status("comparing with the original"),
            # As it stands: optimizing would hold a large model several times.
            OnnxRuntime(model, name="converted", optimize=False) as candidate,
        ):
            for feeds, expected in runs:
                actual = answers(candidate, feeds, expected)
                floors = unresolved(expected, limits)
                found = hold(expected, actual, tolerance, floors=floors, types=True)
                compared.append(((feeds, expected), actual, found))
    except NotSupportedError as error:
        result.notes.append(f"{_NOT_COMPARED}{error}")
    if any(not verdict.passed for _, _, found in compared for verdict in found):
        explained = held_by_rounding(
            original, result.model, [feeds for (feeds, _), _, _ in compared],
            [verdict for _, _, found in compared for verdict in found],
        )  # fmt: skip
        if explained is not None:
            result.verdicts, note = explained
            result.notes.append(note)
            return None
        compared, notes = _held_again(compared, tolerance, limits, original)
        result.notes += notes
    for _, _, found in compared:
        result.verdicts += found
        result.notes += [verdict.note for verdict in found if verdict.note]
    for (feeds, _), _, found in compared:
        if not all(verdict.passed for verdict in found):
            return feeds
    if compared:
        result.notes += _unproven([expected for (_, expected), _, _ in compared], limits)
    return None


def _held_again(
    compared: list[tuple[Run, Outputs, list[Verdict]]],
    tolerance: float,
    limits: Mapping[str, Ends],
    original: Original,
) -> tuple[list[tuple[Run, Outputs, list[Verdict]]], list[str]]:
    """Hold what failed against the original's own noise too, and indices by what they select.

    Returns the verdicts, and a sentence on each output that the original draws at random.
    """
    drawn: dict[str, float] = {}
    with status("measuring the original's own noise"), original.run(frugal=True) as running:
        again = []
        with Selector(original.lower()[0]) as selector:
            for (feeds, expected), actual, found in compared:
                if all(verdict.passed for verdict in found):
                    again.append(((feeds, expected), actual, found))
                    continue
                rng = np.random.default_rng(0)
                nudged = {name: moved(value, 24, rng) for name, value in feeds.items()}
                others = [
                    {name: np.array(value) for name, value in running.infer(fed).items()}
                    for fed in (feeds, nudged)
                ]
                if original.framework == "onnx":
                    with original.run(optimize=False) as plain:
                        others.append(answers(plain, feeds, expected))
                for name, value in expected.items():
                    apart = relative_error(value, others[0][name])
                    if value.dtype.kind == "f" and apart > tolerance:
                        drawn[name] = max(drawn.get(name, 0.0), apart)
                noise, floors = noise_floors(expected, others), unresolved(expected, limits)
                held = hold(
                    expected, actual, tolerance, chosen=selector.at(feeds, expected), types=True,
                    floors={name: max(floors[name], noise.get(name, 0.0)) for name in floors},
                )  # fmt: skip
                again.append(((feeds, expected), actual, held))
    return again, [
        f"{name}: the original itself gives other values of the same inputs each time, by up to "
        f"{apart:.1e} of their range, as with random numbers; no smaller difference is seen"
        for name, apart in drawn.items()
    ]


def _unproven(runs: list[Outputs], limits: Mapping[str, Ends]) -> list[str]:
    """Return a note for each output that hardly moved on the samples."""
    seen = Movement(limits)
    seen.note(PLAIN, runs)
    return [
        f"{name} hardly moves on any of the random samples that were tried: what is computed for "
        "it was compared only as far as it shows; validate on real data"
        for name in seen.still
    ]
