"""SSD's PriorBox and DetectionOutput, in standard operators.

Source: SSD's prior_box_layer.cpp, detection_output_layer.cpp, bbox_util.cpp; RefineDet's and
TextBoxes_plusplus' of the same names; MobileNet-YOLO's yolov3_detection_output_layer.cpp.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.convert.caffe.layers.emitter import (
    FREE,
    BatchIsFixed,
    Blob,
    Emitter,
    count,
)
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message

__all__ = ["detection_output", "prior_box", "yolov3_output"]

# SSD512 has 24564.
_MOST_PRIORS = 1 << 22
_NEVER = float(np.finfo(np.float32).min)
_CODES = ("CORNER", "CENTER_SIZE", "CORNER_SIZE")


def prior_box(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert PriorBox to the constant (1, 2, 4 P) that it is: corners, and their variances.

    For each position and each min_size: a square of it, one of sqrt(min max), then the ratios.
    Sizes are truncated to whole pixels. With ``denser_prior_boxes`` (TextBoxes++) each box stands
    twice, again half a place lower: at (row + 1) step_h, whatever the offset.
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
    rows = [offset, 1.0] if settings.flag("denser_prior_boxes", False) else [offset]
    many = height * width * len(sizes) * len(rows)
    out.check(many <= _MOST_PRIORS, "it makes too many boxes")
    half = np.array(sizes, np.float64)[:, np.newaxis] / 2  # (sizes, 1, 2), beside the rows
    centre_x = ((np.arange(width) + offset) * step_w)[:, np.newaxis, np.newaxis]
    centre_y = (np.add.outer(np.arange(height), rows) * step_h)[:, np.newaxis, np.newaxis]
    boxes = np.empty((height, width, len(sizes), len(rows), 4), np.float64)
    boxes[..., 0] = (centre_x - half[..., 0]) / img_w
    boxes[..., 1] = (centre_y - half[..., 1]) / img_h
    boxes[..., 2] = (centre_x + half[..., 0]) / img_w
    boxes[..., 3] = (centre_y + half[..., 1]) / img_h
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
    -1, here are no rows. RefineDet's has two bottoms more: a box whose objectness is too low is
    background, and boxes are decoded from refined priors. With ``use_polygon`` (TextBoxes++) there
    are four corners of a polygon behind each box.
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
    polygons = settings.flag("use_polygon", False)
    values = boxes_count * (12 if polygons else 4)
    fits = count(conf.shape[1:]) == boxes_count * classes and count(loc.shape[1:]) == values
    out.check(fits, f"{conf.shape} and {loc.shape} are not those of {boxes_count} priors")
    batch = loc.shape[0]
    areas, told = _boxes(bottoms, boxes_count, settings, out)

    background = settings.integer("background_label_id", 0)
    labels = np.array([c for c in range(classes) if c != background], np.int64)
    scores = out.reshape(conf, (batch, boxes_count, classes))
    if len(bottoms) > 3:
        least = settings.number("objectness_score", 0.01)
        scores = _without_background(scores, bottoms[3], least, out)
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
    least_score = np.array(settings.number("confidence_threshold", _NEVER), np.float32)
    chosen = out.op("NonMaxSuppression", [areas, candidates, most, overlap, least_score], (-1, 3),
                    dtype=np.int64)  # fmt: skip
    found = out.op("GatherND", [scores, chosen], (-1,))
    kept = out.op("ScatterND", [nothing, chosen, found], kinds)
    keep = settings.integer("keep_top_k", -1)
    limit = len(labels) * top
    return [_rows(kept, told, labels, min(keep, limit) if keep > 0 else limit, out)]


def _boxes(
    bottoms: list[Blob], count_boxes: int, settings: Message, out: Emitter
) -> tuple[Blob, Blob]:
    """Return the boxes to overlap (N, P, 4), and what a row tells of each (N, P, 4 or 12)."""
    loc, prior = bottoms[0], bottoms[2]
    code = settings.choice("code_type", "CORNER", _CODES, first=1)
    out.check(code in _CODES, f"the code type {code} is unknown")
    priors = out.reshape(out.slice(prior, 1, 0, 1), (1, count_boxes, 4))
    variances = None
    if not settings.flag("variance_encoded_in_target", False):
        variances = out.reshape(out.slice(prior, 1, 1, 2), (1, count_boxes, 4))
    if len(bottoms) > 4:
        arm = out.reshape(bottoms[4], (bottoms[4].shape[0], count_boxes, 4))
        priors = _decoded(arm, priors, variances, code, out)
    if not settings.flag("use_polygon", False):
        offsets = out.reshape(loc, (loc.shape[0], count_boxes, 4))
        boxes = _decoded(offsets, priors, variances, code, out)
        return _areas(boxes, code, out), boxes
    both = out.reshape(loc, (loc.shape[0], count_boxes, 12))
    if variances is None or code != "CENTER_SIZE":
        raise out.refuse("polygons are defined for CENTER_SIZE and variances in the priors alone")
    boxes = _decoded(out.slice(both, 2, 0, 4), priors, variances, code, out)
    corners = _polygons(out.slice(both, 2, 4, 12), priors, variances, out)
    joined = out.op("Concat", [boxes, corners], (loc.shape[0], count_boxes, 12), {"axis": 2})
    return _areas(boxes, code, out), joined


def _decoded(offsets: Blob, priors: Blob, variances: Blob | None, code: str, out: Emitter) -> Blob:
    """Return the boxes (N, P, 4) as corners."""
    if variances is not None:
        offsets = out.binary("Mul", offsets, variances)
    if code == "CORNER":
        return out.binary("Add", offsets, priors)
    low, high = out.slice(priors, 2, 0, 2), out.slice(priors, 2, 2, 4)
    size = out.binary("Sub", high, low)
    if code == "CORNER_SIZE":
        both = out.op("Concat", [size, size], priors.shape, {"axis": 2})
        return out.binary("Add", out.binary("Mul", offsets, both), priors)
    centre = out.binary("Mul", out.binary("Add", low, high), 0.5)
    shift, stretch = out.slice(offsets, 2, 0, 2), out.slice(offsets, 2, 2, 4)
    middle = out.binary("Add", out.binary("Mul", shift, size), centre)
    half = out.binary("Mul", out.binary("Mul", out.unary("Exp", stretch), size), 0.5)
    ends = [out.binary("Sub", middle, half), out.binary("Add", middle, half)]
    return out.op("Concat", ends, offsets.shape, {"axis": 2})


def _polygons(offsets: Blob, priors: Blob, variances: Blob, out: Emitter) -> Blob:
    """Return four corners (N, P, 8), each beside a corner of the prior, clockwise."""

    def picked(blob: Blob, indices: list[int]) -> Blob:
        shape = (*blob.shape[:2], 8)
        return out.op("Gather", [blob, np.array(indices, np.int64)], shape, {"axis": 2})

    size = out.binary("Sub", out.slice(priors, 2, 2, 4), out.slice(priors, 2, 0, 2))
    scaled = out.binary("Mul", offsets, picked(variances, [0, 1] * 4))
    scaled = out.binary("Mul", scaled, picked(size, [0, 1] * 4))
    return out.binary("Add", scaled, picked(priors, [0, 1, 2, 1, 2, 3, 0, 3]))


def _areas(boxes: Blob, code: str, out: Emitter) -> Blob:
    """Return the boxes for NonMaxSuppression.

    A box whose corners have changed places overlaps nothing in Caffe; ONNX would put them back,
    so it is shown a box without an area.
    """
    if code == "CENTER_SIZE":
        return boxes
    low, high = out.slice(boxes, 2, 0, 2), out.slice(boxes, 2, 2, 4)
    high = out.op("Max", [low, high], low.shape)
    return out.op("Concat", [low, high], boxes.shape, {"axis": 2})


def _without_background(scores: Blob, objectness: Blob, least: float, out: Emitter) -> Blob:
    """Return the scores (N, P, C), and those of class 0 alone where there is no object."""
    batch, priors, classes = scores.shape
    pairs = out.reshape(objectness, (batch, priors, 2))
    limit = np.array(least, np.float32)
    empty = out.op("Less", [out.slice(pairs, 2, 1, 2), limit], (batch, priors, 1), dtype=np.bool_)
    zero = np.eye(1, classes, dtype=np.float32)[np.newaxis]
    return out.op("Where", [empty, zero, scores], scores.shape)


def _rows(kept: Blob, boxes: Blob, labels: NDArray[np.int64], keep: int, out: Emitter) -> Blob:
    """Return the best ``keep`` of each image as rows, by label and then by score.

    There are ``keep`` rows of each image until the last step, which drops those without a box.
    """
    batch, kinds, count_boxes = kept.shape
    flat = out.reshape(kept, (batch, kinds * count_boxes))
    size = (batch, keep)
    best = out.op("TopK", [flat, np.array([keep], np.int64)], size, {"axis": 1}, outputs=2)
    where = out.second(best, size)
    row = np.array(count_boxes, np.int64)
    kind = out.op("Div", [where, row], size, dtype=np.int64)
    box = out.op("Mod", [where, row], size, dtype=np.int64)
    found = out.op("Greater", [best, np.array(_NEVER, np.float32)], size, dtype=np.bool_)
    rank = np.arange(keep, dtype=np.int64)
    by_label = out.op("Add", [out.op("Mul", [kind, np.array(keep, np.int64)], size,
                                     dtype=np.int64), rank], size, dtype=np.int64)  # fmt: skip
    behind = np.array(keep * kinds, np.int64)
    key = out.op("Where", [found, by_label, behind], size, dtype=np.int64)
    smallest = {"axis": 1, "largest": 0, "sorted": 1}
    sorted_keys = out.op("TopK", [key, np.array([keep], np.int64)], size, smallest, outputs=2)
    sorted_keys.tensor.dtype = np.int64
    order = out.second(sorted_keys, size)

    def ordered(blob: Blob, dtype: type) -> Blob:
        return out.op("GatherElements", [blob, order], size, {"axis": 1}, dtype=dtype)

    def column(blob: Blob, dtype: type = np.float32) -> Blob:
        return out.op("Unsqueeze", [blob, np.array([2], np.int64)], (*size, 1), dtype=dtype)

    width = boxes.shape[2]
    index = column(ordered(box, np.int64), np.int64)
    corners = out.op("GatherND", [boxes, index], (*size, width), {"batch_dims": 1})
    label = out.op("Gather", [labels.astype(np.float32), ordered(kind, np.int64)], size)
    ones = _filled_like(best, 1.0, out)
    image = out.op("CumSum", [ones, np.array(0, np.int64)], size, {"exclusive": 1})
    columns = [column(image), column(label), column(ordered(best, np.float32)), corners]
    rows = out.op("Concat", columns, (*size, 3 + width), {"axis": 2})
    rows = out.op("Reshape", [rows, np.array([-1, 3 + width], np.int64)], (-1, 3 + width))
    flags = out.op("Cast", [found], size, {"to": 7}, dtype=np.int64)
    present = out.op("Cast", [ordered(flags, np.int64)], size, {"to": 9}, dtype=np.bool_)
    present = out.op("Reshape", [present, np.array([-1], np.int64)], (-1,), dtype=np.bool_)
    rows = out.op("Compress", [rows, present], (-1, 3 + width), {"axis": 0})
    return out.op("Unsqueeze", [rows, np.array([0, 1], np.int64)], (1, 1, -1, 3 + width))


def yolov3_output(layer: Layer, bottoms: list[Blob], out: Emitter) -> list[Blob]:
    """Convert MobileNet-YOLO's Yolov3DetectionOutput: rows (0, label, score, x1, y1, x2, y2).

    Each input has num_box anchors of (x, y, w, h, objectness, classes...) at each position. Boxes
    suppress each other whatever their labels, so of a box the best label alone can stay. Rows stand
    by falling score; where Caffe writes a row of -1 for "nothing", here are none.
    """
    settings = layer.parameter("yolov3_detection_output_param")
    if bottoms[0].shape[0] == FREE:
        raise BatchIsFixed
    if bottoms[0].shape[0] != 1:
        raise out.refuse("it takes the images of a batch for one; give it one image")
    groups = settings.integer("mask_group_num", 2)
    scales, mask = settings.integers("anchors_scale"), settings.integers("mask")
    matching = groups == len(bottoms) == len(scales) and len(mask) % len(bottoms) == 0
    out.check(matching, f"{groups} groups, {len(scales)} scales and {len(mask)} masks for "
              f"{len(bottoms)} inputs")  # fmt: skip
    step = len(mask) // len(bottoms)
    parts = [
        _yolo_boxes(x, settings, mask[i * step :], scale, out)
        for i, (x, scale) in enumerate(zip(bottoms, scales, strict=True))
    ]
    total = sum(boxes.shape[1] for boxes, _ in parts)
    boxes = out.op("Concat", [boxes for boxes, _ in parts], (1, total, 4), {"axis": 1})
    classes = settings.integer("num_classes", 20)
    scores = out.op("Concat", [score for _, score in parts], (1, total, classes), {"axis": 1})
    best = out.reduce("ReduceMax", scores, [2], keep=False)
    label = out.op("ArgMax", [scores], (1, total), {"axis": 2, "keepdims": 0}, dtype=np.int64)
    # An overlap of exactly the threshold suppresses; in ONNX only one above it does.
    overlap = np.nextafter(np.float32(settings.number("nms_threshold", 0.45)), np.float32(0))
    limits: list[Array] = [
        np.array(total, np.int64),
        np.array(overlap, np.float32),
        np.array(settings.number("confidence_threshold", 0.01), np.float32),
    ]
    single = out.reshape(best, (1, 1, total))
    chosen = out.op("NonMaxSuppression", [boxes, single, *limits], (-1, 3), dtype=np.int64)
    index = out.op("Gather", [chosen, np.array(2, np.int64)], (-1,), {"axis": 1}, dtype=np.int64)

    def picked(blob: Blob, dtype: type) -> Blob:
        flat = out.op("Squeeze", [blob, np.array([0], np.int64)], blob.shape[1:], dtype=dtype)
        return out.op("Gather", [flat, index], (-1, *blob.shape[2:]), {"axis": 0}, dtype=dtype)

    def column(blob: Blob) -> Blob:
        return out.op("Unsqueeze", [blob, np.array([1], np.int64)], (-1, 1))

    score = picked(best, np.float32)
    kind = out.op("Cast", [picked(label, np.int64)], (-1,), {"to": 1})
    columns = [column(out.binary("Mul", kind, 0.0)), column(out.binary("Add", kind, 1.0)),
               column(score), picked(boxes, np.float32)]  # fmt: skip
    rows = out.op("Concat", columns, (-1, 7), {"axis": 1})
    return [out.op("Unsqueeze", [rows, np.array([0, 1], np.int64)], (1, 1, -1, 7))]


def _yolo_boxes(
    x: Blob, settings: Message, mask: list[int], scale: int, out: Emitter
) -> tuple[Blob, Blob]:
    """Return the boxes (1, A S S, 4) as corners and the scores (1, A S S, C) of one input."""
    anchors, classes = settings.integer("num_box", 3), settings.integer("num_classes", 20)
    biases = settings.numbers("biases")
    side = x.shape[3]
    fits = x.rank == 4 and x.shape[1:3] == (anchors * (5 + classes), side)
    known = len(mask) >= anchors and all(2 * m + 1 < len(biases) for m in mask[:anchors])
    out.check(fits and known, f"{x.shape} is not of {anchors} anchors and {classes} classes")
    grid = out.reshape(x, (1, anchors, 5 + classes, side * side))
    grid = out.transpose(grid, [0, 1, 3, 2])
    places = anchors * side * side
    values = out.reshape(grid, (1, places, 5 + classes))
    cells = np.arange(side * side)
    corner = np.stack([cells % side, cells // side], axis=1).astype(np.float32)
    offset = np.tile(corner, (anchors, 1))[np.newaxis]
    sizes = np.array([biases[2 * m : 2 * m + 2] for m in mask[:anchors]], np.float64)
    sizes = np.repeat(sizes / (side * scale) / 2, side * side, axis=0)[np.newaxis]
    centre = out.binary("Add", out.unary("Sigmoid", out.slice(values, 2, 0, 2)), offset)
    centre = out.binary("Mul", centre, 1.0 / side)
    half = out.binary("Mul", out.unary("Exp", out.slice(values, 2, 2, 4)), sizes)
    ends = [out.binary("Sub", centre, half), out.binary("Add", centre, half)]
    boxes = out.op("Concat", ends, (1, places, 4), {"axis": 2})
    scores = out.unary("Sigmoid", out.slice(values, 2, 5, 5 + classes))
    objects = out.unary("Sigmoid", out.slice(values, 2, 4, 5))
    return boxes, out.binary("Mul", scores, objects)


def _filled_like(x: Blob, value: float, out: Emitter) -> Blob:
    shape = out.op("Shape", [x], (x.rank,), dtype=np.int64)
    return out.op("Expand", [np.array(value, np.float32), shape], x.shape)
