"""The real networks: every pass verified, few nodes left, numbers that stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxgraft.stages.convert import Original
from onnxgraft.stages.surgery import run
from tests.conftest import only_ci


@pytest.mark.parametrize(("layout", "most", "transposes"), [("keep", 39, 2), ("nchw", 37, 0)])
def test_the_fcn_is_left_with_its_layers(
    layout: str, most: int, transposes: int, shared: Path
) -> None:
    model, _ = Original.of(shared / "models/fcn_camvid/fcn_camvid.pb").lower(io_layout=layout)
    after, report = run(model, verify=True)
    assert not [entry.name for entry in report.passes if entry.rolled_back]
    assert sum(report.after.values()) <= most
    assert after.operators().get("Transpose", 0) == transposes
    assert report.verdicts
    for verdict in report.verdicts:
        # The tolerance is 1e-4 of the output's range: a tenth of it is allowed here.
        assert verdict.max_abs <= verdict.tolerance / 10


@only_ci
def test_the_mobilenet_is_left_with_one_transpose(shared: Path) -> None:
    model, _ = Original.of(
        shared / "models/mobilenet_camvid/mobilenet_camvid.pb", outputs="score:0"
    ).lower()
    after, report = run(model, verify=True)
    assert not [entry.name for entry in report.passes if entry.rolled_back]
    assert after.operators()["Transpose"] <= 2
    assert "Shape" not in after.operators() and "Reshape" not in after.operators()
    for verdict in report.verdicts:
        assert verdict.max_abs <= verdict.tolerance / 10
