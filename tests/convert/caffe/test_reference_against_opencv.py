"""The numpy references against OpenCV, which runs Caffe nets: is the textbook right?

Every case says in its field ``opencv`` why it is left out here; empty means that OpenCV agrees.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from models.caffemodel import caffemodel
from onnxgraft.graph.tensors import Array
from tests.convert.caffe import test_activation as activation
from tests.convert.caffe import test_arithmetic as arithmetic
from tests.convert.caffe import test_convolution as convolution
from tests.convert.caffe import test_detection as detection
from tests.convert.caffe import test_normalization as normalization
from tests.convert.caffe import test_pooling as pooling
from tests.convert.caffe import test_recurrent as recurrent
from tests.convert.caffe import test_shape as shape
from tests.convert.caffe.net import ROUNDING, Case

FAMILIES = {
    "convolution": convolution.CONVOLUTIONS,
    "deconvolution": convolution.DECONVOLUTIONS,
    "depthwise": convolution.DEPTHWISE,
    "im2col": convolution.IM2COLS,
    "pooling": [
        *pooling.POOLINGS, *pooling.FLOORED, *pooling.SPECIAL, *pooling.MASKS, *pooling.ODD,
    ],
    "spp": pooling.PYRAMIDS,
    "lrn_across": pooling.ACROSS,
    "lrn_within": pooling.WITHIN,
    "activation": activation.SIMPLE,
    "prelu": activation.PRELUS,
    "power": activation.POWERS,
    "exp_log": activation.EXPONENTIALS,
    "inner_product": arithmetic.DENSE,
    "eltwise": arithmetic.ELTWISE,
    "scale": arithmetic.SCALES,
    "scale_by_bottom": arithmetic.SCALES_BY_BOTTOMS,
    "scale_of_samples": arithmetic.SCALES_OF_SAMPLES,
    "bias": arithmetic.BIASES,
    "axpy": arithmetic.AXPYS,
    "softmax": arithmetic.SOFTMAXES,
    "reduction": arithmetic.REDUCTIONS,
    "embed": arithmetic.EMBEDS,
    "batch_norm": normalization.NORMS,
    "batch_norm_of_the_batch": normalization.OF_THE_BATCH,
    "bn": [*normalization.SEGNET, *normalization.PSPNET],
    "mvn": normalization.MVNS,
    "normalize": normalization.NORMALIZE,
    "concat": shape.CONCATS,
    "slice": shape.SLICES,
    "flatten": shape.FLATTENS,
    "reshape": shape.RESHAPES,
    "permute": shape.PERMUTES,
    "crop": shape.CROPS,
    "tile": shape.TILES,
    "batch_reindex": [shape.REINDEXED],
    "shuffle_channel": shape.SHUFFLES,
    "reorg": shape.REORGS,
    "interp": shape.INTERPS,
    "argmax": [*shape.ARGMAXES, *shape.TIES],
    "prior_box": detection.PRIORS,
    "detection_output": [*detection.DETECTIONS, *detection.RARE, detection.NOTHING],
    "lstm": recurrent.LSTMS,
    "rnn": recurrent.RNNS,
    "exposed": recurrent.EXPOSING,
    "upsample": [*shape.UPSAMPLES, *shape.NEAREST],
}  # fmt: skip


def confirmed(opencv: bool) -> list[object]:
    """Return the cases that OpenCV can confirm, or those that it can't."""
    return [
        pytest.param(case, id=f"{family}-{case.name}")
        for family, cases in FAMILIES.items()
        for case in cases
        if (not case.opencv) == opencv
    ]


def in_opencv(case: Case, feeds: dict[str, Array]) -> list[Array]:
    """Return what OpenCV computes for the tops, in order."""
    text = replace(case, params=case.spelled_out or case.params).text
    weights = caffemodel(case.weights) if case.weights else b""
    net = cv2.dnn.readNetFromCaffe(
        np.frombuffer(text.encode(), np.uint8), np.frombuffer(weights, np.uint8)
    )
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    for name, feed in feeds.items():
        net.setInput(feed, name)
    # OpenCV may rename the layer, and a max pooling always has its places as second output.
    (name,) = net.getUnconnectedOutLayersNames()
    (values,) = net.forwardAndRetrieve([name])
    return [_same_rows(case, value) for value in values[: len(case.tops.split())]]


def _same_rows(case: Case, value: Array) -> Array:
    """Return detections in Caffe's order: OpenCV orders them by score alone, and adds zeros."""
    if case.kind != "DetectionOutput":
        return value
    rows = value.reshape(-1, 7)
    rows = rows[rows.any(axis=1)]
    return rows[np.lexsort((-rows[:, 2], rows[:, 1], rows[:, 0]))][None, None]


@pytest.mark.parametrize("case", confirmed(True))
def test_opencv_computes_what_the_reference_does(case: Case) -> None:
    feeds = case.part(None)
    expected = case.expected(feeds)
    for actual, value in zip(in_opencv(case, feeds), expected.values(), strict=True):
        assert actual.shape == value.shape
        np.testing.assert_allclose(
            actual, value, rtol=0, atol=ROUNDING * float(np.abs(value).max())
        )


@pytest.mark.parametrize("case", confirmed(False))
def test_what_is_left_out_is_refused_or_different_in_opencv(case: Case) -> None:
    feeds = case.part(None)
    try:
        actual = in_opencv(case, feeds)
    except cv2.error:
        return
    expected = case.expected(feeds).values()
    assert not all(
        one.shape == value.shape
        and np.allclose(one, value, rtol=0, atol=ROUNDING * float(np.abs(value).max()))
        for one, value in zip(actual, expected, strict=True)
    )
