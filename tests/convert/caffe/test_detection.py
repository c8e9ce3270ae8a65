"""PriorBox and DetectionOutput of SSD."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from tests.convert.caffe import reference_detection as reference
from tests.convert.caffe.net import (
    Case,
    assert_close,
    case,
    cases,
    check,
    inputs,
    layer,
    load,
    normal,
    run,
)
from tests.convert.caffe.reference_arithmetic import softmax
from tests.convert.caffe.reference_convolution import convolution as convolved

LAYER, IMAGE = normal(2, 8, 3, 5), normal(2, 3, 60, 80)


def priors(name: str, params: str, *, opencv: str = "", **how: Any) -> Case:
    """Return a PriorBox of the layer and the image."""

    def function(layer: Array, image: Array) -> Array:
        return reference.prior_box(layer.shape[2:], image.shape[2:], **how)

    defaults = {"clip": "false", "flip": "true", "variance": "0.1"}
    missing = [f"{key}: {value}" for key, value in defaults.items() if f"{key}:" not in params]
    return case(
        name,
        "PriorBox",
        f"prior_box_param {{ {params} }}",
        function,
        LAYER,
        IMAGE,
        batches=(1, 2),
        opencv=opencv,
        spelled_out=f"prior_box_param {{ {params} {' '.join(missing)} }}",
    )


PRIORS = [
    priors("one_size", "min_size: 20", min_sizes=[20]),
    priors("smallest_and_largest", "min_size: 20 max_size: 45", min_sizes=[20], max_sizes=[45]),
    priors("ratios_are_flipped", "min_size: 20 aspect_ratio: 2 aspect_ratio: 3",
           min_sizes=[20], ratios=[2, 3]),
    priors("ratios_are_not_flipped", "min_size: 20 aspect_ratio: 2 aspect_ratio: 3 flip: false",
           min_sizes=[20], ratios=[2, 3], flip=False),
    priors("smallest_then_geometric_mean_then_ratios",
           "min_size: 20 max_size: 45 aspect_ratio: 2 flip: true", min_sizes=[20], max_sizes=[45],
           ratios=[2]),
    priors("ratio_1_is_dropped", "min_size: 20 aspect_ratio: 1 aspect_ratio: 2", min_sizes=[20],
           ratios=[1, 2]),
    priors("repeated_ratios_are_dropped",
           "min_size: 20 aspect_ratio: 2 aspect_ratio: 2 aspect_ratio: 0.5", min_sizes=[20],
           ratios=[2, 2, 0.5]),
    priors("several_sizes",
           "min_size: 10 min_size: 20 max_size: 20 max_size: 40 aspect_ratio: 2",
           min_sizes=[10, 20], max_sizes=[20, 40], ratios=[2]),
    priors("sizes_are_cut_to_whole_pixels", "min_size: 20.9 max_size: 45.7 aspect_ratio: 2",
           min_sizes=[20.9], max_sizes=[45.7], ratios=[2], opencv="sizes are not cut"),
    priors("clip", "min_size: 40 clip: true", min_sizes=[40], clip=True),
    priors("one_variance", "min_size: 20 variance: 0.3", min_sizes=[20], variance=[0.3]),
    priors("four_variances",
           "min_size: 20 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.3",
           min_sizes=[20], variance=[0.1, 0.1, 0.2, 0.3]),
    priors("step", "min_size: 20 step: 16", min_sizes=[20], step=(16, 16)),
    priors("step_of_rows_and_columns", "min_size: 20 step_h: 16 step_w: 8", min_sizes=[20],
           step=(16, 8)),
    priors("offset", "min_size: 20 offset: 0", min_sizes=[20], offset=0.0),
    priors("denser", "min_size: 20 max_size: 45 aspect_ratio: 2 denser_prior_boxes: true",
           min_sizes=[20], max_sizes=[45], ratios=[2], denser=True, opencv="unknown field"),
    priors("denser_with_step_and_offset",
           "min_size: 20 step: 16 offset: 0.3 denser_prior_boxes: true", min_sizes=[20],
           step=(16, 16), offset=0.3, denser=True, opencv="unknown field"),
    priors("the_image_s_size_by_number", "min_size: 20 img_size: 100", min_sizes=[20],
           opencv="img_size is not read"),
    priors("the_image_s_height_and_width", "min_size: 20 img_h: 50 img_w: 100", min_sizes=[20],
           opencv="img_h and img_w are not read"),
]  # fmt: skip

# The size that the parameters of the last two say, instead of the image's.
SIZED = {"the_image_s_size_by_number": (100, 100), "the_image_s_height_and_width": (50, 100)}
PRIORS = [
    one
    if one.name not in SIZED
    else case(
        one.name,
        one.kind,
        one.params,
        lambda layer, image, size=SIZED[one.name]: reference.prior_box(layer.shape[2:], size, [20]),
        *one.feeds,
        batches=one.batches,
        opencv=one.opencv,
        spelled_out=one.spelled_out,
    )
    for one in PRIORS
]

CLASSES = 4
BOXES = reference.prior_box(
    (3, 4), (60, 80), [20], [30], [2], variance=[0.1, 0.1, 0.2, 0.2]
).astype(np.float32)
COUNT = BOXES.shape[2] // 4


def scores(seed: int = 0) -> Array:
    """Return class probabilities for each prior of two images, flat."""
    logits = 2 * normal(2, COUNT, CLASSES, seed=seed).astype(np.float64)
    exponent = np.exp(logits)
    return (exponent / exponent.sum(axis=2, keepdims=True)).reshape(2, -1).astype(np.float32)


def detections(
    name: str, params: str, location: Array | None = None, *, opencv: str = "", **how: Any
) -> Case:
    """Return a DetectionOutput of two images, whose third bottom has no batch."""
    location = normal(2, COUNT * 4, seed=1) if location is None else location
    defaults = {
        "share_location": "true",
        "background_label_id": "0",
        "code_type": "CORNER",
        "nms_threshold": "nms_param { nms_threshold: 0.3 }",
        "keep_top_k": "1000",  # all of them; with -1 it writes beyond its output
    }
    missing = [
        value if "nms" in key else f"{key}: {value}"
        for key, value in defaults.items()
        if f"{key}:" not in params
    ]
    return case(
        name,
        "DetectionOutput",
        f"detection_output_param {{ num_classes: {CLASSES} {params} }}",
        partial(reference.detection_output, classes=CLASSES, **how),
        location,
        scores(),
        BOXES,
        batches=(1, 2),
        opencv=opencv,
        spelled_out=f"detection_output_param {{ num_classes: {CLASSES} {params}"
        f" {' '.join(missing)} }}",
    )


SSD = (
    "nms_param { nms_threshold: 0.45 top_k: 20 } code_type: CENTER_SIZE keep_top_k: 12"
    " confidence_threshold: 0.1"
)
SSD_HOW = {
    "nms_threshold": 0.45,
    "top_k": 20,
    "code": "CENTER_SIZE",
    "keep_top_k": 12,
    "threshold": 0.1,
}

DETECTIONS = [
    detections("ssd", SSD, **SSD_HOW),
    detections("corners_by_default", "confidence_threshold: 0.3", threshold=0.3),
    detections("everything_by_default", ""),
    detections("corner_size", "code_type: CORNER_SIZE confidence_threshold: 0.3",
               code="CORNER_SIZE", threshold=0.3, opencv="unknown code"),
    detections("variance_encoded_in_target",
               "code_type: CENTER_SIZE variance_encoded_in_target: true"
               " confidence_threshold: 0.3", 0.2 * normal(2, COUNT * 4, seed=1),
               code="CENTER_SIZE", variance_encoded=True, threshold=0.3,
               opencv="it wants priors without variances then"),
    detections("corners_with_variance_encoded_in_target",
               "variance_encoded_in_target: true confidence_threshold: 0.3",
               0.1 * normal(2, COUNT * 4, seed=1), variance_encoded=True, threshold=0.3,
               opencv="it wants priors without variances then"),
    detections("top_k_of_a_label_is_before_suppression",
               "code_type: CENTER_SIZE nms_param { nms_threshold: 0.2 top_k: 5 }",
               code="CENTER_SIZE", nms_threshold=0.2, top_k=5),
    detections("keep_top_k_is_across_labels",
               "code_type: CENTER_SIZE keep_top_k: 5 confidence_threshold: 0.1",
               code="CENTER_SIZE", keep_top_k=5, threshold=0.1),
    detections("keep_top_k_beyond_what_there_is",
               "code_type: CENTER_SIZE keep_top_k: 500 confidence_threshold: 0.5",
               code="CENTER_SIZE", keep_top_k=500, threshold=0.5),
    detections("another_background", f"background_label_id: 2 {SSD}", background=2, **SSD_HOW),
    detections("no_background", f"background_label_id: -1 {SSD}", background=-1, opencv="refused",
               **SSD_HOW),
]  # fmt: skip

RARE = [
    detections(
        "eta_lowers_the_threshold",
        "code_type: CENTER_SIZE nms_param { nms_threshold: 0.9 eta: 0.7 }"
        " confidence_threshold: 0.1",
        0.3 * normal(2, COUNT * 4, seed=1),
        code="CENTER_SIZE",
        nms_threshold=0.9,
        eta=0.7,
        threshold=0.1,
        opencv="eta is ignored",
    ),
    detections(
        "a_location_for_each_label",
        f"share_location: false {SSD}",
        normal(2, COUNT * CLASSES * 4, seed=2),
        share_location=False,
        **SSD_HOW,
    ),
]

NOTHING = detections(
    "nothing", "confidence_threshold: 2", threshold=2.0, opencv="it has no rows then"
)


LEFT_OUT = "the last two inputs are ignored"
OBJECTNESS = np.random.default_rng(3).uniform(0, 0.02, (2, 2 * COUNT)).astype(np.float32)
REFINED = [
    case(
        name,
        "DetectionOutput",
        f"detection_output_param {{ num_classes: {CLASSES} {SSD} {params} }}",
        partial(reference.detection_output, classes=CLASSES, **SSD_HOW, **how),
        normal(2, COUNT * 4, seed=1),
        scores(),
        BOXES,
        *more,
        batches=(1, 2),
        opencv=LEFT_OUT,
    )
    for name, params, more, how in (
        ("objectness", "", (OBJECTNESS,), {}),
        ("objectness_by_number", "objectness_score: 0.015", (OBJECTNESS,),
         {"least_objectness": 0.015}),
        ("refined_priors", "objectness_score: 0.01", (OBJECTNESS, normal(2, COUNT * 4, seed=4)),
         {}),
    )
]  # fmt: skip

POLYGONS = case(
    "polygons",
    "DetectionOutput",
    f"detection_output_param {{ num_classes: {CLASSES} {SSD} use_polygon: true }}",
    partial(reference.detection_output, classes=CLASSES, polygons=True, **SSD_HOW),
    normal(2, COUNT * 12, seed=1),
    scores(),
    BOXES,
    batches=(1, 2),
    opencv="unknown field",
)


YOLO_BIASES = [10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319]
YOLOS = [
    case(
        name,
        "Yolov3DetectionOutput",
        "yolov3_detection_output_param { num_classes: 3 confidence_threshold: 0.2 "
        + " ".join(f"biases: {bias}" for bias in YOLO_BIASES)
        + " anchors_scale: 32 anchors_scale: 16 mask_group_num: 2 "
        + " ".join(f"mask: {number}" for number in (3, 4, 5, 0, 1, 2))
        + f" {params} }}",
        partial(reference.yolov3, classes=3, biases=YOLO_BIASES, mask=[3, 4, 5, 0, 1, 2],
                scales=[32, 16], threshold=0.2, **how),
        normal(1, 24, 4, 4, seed=7),
        normal(1, 24, 8, 8, seed=8),
        batches=None,
        opencv="unknown layer",
    )
    for name, params, how in (
        ("defaults", "", {}),
        ("nms_threshold", "nms_threshold: 0.2", {"nms_threshold": 0.2}),
    )
]  # fmt: skip


def check_detections(case: Case) -> None:
    """Hold the rows against the reference; the priors are fed whole."""
    for batch in case.batches or ():
        feeds = case.part(batch) | {"v": BOXES}
        expected = case.expected(feeds)
        assert expected["y"].shape[2] > 1
        assert_close(run(case.text, None, feeds), expected)


@cases(PRIORS)
def test_prior_box(case: Case) -> None:
    check(case)


@cases(DETECTIONS)
def test_detection_output(case: Case) -> None:
    check_detections(case)


@cases(REFINED)
def test_detection_output_of_refinedet(case: Case) -> None:
    check_detections(case)


@cases(YOLOS)
def test_detection_output_of_yolov3(case: Case) -> None:
    assert case.expected(case.part(None))["y"].shape[2] > 5
    check(case)


def test_detection_output_of_yolov3_takes_one_image() -> None:
    one = YOLOS[0]
    text = one.text.replace("dim: 1 dim: 24", "dim: 2 dim: 24")
    with pytest.raises(InputError, match="give it one image"):
        load(text)


def test_detection_output_of_textboxes_has_polygons() -> None:
    check_detections(POLYGONS)


@cases(RARE)
def test_rare_detection_output_is_computed_or_refused(case: Case) -> None:
    try:
        load(case.text)
    except InputError:
        return
    check_detections(case)


def test_detection_output_without_detections_has_no_rows() -> None:
    # Caffe has a row of -1 for each image, which a count of rows says as well.
    feeds = NOTHING.part(2) | {"v": BOXES}
    assert NOTHING.expected(feeds)["y"].tolist() == [[[[0] + [-1] * 6, [1] + [-1] * 6]]]
    assert run(NOTHING.text, None, feeds)["y"].shape == (1, 1, 0, 7)


def test_prior_boxes_do_not_depend_on_the_values() -> None:
    one = PRIORS[0]
    first = run(one.text, None, one.part(None))
    second = run(one.text, None, {"x": 5 - LAYER, "z": 2 * IMAGE})
    assert_close(first, second, 0.0)


# A head of SSD: two convolutions, priors, and the DetectionOutput.
HEAD_X, HEAD_IMAGE = normal(2, 3, 3, 5), normal(2, 3, 60, 80)
HEAD_WEIGHTS = {
    "loc": ("Convolution", (0.3 * normal(8, 3, 3, 3), normal(8))),
    "conf": ("Convolution", (normal(6, 3, 3, 3), normal(6))),
}
_CONV = "convolution_param {{ num_output: {} kernel_size: 3 pad: 1 }}"
_ORDER = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
HEAD = "".join(
    [
        inputs(x=HEAD_X.shape, image=HEAD_IMAGE.shape),
        layer("Convolution", "x", "loc", _CONV.format(8), name="loc"),
        layer("Permute", "loc", "loc_perm", _ORDER, name="loc_perm"),
        layer("Flatten", "loc_perm", "loc_flat", name="loc_flat"),
        layer("Convolution", "x", "conf", _CONV.format(6), name="conf"),
        layer("Permute", "conf", "conf_perm", _ORDER, name="conf_perm"),
        layer("Reshape", "conf_perm", "logits", "reshape_param { shape { dim: 0 dim: -1"
              " dim: 3 } }", name="logits"),
        layer("Softmax", "logits", "prob", "softmax_param { axis: 2 }", name="prob"),
        layer("Flatten", "prob", "prob_flat", name="prob_flat"),
        layer("PriorBox", "x image", "priors", "prior_box_param { min_size: 20 max_size: 35"
              " variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }", name="priors"),
        layer("DetectionOutput", "loc_flat prob_flat priors", "y",
              "detection_output_param { num_classes: 3 nms_param { nms_threshold: 0.4 }"
              " code_type: CENTER_SIZE keep_top_k: 9 confidence_threshold: 0.2 }"),
    ]
)  # fmt: skip


def test_a_whole_ssd_head() -> None:
    def head(name: str) -> Array:
        kernel, bias = HEAD_WEIGHTS[name][1]
        return convolved(HEAD_X.astype(np.float64), kernel, bias, pad=1).transpose(0, 2, 3, 1)

    expected = reference.detection_output(
        head("loc").reshape(2, -1),
        softmax(head("conf").reshape(2, -1, 3), axis=2).reshape(2, -1),
        reference.prior_box((3, 5), (60, 80), [20], [35], variance=[0.1, 0.1, 0.2, 0.2]),
        classes=3,
        nms_threshold=0.4,
        code="CENTER_SIZE",
        keep_top_k=9,
        threshold=0.2,
    )
    assert_close(run(HEAD, HEAD_WEIGHTS, {"x": HEAD_X, "image": HEAD_IMAGE}), {"y": expected})
