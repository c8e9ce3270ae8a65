"""Where values are counted: through operators that keep the range, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.graph.tensors import Array
from onnxgraft.stages.quantize.measure.observers import every_tensor, find_sites
from tests.conftest import model_of

WEIGHTS: dict[str, Array] = {
    "w": np.ones((3, 3, 1, 1), np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "lowest": np.array(np.finfo(np.float32).min, np.float32),
    "infinity": np.array(-np.inf, np.float32),
    "shape": np.array([0, -1], np.int64),
}


def sites_of(body: str, *wanted: str) -> dict[str, tuple[str, ...]]:
    used = {name: value for name, value in WEIGHTS.items() if name in body}
    text = f"network (float[N, 3, 8, 8] image) => (float[N, C, H, W] y) {{ {body} }}"
    return find_sites(model_of(text, used).graph, wanted)


POOLED = """
    a = Conv (image, w) b = Relu (a) c = MaxPool <kernel_shape = [2, 2]> (b) y = Conv (c, w)
"""
POOLED_AND_READ = """
    a = Relu (image) b = MaxPool <kernel_shape = [2, 2]> (a)
    c = AveragePool <kernel_shape = [2, 2]> (a) y = Add (b, c)
"""
MOVED_AND_POOLED = """
    a = Relu (image) b = Transpose <perm = [0, 1, 3, 2]> (a)
    c = MaxPool <kernel_shape = [2, 2]> (b) y = Conv (c, w)
"""
POOLED_TWICE = """
    a = Tanh (image) b = Pad (a, pads, BORDER) c = MaxPool <kernel_shape = [2, 2]> (b)
    d = Transpose <perm = [0, 1, 3, 2]> (b) e = MaxPool <kernel_shape = [2, 2]> (d)
    y = Concat <axis = 1> (c, e)
"""
BORDER_IS_READ = """
    a = Tanh (image) b = Pad (a, pads, lowest) c = MaxPool <kernel_shape = [2, 2]> (b)
    y = Conv (b, w)
"""


@pytest.mark.parametrize(
    ("body", "wanted", "site"),
    [
        (POOLED, "b", "c"),
        (POOLED, "a", "c"),
        (POOLED_AND_READ, "b", "a"),
        ("a = Relu (image) b = Transpose <perm = [0, 1, 3, 2]> (a) y = Conv (b, w)", "b", "a"),
        ("a = Tanh (image) b = Pad (a, pads, zero) y = Conv (b, w)", "b", "a"),
        ("a = Tanh (image) b = Pad (a, pads) y = Conv (b, w)", "b", "a"),
        (MOVED_AND_POOLED, "a", "c"),
        (MOVED_AND_POOLED, "b", "c"),
        (MOVED_AND_POOLED, "c", "c"),
        (POOLED_TWICE.replace("BORDER", "lowest"), "b", "a"),
        (POOLED_TWICE.replace("BORDER", "infinity"), "d", "a"),
    ],
    ids=[
        "before_maxpool", "before_relu", "after_maxpool", "transpose", "pad_zero", "pad_default",
        "before_transpose_and_maxpool", "between_transpose_and_maxpool", "after_both",
        "pad_below_all", "pad_minus_infinity",
    ],
)  # fmt: skip
def test_the_range_passes_through(body: str, wanted: str, site: str) -> None:
    assert sites_of(body, wanted) == {wanted: (site,)}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (POOLED_AND_READ, "a"),
        ("a = Tanh (image) b = Pad (a, pads, one) y = Conv (b, w)", "b"),
        ('a = Tanh (image) b = Pad <mode = "reflect"> (a, pads) y = Conv (b, w)', "b"),
        ("a = Tanh (image) y = AveragePool <kernel_shape = [2, 2]> (a)", "a"),
        ("y = Relu (image)", "image"),
        (BORDER_IS_READ, "b"),
    ],
    ids=["another_reader", "pad_one", "pad_reflect", "average", "fed", "border_is_read"],
)
def test_the_range_stays_where_it_can_not_pass(body: str, wanted: str) -> None:
    assert sites_of(body, wanted) == {wanted: (wanted,)}


def test_a_concatenation_of_counted_tensors_is_not_counted_again() -> None:
    body = "a = Tanh (image) b = Sigmoid (image) c = Concat <axis = 1> (a, b) y = Relu (c)"
    assert sites_of(body, "a", "b", "c")["c"] == ("a", "b")
    # Otherwise it is one tensor to expose instead of two.
    assert sites_of(body, "c") == {"c": ("c",)}


def test_a_tensor_that_is_joined_with_itself_is_counted_as_it_is() -> None:
    body = "a = Tanh (image) c = Concat <axis = 1> (a, a) d = Tanh (c) y = Relu (d)"
    assert sites_of(body, "a", "c")["c"] == ("c",)


def test_every_float_tensor_is_found_and_no_other() -> None:
    model = model_of(
        """network (float[N, 3, 8, 8] image) => (float[N, C] y) {
            a = Relu (image)
            s = Shape (a)
            y = Reshape (a, shape)
        }""",
        {"shape": WEIGHTS["shape"]},
    )
    assert every_tensor(model) == ["image", "a", "y"]
