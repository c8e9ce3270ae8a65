"""SSD's PriorBox and DetectionOutput, in standard operators.

Source: SSD's prior_box_layer.cpp, detection_output_layer.cpp, bbox_util.cpp.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter, count
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["detection_output", "prior_box"]

# SSD512 has 24564.
_MOST_PRIORS = 1 << 22
_NEVER = float(np.finfo(np.float32).min)


def prior_box(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert PriorBox to the constant (1, 2, 4 P) that it is: corners, and their variances.

    For each position and each min_size: a square of it, one of sqrt(min max), then the ratios.
    Sizes are truncated to whole pixels.
    """
    out.check(len(bottoms) == 2, "it needs a feature map and an image")
    feature, image = bottoms
    settings = layer.parameter("prior_box_param")
    height, width = feature.shape[2:]
    img_h = settings.integer("img_h", settings.integer("img_size", image.shape[2]))
    img_w = settings.integer("img_w", settings.integer("img_size", image.shape[3]))
    step = settings.number("step", 0.0)
    step_h = settings.number("step_h", step) or img_h / height
    step_w = settings.number("step_w", step) or img_w / width
    offset = settings.number("offset", 0.5)
    sizes = _sizes(settings, out)
    out.check(height * width * len(sizes) <= _MOST_PRIORS, "it makes too many boxes")
    centre_x = (np.arange(width) + offset) * step_w
    centre_y = (np.arange(height) + offset) * step_h
    half = np.array(sizes, np.float64) / 2
    boxes = np.empty((height, width, len(sizes), 4), np.float64)
    boxes[..., 0] = (centre_x[None, :, None] - half[:, 0]) / img_w
    boxes[..., 1] = (centre_y[:, None, None] - half[:, 1]) / img_h
    boxes[..., 2] = (centre_x[None, :, None] + half[:, 0]) / img_w
    boxes[..., 3] = (centre_y[:, None, None] + half[:, 1]) / img_h
    if settings.flag("clip", False):
        boxes = boxes.clip(0, 1)
    given = settings.numbers("variance") or [0.1]
    out.check(len(given) in (1, 4), f"{len(given)} variances; 1 or 4 are wanted")
    variances = np.broadcast_to(np.array(given), boxes.shape)
    both = np.stack([boxes.ravel(), variances.ravel()])[np.newaxis].astype(np.float32)
    return [out.op("Identity", [both], both.shape)]


def _sizes(settings: Message, out: Emitter) -> list[tuple[float, float]]:
    """Return the (width, height) of the boxes at each position, in pixels."""
    smallest = [int(value) for value in settings.numbers("min_size")]
    largest = [int(value) for value in settings.numbers("max_size")]
    out.check(len(smallest) > 0 and min(smallest) > 0, "it needs a min_size above 0")
    out.check(len(largest) in (0, len(smallest)), "max_size and min_size differ in number")
    ratios: list[float] = [1.0]
    for ratio in settings.numbers("aspect_ratio"):
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            out.check(ratio > 0, f"the aspect ratio {ratio} is impossible")
            ratios.append(ratio)
            if settings.flag("flip", True):
                ratios.append(1 / ratio)
    sizes: list[tuple[float, float]] = []
    for index, size in enumerate(smallest):
        sizes.append((size, size))
        if largest:
            middle = math.sqrt(size * largest[index])
            sizes.append((middle, middle))
        sizes += [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios[1:]]
    return sizes


def detection_output(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert DetectionOutput: rows (image, label, score, x1, y1, x2, y2), (1, 1, count, 7).

    Rows stand by image, then label, then falling score. Where Caffe says "nothing" by a row of
    -1, here are no rows.
    """
    out.check(len(bottoms) >= 3, "it needs locations, confidences and priors")
    loc, conf, prior = bottoms[:3]
    settings = layer.parameter("detection_output_param")
    nms = settings.message("nms_param")
    if not settings.flag("share_location", True):
        raise out.refuse("boxes of a class each (share_location: false) can't be converted")
    if nms.number("eta", 1.0) != 1.0:
        raise out.refuse("a threshold that adapts (eta) has no form in ONNX")
    classes = settings.integer("num_classes")
    boxes_count = prior.shape[2] // 4
    fits = count(conf.shape[1:]) == boxes_count * classes and count(loc.shape[1:]) == prior.shape[2]
    out.check(fits, f"{conf.shape} and {loc.shape} are not those of {boxes_count} priors")
    batch = loc.shape[0]
    boxes = _decoded(loc, prior, boxes_count, settings, out)

    background = settings.integer("background_label_id", 0)
    labels = np.array([c for c in range(classes) if c != background], np.int64)
    scores = out.reshape(conf, (batch, boxes_count, classes))
    scores = out.transpose(scores, [0, 2, 1])
    kinds = (batch, len(labels), boxes_count)
    scores = out.op("Gather", [scores, labels], kinds, {"axis": 1})

    top = min(nms.integer("top_k", -1) if nms.integer("top_k", -1) > 0 else boxes_count,
              boxes_count)  # fmt: skip
    nothing = _filled_like(scores, _NEVER, out)
    candidates = scores
    if top < boxes_count:
        best = out.op("TopK", [scores, np.array([top], np.int64)], (*kinds[:2], top), {"axis": 2},
                      outputs=2)  # fmt: skip
        where = out.second(best, best.shape)
        candidates = out.op("ScatterElements", [nothing, where, best], kinds, {"axis": 2})
    most = np.array(top, np.int64)
    overlap = np.array(nms.number("nms_threshold", 0.3), np.float32)
    least = np.array(settings.number("confidence_threshold", _NEVER), np.float32)
    areas = boxes
    if settings.text("code_type", "CORNER") not in ("CENTER_SIZE", "2"):
        # A box whose corners have changed places overlaps nothing in Caffe; ONNX would put them
        # back, so it is shown a box without an area.
        low, high = out.slice(boxes, 2, 0, 2), out.slice(boxes, 2, 2, 4)
        high = out.op("Max", [low, high], low.shape)
        areas = out.op("Concat", [low, high], boxes.shape, {"axis": 2})
    chosen = out.op(
        "NonMaxSuppression", [areas, candidates, most, overlap, least], (-1, 3), dtype=np.int64
    )
    values = out.op("GatherND", [scores, chosen], (-1,))
    kept = out.op("ScatterND", [nothing, chosen, values], kinds)
    keep = settings.integer("keep_top_k", -1)
    limit = len(labels) * top
    return [_rows(kept, boxes, labels, min(keep, limit) if keep > 0 else limit, out)]


def _decoded(loc: Blob, prior: Blob, boxes: int, settings: Message, out: Emitter) -> Blob:
    """Return the boxes (N, P, 4) as corners."""
    offsets = out.reshape(loc, (loc.shape[0], boxes, 4))
    corners = out.reshape(out.slice(prior, 1, 0, 1), (1, boxes, 4))
    if not settings.flag("variance_encoded_in_target", False):
        variances = out.reshape(out.slice(prior, 1, 1, 2), (1, boxes, 4))
        offsets = out.binary("Mul", offsets, variances)
    code = settings.text("code_type", "CORNER")
    low, high = out.slice(corners, 2, 0, 2), out.slice(corners, 2, 2, 4)
    if code in ("CORNER", "1"):
        return out.binary("Add", offsets, corners)
    size = out.binary("Sub", high, low)
    if code in ("CORNER_SIZE", "3"):
        both = out.op("Concat", [size, size], (1, boxes, 4), {"axis": 2})
        return out.binary("Add", out.binary("Mul", offsets, both), corners)
    out.check(code in ("CENTER_SIZE", "2"), f"the code type {code} is unknown")
    centre = out.binary("Mul", out.binary("Add", low, high), 0.5)
    shift, stretch = out.slice(offsets, 2, 0, 2), out.slice(offsets, 2, 2, 4)
    middle = out.binary("Add", out.binary("Mul", shift, size), centre)
    half = out.binary("Mul", out.binary("Mul", out.unary("Exp", stretch), size), 0.5)
    ends = [out.binary("Sub", middle, half), out.binary("Add", middle, half)]
    return out.op("Concat", ends, (loc.shape[0], boxes, 4), {"axis": 2})


def _rows(kept: Blob, boxes: Blob, labels: NDArray[np.int64], keep: int, out: Emitter) -> Blob:
    """Return the best ``keep`` of each image as rows, by label and then by score."""
    batch, kinds, count_boxes = kept.shape
    flat = out.reshape(kept, (batch, kinds * count_boxes))
    size = (batch, keep)
    best = out.op("TopK", [flat, np.array([keep], np.int64)], size, {"axis": 1}, outputs=2)
    where = out.second(best, size)
    width = np.array(count_boxes, np.int64)
    kind = out.op("Div", [where, width], size, dtype=np.int64)
    box = out.op("Mod", [where, width], size, dtype=np.int64)
    found = out.op("Greater", [best, np.array(_NEVER, np.float32)], size, dtype=np.bool_)
    rank = np.arange(keep, dtype=np.int64)
    by_label = out.op("Add", [out.op("Mul", [kind, np.array(keep, np.int64)], size,
                                     dtype=np.int64), rank], size, dtype=np.int64)  # fmt: skip
    key = out.op("Where", [found, by_label, np.array(np.iinfo(np.int64).max)], size, dtype=np.int64)
    smallest = {"axis": 1, "largest": 0, "sorted": 1}
    sorted_keys = out.op("TopK", [key, np.array([keep], np.int64)], size, smallest, outputs=2)
    sorted_keys.tensor.dtype = np.int64
    order = out.second(sorted_keys, size)

    def ordered(blob: Blob, dtype: type) -> Blob:
        return out.op("GatherElements", [blob, order], size, {"axis": 1}, dtype=dtype)

    flags = out.op("Cast", [found], size, {"to": 7}, dtype=np.int64)
    present = out.op("NonZero", [ordered(flags, np.int64)], (2, -1), dtype=np.int64)
    place = out.op("Transpose", [present], (-1, 2), {"perm": [1, 0]}, dtype=np.int64)

    def picked(blob: Blob, dtype: type) -> Blob:
        return out.op("GatherND", [ordered(blob, dtype), place], (-1,), dtype=dtype)

    image = out.op("Gather", [present, np.array(0, np.int64)], (-1,), {"axis": 0}, dtype=np.int64)
    which = picked(box, np.int64)
    axis = np.array([1], np.int64)
    pair = out.op("Concat", [
        out.op("Unsqueeze", [image, axis], (-1, 1), dtype=np.int64),
        out.op("Unsqueeze", [which, axis], (-1, 1), dtype=np.int64),
    ], (-1, 2), {"axis": 1}, dtype=np.int64)  # fmt: skip
    corners = out.op("GatherND", [boxes, pair], (-1, 4))
    label = out.op("Gather", [labels, picked(kind, np.int64)], (-1,), {"axis": 0}, dtype=np.int64)
    columns = [
        out.op("Unsqueeze", [out.op("Cast", [image], (-1,), {"to": 1}), axis], (-1, 1)),
        out.op("Unsqueeze", [out.op("Cast", [label], (-1,), {"to": 1}), axis], (-1, 1)),
        out.op("Unsqueeze", [picked(best, np.float32), axis], (-1, 1)),
        corners,
    ]
    rows = out.op("Concat", columns, (-1, 7), {"axis": 1})
    return out.op("Unsqueeze", [rows, np.array([0, 1], np.int64)], (1, 1, -1, 7))


def _filled_like(x: Blob, value: float, out: Emitter) -> Blob:
    shape = out.op("Shape", [x], (x.rank,), dtype=np.int64)
    return out.op("Expand", [np.array(value, np.float32), shape], x.shape)
