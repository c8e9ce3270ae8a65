"""Frozen TensorFlow graphs: read, cut, training flags resolved, lowered and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.commands import convert
from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, Feeds
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.session import OnnxRuntime, exposing
from onnxgraft.stages.convert import Original
from onnxgraft.stages.convert.tensorflow.running import tensorflow
from tests.conftest import only_ci
from tests.convert.graphs import (
    CLOSE,
    Build,
    assert_close,
    assert_equal_to_tensorflow,
    conv,
    image,
    run,
    select,
)  # fmt: skip

# Graphs.


def placeholder() -> Any:
    tf = tensorflow()
    return tf.compat.v1.placeholder(tf.bool, [], "is_training")


def placeholder_with_default() -> Any:
    return tensorflow().compat.v1.placeholder_with_default(True, [], "is_training")


def constant() -> Any:
    return tensorflow().constant(False, name="is_training")


def behind_identity() -> Any:
    tf = tensorflow()
    return tf.identity(tf.identity(placeholder()), name="again")


def behind_and() -> Any:
    tf = tensorflow()
    other = tf.compat.v1.placeholder_with_default(True, [], "bn/train_phase")
    return tf.logical_and(placeholder(), other)


def behind_not() -> Any:
    tf = tensorflow()
    return tf.logical_not(tf.logical_not(placeholder()))


FLAGS: list[Build] = [
    placeholder, placeholder_with_default, constant, behind_identity, behind_and, behind_not,
]  # fmt: skip


def batch_norm(flag: Build, kind: str) -> Build:
    """Return the builder of a convolution with batch normalization under a select."""

    def build() -> None:
        tf = tensorflow()
        x = conv(image(), 4, "conv1")
        is_training = flag()
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        mean = select(kind, is_training, mean, tf.constant([0.5, 1.0, 1.5, 2.0]))
        variance = select(kind, is_training, variance, tf.constant([1.0, 2.0, 3.0, 4.0]))
        scale, shift = tf.constant([1.0, 0.5, 2.0, 1.5]), tf.constant([0.1, 0.2, 0.3, 0.4])
        y = tf.nn.batch_normalization(x, mean, variance, shift, scale, 1e-3)
        tf.identity(y, name="y")

    return build


# Training flags.


@pytest.mark.parametrize("kind", ["Select", "SelectV2"])
@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.__name__)
def test_a_training_flag_is_resolved_for_inference(
    pb: Callable[..., Path], flag: Build, kind: str
) -> None:
    model = assert_equal_to_tensorflow(pb(batch_norm(flag, kind)))
    operators = model.operators()
    assert "ReduceMean" not in operators
    assert "Where" not in operators
    assert [spec.name for spec in model.inputs] == ["image:0"]


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.__name__)
def test_freezing_a_flag_is_noted(pb: Callable[..., Path], flag: Build) -> None:
    _, notes = Original.of(pb(batch_norm(flag, "Select"))).lower()
    if flag is constant:
        assert notes == []
    else:
        assert "is_training was frozen to False for inference" in notes


@pytest.mark.parametrize("kind", ["Select", "SelectV2"])
def test_a_flag_that_is_negated_takes_the_other_branch(pb: Callable[..., Path], kind: str) -> None:
    def build() -> None:
        tf = tensorflow()
        x = conv(image(), 4, "conv1")
        inference = tf.logical_not(placeholder())
        stored = tf.constant([1.0, 2.0, 3.0, 4.0])
        mean = select(kind, inference, stored, tf.reduce_mean(x, [0, 1, 2]))
        tf.subtract(x, mean, name="y")

    model = assert_equal_to_tensorflow(pb(build))
    assert not {"ReduceMean", "Where"} & set(model.operators())


def test_a_flag_that_is_ored_with_an_undecided_one_is_left_undecided(
    pb: Callable[..., Path],
) -> None:
    def build() -> None:
        tf = tensorflow()
        x = image()
        either = tf.logical_or(placeholder(), tf.reduce_any(x > 3.0))
        select("SelectV2", either, x * 2, x, "y")

    path = pb(build)
    model, _ = Original.of(path).lower()
    with Original.of(path).run() as reference:
        for seed, largest in ((0, 1.0), (1, 5.0)):  # takes one branch, then the other
            feeds = random_feeds(reference.inputs, 1, seed)
            feeds["image:0"] = np.clip(feeds["image:0"], -1, 1) * largest
            assert_close(reference.infer(feeds), run(model, feeds))


@pytest.mark.parametrize("batch", [None, 2], ids=["batch_free", "batch_fixed"])
@pytest.mark.parametrize("kind", ["Select", "SelectV2"])
def test_a_nan_in_the_branch_not_taken_never_reaches_the_output(
    pb: Callable[..., Path], kind: str, batch: int | None
) -> None:
    def build() -> None:
        tf = tensorflow()
        x = tf.compat.v1.placeholder(tf.float32, [batch, 3], "x")
        broken = tf.math.log(tf.abs(x) * 0 - 1)  # NaN for every finite x
        select(kind, placeholder(), broken, x, "y")

    path = pb(build)
    model, _ = Original.of(path).lower()
    with Original.of(path).run() as reference:
        feeds = random_feeds(reference.inputs, 2)
        expected = reference.infer(feeds)
        assert np.isfinite(expected["y:0"]).all()
        assert_close(expected, run(model, feeds))


@pytest.mark.parametrize("kind", ["Select", "SelectV2"])
def test_the_branch_not_taken_is_gone_where_the_batch_is_free(
    pb: Callable[..., Path], kind: str
) -> None:
    def build() -> None:
        tf = tensorflow()
        x = image()
        noisy = x + tf.random.uniform(tf.shape(x), seed=1)
        select(kind, placeholder(), noisy, x, "y")

    model = assert_equal_to_tensorflow(pb(build))
    assert not {"RandomUniform", "RandomUniformLike", "Where"} & set(model.operators())


@pytest.mark.parametrize(
    "value", [2.0, [[2.0], [3.0]], [1.0, 2.0, 3.0]], ids=["scalar", "column", "row"]
)
def test_a_select_that_broadcasts_the_branch_taken_still_does(
    pb: Callable[..., Path], value: Any
) -> None:
    def build() -> None:
        tf = tensorflow()
        x = tf.compat.v1.placeholder(tf.float32, [2, 3], "x")
        chosen = select("SelectV2", placeholder(), x, tf.constant(value))
        tf.add(chosen, x, name="sum")
        tf.identity(chosen, name="y")

    path = pb(build)
    model, _ = Original.of(path, outputs="y:0,sum:0").lower()
    with Original.of(path, outputs="y:0,sum:0").run() as reference:
        feeds = random_feeds(reference.inputs, 2)
        expected = reference.infer(feeds)
        assert expected["y:0"].shape == (2, 3)
        assert_close(expected, run(model, feeds))


def cond() -> Any:
    """Return the output of a cond of TensorFlow 1: Switch and Merge, no functions."""
    tf = tensorflow()
    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        x = tf.identity(image(), name="features")
        noisy = lambda: x * tf.random.uniform(tf.shape(x))  # noqa: E731
        return v1.cond(placeholder(), noisy, lambda: x * 3 + 1, name="cond")
    finally:
        v1.enable_control_flow_v2()


def test_a_cond_of_tensorflow_1_takes_the_inference_branch(pb: Callable[..., Path]) -> None:
    path = pb(lambda: tensorflow().tanh(cond(), name="y"))
    model = assert_equal_to_tensorflow(path, outputs="y:0")
    assert not {"If", "RandomUniform", "RandomUniformLike"} & set(model.operators())


def test_the_wiring_of_a_cond_is_no_output(pb: Callable[..., Path]) -> None:
    # The Identity behind the Switch that no operator of a branch hangs on has no consumer.
    model = assert_equal_to_tensorflow(pb(lambda: tensorflow().tanh(cond(), name="y")))
    assert [spec.name for spec in model.outputs] == ["y:0"]


def test_a_graph_may_end_in_a_cond(pb: Callable[..., Path]) -> None:
    # A Merge has a second output, the index of the branch, that nobody means.
    model = assert_equal_to_tensorflow(pb(cond))
    assert [spec.name for spec in model.outputs] == ["cond/Merge:0"]


def test_a_graph_may_end_in_a_fused_batch_normalization(pb: Callable[..., Path]) -> None:
    # Its further outputs are the statistics that training keeps.
    def build() -> None:
        tf = tensorflow()
        one, two = tf.constant([1.0] * 4), tf.constant([2.0] * 4)
        x = conv(image(), 4, "conv1")
        tf.compat.v1.nn.fused_batch_norm(x, two, one, one, two, is_training=False, name="bn")

    model = assert_equal_to_tensorflow(pb(build))
    assert [spec.name for spec in model.outputs] == ["bn:0"]


def test_a_value_that_is_set_decides_and_is_noted(pb: Callable[..., Path]) -> None:
    path = pb(batch_norm(placeholder, "Select"))
    training = ["is_training=true"]
    model = assert_equal_to_tensorflow(path, values=training)
    assert "ReduceMean" in model.operators()
    _, notes = Original.of(path, values=training).lower()
    assert notes == ["is_training was set to True as requested"]


def test_a_set_value_changes_what_is_computed(pb: Callable[..., Path]) -> None:
    path = pb(batch_norm(placeholder, "Select"))
    feeds = random_feeds(Original.of(path).lower()[0].inputs, 2)
    plain, training = (
        run(Original.of(path, values=values).lower()[0], feeds)["y:0"]
        for values in ([], ["is_training=true"])
    )
    assert np.abs(plain - training).max() > 0.1 * np.ptp(plain)


def test_setting_an_unknown_placeholder_names_the_nearest(pb: Callable[..., Path]) -> None:
    path = pb(batch_norm(placeholder, "Select"))
    with pytest.raises(InputError, match=r"--set is_trainin: .* did you mean is_training\?"):
        Original.of(path, values=["is_trainin=false"]).lower()


def dropout() -> None:
    """Build the dropout of TensorFlow 1, driven by a ``keep_prob`` placeholder."""
    tf = tensorflow()
    x = conv(image(), 4, "conv1")
    keep = tf.compat.v1.placeholder(tf.float32, [], "dropout/keep_prob")
    mask = tf.floor(keep + tf.random.uniform(tf.shape(x), seed=1))
    tf.multiply(x / keep, mask, name="y")


def test_keep_prob_is_frozen_to_one(pb: Callable[..., Path]) -> None:
    path = pb(dropout)
    model = assert_equal_to_tensorflow(path)
    assert [spec.name for spec in model.inputs] == ["image:0"]
    assert Original.of(path).lower()[1] == ["dropout/keep_prob was frozen to 1.0 for inference"]


def test_a_placeholder_that_is_no_flag_is_an_input(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        x = image()
        tf.multiply(x, tf.compat.v1.placeholder(tf.float32, [], "training_factor"), name="y")

    model = assert_equal_to_tensorflow(pb(build))
    assert [spec.name for spec in model.inputs] == ["image:0", "training_factor:0"]


def test_a_placeholder_that_is_no_flag_can_be_set(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        factor = tf.compat.v1.placeholder(tf.float32, [], "factor")
        tf.multiply(image(), factor, name="y")

    model = assert_equal_to_tensorflow(pb(build), values=["factor:0=2.5"])
    assert [spec.name for spec in model.inputs] == ["image:0"]
    feeds = random_feeds(model.inputs, 1)
    assert (run(model, feeds)["y:0"] == feeds["image:0"] * np.float32(2.5)).all()


# Files.


def test_a_text_graph_under_the_name_of_a_binary_is_read(pb: Callable[..., Path]) -> None:
    assert_equal_to_tensorflow(pb(batch_norm(placeholder, "SelectV2"), text=True))


def test_the_source_is_recorded(pb: Callable[..., Path]) -> None:
    import hashlib

    path = pb(two_heads)
    source = Original.of(path).lower()[0].source
    assert (source.path, source.framework) == (str(path), "tensorflow")
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("function", [Original.lower, Original.run, Original.inspect])
def test_a_missing_file_is_named(tmp_path: Path, function: Callable[[Original], object]) -> None:
    with pytest.raises(InputError, match=r"none\.pb: the model does not exist"):
        function(Original.of(tmp_path / "none.pb"))


@pytest.mark.parametrize("function", [Original.lower, Original.run, Original.inspect])
def test_a_folder_is_no_model(tmp_path: Path, function: Callable[[Original], object]) -> None:
    with pytest.raises(InputError, match="is a folder, and no SavedModel"):
        function(Original.of(tmp_path))


@pytest.mark.parametrize("function", [Original.lower, Original.run, Original.inspect])
def test_an_empty_file_is_no_model(tmp_path: Path, function: Callable[[Original], object]) -> None:
    (tmp_path / "x.pb").touch()
    with pytest.raises(InputError, match=r"x\.pb: the model is empty"):
        function(Original.of(tmp_path / "x.pb"))


@pytest.mark.parametrize("function", [Original.lower, Original.run, Original.inspect])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"# not a graph\n", "not a TensorFlow GraphDef"), (b"hello", "not a TensorFlow GraphDef"),
        (b"\n\n\n", "not a TensorFlow GraphDef"), (b"\xff" * 100, "not a TensorFlow GraphDef"),
        (b"{}", "is JSON, and no model"),
    ],
    ids=repr,
)  # fmt: skip
def test_another_kind_of_file_is_no_graph(
    tmp_path: Path, content: bytes, told: str, function: Callable[[Original], object]
) -> None:
    (tmp_path / "x.pb").write_bytes(content)
    with pytest.raises(ModelError, match=rf"x\.pb: {told}"):
        function(Original.of(tmp_path / "x.pb"))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_graph_cut_short_is_refused(pb: Callable[..., Path], part: float) -> None:
    path = pb(batch_norm(placeholder, "Select"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ModelError, match=r"x\.pb: "):
        Original.of(path).lower()


def test_a_graph_with_a_dangling_input_is_refused(pb: Callable[..., Path]) -> None:
    tf = tensorflow()
    path = pb(two_heads)
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    next(node for node in definition.node if node.name == "a").input[0] = "nowhere"
    path.write_bytes(definition.SerializeToString())
    with pytest.raises(ModelError, match=r"x\.pb: TensorFlow refuses the graph: .*nowhere"):
        Original.of(path).lower()


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "reference"])
def test_variables_that_are_not_frozen_are_named(pb: Callable[..., Path], resource: bool) -> None:
    def build() -> None:
        tf = tensorflow()
        weights = tf.compat.v1.get_variable(
            "dense/weights", [3, 4], use_resource=resource,
            initializer=tf.compat.v1.zeros_initializer(),
        )  # fmt: skip
        tf.matmul(tf.compat.v1.placeholder(tf.float32, [None, 3], "x"), weights, name="y")

    path = pb(build)
    with pytest.raises(ModelError, match=r"1 variables are not frozen \(dense/weights\)"):
        Original.of(path).lower()
    assert Original.of(path).inspect().variables == ["dense/weights"]


def test_an_operator_without_onnx_counterpart_is_named_with_its_node(
    pb: Callable[..., Path],
) -> None:
    def build() -> None:
        tf = tensorflow()
        tf.math.digamma(tf.abs(conv(image(), 2, "conv1")), name="special/Digamma")

    path = pb(build)
    with pytest.raises(NotSupportedError, match=r"no ONNX operators for Digamma \(special/Digamma"):
        Original.of(path).lower()
    assert_equal_to_tensorflow(path, outputs="conv1/Relu:0")  # the cure that the message names


# Cutting.


def two_heads() -> None:
    """Build two convolutions in a row, and an output from each of them."""
    tf = tensorflow()
    first = conv(image(), 4, "block/conv1", seed=1)
    second = conv(first, 5, "block/conv2", seed=2)
    tf.tanh(second, name="b")
    tf.reduce_mean(first, [1, 2], name="a")


def test_outputs_that_are_not_named_are_those_that_nothing_consumes(
    pb: Callable[..., Path],
) -> None:
    model = assert_equal_to_tensorflow(pb(two_heads))
    assert {spec.name for spec in model.outputs} == {"a:0", "b:0"}


@pytest.mark.parametrize("outputs", ["a:0,b:0", "b:0,a:0", "b,a"])
def test_outputs_keep_the_order_in_which_they_were_named(
    pb: Callable[..., Path], outputs: str
) -> None:
    model = assert_equal_to_tensorflow(pb(two_heads), outputs=outputs)
    assert [spec.name.removesuffix(":0") for spec in model.outputs] == [
        name.removesuffix(":0") for name in outputs.split(",")
    ]


def test_inputs_keep_the_order_in_which_they_were_named(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        first = tf.compat.v1.placeholder(tf.float32, [None, 3], "first")
        second = tf.compat.v1.placeholder(tf.float32, [None, 3], "second")
        tf.subtract(first, second, name="y")

    model = assert_equal_to_tensorflow(pb(build), inputs="second:0,first:0")
    assert [spec.name for spec in model.inputs] == ["second:0", "first:0"]


def test_a_part_between_inner_tensors_can_be_converted(pb: Callable[..., Path]) -> None:
    model = assert_equal_to_tensorflow(
        pb(two_heads),
        inputs="block/conv1/Relu:0[?,8,6,4]",
        outputs="block/conv2/BiasAdd:0,b:0",
    )
    assert [(s.name, s.shape) for s in model.inputs] == [("block/conv1/Relu:0", ("N", 8, 6, 4))]
    assert [s.name for s in model.outputs] == ["block/conv2/BiasAdd:0", "b:0"]
    assert model.operators()["Conv"] == 1


def test_an_inner_input_needs_no_shape_where_the_graph_records_it(
    pb: Callable[..., Path],
) -> None:
    model = assert_equal_to_tensorflow(pb(two_heads), inputs="block/conv1/Relu", outputs="b")
    assert model.inputs[0].shape == ("N", 8, 6, 4)


def test_a_shape_that_is_given_fixes_the_batch(pb: Callable[..., Path]) -> None:
    model, _ = Original.of(pb(two_heads), inputs="image:0[2,8,6,3]", outputs="b:0").lower()
    assert model.inputs[0].shape == (2, 8, 6, 3)
    assert model.outputs[0].shape == (2, 8, 6, 5)


def of_unknown_rank() -> None:
    """Build a graph whose placeholder has no shape at all."""
    tf = tensorflow()
    x = tf.compat.v1.placeholder(tf.float32, None, "x")
    tf.nn.relu(x, name="y")


RANKS = {
    "reshaped": (lambda tf, x: tf.reshape(x, [-1, 4, 3]), ("N", 4, 3), "Reshape"),
    "transposed": (lambda tf, x: tf.transpose(x, [0, 2, 1]), ("N", "x.1", "x.2"), "the graph"),
    "padded": (lambda tf, x: tf.pad(x, [[0, 0], [1, 1]]), ("N", "x.1"), "the graph"),
}


@pytest.mark.parametrize("kind", RANKS)
def test_an_unknown_rank_is_told_by_a_reshape_or_the_only_one_that_fits(
    pb: Callable[..., Path], kind: str
) -> None:
    call, shape, teller = RANKS[kind]

    def build() -> None:
        tf = tensorflow()
        tf.nn.relu(call(tf, tf.compat.v1.placeholder(tf.float32, None, "x")), name="y")

    path = pb(build)
    model = assert_equal_to_tensorflow(path)
    assert model.inputs[0].shape == shape
    assert any(f"{teller} wants (" in note for note in Original.of(path).lower()[1])


def test_an_input_of_unknown_rank_wants_a_shape_and_takes_it(pb: Callable[..., Path]) -> None:
    path = pb(of_unknown_rank)
    with pytest.raises(InputError, match=r"the rank of x:0 is not recorded; give its shape"):
        Original.of(path).lower()
    model, _ = Original.of(path, inputs="x:0[?,3]", outputs="y:0").lower()
    feeds = {"x:0": np.array([[-1.0, 0.0, 2.0]], np.float32)}
    assert run(model, feeds)["y:0"].tolist() == [[0.0, 0.0, 2.0]]


def test_free_dimensions_are_named_by_their_place(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        x = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "image")
        conv(x, 2, "conv1")

    model, _ = Original.of(pb(build)).lower()
    assert model.inputs[0].shape == ("N", "image.1", "image.2", 3)
    for height in (5, 9):
        feeds = {"image:0": np.ones((1, height, 7, 3), np.float32)}
        assert run(model, feeds)["conv1/Relu:0"].shape == (1, height, 7, 2)


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_an_unknown_tensor_names_the_nearest(pb: Callable[..., Path], end: str) -> None:
    with pytest.raises(InputError, match=r"'block/conv2/Rela:0'; did you mean .*conv2/Relu:0"):
        Original.of(pb(two_heads), **{end: "block/conv2/Rela:0"}).lower()


@pytest.mark.parametrize("name", ["b:1", "b:x", "^b"])
def test_an_output_that_a_node_does_not_have_is_refused(pb: Callable[..., Path], name: str) -> None:
    with pytest.raises(InputError, match="no tensor is called"):
        Original.of(pb(two_heads), outputs=name).lower()


def test_an_input_that_the_outputs_do_not_need_is_refused(pb: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="block/conv2/Relu"):
        Original.of(pb(two_heads), inputs="image:0,block/conv2/Relu:0", outputs="a:0").lower()


def test_inputs_that_do_not_reach_all_placeholders_name_those_left(
    pb: Callable[..., Path],
) -> None:
    def build() -> None:
        tf = tensorflow()
        first = tf.compat.v1.placeholder(tf.float32, [None, 3], "first")
        second = tf.compat.v1.placeholder(tf.float32, [None, 3], "second")
        tf.subtract(first, second, name="y")

    with pytest.raises(InputError, match="second"):
        Original.of(pb(build), inputs="first:0", outputs="y:0").lower()


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_the_opset_is_the_one_asked_for(pb: Callable[..., Path], opset: int) -> None:
    model, _ = Original.of(pb(two_heads)).lower(opset=opset)
    versions = {entry.domain: entry.version for entry in model.to_onnx().opset_import}
    assert versions[""] == opset


# The layout of inputs and outputs.


def test_nchw_changes_shapes_and_keeps_names_and_numbers(pb: Callable[..., Path]) -> None:
    path = pb(two_heads)
    model, _ = Original.of(path, outputs="b:0,a:0").lower(io_layout="nchw")
    assert [(s.name, s.shape) for s in model.inputs] == [("image:0", ("N", 3, 8, 6))]
    assert [s.name for s in model.outputs] == ["b:0", "a:0"]
    assert model.outputs[0].shape[1:] == (5, 8, 6)
    assert len(model.outputs[1].shape) == 2  # only images have a layout
    with Original.of(path, outputs="b:0,a:0").run() as reference:
        for batch in (1, 2):
            feeds = random_feeds(reference.inputs, batch)
            expected = reference.infer(feeds)
            expected["b:0"] = expected["b:0"].transpose(0, 3, 1, 2)
            turned = {name: value.transpose(0, 3, 1, 2) for name, value in feeds.items()}
            assert_close(expected, run(model, turned))


@pytest.mark.parametrize("layout", ["keep", "nhwc"])
def test_the_layout_of_tensorflow_is_nhwc(pb: Callable[..., Path], layout: Any) -> None:
    model, _ = Original.of(pb(two_heads)).lower(io_layout=layout)
    assert model.inputs[0].shape == ("N", 8, 6, 3)


def test_nchw_of_an_input_that_is_an_output_too(pb: Callable[..., Path]) -> None:
    path = pb(two_heads)
    model, _ = Original.of(path, outputs="image:0,b:0").lower(io_layout="nchw")
    onnx.checker.check_model(model.to_onnx())
    feeds = {"image:0": np.random.default_rng(0).standard_normal((2, 3, 8, 6)).astype(np.float32)}
    assert (run(model, feeds)["image:0"] == feeds["image:0"]).all()


# Names.


def fetched(path: Path, names: list[str], feeds: Feeds) -> dict[str, Array]:
    """Return what TensorFlow computes for any tensors of a graph."""
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        tf.import_graph_def(definition, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            values = session.run(names, dict(feeds))
    return dict(zip(names, values, strict=True))


def assert_names_hold(model: Model, path: Path, feeds: Feeds, turned: Feeds) -> None:
    """Assert that every mapped tensor holds what TensorFlow computes under that name.

    ``turned`` is ``feeds`` in the layout of the model.
    """
    theirs = fetched(path, sorted({o.name for o in model.names.values()}), feeds)
    floats = [name for name, o in model.names.items() if theirs[o.name].dtype == np.float32]
    inner = [name for name in floats if name not in turned]
    with OnnxRuntime(exposing(model.to_onnx(), inner), optimize=False) as session:
        ours = {**session.infer(turned), **turned}
    for name in floats:
        origin = model.names[name]
        expected = theirs[origin.name]
        if origin.perm is not None:
            expected = expected.transpose(origin.perm)
        assert ours[name].shape == expected.shape, name
        assert np.abs(ours[name] - expected).max() <= CLOSE * np.ptp(expected), name


def lenet_feeds(folder: Path) -> dict[str, Array]:
    """Return three digits."""
    with np.load(folder / "test.npz") as data:
        return {"input:0": data["input"][:3]}


def test_every_mapped_tensor_of_lenet_holds_what_tensorflow_computes(lenet: Path) -> None:
    model, _ = Original.of(lenet / "lenet5.pb").lower()
    feeds = lenet_feeds(lenet)
    assert_names_hold(model, lenet / "lenet5.pb", feeds, feeds)


def test_the_layers_of_lenet_are_mapped(lenet: Path) -> None:
    model, _ = Original.of(lenet / "lenet5.pb").lower()
    found = {origin.name for origin in model.names.values()}
    assert {"input:0", "conv1/Relu:0", "conv2/Relu:0", "fc2/BiasAdd:0", "prob:0"} <= found


def test_the_names_of_lenet_hold_with_channels_first(lenet: Path) -> None:
    model, _ = Original.of(lenet / "lenet5.pb").lower(io_layout="nchw")
    feeds = lenet_feeds(lenet)
    turned = {name: value.transpose(0, 3, 1, 2) for name, value in feeds.items()}
    assert_names_hold(model, lenet / "lenet5.pb", feeds, turned)


def test_names_and_source_survive_saving(lenet: Path, tmp_path: Path) -> None:
    model, _ = Original.of(lenet / "lenet5.pb").lower()
    model.save(tmp_path / "model.onnx")
    loaded = Model.load(tmp_path / "model.onnx")
    assert loaded.names == model.names
    assert loaded.source == model.source


def test_lenet_equals_tensorflow(lenet: Path) -> None:
    model = assert_equal_to_tensorflow(lenet / "lenet5.pb")
    assert not {"ReduceMean", "Where"} & set(model.operators())


@pytest.mark.parametrize("shape", [(8, 4, 4), (4, 8, 4), (4, 4, 8), (4, 4, 4)], ids=str)
def test_names_hold_where_spatial_sizes_equal_the_channels(
    pb: Callable[..., Path], shape: tuple[int, int, int]
) -> None:
    height, width, channels = shape

    def build() -> None:
        x = conv(conv(image(height, width, channels), channels, "conv1", 1), channels, "conv2", 2)
        tensorflow().reduce_mean(x, [1, 2], name="y")

    path = pb(build)
    model, _ = Original.of(path).lower()
    feeds = random_feeds(model.inputs, 2)
    assert_names_hold(model, path, feeds, feeds)


# Inspection.


def test_inspect_tells_what_a_graph_holds(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        batch_norm(placeholder, "Select")()
        tf.compat.v1.placeholder(tf.float32, [], "keep_prob")

    found = Original.of(path := pb(build)).inspect()
    assert found.path == str(path)
    assert found.framework == "tensorflow"
    assert found.inputs == ["image:0 (N, 8, 6, 3) float32"]
    assert found.outputs == ["y:0 (N, 8, 6, 4) float32"]
    assert found.training == [
        "is_training: a placeholder, False at inference",
        "keep_prob: a placeholder, 1.0 at inference",
    ]
    assert found.dynamic == ["image:0: its batch is free"]
    assert found.layout == ["NHWC: 2 operators"]
    assert found.unsupported == []
    assert found.variables == []
    assert found.operators["Select"] == 2
    assert found.operators["Conv2D"] == 1
    assert list(found.operators.values()) == sorted(found.operators.values(), reverse=True)


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ([None, 8, 8, 3], ["image:0: its batch is free"]),
        ([None, None, 8, 3], ["image:0: its dimensions 0, 1 are free"]),
        ([1, None, None, 3], ["image:0: its dimensions 1, 2 are free"]),
        ([1, 8, 8, 3], []),
    ],
    ids=["batch", "batch_and_height", "height_and_width", "nothing"],
)
def test_inspect_tells_what_is_dynamic(
    pb: Callable[..., Path], shape: list[int | None], line: list[str]
) -> None:
    def build() -> None:
        tf = tensorflow()
        tf.nn.relu(tf.compat.v1.placeholder(tf.float32, shape, "image"))

    assert Original.of(pb(build)).inspect().dynamic == line


def test_inspect_counts_tensors_of_unknown_rank(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        x = tf.compat.v1.placeholder(tf.float32, None, "x")
        tf.nn.avg_pool2d(tf.identity(tf.identity(x, name="a"), name="b"), 2, 2, "SAME")

    assert Original.of(pb(build)).inspect().dynamic == [
        "x:0: its dimensions 0, 1, 2, 3 are free",
        "3 tensors of unknown rank (x:0, a:0, b:0)",
    ]


def test_inspect_counts_layouts(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        x = conv(image(), 4, "conv1")
        turned = tf.transpose(x, [0, 3, 1, 2])
        tf.nn.bias_add(turned, tf.constant([1.0] * 4), data_format="NCHW")

    # The convolution, its bias and, of the other layout, the second bias.
    assert Original.of(pb(build)).inspect().layout == ["NHWC: 2 operators", "NCHW: 1 operators"]


def test_inspect_names_what_onnx_and_what_tensorrt_lack(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        tf.math.digamma(x, name="one")
        tf.math.digamma(-x, name="two")
        tf.unique(x, name="three")

    assert Original.of(pb(build)).inspect().unsupported == [
        "2 Digamma (one, two): ONNX has none",
        "1 Unique (three): TensorRT has no equivalent",
    ]


def test_inspect_looks_at_a_graph_that_can_not_be_converted(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        tf.nn.relu(tf.compat.v1.placeholder(tf.float32, None, "x"), name="y")

    found = Original.of(pb(build)).inspect()
    assert found.inputs == ["x:0 (unknown) float32"]
    assert found.operators == {"Placeholder": 1, "Relu": 1}
    assert found.notes == [
        "can't be converted: the rank of x:0 is not recorded; give its shape with --inputs x:0[...]"
    ]


def test_inspect_counts_the_values_of_constants(pb: Callable[..., Path]) -> None:
    def build() -> None:
        tf = tensorflow()
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], "x")
        weights = np.zeros((3, 5), np.float32)
        tf.nn.bias_add(tf.matmul(x, weights), np.zeros(5, np.float32))

    assert Original.of(pb(build)).inspect().parameters == 3 * 5 + 5


@pytest.mark.parametrize(
    "name",
    [
        "is_training", "bn/is_train", "phase_train", "keras_learning_phase", "train_mode",
        "training_1", "IsTraining/Placeholder",
    ],
)  # fmt: skip
def test_common_names_of_a_flag_are_known(pb: Callable[..., Path], name: str) -> None:
    def build() -> None:
        tf = tensorflow()
        tf.compat.v1.placeholder(tf.bool, [], name)

    assert Original.of(pb(build)).inspect().training == [
        f"{name}: a placeholder, False at inference"
    ]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("training", "float32"), ("constraining", "bool"), ("mask", "bool")],
)
def test_other_placeholders_are_no_flags(pb: Callable[..., Path], name: str, dtype: str) -> None:
    def build() -> None:
        tensorflow().compat.v1.placeholder(dtype, [], name)

    assert Original.of(pb(build)).inspect().training == []


@only_ci
def test_the_mobilenet_computes_what_tensorflow_does(shared: Path) -> None:
    done = convert(shared / "models/mobilenet_camvid/mobilenet_camvid.pb", outputs="score:0")
    assert done.verdicts
    for verdict in done.verdicts:
        # The tolerance is 1e-4 of the output's range: a tenth of it is allowed here.
        assert verdict.max_abs <= verdict.tolerance / 10
