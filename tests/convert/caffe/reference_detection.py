"""PriorBox and DetectionOutput of SSD, by their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxgraft.graph.tensors import Array
from tests.convert.caffe.reference_activation import sigmoid

Box = Array  # (xmin, ymin, xmax, ymax)


def prior_box(
    layer: Sequence[int],
    image: Sequence[int],
    min_sizes: Sequence[float],
    max_sizes: Sequence[float] = (),
    ratios: Sequence[float] = (),
    *,
    flip: bool = True,
    clip: bool = False,
    variance: Sequence[float] = (0.1,),
    step: Sequence[float] | None = None,
    offset: float = 0.5,
    denser: bool = False,
) -> Array:
    """Return (1, 2, 4 * boxes): corners in fractions of the image, then variances.

    Args:
        layer: Height and width of the layer.
        image: Height and width of the image.
        min_sizes: In pixels; what is behind the point is cut off.
        max_sizes: As ``min_sizes``, and as many, or none.
        ratios: Of width to height.
        flip: Whether a ratio stands for its reciprocal too.
        clip: Whether to clip the corners to the image.
        variance: One value, or one for each corner.
        step: Height and width that a place of the layer covers, in pixels.
        offset: Of a box's centre in its place.
        denser: Whether each box stands again at the place's lower end (TextBoxes++).
    """
    shapes = _shapes([int(size) for size in min_sizes], [int(size) for size in max_sizes],
                     _distinct(ratios, flip))  # fmt: skip
    height, width = image
    down, right = step or (height / layer[0], width / layer[1])
    boxes = []
    for row in range(layer[0]):
        for column in range(layer[1]):
            x, rows = (column + offset) * right, [(row + offset) * down, (row + 1) * down]
            for w, h in shapes:
                boxes += [
                    [
                        (x - w / 2) / width,
                        (y - h / 2) / height,
                        (x + w / 2) / width,
                        (y + h / 2) / height,
                    ]
                    for y in (rows if denser else rows[:1])
                ]
    corners = np.clip(boxes, 0, 1) if clip else np.asarray(boxes)
    variances = np.broadcast_to(np.asarray(variance, np.float64), corners.shape)
    return np.stack([corners.ravel(), variances.ravel()])[None]


def _distinct(ratios: Sequence[float], flip: bool) -> list[float]:
    """Return the ratios without 1 and without repetitions, each followed by its reciprocal."""
    kept = [1.0]
    for ratio in ratios:
        if all(abs(ratio - other) >= 1e-6 for other in kept):
            kept += [ratio, 1 / ratio] if flip else [ratio]
    return kept[1:]


def _shapes(
    min_sizes: Sequence[int], max_sizes: Sequence[int], ratios: Sequence[float]
) -> list[tuple[float, float]]:
    """Return widths and heights at one place, in order."""
    shapes = []
    for index, small in enumerate(min_sizes):
        shapes.append((float(small), float(small)))
        if max_sizes:
            shapes.append((math.sqrt(small * max_sizes[index]),) * 2)
        shapes += [(small * math.sqrt(ratio), small / math.sqrt(ratio)) for ratio in ratios]
    return shapes


def detection_output(
    location: Array,
    confidence: Array,
    prior: Array,
    objectness: Array | None = None,
    refinement: Array | None = None,
    *,
    least_objectness: float = 0.01,
    polygons: bool = False,
    classes: int,
    share_location: bool = True,
    background: int = 0,
    nms_threshold: float = 0.3,
    top_k: int = -1,
    eta: float = 1.0,
    code: str = "CORNER",
    variance_encoded: bool = False,
    keep_top_k: int = -1,
    threshold: float = -math.inf,
) -> Array:
    """Return (1, 1, detections, 7): image, label, score and corners.

    Without any detection there is a row for each image, of its number and six times -1.

    Args:
        objectness: RefineDet's, (N, 2 P): a prior whose second value is below
            ``least_objectness`` has the scores 1, 0, 0, ...
        refinement: RefineDet's, (N, 4 P): locations that make the priors of the others.
        polygons: TextBoxes++'s: 8 values behind each location, and behind each row's corners.
    """
    priors, variances = prior.reshape(2, -1, 4)
    if variance_encoded:
        variances = np.ones_like(variances)
    samples = location.shape[0]
    sets = 1 if share_location else classes
    locations = location.reshape(samples, -1, sets, 12 if polygons else 4)
    scores = confidence.reshape(samples, -1, classes).copy()
    if objectness is not None:
        scores[objectness.reshape(samples, -1, 2)[..., 1] < least_objectness] = np.eye(classes)[0]
    rows: list[list[float]] = []
    for sample in range(samples):
        # Label, score and box of what is kept, by falling score within each label.
        found: list[tuple[int, float, Box]] = []
        own_priors = priors
        if refinement is not None:
            own_priors = np.stack([
                _decoded(*three, code=code)
                for three in zip(refinement[sample].reshape(-1, 4), priors, variances, strict=True)
            ])
        for label in range(classes):
            if label == background:
                continue
            own = locations[sample, :, 0 if share_location else label]
            boxes = [
                _decoded(*three, code=code)
                for three in zip(own[:, :4], own_priors, variances, strict=True)
            ]
            column = scores[sample, :, label]
            kept = _suppressed(boxes, column, threshold, nms_threshold, eta, top_k)
            told = boxes
            if polygons:
                corners = [
                    _polygon(*three) for three in zip(own[:, 4:], priors, variances, strict=True)
                ]
                told = [np.concatenate(two) for two in zip(boxes, corners, strict=True)]
            found += [(label, float(column[index]), told[index]) for index in kept]
        if -1 < keep_top_k < len(found):
            best = sorted(found, key=lambda one: -one[1])[:keep_top_k]
            found = sorted(best, key=lambda one: one[0])
        rows += [[sample, label, score, *box] for label, score, box in found]
    if not rows:
        rows = [[sample, *[-1.0] * 6] for sample in range(samples)]
    return np.asarray(rows, np.float64)[None, None]


def yolov3(
    *inputs: Array,
    classes: int,
    biases: Sequence[float],
    mask: Sequence[int],
    scales: Sequence[int],
    threshold: float = 0.01,
    nms_threshold: float = 0.45,
) -> Array:
    """Return MobileNet-YOLO's rows of one image: 0, label from 1 on, score and corners.

    yolov3_detection_output_layer.cpp: one entry for each box and label above the threshold, and
    one suppression for all.
    """
    per_input = len(mask) // len(inputs)
    entries = []
    for which, (x, scale) in enumerate(zip(inputs, scales, strict=True)):
        side = x.shape[3]
        values = x[0].reshape(-1, 5 + classes, side, side)
        for anchor, row, column in np.ndindex(values.shape[0], side, side):
            tx, ty, tw, th, objectness, *logits = values[anchor, :, row, column]
            number = mask[which * per_input + anchor]
            width = math.exp(tw) * biases[2 * number] / (side * scale)
            height = math.exp(th) * biases[2 * number + 1] / (side * scale)
            x1 = (column + sigmoid(tx)) / side - width / 2
            y1 = (row + sigmoid(ty)) / side - height / 2
            box = np.asarray([x1, y1, x1 + width, y1 + height])
            entries += [
                (score, label, box)
                for label, logit in enumerate(logits)
                if (score := float(sigmoid(logit) * sigmoid(objectness))) > threshold
            ]
    entries.sort(key=lambda entry: -entry[0])
    kept: list[tuple[float, int, Box]] = []
    for entry in entries:
        if all(_overlap(entry[2], other[2]) < nms_threshold for other in kept):
            kept.append(entry)
    rows = [[0.0, label + 1, score, *box] for score, label, box in kept]
    return np.asarray(rows)[None, None]


def _decoded(delta: Array, prior: Box, variance: Array, *, code: str) -> Box:
    """Return the box that a prediction makes of its prior."""
    moved = delta * variance
    size = prior[2:] - prior[:2]
    if code == "CORNER":
        return prior + moved
    if code == "CORNER_SIZE":
        return prior + moved * np.concatenate([size, size])
    centre = moved[:2] * size + (prior[:2] + prior[2:]) / 2
    half = np.exp(moved[2:]) * size / 2
    return np.concatenate([centre - half, centre + half])


def _polygon(delta: Array, prior: Box, variance: Array) -> Array:
    """Return the four corners of a polygon, each beside a corner of the prior."""
    x1, y1, x2, y2 = prior
    corners = np.asarray([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    size = np.asarray([x2 - x1, y2 - y1])
    return (delta.reshape(4, 2) * variance[:2] * size + corners).ravel()


def _suppressed(
    boxes: Sequence[Box],
    scores: Array,
    threshold: float,
    nms_threshold: float,
    eta: float,
    top_k: int,
) -> list[int]:
    """Return the indices of boxes that no better one overlaps, by falling score."""
    order = [index for index in np.argsort(-scores, kind="stable") if scores[index] > threshold]
    kept: list[int] = []
    limit = nms_threshold
    for index in order if top_k < 0 else order[:top_k]:
        if all(_overlap(boxes[index], boxes[other]) <= limit for other in kept):
            kept.append(int(index))
            if eta < 1 and limit > 0.5:
                limit *= eta
    return kept


def _overlap(one: Box, other: Box) -> float:
    """Return the intersection of two boxes over their union."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    if (sides <= 0).any():
        return 0.0
    both = float(sides.prod())
    return both / (_area(one) + _area(other) - both)


def _area(box: Box) -> float:
    sides = box[2:] - box[:2]
    return 0.0 if (sides < 0).any() else float(sides.prod())
