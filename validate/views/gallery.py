"""What a report shows in pictures: answers that differ, and the histograms of calibration."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.classes import find_classes, palette
from onnxgraft.data.ranges import Histogram, Range, Ranges
from onnxgraft.data.samples import Sample, Samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.stages.validate import Answer, Tally
from onnxgraft.stages.validate.report import CandidateRow, GalleryRow, RangeRow

__all__ = ["gallery_rows", "range_rows"]

# Pictures are shrunk to so many columns: eight rows of four take less than a megabyte.
_WIDTH = 320
_MOST = 12


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
    shown = []
    for row, answers in zip(candidates[1:], tally.gallery, strict=True):
        for answer in answers:
            index = samples.indices[answer.position]
            files = samples.files_at(answer.position) if samples.files else ()
            name = files[0].images[0].name if files else f"sample {index}"
            if answer.apart:
                shown.append(_row(row.name, name, answer, samples, index, classes))
    return sorted(shown, key=lambda row: -row.apart)[:_MOST]


def _row(
    candidate: str, name: str, answer: Answer, samples: Samples, index: int, classes: str | None
) -> GalleryRow:
    photograph = _photograph(samples, index)
    if answer.expected.ndim == 2:
        colors = _colors(classes, int(max(answer.expected.max(), answer.actual.max())) + 1)
        apart = answer.expected != answer.actual
        expected, actual = (_png(colors[value]) for value in (answer.expected, answer.actual))
        base = np.full((*apart.shape, 3), 235, np.uint8)
        base[apart] = (40, 40, 220)  # red in OpenCV's order
        return GalleryRow(candidate, name, answer.apart, photograph, expected, actual, _png(base))
    label = samples.labels[index] if samples.labels is not None else None
    if samples.files and isinstance(samples.files[index].label, int):
        label = samples.files[index].label
    right = "" if label is None or np.ndim(label) else _class(int(label), classes)
    both = (answer.expected, answer.actual)
    said, other = (_class(int(np.ravel(value)[0]), classes) for value in both)
    return GalleryRow(candidate, name, answer.apart, photograph, said, other, "", right)


def _class(index: int, classes: str | None) -> str:
    """Return a class by the name that a file of the user's gives it, or by its number."""
    names = find_classes(classes).names if classes and Path(classes).suffix else ()
    return names[index] if index < len(names) else f"class {index}"


def _colors(classes: str | None, count: int) -> NDArray[np.uint8]:
    """Return (count, 3) colours in blue, green, red order."""
    try:
        known = None if classes is None else find_classes(classes)
    except InputError:
        known = None
    if known is None:
        return palette(count)[:, ::-1]
    return palette(count, known if len(known.colors) >= count else None)[:, ::-1]


def _photograph(samples: Samples, index: int) -> str:
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
    pixels: Array = value.astype(np.float32)
    if samples.files and samples.preprocess.function is None:
        pixels = samples.preprocess.pixels(pixels)
    else:
        span = float(np.ptp(pixels)) or 1.0
        pixels = (pixels - pixels.min()) * (255 / span)
    return _jpeg(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _small(pixels: Array) -> Array:
    import cv2

    height, width = pixels.shape[:2]
    if width <= _WIDTH:
        return pixels
    size = (_WIDTH, max(1, round(height * _WIDTH / width)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST))


def _png(pixels: Array) -> str:
    return _encoded(".png", "image/png", _small(pixels))


def _jpeg(pixels: Array) -> str:
    return _encoded(".jpg", "image/jpeg", _small(pixels))


def _encoded(suffix: str, kind: str, pixels: Array) -> str:
    import cv2

    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels))
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
            _bins(ranges.histograms[name], chosen.minimum, chosen.maximum),
            {target: _chosen(of[name]) for target, of in same.items()},
        )
        for name, chosen in ranges.tensors.items()
        if name in ranges.histograms and chosen.minimum < chosen.maximum
    ]  # fmt: skip


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
