"""Graphs that are legal and odd: once converted wrong, refused in vain or not told well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from tests.convert.graphs import Build, assert_equal_to_tensorflow, write

Pb = Callable[..., Path]
tf = tensorflow()
v1 = tf.compat.v1
STORED = ([0.7, -1.2], [1.5, 3.0])


def place(*shape: int | None, dtype: Any = tf.float32, name: str = "x") -> Any:
    return v1.placeholder(dtype, list(shape), name)


def flag() -> Any:
    return v1.placeholder(tf.bool, [], "is_training")


def weights(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def trained_norm(x: Any, **options: Any) -> Any:
    """Return a batch normalization in training mode that stores statistics."""
    mean, variance = (tf.constant(values) for values in STORED)
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=tf.constant([2.0, 0.5]), offset=tf.constant([0.1, -0.3]), mean=mean,
        variance=variance, is_training=True, epsilon=1e-3, name="bn", **options,
    )[0]  # fmt: skip


def assert_passes(path: Path, **options: Any) -> Any:
    """Convert and assert that the comparison with TensorFlow passes; return what was done."""
    done = commands.convert(path, **options)
    assert done.verdicts
    assert done.passed
    return done


# Functions.


def test_a_call_at_the_end_of_a_frozen_graph_is_put_in_place(pb: Pb) -> None:
    def build() -> None:
        twice = tf.function(lambda x: tf.tanh(x) * 2)
        tf.identity(twice(place(None, 4)), name="y")

    model = assert_passes(pb(build), outputs="PartitionedCall:0").model
    assert model.operators() == {"Tanh": 1, "Mul": 1}


def of_another_result(graph: Any) -> None:
    """Let the function return what nothing in it makes."""
    (function,) = graph.library.function
    (name,) = function.ret
    function.ret[name] = "other:z:0"


def without_results(graph: Any) -> None:
    graph.library.function[0].ret.clear()


def reading_nothing(graph: Any) -> None:
    """Let a node of the function read what is not there."""
    function = graph.library.function[0]
    next(node for node in function.node_def if node.op == "Tanh").input[0] = "other"


def of_more_arguments(graph: Any) -> None:
    graph.library.function[0].signature.input_arg.add(name="more", type=1)


def of_integers(graph: Any) -> None:
    """Let the function take integers, and the call give it floats."""
    for argument in graph.library.function[0].signature.input_arg:
        argument.type = 3


def of_no_operator(graph: Any) -> None:
    graph.library.function[0].node_def[0].op = "NoSuchOperator"


@pytest.mark.parametrize(
    "damage",
    [of_another_result, without_results, reading_nothing, of_more_arguments, of_integers,
     of_no_operator],
    ids=lambda damage: damage.__name__.replace("_", " "),
)  # fmt: skip
@pytest.mark.parametrize("called_by", ["PartitionedCall", "If that is decided", "If"])
def test_a_function_that_can_not_be_called_is_refused(
    tmp_path: Path, called_by: str, damage: Callable[[Any], None]
) -> None:
    with tf.Graph().as_default() as graph:
        x = place(None, 4)
        twice = tf.function(lambda x: tf.tanh(x) * 2).get_concrete_function(x)
        twice.add_to_graph(graph)
        if called_by == "PartitionedCall":
            made = tf.raw_ops.PartitionedCall(args=[x], Tout=[tf.float32], f=twice)[0]
        else:
            positive = tf.reduce_sum(x) > 0 if called_by == "If" else tf.constant(True)
            made = tf.raw_ops.If(
                cond=positive, input=[x], Tout=[tf.float32], then_branch=twice, else_branch=twice
            )[0]
        tf.identity(made, name="y")
    written = graph.as_graph_def()
    damage(written)
    (tmp_path / "x.pb").write_bytes(written.SerializeToString())
    with pytest.raises(ModelError):
        commands.convert(tmp_path / "x.pb", outputs="y:0")


def norm_in(kind: str) -> Build:
    def build() -> None:
        x = tf.identity(place(None, 4, 3, 2))
        if kind == "call":
            tf.nn.relu(tf.function(trained_norm)(x), name="y")
            return
        if kind == "Switch":
            v1.disable_control_flow_v2()
        try:
            tf.identity(v1.cond(flag(), lambda: x, lambda: trained_norm(x)), name="y")
        finally:
            v1.enable_control_flow_v2()

    return build


@pytest.mark.parametrize("kind", ["If", "Switch", "call"])
def test_batch_norms_are_frozen_within_branches_and_calls(pb: Pb, kind: str) -> None:
    path = pb(norm_in(kind))
    assert "ReduceMean" in assert_passes(path, outputs="y").model.operators()
    done = assert_passes(path, outputs="y", freeze_batchnorm=True)
    assert "ReduceMean" not in done.model.operators()
    assert any("run with their stored statistics" in note for note in done.notes)


def test_a_training_batch_norm_as_keras_writes_it_uses_the_batch_s_statistics(pb: Pb) -> None:
    path = pb(lambda: tf.tanh(trained_norm(place(None, 4, 3, 2), exponential_avg_factor=0.1),
                              name="y"))  # fmt: skip
    assert "ReduceMean" in assert_equal_to_tensorflow(path, outputs="y").operators()


KEEPS: dict[str, Callable[[], Any]] = {
    "select": lambda: tf.where(flag(), tf.constant(0.5), tf.constant(1.0)),
    "cond": lambda: tf.cond(flag(), lambda: tf.constant(0.5), lambda: tf.constant(1.0)),
    "no shape": lambda: v1.placeholder(tf.float32, None, "keep_prob"),
    "cast": lambda: tf.cast(place(dtype=tf.float64, name="keep_prob"), tf.float32),
}


@pytest.mark.parametrize("keep", KEEPS)
def test_dropout_is_gone_wherever_its_probability_comes_from(pb: Pb, keep: str) -> None:
    def build() -> None:
        v1.nn.dropout(tf.tanh(place(None, 4)), keep_prob=KEEPS[keep](), name="y")

    done = assert_passes(pb(build))
    assert "RandomUniformLike" not in done.model.operators()
    assert not any("random" in note for note in done.notes)


@pytest.mark.parametrize("shape", [[1], None], ids=["of_one", "unknown"])
def test_a_flag_of_another_shape_is_set(pb: Pb, shape: list[int] | None) -> None:
    def build() -> None:
        training, x = v1.placeholder(tf.bool, shape, "is_training"), place(None, 4)
        tf.raw_ops.SelectV2(condition=training, t=x - tf.reduce_mean(x), e=x * 2, name="y")

    assert [spec.name for spec in assert_passes(pb(build)).model.inputs] == ["x:0"]


def test_a_flag_that_is_named_as_an_input_is_one(pb: Pb) -> None:
    def build() -> None:
        x = place(None, 3)
        tf.where(flag(), tf.tanh(x, name="noisy"), x * 2, name="y")

    path = pb(build)
    done = assert_passes(path, inputs="x,is_training", outputs="y")
    assert [spec.name for spec in done.model.inputs] == ["x:0", "is_training:0"]
    with pytest.raises(InputError, match="no output needs noisy:0"):
        Original.of(path, inputs="x,noisy", outputs="y").lower()


# Cuts and shapes.


def test_a_given_shape_frees_a_recorded_batch_of_1(pb: Pb) -> None:
    def build() -> None:
        x = tf.multiply(place(1, 16, 16, 3), 0.1, name="Mul")
        tf.reduce_mean(tf.nn.conv2d(x, weights(3, 3, 3, 4), 1, "SAME"), [1, 2], name="y")

    done = assert_passes(pb(build), inputs="Mul:0[?,16,16,3]", outputs="y")
    assert len(done.verdicts) >= 2  # batch 1 and 2


def test_the_first_of_several_outputs_can_be_fed_alone(pb: Pb) -> None:
    def build() -> None:
        a, b, c = tf.split(place(None, 6), 3, 1, name="parts")
        tf.subtract(tf.tanh(a), b * c, name="y")

    done = assert_passes(pb(build), inputs="x,parts:0", outputs="y")
    assert [spec.name for spec in done.model.inputs] == ["x:0", "parts:0"]


UNSHAPED: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]] = {
    "a resize": (
        lambda x: tf.nn.conv2d(
            tf.raw_ops.ResizeBilinear(images=x, size=[8, 8]), weights(3, 3, 3, 4), 1, "SAME"
        ),
        ("N", "x.1", "x.2", 3),
    ),
    "a mean of rank 4": (
        lambda x: tf.nn.conv2d(x - weights(1, 1, 1, 3), weights(3, 3, 3, 4), 1, "SAME"),
        ("N", "x.1", "x.2", 3),
    ),
    "a dense layer": (lambda x: tf.matmul(x, weights(5, 3)), ("N", 5)),
}


@pytest.mark.parametrize("kind", UNSHAPED)
def test_what_nothing_records_is_told_behind(pb: Pb, kind: str) -> None:
    build, shape = UNSHAPED[kind]
    path = pb(lambda: tf.nn.relu(build(v1.placeholder(tf.float32, None, "x")), name="y"))
    done = assert_passes(path)
    assert [spec.shape for spec in done.model.inputs] == [shape]
    assert any("has no recorded shape" in note for note in done.notes)


def test_the_rank_of_a_given_shape_is_known(pb: Pb) -> None:
    path = pb(lambda: tf.reduce_mean(v1.placeholder(tf.float32, None, "x"), name="y"))
    assert_equal_to_tensorflow(path, inputs="x:0[?,3]", outputs="y")


@pytest.mark.parametrize(
    ("option", "named"), [("inputs", "x,x"), ("outputs", "y:0,y")], ids=["input", "output"]
)
def test_a_tensor_that_is_named_twice_is_refused(pb: Pb, option: str, named: str) -> None:
    path = pb(lambda: tf.nn.relu(place(None, 3), name="y"))
    with pytest.raises(InputError, match=f"--{option}: [xy]:0 is named twice"):
        Original.of(path, **{option: named}).lower()


def test_a_dimension_of_0_is_refused(pb: Pb) -> None:
    path = pb(lambda: tf.matmul(place(None, 5), weights(5, 3), name="y"))
    with pytest.raises(InputError, match="a dimension of 0 leaves nothing to compute"):
        Original.of(path, inputs="x:0[0,5]", outputs="y").lower()


def test_an_assertion_is_no_output(pb: Pb) -> None:
    def build() -> None:
        x = place(None, 3)
        v1.assert_positive(tf.abs(x) + 1).mark_used()
        tf.nn.relu(x, name="y")

    assert [spec.name for spec in assert_passes(pb(build)).model.outputs] == ["y:0"]


# Types and numbers.


@pytest.mark.parametrize("divisor", [3, -3, 7])
@pytest.mark.parametrize("name", ["floordiv", "floormod"])
def test_whole_numbers_are_floored_and_not_cut(pb: Pb, name: str, divisor: int) -> None:
    def build() -> None:
        x = place(None, 9, dtype=tf.int32) - 5
        getattr(tf.math, name)(x, divisor, name="y")

    assert_passes(pb(build))


@pytest.mark.parametrize("name", ["floordiv", "floormod"])
def test_floats_are_floored(pb: Pb, name: str) -> None:
    path = pb(lambda: getattr(tf.math, name)(place(None, 9), -0.7, name="y"))
    assert_equal_to_tensorflow(path)


def test_a_network_in_float16_is_judged_as_such(pb: Pb) -> None:
    def build() -> None:
        kernel = np.random.default_rng(1).random((5, 3)).astype(np.float16)
        tf.tanh(tf.matmul(place(None, 5, dtype=tf.float16), kernel), name="y")

    assert_passes(pb(build))


def test_bfloat16_is_refused_by_name(pb: Pb) -> None:
    path = pb(lambda: tf.cast(tf.tanh(tf.cast(place(None, 5), tf.bfloat16)), tf.float32, name="y"))
    with pytest.raises(NotSupportedError, match=r"of type bfloat16.*export it as float32"):
        Original.of(path).lower()


def test_text_in_a_graph_is_refused_by_name(pb: Pb) -> None:
    path = pb(lambda: tf.gather(tf.constant(["a", "b"]), tf.argmax(place(None, 2), 1), name="y"))
    with pytest.raises(NotSupportedError, match="of type string"):
        Original.of(path).lower()


def test_nan_of_the_original_itself_is_told_and_is_no_mismatch(pb: Pb) -> None:
    done = assert_passes(pb(lambda: tf.math.log(place(None, 6), name="y")))
    assert any("are NaN or infinite, and are the same" in note for note in done.notes)


def test_what_onnxruntime_has_no_kernel_for_is_written_and_not_compared(
    pb: Pb, tmp_path: Path
) -> None:
    kernel = weights(3, 3, 3, 4).astype(np.float64)
    path = pb(
        lambda: tf.nn.conv2d(place(None, 8, 8, 3, dtype=tf.float64), kernel, 1, "SAME", name="y")
    )
    done = commands.convert(path, out=tmp_path / "y.onnx")
    assert (tmp_path / "y.onnx").is_file()
    assert not done.verdicts
    assert any("not compared with the original: onnxruntime" in note for note in done.notes)


def test_other_shapes_are_a_mismatch_and_the_file_is_kept(tmp_path: Path) -> None:
    # The branch taken is broadcast to the other's batch: a batch of 1 is where it shows.
    def build() -> None:
        x = place(None, 3)
        tf.raw_ops.SelectV2(condition=flag(), t=x, e=x[: tf.shape(x)[1] // 3], name="y")

    out = tmp_path / "y.onnx"
    done = commands.convert(write(tmp_path / "x.pb", build), out=out)
    assert not done.passed
    assert out.is_file()
    assert any("is (2, 3) in the original and (1, 3)" in note for note in done.notes)


def test_a_mismatch_at_batch_2_alone_is_located(pb: Pb, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = Original.lower

    def wrong(self: Original, *options: Any) -> Any:
        model, notes = lower(self, *options)
        for tensor in model.graph.tensors().values():
            if getattr(tensor, "values", None) is not None and tensor.values.ndim == 2:
                tensor.values = np.array(tensor.values) + 1
        return model, notes

    def build() -> None:
        x = place(None, 4)
        centred = x - tf.reduce_mean(x, 0, keepdims=True)  # zeros, if there is but one
        tf.matmul(centred, tf.constant(np.eye(4, dtype=np.float32)), name="y")

    monkeypatch.setattr(Original, "lower", wrong)
    done = commands.convert(pb(build))
    assert [verdict.passed for verdict in done.verdicts] == [True, False]
    assert done.divergence is not None
    assert done.divergence.origin == "y:0"


# Names.


def test_an_input_that_is_called_as_an_output_gets_another_name(tmp_path: Path) -> None:
    class Model(tf.Module):  # type: ignore[misc]
        @tf.function(
            input_signature=[tf.TensorSpec([None, 4], name="a"), tf.TensorSpec([None, 4], name="b")]
        )
        def f(self, a: Any, b: Any) -> Any:
            return {"z": b - a, "a": a + 1.0}

    made = Model()
    tf.saved_model.save(made, str(tmp_path / "m"), signatures=made.f)
    done = assert_passes(tmp_path / "m")
    assert {spec.name for spec in done.model.inputs} == {"a_input", "b"}
    assert {spec.name for spec in done.model.outputs} == {"a", "z"}


def test_a_saved_model_s_custom_operator_is_named(tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    class Model(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
        def f(self, x: Any) -> Any:
            return {"y": tf.nn.softsign(x)}

    made = Model()
    tf.saved_model.save(made, str(tmp_path / "m"), signatures=made.f)
    file = tmp_path / "m/saved_model.pb"
    parsed = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for function in parsed.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "Softsign":
                node.op = "AcmeFancyOp"
    file.write_bytes(parsed.SerializeToString())
    with pytest.raises(NotSupportedError, match="has the custom operator AcmeFancyOp"):
        Original.of(tmp_path / "m").lower()


def test_a_keras_model_that_looks_words_up_is_refused(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([
        keras.Input((1,), dtype="string"),
        keras.layers.StringLookup(vocabulary=["a", "b"]),
        keras.layers.Embedding(4, 3),
    ])
    model.save(tmp_path / "m.keras")
    with pytest.raises(NotSupportedError, match="looks words up in tables"):
        Original.of(tmp_path / "m.keras").lower()


def test_a_class_map_may_differ_where_scores_tie(pb: Pb) -> None:
    def build() -> None:
        x = place(None, 64, 64, 3)
        tf.argmax(tf.nn.conv2d(x, weights(3, 3, 3, 4), 1, "SAME"), -1, tf.int32, name="labels")

    assert_passes(pb(build))


@pytest.mark.parametrize(("share", "passed"), [(0.0005, True), (0.002, False)])
def test_of_a_class_map_a_thousandth_may_differ(share: float, passed: bool) -> None:
    from onnxgraft.run.verdicts import hold

    expected = np.zeros((100, 100), np.int32)
    actual = expected.copy()
    actual.flat[: int(share * actual.size)] = 7
    (verdict,) = hold({"labels": expected}, {"labels": actual})
    assert verdict.passed == passed
    assert verdict.max_abs == share


def test_an_attribute_without_a_name_is_told(tmp_path: Path) -> None:
    """TensorFlow takes the graph, with a word; tf2onnx ends with a TypeError."""
    with tf.Graph().as_default() as graph:
        tf.nn.conv2d(place(None, 4, 4, 1), weights(2, 2, 1, 1), 1, "SAME", name="y")
    # The key of the entry becomes a field that the message does not have.
    data = graph.as_graph_def().SerializeToString().replace(b"\n\x05shape", b"\x1a\x05shape")
    (tmp_path / "net.pb").write_bytes(data)
    with pytest.raises(ModelError, match=r"net\.pb: tf2onnx can't convert"):
        commands.convert(tmp_path / "net.pb")
