"""How a TFLite file whose kernels compute in integers is compared with its conversion.

TensorFlow's integer kernels round otherwise than float32 does, and where a number is moved over the
middle between two integers, what follows differs by what quantization itself adds. So the file is
held as an INT8 engine is (see `proof`): it keeps 45 dB of the graph, or is no further from the
network without rounded activations than the graph is.

Layers with int8 weights and float activations round the activations as they run, which the
converted graph does not. There the graph is compared with TensorFlow's interpreter on the same
weights as floats, and the file with the graph in which that rounding is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxgraft.graph.model import Model
from onnxgraft.graph.quantized import float_twin, is_quantized
from onnxgraft.graph.tensor_option import parse_tensors
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.answers import answers
from onnxgraft.run.engine import Engine, Resource
from onnxgraft.run.proof import Proof, Reference, worst
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import FLOAT_TOLERANCE
from onnxgraft.run.verdicts import Verdict, hold
from onnxgraft.stages.convert import Original
from onnxgraft.words import several

__all__ = ["held_by_rounding"]


def held_by_rounding(
    original: Original, converted: Model, feeds: Sequence[Feeds], verdicts: Sequence[Verdict]
) -> tuple[list[Verdict], str] | None:
    """Return verdicts that allow for integer kernels, and a note; None for any other original.

    Args:
        original: The model that was converted.
        converted: The result.
        feeds: What both were run on.
        verdicts: How they differed there.
    """
    if original.framework != "tflite":
        return None
    from onnxgraft.stages.convert.tflite import TfLite, lower_tflite

    path, signature, opset = original.path, original.signature, converted.graph.opset
    ends = [name for name, _ in parse_tensors(original.outputs)]
    plain, done = lower_tflite(path, opset, ends, signature=signature)
    if done.unproven and not is_quantized(plain):
        running = TfLite(path, ends, signature=signature, floats=True)
        names = ", ".join(done.unproven[:3])
        return _on_floats(running, converted, feeds), (
            f"TensorFlow's recurrent kernels ({names}) round activations and "
            "states to 8 bits as they run, which the graph does not: it was compared with "
            "TensorFlow on the same weights as floats"
        )
    if not done.rounded and not is_quantized(plain):
        return None
    reference = Reference(converted, feeds)
    floats: list[Verdict] = []
    if done.rounded:
        graph, _ = lower_tflite(path, opset, ends, signature=signature, rounding=True)
        twin = float_twin(plain) if is_quantized(plain) else plain
        reference = Reference(graph, feeds, twin=twin)
        if not is_quantized(plain):
            floats = _on_floats(
                TfLite(path, ends, signature=signature, floats=True), converted, feeds
            )
    with TfLite(path, ends, signature=signature) as running:
        for entry in {id(entry): entry for entry in (*reference.exact, *reference.twin)}.values():
            entry.update(_as_numbers(entry, running.scaled))
        proofs = reference.hold(_Numbers(running, running.scaled))
    by_name = {proof.output: proof for proof in proofs}
    held = [_verdict(verdict, by_name[verdict.output]) for verdict in verdicts]
    return [*floats, *held], _note(worst(proofs), done.rounded, is_quantized(plain))


def _on_floats(running: Engine, converted: Model, feeds: Sequence[Feeds]) -> list[Verdict]:
    """Compare the graph with TensorFlow's interpreter on the same weights as floats."""
    found = []
    with running, OnnxRuntime(converted.to_onnx(), name="converted", optimize=False) as candidate:
        for fed in feeds:
            expected = {name: np.array(value) for name, value in running.infer(fed).items()}
            found += hold(expected, answers(candidate, fed, expected), FLOAT_TOLERANCE)
    return found


def _verdict(verdict: Verdict, proof: Proof) -> Verdict:
    limit = max(verdict.tolerance, verdict.max_abs) if proof.passed else verdict.tolerance
    return replace(verdict, passed=proof.passed, tolerance=limit, note=proof.reason)


def _note(proof: Proof, rounded: Sequence[str], quantized: bool) -> str:
    seen = f"{proof.output}: {proof.decibels:.1f} dB"
    if quantized:
        return (
            "TensorFlow's integer kernels round otherwise than the graph, by what quantization "
            f"itself adds or less ({seen} between the two)"
        )
    # Names of layers that were joined are joined with semicolons.
    names = ", ".join(name.split(";")[0] for name in rounded[:3])
    names += ", ..." if len(rounded) > 3 else ""
    layers = several(len(rounded), "layer")
    return (
        f"TensorFlow's kernels round the activations of {layers} ({names}) to 8 or 16 bits as they "
        "run, which the graph does not. It was compared with "
        "TensorFlow on the same weights as floats; with that rounding written out it gives "
        f"TensorFlow's own answers ({seen} between the two)"
    )


def _as_numbers(outputs: Outputs, scaled: frozenset[str]) -> Outputs:
    """Return outputs of which the integers that stand for other numbers are floats."""
    return {
        name: value.astype(np.float32) if name in scaled else value
        for name, value in outputs.items()
    }


class _Numbers(Resource):
    """An engine whose integer outputs that stand for other numbers are floats."""

    def __init__(self, engine: Engine, scaled: frozenset[str]) -> None:
        self._engine, self._scaled = engine, scaled
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        return _as_numbers(self._engine.infer(feeds), self._scaled)
