"""Layers that work on each value alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from tests.convert.caffe import reference_activation as reference
from tests.convert.caffe.net import Case, Reference, case, cases, check, normal, positive

X = 3 * normal(3, 4, 5, 6)
ABOVE = positive(3, 4, 5, 6)


def one(
    name: str, kind: str, params: str, function: Reference, x: Array = X, opencv: str = ""
) -> Case:
    return case(name, kind, params, function, x, opencv=opencv)


SIMPLE = [
    one("relu", "ReLU", "", reference.relu),
    one("relu_of_two_axes", "ReLU", "", reference.relu, normal(3, 7)),
    one(
        "relu_negative_slope",
        "ReLU",
        "relu_param { negative_slope: 0.1 }",
        partial(reference.relu, negative_slope=0.1),
    ),
    one(
        "relu_slope_above_1",
        "ReLU",
        "relu_param { negative_slope: 2 engine: CAFFE }",
        partial(reference.relu, negative_slope=2),
    ),
    one("relu6", "ReLU6", "", reference.relu6),
    one("elu", "ELU", "", reference.elu),
    one("elu_alpha", "ELU", "elu_param { alpha: 0.5 }", partial(reference.elu, alpha=0.5)),
    one("sigmoid", "Sigmoid", "", reference.sigmoid),
    one("tanh", "TanH", "", np.tanh),
    one("absval", "AbsVal", "", abs),
    one("bnll", "BNLL", "", reference.bnll),
    one("bnll_of_large_values", "BNLL", "", reference.bnll, 100 * normal(3, 5)),
    one("swish", "Swish", "", reference.swish),
    one("hard_swish", "HardSwish", "", reference.hard_swish),
    one("mish", "Mish", "", reference.mish),
    one("mish_of_large_values", "Mish", "", reference.mish, 40 * normal(3, 5)),
    one("selu", "SELU", "", reference.selu, opencv="unknown layer"),
    one(
        "selu_of_synopsys",
        "SeLU",
        "selu_param { alpha: 2 lambda: 0.5 }",
        partial(reference.selu, alpha=2, scale=0.5),
        opencv="unknown layer",
    ),
    one(
        "swish_beta",
        "Swish",
        "swish_param { beta: 0.5 }",
        partial(reference.swish, beta=0.5),
        opencv="beta is ignored",
    ),
    one(
        "clip",
        "Clip",
        "clip_param { min: -1.5 max: 2 }",
        partial(np.clip, a_min=-1.5, a_max=2),
        opencv="unknown layer",
    ),
    one("threshold", "Threshold", "", reference.threshold, opencv="unknown layer"),
    one(
        "threshold_is_strict",
        "Threshold",
        "threshold_param { threshold: 1 }",
        partial(reference.threshold, threshold=1),
        np.round(X),
        opencv="unknown layer",
    ),
    one("dropout", "Dropout", "dropout_param { dropout_ratio: 0.9 }", np.positive),
    one(
        "dropout_that_scales_in_training",
        "Dropout",
        "dropout_param { scale_train: true }",
        np.positive,
    ),
    one(
        "dropout_that_scales_at_inference",
        "Dropout",
        "dropout_param { dropout_ratio: 0.2 scale_train: false }",
        lambda x: 0.8 * x,
    ),
    one(
        "dropout_of_half_by_default",
        "Dropout",
        "dropout_param { scale_train: false }",
        lambda x: 0.5 * x,
    ),
    one(
        "python_dropout",
        "Python",
        'python_param { module: "spatial_dropout" layer: "SpatialDropoutLayer" }',
        np.positive,
        opencv="unknown layer",
    ),
]

PRELUS = [
    case(
        name,
        "PReLU",
        params,
        partial(reference.prelu, slope=slope),
        x,
        blobs=[slope],
        opencv=opencv,
    )
    for name, params, x, slope, opencv in (
        ("a_slope_for_each_channel", "", X, normal(4), ""),
        ("as_many_channels_as_columns", "", normal(3, 6, 5, 6), normal(6), ""),
        ("channel_shared", "prelu_param { channel_shared: true }", X, normal(1), ""),
        (
            "channel_shared_scalar",
            "prelu_param { channel_shared: true }",
            X,
            np.asarray(0.3, np.float32),
            "a blob without axes",
        ),
        ("two_axes", "", normal(3, 7), normal(7), ""),
        ("three_axes", "", normal(3, 4, 5), normal(4), ""),
    )
]

POWERS = [
    one(name, "Power", f"power_param {{ {params} }}", partial(reference.power, **how), x, opencv)
    for name, params, how, x, opencv in (
        ("defaults", "", {}, X, ""),
        ("scale_and_shift", "scale: 0.1 shift: -2", {"scale": 0.1, "shift": -2}, X, ""),
        ("square_of_negatives", "power: 2", {"power": 2}, X, ""),
        ("cube_of_negatives", "power: 3 shift: 0.5", {"power": 3, "shift": 0.5}, X, ""),
        ("reciprocal", "power: -1 shift: 1", {"power": -1, "shift": 1}, ABOVE, ""),
        ("root", "power: 0.5 scale: 2", {"power": 0.5, "scale": 2}, ABOVE, ""),
        (
            "power_0_is_1_everywhere",
            "power: 0 scale: 2 shift: 1",
            {"power": 0, "scale": 2, "shift": 1},
            X,
            "",
        ),
        ("power_0_of_0_is_1", "power: 0", {"power": 0}, 0 * X, ""),
        (
            "scale_0_is_a_constant",
            "power: 2 scale: 0 shift: 3",
            {"power": 2, "scale": 0, "shift": 3},
            X,
            "",
        ),
    )
]

EXPONENTIALS = [
    one(name, kind, f"{kind.lower()}_param {{ {params} }}", partial(function, **how), x, opencv)
    for name, kind, params, function, how, x, opencv in (
        ("exp", "Exp", "", reference.exp, {}, X, ""),
        ("exp_base", "Exp", "base: 2", reference.exp, {"base": 2}, X, ""),
        (
            "exp_base_scale_shift",
            "Exp",
            "base: 0.5 scale: 0.3 shift: 1",
            reference.exp,
            {"base": 0.5, "scale": 0.3, "shift": 1},
            X,
            "",
        ),
        (
            "exp_scale_shift",
            "Exp",
            "base: -1 scale: 0.3 shift: -1",
            reference.exp,
            {"scale": 0.3, "shift": -1},
            X,
            "",
        ),
        ("log", "Log", "", reference.log, {}, ABOVE, ""),
        ("log_base", "Log", "base: 10", reference.log, {"base": 10}, ABOVE, "base is ignored"),
        (
            "log_base_scale_shift",
            "Log",
            "base: 2 scale: 3 shift: 1",
            reference.log,
            {"base": 2, "scale": 3, "shift": 1},
            ABOVE,
            "its parameters are ignored",
        ),
        (
            "log_scale_shift",
            "Log",
            "scale: -1 shift: 4",
            reference.log,
            {"scale": -1, "shift": 4},
            ABOVE,
            "its parameters are ignored",
        ),
    )
]


@cases(SIMPLE)
def test_activation(case: Case) -> None:
    check(case)


@cases(PRELUS)
def test_prelu(case: Case) -> None:
    check(case)


@cases(POWERS)
def test_power(case: Case) -> None:
    check(case)


@cases(EXPONENTIALS)
def test_exp_and_log(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_threshold_of_zero_is_zero(value: float) -> None:
    check(one("zero", "Threshold", "", reference.threshold, np.full((1, 2), value, np.float32)))
