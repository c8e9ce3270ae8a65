"""Sound graphs that onnxruntime's own optimizer breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft import commands
from onnxgraft.errors import InputError, ModelError
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine
from tests.conftest import model_of

NET = (
    "net (float[N,2,6,7] x) => (float[N,2,WIDE,HIGH] y) {"
    " p = Pad(x, pads, value)  y = POOL<kernel_shape=[3,3], pads=[1,1,1,1]>(p) }"
)


@pytest.mark.parametrize("pads", [(1, 2), (1, 1)], ids=["too much", "enough"])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_zeros_before_a_pool_stay_zeros(
    pool: str, pads: tuple[int, int], target: str, tmp_path: Path
) -> None:
    """A MaxPool of its own pads with the lowest values, and a pool with less than its kernel."""
    pytest.importorskip(target)
    low, high = pads
    text = NET.replace("POOL", pool)
    text = text.replace("WIDE", str(6 + low + high)).replace("HIGH", str(7 + low + high))
    model = model_of(
        text,
        {"pads": np.array([0, 0, low, low, 0, 0, high, high], np.int64), "value": np.float32(0)},
    )
    feed = {"x": np.random.default_rng(0).normal(size=(2, 2, 6, 7)).astype(np.float32) - 3}
    with OnnxRuntime(model.to_onnx(), optimize=False) as plain:
        right = plain.infer(feed)["y"]
    with OnnxRuntime(model.to_onnx()) as session:
        assert np.allclose(session.infer(feed)["y"], right, rtol=1e-6, atol=1e-6)
    built = commands.build(model, tmp_path / "e", target=target)
    assert built.passed
    with engine.load(tmp_path / "e") as session:
        assert np.allclose(session.infer(feed)["y"], right, rtol=1e-5, atol=1e-5)


ROUNDED = (
    "net (float[N,4,3,5] x) => (float[N,4,3,5] moved, float[N,2,4,3] y) {"
    " a = Neg(x)  b, c = Split<axis=1>(a)  moved = Concat<axis=1>(c, b)"
    " d = Transpose<perm=[0,2,3,1]>(moved)  e = Relu(d)"
    " f = QuantizeLinear(e, scale, zero)  g = DequantizeLinear(f, scale, zero)"
    " h = DequantizeLinear<axis=0>(w, ws, wz)  i = Conv<pads=[0,0,1,1]>(g, h)"
    " j = QuantizeLinear(i, other, middle)  k = DequantizeLinear(j, other, middle)"
    " y = Softmax<axis=-2>(k) }"
)


def test_an_output_before_a_transpose_is_not_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = model_of(
        ROUNDED,
        {
            "scale": np.float32(0.011), "zero": np.uint8(0), "other": np.float32(0.0123),
            "middle": np.uint8(106), "w": rng.integers(-127, 128, (2, 3, 3, 3)).astype(np.int8),
            "ws": np.array([0.0035, 0.0037], np.float32), "wz": np.zeros(2, np.int8),
        },
    )  # fmt: skip
    x = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    right = np.concatenate([-x[:, 2:], -x[:, :2]], 1)
    with exact(model) as session:
        assert (session.infer({"x": x})["moved"] == right).all()
    assert commands.build(model, tmp_path / "e", target="onnxruntime").passed
    with engine.load(tmp_path / "e") as session:
        assert (session.infer({"x": x})["moved"] == right).all()


def test_an_output_that_onnxruntime_does_not_compute_is_told() -> None:
    model = model_of(
        "net (float[1,1,2,4] x) => (float[1,1,2,4] y, float[1,1,2,2] scores) {"
        " y, past, present, scores = Attention<qk_matmul_output_mode=-1>(x, x, x) }",
        opset=23,
    )
    feed = {"x": np.ones((1, 1, 2, 4), np.float32)}
    with (
        OnnxRuntime(model.to_onnx()) as session,
        pytest.raises(ModelError, match="onnxruntime computes nothing for 'scores'"),
    ):
        session.infer(feed)


def test_a_graph_that_is_refused_is_not_told_with_the_way_to_its_file(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "agraph (int8[2] x) => (int8[2] y) { y = Sigmoid(x) }"
    )
    file = tmp_path / ".hidden name.onnxgraft-tmp"
    onnx.save(proto, file)
    with pytest.raises(InputError, match=r"onnxruntime .*the graph: ") as refused:
        OnnxRuntime(file, name="net")
    assert "hidden" not in str(refused.value)
