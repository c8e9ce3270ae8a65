"""Sound graphs that onnxruntime's own optimizer breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine
from tests.conftest import model_of

NET = (
    "net (float[N,2,6,7] x) => (float[N,2,WIDE,HIGH] y) {"
    " p = Pad(x, pads, value)  y = POOL<kernel_shape=[3,3], pads=[1,1,1,1]>(p) }"
)


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_pad_that_no_pool_can_take_stays_before_it(
    pool: str, target: str, tmp_path: Path
) -> None:
    pytest.importorskip(target)
    pads = {"pads": np.array([0, 0, 1, 1, 0, 0, 2, 2], np.int64), "value": np.float32(0)}
    text = NET.replace("POOL", pool).replace("WIDE", "9").replace("HIGH", "10")
    model = model_of(text, pads)
    feed = {"x": np.abs(np.random.default_rng(0).normal(size=(2, 2, 6, 7))).astype(np.float32)}
    with OnnxRuntime(model.to_onnx(), optimize=False) as plain:
        right = plain.infer(feed)["y"]
    with OnnxRuntime(model.to_onnx()) as session:
        assert np.allclose(session.infer(feed)["y"], right, rtol=1e-6, atol=1e-6)
    built = commands.build(model, tmp_path / "e", target=target)
    assert built.passed
    with engine.load(tmp_path / "e") as session:
        assert np.allclose(session.infer(feed)["y"], right, rtol=1e-5, atol=1e-5)
