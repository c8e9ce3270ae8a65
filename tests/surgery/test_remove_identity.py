"""remove_identity: Identity and Dropout at inference are bypassed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import model_of
from tests.surgery.helpers import assert_same, clean, normal, refusal, report_of

PASS = "remove_identity"


@pytest.mark.parametrize(
    "body",
    [
        "i = Identity(x)\n y = Relu(i)",
        "r = Relu(x)\n y = Identity(r)",
        "i = Identity(x)\n j = Identity(i)\n y = Relu(j)",
        "d = Dropout(x)\n y = Relu(d)",
        "d = Dropout(x, ratio)\n y = Relu(d)",
        "d = Dropout(x, ratio, off)\n y = Relu(d)",
        "d, mask = Dropout(x)\n y = Relu(d)",
    ],
    ids=[
        "first", "last", "twice", "dropout", "dropout_ratio", "dropout_off", "dropout_dead_mask",
    ],
)  # fmt: skip
def test_what_passes_its_input_on_is_removed(body: str) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,4] y) {{ {body} }}",
        {"ratio": np.array(0.5, np.float32), "off": np.array(False)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Relu": 1}
    assert not report_of(report, PASS).refused
    assert_same(before, after)


def test_all_consumers_read_the_tensor_before_the_identity() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {
            i = Identity(x)
            y = Relu(i)
            j = Neg(i)
            z = Add(j, i)
        }"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Neg": 1, "Add": 1}
    assert_same(before, after)


def test_other_consumers_follow_when_an_output_takes_the_tensor_over() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {
            r = Relu(x)
            y = Identity(r)
            z = Neg(r)
        }"""
    )
    after, _ = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Neg": 1}
    assert_same(before, after)


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(x)\n z = Relu(x)",
        "z = Relu(x)\n y = Identity(z)",
        "z = Relu(x)\n y = Identity(c)",
    ],
    ids=["input_to_output", "output_to_output", "constant_to_output"],
)
def test_an_identity_between_two_fixed_names_is_refused(body: str) -> None:
    before = model_of(
        f"agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {{ {body} }}",
        {"c": normal(1, 4)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "names are fixed" in refusal(report, PASS)
    assert_same(before, after)


def test_of_two_identities_to_outputs_one_has_to_stay() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {
            r = Relu(x)
            y = Identity(r)
            z = Identity(r)
        }"""
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Relu": 1, "Identity": 1}
    assert "names are fixed" in refusal(report, PASS)
    assert_same(before, after)


def test_a_dropout_in_training_mode_is_refused() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            d = Dropout(x, ratio, on)
            y = Relu(d)
        }""",
        {"ratio": np.array(0.5, np.float32), "on": np.array(True)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Dropout": 1, "Relu": 1}
    assert "inference mode" in refusal(report, PASS)


def test_a_dropout_whose_mode_is_an_input_is_refused() -> None:
    before = model_of(
        """agraph (float[N,4] x, bool mode) => (float[N,4] y) {
            d = Dropout(x, ratio, mode)
            y = Relu(d)
        }""",
        {"ratio": np.array(0.5, np.float32)},
    )
    after, report = clean(before, PASS)
    assert after.operators() == {"Dropout": 1, "Relu": 1}
    assert "inference mode" in refusal(report, PASS)


@pytest.mark.parametrize("used", ["output", "node"])
def test_a_dropout_whose_mask_is_used_is_refused(used: str) -> None:
    mask = "z" if used == "output" else "mask"
    other = "" if used == "output" else "z = Not(mask)"
    before = model_of(
        f"""agraph (float[N,4] x) => (float[N,4] y, bool[N,4] z) {{
            d, {mask} = Dropout(x)
            y = Relu(d)
            {other}
        }}"""
    )
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert "mask is used" in refusal(report, PASS)
    assert_same(before, after)
