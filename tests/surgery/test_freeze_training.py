"""freeze_training: the training flag of a graph becomes the constant False."""

from __future__ import annotations

import pytest

from tests.conftest import model_of
from tests.surgery.helpers import assert_same, clean, report_of, untouched

PASS = "freeze_training"


def switch(flag: str, kind: str = "bool") -> str:
    return f"""agraph (float[N,4] x, {kind} "{flag}") => (float[N,4] y) {{
        a = Relu(x)
        b = Neg(x)
        y = Where("{flag}", a, b)
    }}"""


@pytest.mark.parametrize(
    "flag",
    [
        "is_training",
        "is_training:0",
        "IsTraining",
        "bn1/is_training",
        "training",
        "train",
        "train_mode:0",
        "train_flag",
        "phase_train:0",
        "keras_learning_phase:0",
        "is_training_1",
    ],
)
def test_an_input_that_is_called_a_training_flag_becomes_false(flag: str) -> None:
    before = model_of(switch(flag))
    after, report = clean(before, PASS)
    assert [spec.name for spec in after.inputs] == ["x"]
    assert [(f.node, f.sentence) for f in report_of(report, PASS).done] == [
        (flag, "the input was frozen to False")
    ]
    assert_same(before, after)  # the feeds hold False: the very same nodes are computed


@pytest.mark.parametrize(
    "flag", ["constraining", "strain", "pretrained", "train_images", "training_data", "mask"]
)
def test_an_input_of_another_name_stays(flag: str) -> None:
    after, report = clean(model_of(switch(flag)), PASS)
    assert [spec.name for spec in after.inputs] == ["x", flag]
    assert untouched(report, PASS)


@pytest.mark.parametrize("kind", ["bool[1]", "bool[1,1]"], ids=["rank1", "rank2"])
def test_a_flag_of_one_element_and_any_rank_becomes_false(kind: str) -> None:
    before = model_of(switch("is_training", kind))
    after, _ = clean(before, PASS)
    assert [spec.name for spec in after.inputs] == ["x"]
    assert_same(before, after)


@pytest.mark.parametrize("kind", ["bool[4]", "bool[N,1]"], ids=["four_values", "one_a_sample"])
def test_a_flag_of_several_values_is_data_and_stays(kind: str) -> None:
    after, report = clean(model_of(switch("is_training", kind)), PASS)
    assert [spec.name for spec in after.inputs] == ["x", "is_training"]
    assert untouched(report, PASS)


def test_a_flag_that_is_not_boolean_stays() -> None:
    before = model_of(
        """agraph (float[N,4] x, float[1] is_training) => (float[N,4] y) {
            y = Mul(x, is_training)
        }"""
    )
    after, report = clean(before, PASS)
    assert [spec.name for spec in after.inputs] == ["x", "is_training"]
    assert untouched(report, PASS)


def test_all_passes_together_leave_the_inference_branch_alone() -> None:
    before = model_of(switch("is_training"))
    after, _ = clean(before)
    assert after.operators() == {"Neg": 1}
    assert_same(before, after)


def test_a_flag_behind_not_is_decided_too() -> None:
    before = model_of(
        """agraph (float[N,4] x, bool is_training) => (float[N,4] y) {
            inference = Not(is_training)
            a = Relu(x)
            b = Neg(x)
            y = Where(inference, a, b)
        }"""
    )
    after, _ = clean(before)
    assert after.operators() == {"Relu": 1}
    assert_same(before, after)
