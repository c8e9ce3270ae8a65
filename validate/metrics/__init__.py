"""Task metrics, in percent: a file a family, each with the table of its own."""

from __future__ import annotations

from onnxgraft.data.postprocess import Postprocess
from onnxgraft.errors import InputError, nearest
from onnxgraft.stages.validate.metrics import classification, detection, segmentation
from onnxgraft.stages.validate.metrics.metric import Answered, Curve, Direction, Metric, MetricKind
from onnxgraft.stages.validate.metrics.own import Own, declared, own_function

__all__ = [
    "METRICS",
    "Answered",
    "Curve",
    "Direction",
    "Metric",
    "MetricKind",
    "declared",
    "make_metric",
    "own_function",
]

METRICS: dict[str, MetricKind] = {
    kind.name: kind for family in (classification, segmentation, detection) for kind in family.KINDS
}


def make_metric(name: str, classes: str | None = None, how: Postprocess | None = None) -> Metric:
    """Return a new metric.

    Args:
        name: One of `METRICS`, or ``FILE.py:FUNCTION``: a function of an output and a label.
        classes: Of ``miou`` and ``map``: ``camvid``, ``cityscapes`` or a file, see `find_classes`;
            None counts them by the output's channels, and calls them by their numbers.
        how: What ``[postprocess]`` says of the outputs, for ``map``.
    """
    if name in METRICS:
        return METRICS[name].make(classes, how)
    if ".py:" in name:
        return Own(own_function(name), name.rpartition(":")[2])
    raise InputError(
        f"no metric is called {name!r}; {nearest(name, METRICS)}, or name a function of your own "
        "as FILE.py:FUNCTION"
    )
