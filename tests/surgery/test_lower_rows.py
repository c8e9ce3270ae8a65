"""Rows of detections at a fixed number, for TensorRT."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgraft.stages.surgery import run
from tests.conftest import model_of
from tests.surgery.helpers import infer, report_of

ROWS = np.arange(28, dtype=np.float32).reshape(4, 7)
KEPT = np.array([1, 0, 1, 0], np.float32)
FLAGS = "half = Constant <value_float = 0.5> ()  c = Greater (f, half)"


@pytest.mark.parametrize("unsqueezed", [True, False])
def test_rows_of_nothing_become_minus_1(unsqueezed: bool) -> None:
    shape, last = ("1,1,M,7", "r") if unsqueezed else ("M,7", "y")
    tail = "a = Constant <value_ints = [0, 1]> ()  y = Unsqueeze (r, a)" if unsqueezed else ""
    model = model_of(
        f"""rows (float[4,7] x, float[4] f) => (float[{shape}] y) {{
            {FLAGS}  {last} = Compress <axis = 0> (x, c)  {tail}
        }}"""
    )
    after, report = run(model, target="tensorrt")
    assert len(report_of(report, "lower_rows").done) == 1
    assert "Compress" not in {node.op for node in after.graph.nodes}
    [told] = infer(after, {"x": ROWS, "f": KEPT}).values()
    expected = np.where(KEPT[:, None] > 0.5, ROWS, -1)
    np.testing.assert_array_equal(told.reshape(4, 7), expected)


def test_rows_that_something_else_reads_are_left_alone() -> None:
    model = model_of(
        f"""rows (float[4,7] x, float[4] f) => (float[7] y) {{
            {FLAGS}  r = Compress <axis = 0> (x, c)  y = ReduceSum <keepdims = 0> (r, axes)
        }}""",
        {"axes": np.array([0], np.int64)},
    )
    after, report = run(model, target="tensorrt")
    assert "Compress" in {node.op for node in after.graph.nodes}
    assert report_of(report, "lower_compress").refused
