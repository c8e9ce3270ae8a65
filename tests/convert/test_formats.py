"""Every export that TensorFlow writes: inputs and outputs are found, the numbers are its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.commands import Converted
from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from tests.conftest import Cli, few, only_ci

tf = pytest.importorskip("tensorflow")
saved_model_pb2 = pytest.importorskip("tensorflow.core.protobuf.saved_model_pb2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one small network of each kind."""
    import keras
    from keras import layers

    folder = tmp_path_factory.mktemp("formats")
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="gelu")(image)
    x = layers.BatchNormalization(
        moving_mean_initializer="ones", moving_variance_initializer=keras.initializers.Constant(2.0)
    )(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(layers.Dropout(0.3)(x))
    x = layers.GlobalAveragePooling2D()(x)
    heads = [layers.Dense(5, activation="softmax", name="probs")(x), layers.Dense(2, name="box")(x)]
    network = keras.Model(image, heads)
    network.save(folder / "net.keras")
    network.save(folder / "net.h5")
    network.export(folder / "exported", verbose=False)
    line = keras.Sequential([
        keras.Input((8,)),
        layers.Dense(4, activation="tanh"),
        layers.Dense(2),
    ])
    line.save(folder / "line.keras")
    left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    both = layers.Dense(3, name="sum")(layers.Concatenate()([left, right]))
    keras.Model({"right": right, "left": left}, both).save(folder / "two.keras")
    code = keras.Sequential([keras.Input((8,)), layers.Lambda(lambda t: t * 2, name="twice")])
    code.save(folder / "code.keras")
    code.save(folder / "code.h5")
    _saved_model(folder / "signatures")
    _checkpoint(folder / "checkpoint" / "model.ckpt")
    (folder / "net.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())
    return folder


def _saved_model(folder: Path) -> None:
    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weight = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))

        @tf.function(input_signature=spec)
        def both(self, x: Any) -> dict[str, Any]:
            return {"product": x @ self.weight, "positive": tf.nn.relu(x)}

        @tf.function(input_signature=spec)
        def one(self, x: Any) -> dict[str, Any]:
            return {"sum": x + 1}

    module = Module()
    tf.saved_model.save(
        module, str(folder), signatures={"serving_default": module.both, "other": module.one}
    )


def _checkpoint(prefix: Path) -> None:
    """Write a training graph: labels, a loss, an optimizer and a summary."""
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        label = v1.placeholder(tf.int64, [None], "labels")
        keep = v1.placeholder_with_default(1.0, [], "keep_prob")
        weight = v1.get_variable("w", [4, 3], use_resource=False)
        scale = v1.get_variable("scale", [3], use_resource=True)
        logits = tf.identity(tf.matmul(x, weight) * scale * keep, name="logits")
        tf.nn.softmax(logits, name="prob")
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
        )
        v1.summary.scalar("loss", loss)
        v1.train.AdamOptimizer().minimize(loss)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(prefix))


def converted(path: Path, **options: Any) -> Converted:
    """Convert and assert that the numbers are TensorFlow's, at two batch sizes.

    Where a softmax stays at its ends on the first samples, more are drawn.
    """
    done = commands.convert(path, **options)
    assert len(done.verdicts) >= 2 * len(done.model.outputs)
    assert done.passed
    return done


def ends(done: Converted) -> tuple[list[str], list[str]]:
    return [str(s) for s in done.model.inputs], [str(s) for s in done.model.outputs]


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_a_keras_file_keeps_its_names_and_their_order(files: Path, name: str) -> None:
    assert ends(converted(files / name)) == (
        ["image (N, 12, 12, 3) float32"],
        ["probs (N, 5) float32", "box (N, 2) float32"],
    )


@only_ci
def test_reading_a_keras_file_writes_nothing_to_standard_error(files: Path, process: Cli) -> None:
    done = process("inspect", files / "line.keras")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_sequential_model_is_named_by_its_last_layer(files: Path) -> None:
    inputs, outputs = ends(converted(files / "line.keras"))
    assert inputs == ["input_layer (N, 8) float32"] or inputs[0].endswith("(N, 8) float32")
    assert outputs[0].startswith("dense")


def test_a_keras_model_of_named_inputs_is_fed_by_name(files: Path) -> None:
    inputs, outputs = ends(converted(files / "two.keras"))
    assert sorted(inputs) == ["left (N, 4) float32", "right (N, 6) float32"]
    assert outputs == ["sum (N, 3) float32"]


def test_a_keras_model_is_cut_by_its_own_names(files: Path) -> None:
    assert ends(converted(files / "net.keras", outputs="box"))[1] == ["box (N, 2) float32"]


def test_nothing_of_training_is_left_of_a_keras_model(files: Path) -> None:
    operators = converted(files / "net.keras").model.operators()
    assert not {"BatchNormalization", "RandomUniformLike", "Dropout", "Where"} & set(operators)


def test_an_exported_keras_model_is_a_saved_model(files: Path) -> None:
    inputs, outputs = ends(converted(files / "exported"))
    assert inputs == ["image (N, 12, 12, 3) float32"]
    assert outputs == ["output_0 (N, 5) float32", "output_1 (N, 2) float32"]


def test_a_saved_model_has_its_signature_s_names(files: Path) -> None:
    done = converted(files / "signatures")
    assert ends(done) == (
        ["x (N, 4) float32"],
        ["positive (N, 4) float32", "product (N, 3) float32"],
    )
    assert done.notes == [
        "the signature serving_default was used; there are also other (--signature)"
    ]


def test_calls_that_are_marked_for_a_compiler_are_inlined(tmp_path: Path) -> None:
    # Keras 3 compiles some depthwise convolutions on the CPU so.
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 1)).astype(np.float32)

    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(jit_compile=True)
        def inner(self, x: Any) -> Any:
            return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")

        @tf.function(input_signature=[tf.TensorSpec([None, 6, 6, 2], tf.float32, name="x")])
        def outer(self, x: Any) -> dict[str, Any]:
            return {"y": tf.nn.relu(self.inner(x))}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "s"), signatures=module.outer)
    assert converted(tmp_path / "s").model.operators() == {"Transpose": 2, "Conv": 1, "Relu": 1}


def test_another_signature_can_be_chosen(files: Path) -> None:
    done = converted(files / "signatures", signature="other")
    assert ends(done) == (["x (N, 4) float32"], ["sum (N, 4) float32"])
    assert done.notes == []


def test_an_unknown_signature_lists_those_there_are(files: Path) -> None:
    with pytest.raises(InputError, match=r"no signature is called 'x'; .*other, serving_default"):
        Original.of(files / "signatures", signature="x").lower()


@pytest.mark.parametrize("part", ["", ".meta", ".index"])
def test_a_checkpoint_is_freed_of_training(files: Path, part: str) -> None:
    done = converted(files / "checkpoint" / f"model.ckpt{part}")
    assert ends(done) == (["x:0 (N, 4) float32"], ["prob:0 (N, 3) float32"])
    assert done.notes == ["keep_prob was frozen to 1.0 for inference"]


def test_a_checkpoint_is_cut_where_asked(files: Path) -> None:
    done = converted(files / "checkpoint" / "model.ckpt", outputs="logits")
    assert ends(done)[1] == ["logits:0 (N, 3) float32"]


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("output", ["averaged", "counted"])
def test_what_an_output_waits_for_in_training_changes_nothing_of_it(
    output: str, resource: bool, tmp_path: Path
) -> None:
    """A step that is counted, and averages of the weights: one is read, one is waited for."""
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        weight = v1.get_variable("w", [4, 3], use_resource=resource)
        step = v1.train.get_or_create_global_step()
        average = v1.train.ExponentialMovingAverage(0.5)
        update = average.apply([weight])
        tf.identity(x @ average.average(weight) + 1, name="averaged")
        with tf.control_dependencies([v1.assign_add(step, 1), update]):
            tf.identity(x @ weight, name="counted")
        with v1.Session() as session:
            session.run(weight.initializer)  # which the average's reads
            session.run(v1.global_variables_initializer())
            session.run(v1.assign(weight, weight * 3))
            session.run(update)
            feed = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
            right = session.run(f"{output}:0", {"x:0": feed})
            v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    done = commands.convert(tmp_path / "model.ckpt", outputs=output)
    assert done.passed
    with OnnxRuntime(done.model.to_onnx()) as running:
        (found,) = running.infer({"x:0": feed}).values()
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("resource", [False, True])
def test_a_wait_for_what_writes_a_weight_that_is_read_is_not_dropped(
    resource: bool, tmp_path: Path
) -> None:
    """The weight is written within a conditional, through a Switch."""
    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default():
            x = v1.placeholder(tf.float32, [None, 4], "x")
            weight = v1.get_variable("w", [4], use_resource=resource)
            update = tf.cond(
                tf.reduce_max(x) > -1.0,
                lambda: tf.identity(v1.assign_add(weight, tf.ones([4]))),
                lambda: tf.zeros([4]),
            )
            with tf.control_dependencies([update]):
                tf.identity(x * (weight.read_value() if resource else tf.identity(weight)), "y")
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    finally:
        v1.enable_control_flow_v2()
    with pytest.raises(InputError, match="TensorFlow"):
        commands.convert(tmp_path / "model.ckpt", outputs="y")


def test_single_numbers_at_the_end_of_a_checkpoint_are_left_out_and_told(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        score = tf.identity(x @ v1.get_variable("w", [4, 3]), name="score")
        tf.reduce_mean(x, name="mean")
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    done = converted(tmp_path / "model.ckpt")
    assert ends(done)[1] == [f"{score.name} (N, 3) float32"]
    assert done.notes == ["mean:0: left out, as losses and counters are single numbers (--outputs)"]


def test_a_checkpoint_that_a_queue_feeds_is_fed_at_the_queue(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        queue = tf.queue.FIFOQueue(9, [tf.float32, tf.int64], shapes=[[4], []], name="queue")
        x, label = queue.dequeue_many(2, name="batch")
        logits = tf.matmul(x, v1.get_variable("w", [4, 3], use_resource=False), name="logits")
        tf.nn.softmax(logits, name="prob")
        tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits), name="loss"
        )
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    done = commands.convert(tmp_path / "model.ckpt", inputs="batch:0[?,4]")
    assert done.passed
    assert ends(done) == (["batch:0 (N, 4) float32"], ["prob:0 (N, 3) float32"])


def test_a_tflite_file_is_judged_by_its_interpreter(files: Path) -> None:
    done = converted(files / "net.tflite")
    assert [spec.shape for spec in done.model.inputs] == [("N", 12, 12, 3)]
    assert sorted(spec.shape[1] for spec in done.model.outputs) == [2, 5]


def test_inspect_tells_the_model_s_own_inputs_and_outputs(files: Path) -> None:
    for name, outputs in (
        ("net.keras", ["probs (N, 5) float32", "box (N, 2) float32"]),
        ("signatures", ["positive (N, 4) float32", "product (N, 3) float32"]),
        ("checkpoint/model.ckpt", ["prob:0 (N, 3) float32"]),
    ):
        assert Original.of(files / name).inspect().outputs == outputs
    assert Original.of(files / "net.tflite").inspect().framework == "tflite"


@pytest.mark.parametrize("name", ["code.keras", "code.h5"])
def test_a_lambda_layer_is_refused_and_never_loaded(files: Path, name: str, cli: Cli) -> None:
    done = cli("convert", files / name, "-o", files / "code.onnx")
    assert done.returncode == 2
    assert "the Lambda layer 'twice' holds Python code" in done.stderr
    assert "--trust" in done.stderr
    assert not (files / "code.onnx").exists()


def test_a_lambda_layer_runs_when_it_is_trusted(files: Path) -> None:
    assert converted(files / "code.keras", trust=True).model.operators() == {"Mul": 1}


def test_a_custom_object_is_refused_and_never_loaded(files: Path, tmp_path: Path) -> None:
    import json
    import zipfile

    with zipfile.ZipFile(files / "line.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1] |= {"module": "evil.code", "class_name": "Backdoor"}
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "evil.keras", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=r"Backdoor .* custom object of evil\.code"):
        Original.of(tmp_path / "evil.keras").lower()


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "net.tflite"])
@pytest.mark.parametrize("damage", ["cut_short", "text"])
def test_a_damaged_file_is_refused(files: Path, tmp_path: Path, name: str, damage: str) -> None:
    whole = (files / name).read_bytes()
    broken = tmp_path / name
    broken.write_bytes(whole[: len(whole) // 2] if damage == "cut_short" else b"a letter\n" * 50)
    with pytest.raises(ModelError, match=name):
        Original.of(broken).lower()


def test_weights_without_an_architecture_are_refused(files: Path, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["w"] = np.zeros(3)
    with pytest.raises(ModelError, match="weights alone"):
        Original.of(tmp_path / "weights.h5").lower()


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001", ".meta"])
def test_a_damaged_checkpoint_is_refused(files: Path, tmp_path: Path, suffix: str) -> None:
    shutil.copytree(files / "checkpoint", tmp_path / "c")
    part = tmp_path / "c" / f"model.ckpt{suffix}"
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"model\.ckpt: the checkpoint can't be restored"):
        Original.of(tmp_path / "c" / "model.ckpt").lower()


def test_a_checkpoint_without_its_data_is_refused(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "checkpoint", tmp_path / "c")
    (tmp_path / "c" / "model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(ModelError, match=r"no \.index or no \.data file"):
        Original.of(tmp_path / "c" / "model.ckpt").lower()


def test_a_damaged_saved_model_is_refused(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "signatures", tmp_path / "s")
    (tmp_path / "s" / "saved_model.pb").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(ModelError, match="can't load the SavedModel"):
        Original.of(tmp_path / "s").lower()


def test_a_folder_that_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no SavedModel"):
        Original.of(tmp_path).lower()


def test_a_signature_of_something_else_is_refused(files: Path) -> None:
    with pytest.raises(InputError, match="--signature goes with a SavedModel alone"):
        Original.of(files / "net.keras", signature="x").lower()


# Oddities of Keras and of signatures.


def saved(folder: Path, build: Any) -> Path:
    """Save a Keras model of fresh names, so that they do not depend on the tests before."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    build().save(folder / "x.keras")
    return folder / "x.keras"


def line(*layers: Any) -> Any:
    import keras

    return keras.Sequential(list(layers))


def keras_cases() -> dict[str, tuple[Any, list[str], list[str]]]:
    """Return builders of models, and the inputs and outputs that they have."""
    import keras
    from keras import Input, Model, layers

    def twice() -> Any:
        x = Input((4,), name="x")
        y = layers.Dense(3, name="y")(x)
        return Model(x, [y, y])

    def identities() -> Any:
        x = Input((4,), name="x")
        first = layers.Identity(name="b")(layers.Dense(3, name="a")(x))
        return Model(x, [first, layers.Identity(name="same")(x)])

    def shared() -> Any:
        a, b, dense = Input((4,), name="b"), Input((4,), name="a"), layers.Dense(3)
        return Model([a, b], layers.Subtract(name="difference")([dense(a), dense(b)]))

    return {
        "an_output_twice": (
            twice, ["x (N, 4) float32"],
            ["output_0 (N, 3) float32", "output_1 (N, 3) float32"],
        ),
        "identities": (
            identities, ["x (N, 4) float32"], ["b (N, 3) float32", "same (N, 4) float32"],
        ),
        "inputs_out_of_order": (
            shared, ["b (N, 4) float32", "a (N, 4) float32"], ["difference (N, 3) float32"],
        ),
        "fixed_batch": (
            lambda: line(Input(batch_shape=(2, 4), name="x"), layers.Dense(3, name="y")),
            ["x (2, 4) float32"], ["y (2, 3) float32"],
        ),
        "names_with_points": (
            lambda: line(Input((4,), name="in.put-1"), layers.Dense(3, name="out.put-1")),
            ["in.put-1 (N, 4) float32"], ["out.put-1 (N, 3) float32"],
        ),
        "tokens": (
            lambda: line(
                Input((5,), dtype="int32", name="x"), layers.Embedding(12, 4),
                layers.GlobalAveragePooling1D(name="y"),
            ),
            ["x (N, 5) int32"], ["y (N, 4) float32"],
        ),
        "bytes": (
            lambda: line(
                Input((8, 8, 3), dtype="uint8", name="x"), layers.Rescaling(1 / 127.5, -1.0),
                layers.Conv2D(4, 3, name="y"),
            ),
            ["x (N, 8, 8, 3) uint8"], ["y (N, 6, 6, 4) float32"],
        ),
        "normalization": (
            lambda: line(
                Input((8, 8, 3), name="x"),
                layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]),
                layers.Conv2D(4, 3, name="y"),
            ),
            ["x (N, 8, 8, 3) float32"], ["y (N, 6, 6, 4) float32"],
        ),
        "augmentation": (
            lambda: line(
                Input((8, 8, 3), name="x"), layers.RandomFlip(), layers.RandomRotation(0.1),
                layers.RandomContrast(0.2), layers.Conv2D(4, 3, name="y"),
            ),
            ["x (N, 8, 8, 3) float32"], ["y (N, 6, 6, 4) float32"],
        ),
        "noise": (
            lambda: line(
                Input((8, 8, 3), name="x"), layers.SpatialDropout2D(0.5),
                layers.GaussianNoise(0.5), layers.GaussianDropout(0.4), layers.AlphaDropout(0.4),
                layers.Conv2D(4, 3, name="y"),
            ),
            ["x (N, 8, 8, 3) float32"], ["y (N, 6, 6, 4) float32"],
        ),
        "a_model_in_a_model": (
            lambda: line(
                Input((8,), name="x"),
                line(Input((8,)), layers.Dense(4), layers.BatchNormalization()),
                layers.Dense(3, name="y"),
            ),
            ["x (N, 8) float32"], ["y (N, 3) float32"],
        ),
        "float64": (
            lambda: line(
                Input((8,), dtype="float64", name="x"),
                layers.Dense(3, dtype="float64", name="y"),
            ),
            ["x (N, 8) float64"], ["y (N, 3) float64"],
        ),
        "true_or_false": (
            lambda: Model(x := Input((4,), name="x"), keras.ops.greater(x, 0.0)),
            ["x (N, 4) float32"], ["greater (N, 4) bool"],
        ),
        "scalar": (
            lambda: Model(x := Input((4,), name="x"), keras.ops.mean(x)),
            ["x (N, 4) float32"], ["mean () float32"],
        ),
    }  # fmt: skip


KERAS = (
    "an_output_twice identities inputs_out_of_order fixed_batch names_with_points tokens bytes "
    "normalization augmentation noise a_model_in_a_model float64 true_or_false scalar"
).split()


@pytest.mark.parametrize("kind", few(KERAS, 3, 7))
def test_a_keras_model_keeps_its_names_types_and_order(tmp_path: Path, kind: str) -> None:
    build, inputs, outputs = keras_cases()[kind]
    path = saved(tmp_path, build)
    done = commands.convert(path)
    assert ends(done) == (inputs, outputs)
    assert done.verdicts
    assert done.passed
    assert done.notes == []
    assert not [op for op in done.model.operators() if op.startswith(("Random", "Dropout"))]


def test_the_keras_cases_are_all_tried() -> None:
    assert list(keras_cases()) == KERAS


class Signatures(tf.Module):  # type: ignore[misc]
    """Signatures that a serving export may have."""

    def __init__(self) -> None:
        self.weight = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def one_tensor_twice(self, x: Any) -> dict[str, Any]:
        product = x @ self.weight
        return {"zeta": product, "alpha": product}

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def passes_its_input(self, x: Any) -> dict[str, Any]:
        return {"same": x, "product": x @ self.weight}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32, name="used"),
            tf.TensorSpec([None, 9], tf.float32, name="unused"),
        ]
    )
    def ignores_an_input(self, used: Any, unused: Any) -> dict[str, Any]:
        del unused
        return {"y": used @ self.weight}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32, name="x"),
            tf.TensorSpec([], tf.bool, name="training"),
        ]
    )
    def trains(self, x: Any, training: Any) -> dict[str, Any]:
        return {
            "y": tf.cond(training, lambda: x - tf.reduce_mean(x), lambda: x @ self.weight[:, :1])
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def reads_text(self, text: Any) -> dict[str, Any]:
        return {"length": tf.strings.length(text)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SavedModel with `Signatures`."""
    module = Signatures()
    names = ["one_tensor_twice", "passes_its_input", "ignores_an_input", "trains", "reads_text"]
    folder = tmp_path_factory.mktemp("served") / "s"
    signatures = {name: getattr(module, name) for name in names}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


@pytest.mark.parametrize(
    ("signature", "inputs", "outputs"),
    [
        (
            "one_tensor_twice", ["x (N, 4) float32"],
            ["alpha (N, 3) float32", "zeta (N, 3) float32"],
        ),
        (
            "passes_its_input", ["x (N, 4) float32"],
            ["product (N, 3) float32", "same (N, 4) float32"],
        ),
        ("ignores_an_input", ["used (N, 4) float32"], ["y (N, 3) float32"]),
    ],
)  # fmt: skip
def test_a_signature_keeps_its_names(
    served: Path, signature: str, inputs: list[str], outputs: list[str]
) -> None:
    assert ends(converted(served, signature=signature)) == (inputs, outputs)


def test_a_signature_of_tensorflow_1_keeps_its_names_where_outputs_are_one_tensor(
    tmp_path: Path,
) -> None:
    """TensorFlow 2 writes an Identity for each output, and TensorFlow 1 names the tensors."""
    v1, weight = tf.compat.v1, np.arange(12, dtype=np.float32).reshape(4, 3)
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        given = v1.placeholder(tf.float32, [None, 4], "given")
        product = given @ v1.get_variable("w", initializer=weight)
        session.run(v1.global_variables_initializer())
        outputs = {"alpha": product, "zeta": product, "same": given, "again": given}
        info = {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in outputs.items()}
        signature = v1.saved_model.build_signature_def(
            {"x": v1.saved_model.build_tensor_info(given)}, info, "predict"
        )
        builder = v1.saved_model.Builder(str(tmp_path / "s"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    done = commands.convert(tmp_path / "s")
    assert done.passed
    feed = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    with OnnxRuntime(done.model.to_onnx()) as running:
        found = running.infer({"x": feed})
    assert set(found) == set(outputs)
    for name, value in found.items():
        right = feed if name in ("same", "again") else feed @ weight
        np.testing.assert_allclose(value, right, rtol=1e-6, err_msg=name)


def test_a_flag_of_a_signature_is_resolved(served: Path) -> None:
    done = converted(served, signature="trains")
    assert [spec.name for spec in done.model.inputs] == ["x"]
    assert done.notes == ["training was frozen to False for inference"]
    assert not {"ReduceMean", "If"} & set(done.model.operators())


def test_a_signature_of_text_is_refused(served: Path, tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="is of type string"):
        commands.convert(served, signature="reads_text", out=tmp_path / "y.onnx")
    assert not list(tmp_path.iterdir())


# Damage that keeps the size of a file.


def flip(file: Path) -> None:
    """Change a byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))


def test_a_flipped_byte_in_the_variables_of_a_saved_model_is_found(
    served: Path, tmp_path: Path
) -> None:
    shutil.copytree(served, tmp_path / "s")
    flip(tmp_path / "s" / "variables" / "variables.data-00000-of-00001")
    with pytest.raises(ModelError, match=r"can't load the SavedModel: .*Checksum does not match"):
        Original.of(tmp_path / "s").lower()


def test_a_flipped_byte_in_the_data_of_a_checkpoint_is_found(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "checkpoint", tmp_path / "c")
    flip(tmp_path / "c" / "model.ckpt.data-00000-of-00001")
    with pytest.raises(ModelError, match=r"model\.ckpt: the checkpoint can't be restored"):
        Original.of(tmp_path / "c" / "model.ckpt").lower()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Return the prefix of a checkpoint whose data lie in two files."""
    (tmp_path / "sharded").mkdir()
    prefix = tmp_path / "sharded" / "model.ckpt"
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        with tf.device("/cpu:0"):
            x = tf.matmul(x, v1.get_variable("first", [4, 5], use_resource=False))
        with tf.device("/cpu:1"):
            x = tf.matmul(x, v1.get_variable("second", [5, 3], use_resource=False))
        tf.nn.softmax(x, name="prob")
        config = v1.ConfigProto(device_count={"CPU": 2})
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(sharded=True).save(session, str(prefix))
    assert len(list(prefix.parent.glob("*.data-*"))) == 2
    return prefix


def test_a_checkpoint_of_two_shards_is_read(shards: Path) -> None:
    assert ends(converted(shards)) == (["x:0 (N, 4) float32"], ["prob:0 (N, 3) float32"])


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("damage", ["flipped", "cut_short", "missing"])
def test_a_damaged_shard_is_refused(shards: Path, shard: int, damage: str) -> None:
    file = Path(f"{shards}.data-{shard:05d}-of-00002")
    if damage == "flipped":
        flip(file)
    elif damage == "cut_short":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(ModelError, match=r"model\.ckpt: the checkpoint can't be restored: "):
        Original.of(shards).lower()


def test_a_keras_tensor_goes_by_its_own_name_too(tmp_path: Path) -> None:
    """In a process of its own, Keras numbers from the first tensor on."""
    import keras

    first, named = keras.Input((4,)), keras.Input((4,), name="named")
    both = keras.layers.Dense(3)(first) + keras.layers.Dense(3)(named)
    heads = [keras.layers.Dense(2, name="one")(both), keras.layers.Dense(2, name="two")(both)]
    model = keras.Model([first, named], heads)
    numbers = [int(head.name.rpartition("_")[2]) for head in heads]
    begin = 4 - numbers[0]  # of this process, where other models were made before
    assert [number + begin for number in numbers] == [4, 5]
    model.save(tmp_path / "m.keras")

    def ends(**options: str) -> tuple[list[str], list[str]]:
        found, _ = Original.of(tmp_path / "m.keras", **options).lower()
        return [spec.name for spec in found.inputs], [spec.name for spec in found.outputs]

    inputs = [model.layers[0].name, "named"]
    assert ends(outputs="keras_tensor_5") == (inputs, ["two"])
    assert ends(outputs="two,keras_tensor_4") == (inputs, ["two", "one"])
    assert ends(inputs="named,keras_tensor", outputs="one") == (inputs[::-1], ["one"])
    with pytest.raises(InputError, match="keras_tensor_9"):
        ends(outputs="keras_tensor_9")


def test_a_keras_model_that_can_not_be_called_in_a_graph(tmp_path: Path) -> None:
    import keras

    free = keras.Input((None, None, 3))
    layer = keras.layers.UpSampling2D(2, interpolation="bilinear")
    keras.Model(free, layer(free)).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match=r"m\.keras: Keras can't call the model in a graph"):
        Original.of(tmp_path / "m.keras").lower()


def _tagged(folder: Path, *tags: list[str], reads: str = "train") -> Path:
    """Write a SavedModel of TensorFlow 1 with a graph of each tags, which multiply by 2, 3, ...

    Those that are tagged ``reads`` read a file, too, as graphs for training do.
    """
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(folder))
    for factor, names in enumerate(tags, 2):
        with v1.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 3], "x")
            scale = v1.get_variable("scale", initializer=float(2))
            session.run(v1.global_variables_initializer())
            y = x * scale * (factor / 2)
            if reads in names:
                tf.io.read_file("/dev/null")
            signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
            add = builder.add_meta_graph if factor > 2 else builder.add_meta_graph_and_variables
            more = () if factor > 2 else (session,)
            add(*more, names, signature_def_map={"serving_default": signature})
    builder.save()
    return folder


@pytest.mark.parametrize("tags", [[["serve"], ["train"]], [["train"], ["serve", "tpu"], ["serve"]]])
def test_of_several_graphs_of_a_saved_model_the_one_for_serving_is_read(
    tags: list[list[str]], tmp_path: Path
) -> None:
    original = Original.of(_tagged(tmp_path / "s", *tags))
    model, notes = original.lower()
    x = np.ones((1, 3), np.float32)
    with OnnxRuntime(model.to_onnx()) as session, original.run() as running:
        factor = tags.index(["serve"]) + 2
        assert session.infer({"x": x})["y"].tolist() == [[factor] * 3]
        assert running.infer({"x": x})["y"].tolist() == [[factor] * 3]
    assert "of its graphs the one tagged serve was used" in notes


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ([["train"], ["serve", "tpu"]], "2 graphs (tagged train; serve and tpu), and not one that"),
        ([["serve"], ["serve"]], "2 graphs (tagged serve; serve), and not one that is tagged"),
        ([], "0 graphs, and not one that is tagged serve alone; export it again with that one"),
    ],
)
def test_of_several_graphs_of_a_saved_model_none_is_guessed(
    tags: list[list[str]], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=re.escape(f"saved_model.pb: has {told}")):
        Original.of(_tagged(tmp_path / "s", *tags)).lower()


def test_the_graph_that_is_looked_at_is_the_one_that_tensorflow_loads(tmp_path: Path) -> None:
    folder = _tagged(tmp_path / "reads", ["train"], ["serve"], reads="serve")
    with pytest.raises(ModelError, match="ReadFile"):
        Original.of(folder).lower()
    # TensorFlow takes the first graph with the set of tags that it is asked for.
    folder = _tagged(tmp_path / "twice", ["train"], ["serve"])
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved.meta_graphs[0].meta_info_def.tags[:] = ["serve", "serve"]
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(ModelError, match="has 2 graphs"):
        Original.of(folder).lower()


def test_a_saved_model_of_empty_messages_is_refused_in_a_sentence(tmp_path: Path) -> None:
    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = saved.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    objects = meta_graph.object_graph_def
    objects.nodes.add().user_object.identifier = "_generic_user_object"
    objects.nodes.add().bare_concrete_function.concrete_function_name = "call"
    objects.concrete_functions["call"].canonicalized_input_signature.SetInParent()
    meta_graph.graph_def.library.function.add().signature.name = "call"
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(ModelError, match="TensorFlow can't load the SavedModel: "):
        Original.of(tmp_path).lower()
