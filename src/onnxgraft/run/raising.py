"""A graph in a later opset, run beside the one that it was."""

from __future__ import annotations

from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.half import computes_in_half
from onnxgraft.graph.model import Model
from onnxgraft.graph.opset import raise_opset
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.run.tolerances import FLOAT_TOLERANCE, HALF_TOLERANCE
from onnxgraft.run.verdicts import hold

__all__ = ["raised"]

# Of free sizes, those that are tried until one is large enough for the network.
_SIZES = (8, 64, 224)


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
    try:
        feeds, expected = _first_run(model)
    except InputError as error:  # no random numbers fit it, or onnxruntime does not run it
        return later, [f"{note}; not verified: {error}"]
    try:
        found = _run(later, feeds)
    except InputError as error:
        raise NotSupportedError(
            f"{model.file}: {note}, and the graph no longer runs ({error}); export the network "
            f"with opset {opset}"
        ) from error
    tolerance = HALF_TOLERANCE if computes_in_half(model) else FLOAT_TOLERANCE
    for verdict in hold(expected, found, tolerance):
        if not verdict.passed:
            raise NotSupportedError(
                f"{model.file}: {note}, and its output {verdict.output!r} differs by "
                f"{verdict.max_abs:.1e} then; export the network with opset {opset}"
            )
    return later, [f"{note}: every output stayed the same in onnxruntime"]


def _first_run(model: Model) -> tuple[Feeds, Outputs]:
    for size in _SIZES:
        feeds = random_feeds(model.inputs, 1, size=size)
        try:
            return feeds, _run(model, feeds)
        except InputError:
            if size == _SIZES[-1]:
                raise
    raise AssertionError("there is a size")


def _run(model: Model, feeds: Feeds) -> Outputs:
    light, weights = model.without_weights()
    with OnnxRuntime(light, name=model.file, optimize=False, weights=weights) as session:
        return session.infer(feeds)
