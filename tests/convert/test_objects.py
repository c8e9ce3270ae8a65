"""Models as Python holds them, each held against what its own framework computes."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft import commands
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array
from onnxgraft.run.answers import answers
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original, written
from tests.conftest import model_of

RNG = np.random.default_rng(0)


def computed(model: Any, feed: Array) -> Array:
    """Return the first output of the converted model, on one feed."""
    done = commands.convert(model)
    assert done.passed
    assert done.verdicts, "it was not compared with the original"
    with OnnxRuntime(done.model.to_onnx()) as session:
        return next(iter(answers(session, {session.inputs[0].name: feed}).values()))


# Keras.


def keras_model(*layers: Any) -> Any:
    """Return a small classifier of pictures of 8 x 8, with layers of ours at its beginning."""
    keras = pytest.importorskip("keras")
    own = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 3), name="photo"), *layers, *own], name="mine")


def test_a_keras_model_is_what_it_computes() -> None:
    model, feed = keras_model(), RNG.random((2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(computed(model, feed), model.predict(feed, verbose=0), atol=1e-5)


def test_a_keras_models_own_layer_needs_no_trust() -> None:
    keras = pytest.importorskip("keras")

    class Half(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 0.5

    model = keras_model(Half(), keras.layers.Lambda(lambda x: x + 1.0))
    feed = RNG.random((2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(computed(model, feed), model.predict(feed, verbose=0), atol=1e-5)


def test_a_keras_model_tells_of_its_images() -> None:
    keras = pytest.importorskip("keras")
    model = keras_model(keras.layers.Rescaling(1 / 255))
    assert (
        "scales its pixels"
        in commands.convert(model, verify=False).model.metadata["onnxgraft.pictures"]
    )


def test_a_keras_model_that_is_not_built_is_told() -> None:
    keras = pytest.importorskip("keras")
    with pytest.raises(InputError, match="the Keras model is not built; call it once"):
        written(keras.Sequential([keras.layers.Dense(3)]))


# TensorFlow.


def test_a_module_is_what_its_call_computes() -> None:
    tf = pytest.importorskip("tensorflow")

    class Net(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(RNG.random((4, 2)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return {"y": tf.nn.relu(x @ self.w)}

    net, feed = Net(), RNG.random((3, 4)).astype(np.float32)
    np.testing.assert_allclose(computed(net, feed), net(feed)["y"].numpy(), atol=1e-6)


def test_a_module_without_a_signature_comes_with_example_inputs() -> None:
    tf = pytest.importorskip("tensorflow")

    class Net(tf.Module):  # type: ignore[misc, name-defined]
        def __call__(self, x: Any) -> Any:
            return tf.nn.relu(x - 0.5)

    net, feed = Net(), RNG.random((3, 4)).astype(np.float32)
    with pytest.raises(InputError, match=r"Net: what the tf\.Module takes is not known"):
        written(net)
    np.testing.assert_allclose(computed((net, feed), feed), net(feed).numpy(), atol=1e-6)


# ONNX.


def proto() -> onnx.ModelProto:
    """Return a graph."""
    text = "net (float[N, 8] x) => (float[N, 4] y) { y = Gemm(x, w, b) }"
    weights = {"w": RNG.random((8, 4)).astype(np.float32), "b": np.ones(4, np.float32)}
    return model_of(text, weights).to_onnx()


def test_a_model_proto_goes_through_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxgraft.commands._deployment._Deployment._latency", lambda self: [])
    model, rows = proto(), RNG.random((16, 8)).astype(np.float32)
    assert commands.inspect(model).framework == "onnx"
    commands.surgery(model, tmp_path / "clean.onnx")
    ranges = commands.calibrate(model, data=rows, method="minmax").ranges
    int8 = commands.quantize(model, "onnxruntime", ranges=ranges).model
    commands.build(int8.to_onnx(), tmp_path / "engine", target="onnxruntime")
    assert commands.validate(model, model, rows).passed
    assert commands.validate(model, tmp_path / "engine", rows).samples == 16
    assert len(commands.bench([model], batch=[1], rounds=1, runs=1).rows) == 1
    report = commands.deploy(model, tmp_path / "out", data=rows, targets="onnxruntime")
    assert report.passed
    assert (tmp_path / "out/engine.onnxruntime").is_file()


# PyTorch.


@pytest.mark.parametrize("rows", [1, 2])
def test_a_torch_module_is_what_it_computes(rows: int) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.BatchNorm2d(4))
    net.train()
    example = torch.randn(rows, 3, 8, 8)
    feed = RNG.random((rows if rows == 1 else 5, 3, 8, 8)).astype(np.float32)
    found = computed((net, example), feed)
    assert net.training
    with torch.no_grad():
        np.testing.assert_allclose(found, net.eval()(torch.from_numpy(feed)).numpy(), atol=1e-5)


def test_a_torch_program_is_taken_too() -> None:
    torch = pytest.importorskip("torch")
    program = torch.export.export(torch.nn.Linear(4, 2).eval(), (torch.zeros(1, 4),))
    feed = RNG.random((1, 4)).astype(np.float32)
    expected = program.module()(torch.from_numpy(feed)).detach().numpy()
    np.testing.assert_allclose(computed(program, feed), expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_a_torch_module_may_take_any_number_of_inputs(count: int) -> None:
    torch = pytest.importorskip("torch")

    class Sum(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, first: Any, *more: Any) -> Any:
            return first + sum(more)

    done = commands.convert((Sum().eval(), (torch.ones(2, 3),) * count))
    assert done.passed
    assert [spec.shape for spec in done.model.inputs] == [("N", 3)] * count


def test_a_torch_module_wants_example_inputs() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"Linear: .* give a pair of it and its example inputs"):
        written(torch.nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"Linear: its framework can't write the model"):
        written((torch.nn.Linear(4, 2), torch.zeros(1, 5)))


# What is written lives as long as it is needed.


def test_the_file_is_removed_with_its_name() -> None:
    path = written(proto())
    file = Path(str(path))
    assert file.is_file()
    original = Original.of(path)
    del path
    gc.collect()
    assert file.is_file()
    del original
    gc.collect()
    assert not file.parent.exists()


def test_another_process_has_the_path_alone() -> None:
    path = written(proto())
    sent = pickle.loads(pickle.dumps(Original.of(path)))
    assert sent.path == path
    assert type(sent.path) is str


@pytest.mark.parametrize("model", [7, None, object(), (1, 2, 3)], ids=lambda m: type(m).__name__)
def test_what_is_no_model_is_told(model: Any) -> None:
    with pytest.raises(InputError, match=r"is no model that can be read; give a path, a Keras"):
        written(model)
