"""A deployment reads and converts the model once, and exports each of its graphs once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import onnxgraft
from onnxgraft.stages.quantize import METHODS
from tests.conftest import only_ci

pytestmark = pytest.mark.usefixtures("untimed")

tf = pytest.importorskip("tensorflow")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each of the costly steps was called."""
    from onnxgraft.stages.convert.tensorflow import reading
    from onnxgraft.stages.convert.tensorflow.lower import lowering

    counts: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    for module, name in ((reading, "read_graphdef"), (lowering, "lower"), (gs, "export_onnx")):
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return counts


@only_ci
def test_nothing_is_done_twice(tmp_path: Path, counted: Counter[str]) -> None:
    rng = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        kernel = tf.constant(rng.standard_normal((3, 3, 3, 8)).astype(np.float32))
        tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), [1, 2], name="y")
        (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    for name, count in (("calib", 8), ("val", 4)):
        np.savez(tmp_path / f"{name}.npz", x=rng.standard_normal((count, 8, 8, 3)))
    report = onnxgraft.deploy(
        tmp_path / "net.pb", tmp_path / "out",
        data=tmp_path / "calib.npz", validate_on=tmp_path / "val.npz",
    )  # fmt: skip
    assert report.passed
    assert (counted["read_graphdef"], counted["lower"]) == (1, 1)
    # Converted, cleaned, and INT8 for two targets; all are written to files. Of each INT8 graph
    # there are the exact reference of its stage, that of the engine's proof, and its twin.
    graphs = 4 + 4 + 2 * 3
    # What is chosen for the network is run: for each target the methods of ranges, what they give,
    # and four improvements (there is nothing to equalize).
    chosen = 2 * (len(METHODS) + 1 + 4)
    assert counted["export_onnx"] == graphs + chosen
