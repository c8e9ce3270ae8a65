"""Task metrics, in percent: a file a family, each with the table of its own."""

from __future__ import annotations

from onnxgraft.data.functions import Function, Given, is_function_path
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError, nearest
from onnxgraft.stages.validate.metrics import classification, detection, segmentation
from onnxgraft.stages.validate.metrics.metric import Answered, Curve, Direction, Metric, MetricKind
from onnxgraft.stages.validate.metrics.own import Own, Processed, declared

__all__ = [
    "METRICS",
    "Answered",
    "Curve",
    "Direction",
    "Metric",
    "MetricKind",
    "Processed",
    "declared",
    "find_metric",
    "make_metric",
]

METRICS: dict[str, MetricKind] = {
    kind.name: kind for family in (classification, segmentation, detection) for kind in family.KINDS
}


def find_metric(given: Given) -> str | Function:
    """Return the name of one of `METRICS`, or the function that is given.

    Args:
        given: A name, ``FILE.py:FUNCTION`` (the file is run), or a callable.

    Raises:
        InputError: There is no such metric.
    """
    if isinstance(given, Function):
        return given
    if not isinstance(given, str):
        return Function.of(given)
    if is_function_path(given):
        return Function.load(given)
    if given not in METRICS:
        raise InputError(
            f"no metric is called {given!r}; {nearest(given, METRICS)}, or name a function of your "
            "own as FILE.py:FUNCTION"
        )
    return given


def make_metric(given: Given, classes: str | None = None, how: Postprocess | None = None) -> Metric:
    """Return a new metric.

    Args:
        given: See `find_metric`; a function is one of an output and a label.
        classes: Of ``miou`` and ``map``: ``camvid``, ``cityscapes`` or a file, see `find_classes`;
            None counts them by the output's channels, and calls them by their numbers.
        how: What ``[postprocess]`` says of the outputs, for ``map``; its function is called first.
    """
    found = find_metric(given)
    metric: Metric
    metric = Own(found) if isinstance(found, Function) else METRICS[found].make(classes, how)
    return metric if how is None or how.function is None else Processed(metric, how)
