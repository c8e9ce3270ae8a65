"""Scales that are those of no axis of their tensor are told where a file is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxgraft.errors import ModelError
from onnxgraft.graph.model import Model
from onnxgraft.run.exact import exact
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of

RNG = np.random.default_rng(0)


def graph(scales: int, zeros: int, axis: int) -> Model:
    """Return a convolution with the stored weights (4, 3, 1, 1), which are dequantized."""
    return model_of(
        f"n (float[N, 3, 5, 5] x) => (float[N, 4, 5, 5] y) {{"
        f" w = DequantizeLinear<axis = {axis}>(q, s, z)  y = Conv(x, w) }}",
        {
            "q": RNG.integers(-99, 99, (4, 3, 1, 1)).astype(np.int8),
            "s": np.full(scales, 0.01, np.float32), "z": np.zeros(zeros, np.int8),
        },
    )  # fmt: skip


@pytest.mark.parametrize(("scales", "axis"), [(4, 0), (4, -4), (3, 1), (3, -3), (1, 2)])
def test_scales_of_an_axis_are_read_and_computed_exactly(
    scales: int, axis: int, tmp_path: Path
) -> None:
    graph(scales, scales, axis).save(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    feeds = {"x": RNG.normal(size=(2, 3, 5, 5)).astype(np.float32)}
    with exact(model) as ours, OnnxRuntime(model.to_onnx(), optimize=False) as theirs:
        np.testing.assert_allclose(
            ours.infer(feeds)["y"], theirs.infer(feeds)["y"], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("scales", "zeros", "axis", "words"),
    [(4, 4, 1, r"4 scales, which its axis 1 of \[4, 3, 1, 1\] has not"),
     (4, 4, 4, r"4 scales, which its axis 4 of"), (4, 4, -5, "4 scales, which its axis -5 of"),
     (5, 5, 0, r"5 scales, which its axis 0 of"), (4, 3, 0, "4 scales and 3 zero points")],
)  # fmt: skip
def test_scales_of_no_axis_are_told_with_the_file(
    scales: int, zeros: int, axis: int, words: str, tmp_path: Path
) -> None:
    proto = graph(1, 1, 0).to_onnx()
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, size, dtype in (("s", scales, np.float32), ("z", zeros, np.int8)):
        value = onnx.numpy_helper.from_array(np.ones(size, dtype), name)
        stored[name].CopyFrom(value)
    (node,) = (node for node in proto.graph.node if node.op_type == "DequantizeLinear")
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("axis", axis))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=rf"m\.onnx: the DequantizeLinear .* has {words}"):
        Model.load(tmp_path / "m.onnx")
