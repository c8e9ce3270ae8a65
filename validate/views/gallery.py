"""What a report shows in pictures: answers that differ, and the histograms of calibration."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.boxes import Found
from onnxgraft.data.classes import find_classes, palette
from onnxgraft.data.ranges import Histogram, Range, Ranges
from onnxgraft.data.samples import Sample, Samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate import Answer, Tally
from onnxgraft.stages.validate.metrics.detection import labelled_boxes, partners
from onnxgraft.stages.validate.metrics.segmentation import Segmentation
from onnxgraft.stages.validate.report import BoxRow, CandidateRow, GalleryRow, RangeRow

__all__ = ["gallery_rows", "range_rows"]

# Pictures are shrunk to so many columns, and those with boxes, of which there is one, to more.
_WIDTH, _WIDER = 320, 480
_QUALITY = 80  # of JPEG
_TINY = 64  # pixels, in which JPEG would be seen
_MOST = 24
# Of the places where answers differ, a class that is named has so many.
_SHARE = 0.01


def gallery_rows(
    tally: Tally,
    candidates: Sequence[CandidateRow],
    samples: Samples,
    classes: str | None = None,
) -> list[GalleryRow]:
    """Return the samples whose answers differ most, drawn.

    Args:
        tally: Has the answers.
        candidates: Rows of the report, the original's first.
        samples: Where the photographs are.
        classes: Gives names and colours, where it has as many classes as the answers say; None
            numbers them.
    """
    shown = [
        (answer.rank[:-1], _row(row.name, answer, tally, samples, classes))
        for row, answers in zip(candidates[1:], tally.gallery, strict=True)
        for answer in answers
        if answer.size is not None or not isinstance(answer.expected, Found)
    ]
    return [row for _, row in sorted(shown, key=lambda each: each[0])[:_MOST]]


def _row(
    candidate: str, answer: Answer, tally: Tally, samples: Samples, classes: str | None
) -> GalleryRow:
    index = samples.indices[answer.position]
    files = samples.files_at(answer.position) if samples.files else ()
    name = files[0].images[0].name if files else f"sample {index}"
    before, after = answer.scores or (None, None)
    row = GalleryRow(
        candidate, name, answer.apart, "", "", "", "", score=after, original_score=before
    )
    label, expected, actual = answer.label, answer.expected, answer.actual
    width = _WIDTH
    if isinstance(expected, Found) or isinstance(actual, Found):
        assert isinstance(expected, Found) and isinstance(actual, Found)
        width = _WIDER
        _add_boxes(row, answer, expected, actual, tally)
    elif expected.ndim == 2:
        _add_maps(row, expected, actual, label, tally, classes)
    else:
        _add_classes(row, expected, actual, label, classes)
    row.photograph = _photograph(samples, index, width)
    return row


def _add_boxes(
    row: GalleryRow, answer: Answer, expected: Found, actual: Found, tally: Tally
) -> None:
    """Add the boxes of a detector, and of the label those that count."""
    detector, size = tally.detector, answer.size
    assert detector is not None and size is not None
    sides = {"original": expected, "candidate": actual}
    if answer.label is not None:
        rows, edges = labelled_boxes(answer.label, size)
        counts = rows[:, 5] == 0 if rows.shape[1] == 6 else np.ones(len(rows), np.bool_)
        kinds = rows[counts, 0].astype(np.int64)
        sides = {"truth": Found(kinds, np.ones(len(kinds)), edges[counts]), **sides}
    whole = sides.get("truth", expected)
    seen = {first for first, _ in partners(whole, actual)}
    scale = np.array([size[1], size[0]] * 2, np.float64)
    for side, found in sides.items():
        right = seen if found is whole else {second for _, second in partners(whole, found)}
        row.boxes[side] = [
            BoxRow(
                detector.name_of(int(found.classes[i])),
                None if side == "truth" else round(float(found.scores[i]), 4),
                [round(float(edge), 5) for edge in found.edges[i] / scale],
                i in right,
            )
            for i in np.argsort(-found.scores, kind="stable")
        ]
    row.classes = list(dict.fromkeys(box.label for side in row.boxes.values() for box in side))


def _add_maps(
    row: GalleryRow, expected: Array, actual: Array, label: Array | None, tally: Tally,
    classes: str | None,
) -> None:  # fmt: skip
    """Add class maps, drawn in the colours of their classes, and where they differ."""
    count = int(max(expected.max(), actual.max())) + 1
    names = tally.task.classes.names if isinstance(tally.task, Segmentation) else ()
    colors = _colors(classes, count)
    apart = expected != actual
    row.expected, row.actual = (_png(colors[value]) for value in (expected, actual))
    base = np.full((*apart.shape, 3), 235, np.uint8)
    base[apart] = (40, 40, 220)  # red in OpenCV's order
    row.difference = _png(base)
    right = expected
    if label is not None and label.shape == expected.shape:
        # What is none of the classes is black.
        size = max(count, len(names))
        unknown = (label < 0) | (label >= size)
        known = np.concatenate([_colors(classes, size), np.zeros((1, 3), np.uint8)])
        row.truth = _png(known[np.where(unknown, size, label).astype(np.int64)])
        right = np.where(unknown, expected, label)
    found, places = np.unique(right[apart], return_counts=True)
    order = np.argsort(-places, kind="stable")
    shares = {int(found[at]): places[at] / places.sum() for at in order}
    row.classes = [_name(kind, names) for kind, share in shares.items() if share >= _SHARE]
    row.colors = {
        _name(kind, names): "#{2:02x}{1:02x}{0:02x}".format(*colors[kind])
        for kind in map(int, np.union1d(expected, actual))
    }


def _add_classes(
    row: GalleryRow, expected: Array, actual: Array, label: Array | None, classes: str | None
) -> None:
    """Add what a picture was taken for."""
    row.expected, row.actual = (
        _class(int(np.ravel(value)[0]), classes) for value in (expected, actual)
    )
    row.label = "" if label is None or label.ndim else _class(int(label), classes)
    row.classes = list(dict.fromkeys(filter(None, (row.label, row.expected, row.actual))))


def _name(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else f"class {index}"


def _class(index: int, classes: str | None) -> str:
    """Return a class by the name that a file of the user's gives it, or by its number."""
    return _name(index, find_classes(classes).names if classes and Path(classes).suffix else ())


def _colors(classes: str | None, count: int) -> NDArray[np.uint8]:
    """Return (count, 3) colours in blue, green, red order."""
    try:
        known = None if classes is None else find_classes(classes)
    except InputError:
        known = None
    if known is None:
        return palette(count)[:, ::-1]
    return palette(count, known if len(known.colors) >= count else None)[:, ::-1]


def _photograph(samples: Samples, index: int, width: int) -> str:
    """Return the picture of a sample: as the network sees it, with the preprocessing undone."""
    one = replace(samples, indices=(index,))
    sample: Sample = next(iter(one))
    value = next(iter(sample.feeds.values()))
    value = value[0] if value.ndim == 4 else value
    if value.ndim != 3:
        return ""
    if value.shape[0] in (1, 3) and value.shape[2] not in (1, 3):
        value = value.transpose(1, 2, 0)
    if value.shape[2] not in (1, 3):
        return ""
    pixels: Array = np.where(np.isfinite(value), value, 0).astype(np.float32)
    if samples.files and samples.preprocess.function is None:
        pixels = samples.preprocess.pixels(pixels)
    else:
        span = float(np.ptp(pixels)) or 1.0
        pixels = (pixels - pixels.min()) * (255 / span)
    made: Array = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return _png(made) if max(made.shape) <= _TINY else _jpeg(made, width)


def _small(pixels: Array, most: int, how: int) -> Array:
    import cv2

    height, width = pixels.shape[:2]
    if width <= most:
        return pixels
    size = (most, max(1, round(height * most / width)))
    return np.asarray(cv2.resize(pixels, size, interpolation=how))


def _png(pixels: Array) -> str:
    import cv2

    return _encoded(".png", "image/png", _small(pixels, _WIDTH, cv2.INTER_NEAREST))


def _jpeg(pixels: Array, width: int) -> str:
    import cv2

    small = _small(pixels, width, cv2.INTER_AREA)
    return _encoded(".jpg", "image/jpeg", small, cv2.IMWRITE_JPEG_QUALITY, _QUALITY)


def _encoded(suffix: str, kind: str, pixels: Array, *options: int) -> str:
    import cv2

    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    assert done
    return f"data:{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


# Bins of a histogram in the report.
_BINS = 80


def range_rows(ranges: Ranges, kept: Mapping[str, Ranges]) -> list[RangeRow]:
    """Return the histograms of the tensors that were calibrated, in bins of equal width.

    Args:
        ranges: Of calibration.
        kept: By target, those that its graph was made with; left out where they are of another
            graph, as those of an equalized one are.
    """
    same = {target: of.tensors for target, of in kept.items() if of.model == ranges.model}
    return [
        RangeRow(
            name, {target: (of[name].low, of[name].high) for target, of in same.items()},
            chosen.minimum, chosen.maximum,
            _bins(counted, chosen.minimum, chosen.maximum),
            {target: _chosen(of[name]) for target, of in same.items()},
        )
        for name, chosen in ranges.tensors.items()
        if chosen.minimum < chosen.maximum
        and (counted := _counted(ranges, name)) is not None
    ]  # fmt: skip


def _counted(ranges: Ranges, name: str) -> Histogram | None:
    """Return the counts of a tensor, which may have been taken at others of the same values."""
    sites = [ranges.histograms.get(site) for site in ranges.sites.get(name, [name])]
    whole = Histogram()
    for histogram in sites:
        if histogram is None:
            return None
        whole.merge(histogram)
    return whole


def _chosen(value: Range) -> str:
    return f"{value.origin}: {value.reason}" if value.reason else value.origin


def _bins(histogram: Histogram, low: float, high: float) -> list[float]:
    """Return the counts in equal bins from ``low`` to ``high``.

    The counts are by the upper half of the float32 bits; each stands where the middle of its
    values does, so that a bin of the report may take what belongs to its neighbour.
    """
    index = np.flatnonzero(histogram.counts)
    middles = ((index.astype(np.uint32) << 16) | 0x8000).view(np.float32)
    finite = np.isfinite(middles)
    counts, _ = np.histogram(
        np.clip(middles[finite], low, high),
        bins=_BINS,
        range=(low, high),
        weights=histogram.counts[index][finite],
    )
    return [float(count) for count in counts]
