"""What a conversion is compared on where there are no data, and what that shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft import commands
from onnxgraft.graph.model import Model, Source
from onnxgraft.graph.wants import Indices
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from tests.convert.tflite_files import File, numbers
from tests.running import Cli

Pb = Callable[..., Path]
tf = tensorflow()
v1 = tf.compat.v1
rng = np.random.default_rng(0)


def ids(*shape: int | None, name: str = "ids", dtype: Any = tf.int32) -> Any:
    return v1.placeholder(dtype, list(shape), name)


def table(rows: int) -> Any:
    return tf.constant(rng.standard_normal((rows, 4)).astype(np.float32))


def bert() -> Any:
    """Return words, types of two rows and positions, as every BERT adds them up."""
    words = tf.gather(table(100), ids(None, 8))
    types = tf.gather(table(2), ids(None, 8, name="types"))
    return tf.add(words + types, table(8), name="y")


def text(tmp_path: Path, graph: str, **weights: np.ndarray[Any, Any]) -> Path:
    """Write an ONNX file of a graph as text, with constants."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{graph}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


# Tables.


def test_token_types_of_two_rows_are_compared(pb: Pb) -> None:
    done = commands.convert(pb(bert))
    assert done.verdicts
    assert done.passed


@pytest.mark.parametrize(
    "lookup",
    [
        lambda x: tf.gather(table(3), tf.reshape(tf.cast(x, tf.int64), [-1])),
        lambda x: tf.gather(table(3), tf.concat([x, x], 1)[:, 1:]),
        lambda x: tf.gather_nd(table(3), x[..., None]),
        lambda x: tf.gather(tf.transpose(table(3)), tf.squeeze(x[:, None], 1), axis=1),
    ],
    ids=["cast and reshape", "concat and slice", "gather_nd", "squeeze, axis 1"],
)
def test_the_rows_of_a_table_are_found_in_tensorflow(pb: Pb, lookup: Any) -> None:
    original = Original.of(pb(lambda: tf.identity(lookup(ids(None, 4)), name="y")))
    with original.run() as running:
        assert original.wants(running).indices == {"ids:0": (Indices(0, 2),)}


def test_the_rows_of_a_table_are_found_in_tflite(tmp_path: Path) -> None:
    file = File()
    x, y = file.tensor("x", (1, 4), "INT32"), file.tensor("y", (1, 4, 2))
    rows = file.tensor("t", (3, 2), value=numbers(3, 2))
    file.op("GATHER", [rows, x], [y], file.options("Gather"))
    original = Original.of(file.save(tmp_path / "net.tflite", [x], [y]))
    with original.run() as running:
        assert original.wants(running).indices == {"x": (Indices(-1, 2),)}


def test_floats_that_are_compared_with_infinity_are_fed(tmp_path: Path) -> None:
    head = "g (float[N,4] x) => (bool[N,4] y)"
    path = text(tmp_path, f"{head} {{ y = Equal(x, k) }}", k=np.float32("inf"))
    assert commands.convert(path).passed


def test_floats_that_index_a_table_are_whole_and_within_it(pb: Pb) -> None:
    # As Keras casts the inputs of an Embedding.
    path = pb(lambda: tf.gather(table(3), tf.cast(ids(None, 6, dtype=tf.float32), tf.int32),
                                name="y"))  # fmt: skip
    done = commands.convert(path)
    assert done.verdicts
    assert done.passed


def test_a_table_in_a_branch_is_compared(tmp_path: Path) -> None:
    done = commands.convert(text(tmp_path, """g (int64[N,4] x, bool c) => (float[N,4,2] y)
        <float[2,2] t = {1,2,3,4}> {
        y = If (c) <then_branch = a () => (float[N,4,2] p) { p = Gather(t, x) },
                    else_branch = b () => (float[N,4,2] q) { z = Gather(t, x) q = Neg(z) }> }
    """))  # fmt: skip
    assert done.verdicts
    assert done.passed


# Ends of tables.


def as_converted(monkeypatch: pytest.MonkeyPatch, graph: str) -> None:
    """Let every conversion return this graph."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{graph}')

    def lower(*_: Any, **__: Any) -> tuple[Model, list[str]]:
        return Model.from_onnx(model, Source("g", "onnx", "")), []

    monkeypatch.setattr(Original, "lower", lower)


def test_a_one_hot_that_counts_from_the_end_is_seen(
    pb: Pb, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pb(lambda: tf.one_hot(ids(None, 3), 5, name="y"))
    as_converted(
        monkeypatch,
        """g (int32[N,3] ids) => (float[N,3,5] y)
        <int32 d = {5}, float[2] v = {0,1}> { y = OneHot(ids, d, v) }""",
    )
    assert not commands.convert(path).passed


def test_a_gather_that_clips_at_zero_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "g (int64[N,3] x) => (float[N,3,2] y) <float[3,2] t = {1,2,3,4,5,6}, int64 zero = {0}>"
    path = text(tmp_path, f"{head} {{ y = Gather(t, x) }}")
    as_converted(monkeypatch, f"{head} {{ i = Max(x, zero) y = Gather(t, i) }}")
    assert not commands.convert(path).passed


def test_a_mask_that_is_left_out_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "g (bool[N,4] mask, float[N,4] x) => (float[N,4] y) <float low = {-9}>"
    path = text(tmp_path, f"{head} {{ y = Where(mask, x, low) }}")
    as_converted(monkeypatch, f"{head} {{ y = Identity(x) }}")
    assert not commands.convert(path).passed


def test_a_mask_that_is_taken_for_false_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "g (bool[N,4] mask, float[N,4] x) => (float[N,4] y) <float low = {-9}>"
    path = text(tmp_path, f"{head} {{ y = Where(mask, x, low) }}")
    as_converted(monkeypatch, f"{head} {{ z = Sub(x, x) y = Add(z, low) }}")
    assert not commands.convert(path).passed


def test_a_graph_that_is_right_in_one_size_alone_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = text(tmp_path, "g (float[N,L] x) => (float[N,1] y) "
                          "<int64[1] a = {1}> { y = ReduceMean<axes = [1]>(x) }")  # fmt: skip
    as_converted(monkeypatch, "g (float[N,L] x) => (float[N,1] y) "
                 "<int64[1] a = {1}, float n = {0.125}> "
                 "{ s = ReduceSum(x, a) y = Mul(s, n) }")  # fmt: skip
    assert not commands.convert(path).passed


# Sizes.


def audio(tmp_path: Path) -> Path:
    """Return the front end of an audio network that wants 65 samples."""
    kernel = rng.standard_normal((16, 1, 128)).astype(np.float32)
    return text(
        tmp_path,
        """g (float[N,samples] x) => (float[N,16,M] y) {
        q = Pad<mode = "reflect">(x, p) u = Unsqueeze(q, a) i = Identity(u)
        y = Conv<strides = [64]>(i, w) }""",
        p=np.array([0, 64, 0, 64]),
        a=np.array([1]),
        w=kernel,
    )


def test_an_audio_network_is_fed_as_many_samples_as_it_wants(tmp_path: Path) -> None:
    done = commands.convert(audio(tmp_path))
    assert done.verdicts
    assert done.passed


def test_surgery_verifies_an_audio_network(tmp_path: Path) -> None:
    report = commands.surgery(audio(tmp_path), tmp_path / "out.onnx").report
    assert report is not None
    assert report.verdicts
    assert report.passed


def recurrent(tmp_path: Path) -> Path:
    """Return a network whose state has a fixed batch of one, though its input's is free."""
    weights = {
        "w": rng.standard_normal((1, 16, 4)).astype(np.float32),
        "r": rng.standard_normal((1, 16, 4)).astype(np.float32),
        "h": rng.standard_normal((1, 1, 4)).astype(np.float32),
    }
    return text(
        tmp_path,
        """g (float[N,5,4] x) => (float[5,1,N,4] y) {
        i = Identity(x) t = Transpose<perm = [1, 0, 2]>(i)
        y, a, b = LSTM<hidden_size = 4>(t, w, r, , , h) }""",
        **weights,
    )


def test_a_batch_that_is_really_one_is_compared_and_said(tmp_path: Path) -> None:
    done = commands.convert(recurrent(tmp_path))
    assert done.verdicts
    assert done.passed
    assert "at batch 2 the original does not run: compared at batch 1 alone" in done.notes


def test_surgery_says_that_it_ran_batch_one_alone(tmp_path: Path) -> None:
    report = commands.surgery(recurrent(tmp_path), tmp_path / "out.onnx").report
    assert report is not None
    assert report.verdicts
    assert any("at batch 1 alone" in note for note in report.notes)


# What nothing runs.

NEVER = {
    "runs in no size": "g (float[N,7] x) => (float[3,5] y) "
                       "<int64[2] s = {3,5}> { i = Identity(x) y = Reshape(i, s) }",
    "takes text": "g (string[N] x) => (string[N] y) { y = Identity(x) }",
    "has an operator of its own": "g (float[N] x) => (float[N] y) { y = acme.Fuse(x) }",
}  # fmt: skip


@pytest.mark.parametrize("graph", NEVER.values(), ids=NEVER)
def test_what_can_not_be_run_is_written_with_a_warning(
    tmp_path: Path, cli: Cli, graph: str
) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
    onnx.save(onnx.parser.parse_model(f"{head}\n{graph}"), tmp_path / "net.onnx")
    done = cli("convert", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "warning: not compared with the original: " in done.stdout
    assert (tmp_path / "out.onnx").is_file()


def test_a_tensorflow_graph_that_runs_in_no_size_is_written_with_a_warning(
    tmp_path: Path, pb: Pb, cli: Cli
) -> None:
    path = pb(lambda: tf.gather(table(3), 0 * ids(None, 4) + 7, name="y"))
    done = cli("convert", path, "-o", tmp_path / "out.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "warning: not compared with the original: " in done.stdout
    assert (tmp_path / "out.onnx").is_file()


@pytest.mark.parametrize("graph", NEVER.values(), ids=NEVER)
def test_surgery_of_what_can_not_be_run_is_written_and_says_so(
    tmp_path: Path, cli: Cli, graph: str
) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
    onnx.save(onnx.parser.parse_model(f"{head}\n{graph}"), tmp_path / "net.onnx")
    done = cli("surgery", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not verified: " in done.stdout
    assert (tmp_path / "out.onnx").is_file()
