"""fold_pad: convolutions and poolings pad for themselves."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from tests.conftest import model_of
from tests.surgery.helpers import ROUNDING, assert_same, clean, normal, refusal

PASS = "fold_pad"
LOWEST = np.array(np.finfo(np.float32).min)


def padded(
    layer: str, pads: tuple[int, ...] = (0, 0, 1, 0, 0, 0, 2, 1), before: str = "r = Relu(x)",
    value: Array | None = None, mode: str = "constant",
) -> Model:  # fmt: skip
    fill = "" if value is None else ", v"
    constants: dict[str, Array] = {"pads": np.array(pads)}
    if value is not None:
        constants["v"] = value
    if "w" in layer:
        constants["w"] = normal(6, 4, 3, 3, seed=1)
    return model_of(
        f"""agraph (float[N,4,6,7] x) => (float[N,C,A,B] y) {{
            {before}
            p = Pad<mode="{mode}">(r, pads{fill})
            y = {layer}
        }}""",
        constants,
    )


def assert_folded(before: Model) -> None:
    after, _ = clean(before, PASS)
    assert "Pad" not in after.operators()
    assert len(after.graph.nodes) == len(before.graph.nodes) - 1
    assert_same(before, after, ROUNDING)


def assert_refused(before: Model, reason: str) -> None:
    after, report = clean(before, PASS)
    assert after.operators() == before.operators()
    assert reason in refusal(report, PASS)
    assert_same(before, after)


@pytest.mark.parametrize(
    "layer",
    [
        "Conv(p, w)",
        "Conv<pads=[0,1,2,0], strides=[2,2]>(p, w)",
        'Conv<auto_pad="VALID", dilations=[2,1]>(p, w)',
        "AveragePool<kernel_shape=[3,3]>(p)",
        "AveragePool<kernel_shape=[4,3], pads=[1,1,1,1], count_include_pad=1>(p)",
        "MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)",
        "MaxPool<kernel_shape=[4,3], pads=[1,1,1,1]>(p)",
    ],
)
def test_a_padding_by_zero_is_folded(layer: str) -> None:
    assert_folded(padded(layer))


def test_a_max_pool_takes_a_padding_by_the_lowest_value_of_anything() -> None:
    assert_folded(padded("MaxPool<kernel_shape=[3,3]>(p)", before="r = Neg(x)", value=LOWEST))


@pytest.mark.parametrize(
    "before",
    [
        "s = Sigmoid(x)\n r = MaxPool<kernel_shape=[1,1]>(s)",
        "s = Relu(x)\n q = Abs(x)\n r = Concat<axis=1>(s, q)",
    ],
    ids=["through_a_pooling", "through_a_concat"],
)
def test_what_is_not_negative_is_seen_through_other_nodes(before: str) -> None:
    assert_folded(padded("MaxPool<kernel_shape=[3,3]>(p)", before=before))


def test_all_readers_of_a_padding_pad_for_themselves() -> None:
    before = model_of(
        """agraph (float[N,4,6,7] x) => (float[N,C,A,B] y, float[N,C,D,E] z) {
            p = Pad(x, pads)
            y = Conv(p, w)
            z = AveragePool<kernel_shape=[3,3]>(p)
        }""",
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": normal(6, 4, 3, 3, seed=1)},
    )
    assert_folded(before)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (padded("Conv(p, w)", value=np.array(0.5, np.float32)), "it pads with 0.5"),
        (padded("Conv(p, w)", mode="reflect"), "does not pad by a constant"),
        (padded("Conv(p, w)", pads=(0, 0, -1, 0, 0, 0, 1, 1)), "not the image alone"),
        (padded('Conv<auto_pad="SAME_UPPER">(p, w)'), "as its image's size asks"),
        (padded("MaxPool<kernel_shape=[3,3]>(p)", before="r = Neg(x)"), "more than what is there"),
        (padded("MaxPool<kernel_shape=[2,2]>(p)"), "padding alone"),
        (padded("MaxPool<kernel_shape=[3,3], dilations=[2,2]>(p)"), "padding alone"),
        (padded("MaxPool<kernel_shape=[3,3], ceil_mode=1, strides=[2,2]>(p)"), "padding alone"),
        (padded("AveragePool<kernel_shape=[4,4], pads=[1,1,1,1]>(p)"), "average the same"),
        (padded("AveragePool<kernel_shape=[3,3]>(p)", value=LOWEST * 0 + 1), "average the same"),
    ],
    ids=[
        "value", "reflect", "crop", "same", "negative", "wide", "dilated", "ceil", "not_counted",
        "average_value",
    ],
)  # fmt: skip
def test_another_padding_is_refused(model: Model, reason: str) -> None:
    assert_refused(model, reason)


def test_the_channels_are_not_padded_by_a_convolution() -> None:
    before = model_of(
        "agraph (float[N,2,6,7] x) => (float[N,C,A,B] y) { p = Pad(x, pads)\n y = Conv(p, w) }",
        {"pads": np.array([0, 1, 0, 0, 0, 1, 0, 0]), "w": normal(6, 4, 3, 3, seed=1)},
    )
    assert_refused(before, "not the image alone")


def test_a_padding_that_is_an_output_is_refused() -> None:
    before = model_of(
        """agraph (float[N,4,6,7] x) => (float[N,C,A,B] y, float[N,C,D,E] p) {
            p = Pad(x, pads)
            y = Conv(p, w)
        }""",
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": normal(6, 4, 3, 3, seed=1)},
    )
    assert_refused(before, "read elsewhere")


def test_the_indices_of_a_max_pool_count_the_padding() -> None:
    before = model_of(
        """agraph (float[N,4,6,7] x) => (float[N,C,A,B] y, int64[N,C,A,B] i) {
            r = Relu(x)
            p = Pad(r, pads)
            y, i = MaxPool<kernel_shape=[3,3]>(p)
        }""",
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    )
    assert_refused(before, "indices")
