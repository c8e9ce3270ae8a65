"""A graph in a later opset, run beside the one that it was."""

from __future__ import annotations

from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.half import computes_in_half
from onnxgraft.graph.model import Model
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.wants import wants_of
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import FLOAT_TOLERANCE, HALF_TOLERANCE
from onnxgraft.run.trial import Trial
from onnxgraft.run.verdicts import hold

__all__ = ["raised"]


def raised(model: Model, opset: int) -> tuple[Model, list[str]]:
    """Return ``model`` in at least ``opset``, and a note where that is not what it was.

    Raises:
        NotSupportedError: An operator can't be written in ``opset``, or the graph does not compute
            the same in it.
    """
    later = raise_opset(model, opset)
    if later is model:
        return model, []
    note = f"opset {model.graph.opset} was raised to {opset}"
    trial = Trial(model.inputs, wants_of(model.graph))
    try:
        with _opened(model) as session:
            before = trial.begin(lambda samples: [session.infer(feeds) for feeds in samples])
    except InputError as error:  # no random numbers fit it, or onnxruntime does not run it
        return later, [f"{note}; not verified: {error}"]
    try:
        with _opened(later) as session:
            after = [session.infer(trial.feeds(setting)) for setting in trial.settings]
    except InputError as error:
        raise NotSupportedError(
            f"{model.file}: {note}, and the graph no longer runs ({error}); export the network "
            f"with opset {opset}"
        ) from error
    tolerance = HALF_TOLERANCE if computes_in_half(model) else FLOAT_TOLERANCE
    for expected, found in zip(before, after, strict=True):
        for verdict in hold(expected, found, tolerance):
            if not verdict.passed:
                raise NotSupportedError(
                    f"{model.file}: {note}, and its output {verdict.output!r} differs by "
                    f"{verdict.max_abs:.1e} then; export the network with opset {opset}"
                )
    return later, [f"{note}: every output stayed the same in onnxruntime"]


def _opened(model: Model) -> OnnxRuntime:
    light, weights = model.without_weights()
    return OnnxRuntime(light, name=model.file, optimize=False, weights=weights)
