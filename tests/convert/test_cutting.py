"""Where a graph begins and ends: shapes that nothing records, queues, cuts, names and types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array, TensorSpec
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.convert import Original
from tests.convert.graphs import ask_tensorflow, assert_close, run
from tests.running import Done, here

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1
Pb = Callable[..., Path]


def weights(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def bare(name: str = "x", dtype: Any = None) -> Any:
    """Return a placeholder without a shape, as old graphs have them."""
    return v1.placeholder(dtype or tf.float32, None, name)


def x(*shape: int | None, dtype: Any = None, name: str = "x") -> Any:
    return v1.placeholder(dtype or tf.float32, shape, name)


def conv(value: Any, channels: int = 3) -> Any:
    return tf.nn.conv2d(value, weights(3, 3, channels, 4), 1, "SAME", name="conv")


def feeds_of(model: Model, batch: int) -> dict[str, Array]:
    return random_feeds(model.inputs, batch, seed=batch)


def assert_tensorflow(model: Model, path: Path, batches: Sequence[int] = (1, 2)) -> None:
    """Assert that ``model`` is what TensorFlow computes when its inputs are fed."""
    names = [spec.name for spec in model.outputs]
    for batch in batches:
        feeds = feeds_of(model, batch)
        expected = dict(zip(names, ask_tensorflow(path, names, feeds), strict=True))
        actual = run(model, feeds)
        assert [value.dtype for value in expected.values()] == [
            value.dtype for value in actual.values()
        ]
        floats = {name for name, value in expected.items() if value.dtype.kind == "f"}
        assert_close(
            {name: expected[name] for name in expected if name in floats},
            {name: actual[name] for name in actual if name in floats},
        )
        for name in expected.keys() - floats:
            np.testing.assert_array_equal(expected[name], actual[name])


def command(*arguments: Any) -> Done:
    return here("convert", *arguments)


def ends(model: Model) -> tuple[list[str], list[str]]:
    # What is loaded has no name for the batch of its outputs before surgery infers it.
    outputs = [str(spec).replace("(?", "(N") for spec in model.outputs]
    return [str(spec) for spec in model.inputs], outputs


# Placeholders without a shape: what consumes them tells it.

CONSUMERS: dict[str, tuple[Callable[[], Any], str]] = {
    "Conv2D": (lambda: conv(bare()), "x:0 (N, x.1, x.2, 3) float32"),
    "Conv2D_of_one_channel": (lambda: conv(bare(), 1), "x:0 (N, x.1, x.2, 1) float32"),
    "Conv3D": (
        lambda: tf.nn.conv3d(bare(), weights(2, 2, 2, 3, 2), [1] * 5, "SAME", name="conv"),
        "x:0 (N, x.1, x.2, x.3, 3) float32",
    ),
    "DepthwiseConv2dNative": (
        lambda: tf.nn.depthwise_conv2d(bare(), weights(3, 3, 2, 2), [1] * 4, "SAME", name="conv"),
        "x:0 (N, x.1, x.2, 2) float32",
    ),
    "MatMul": (
        lambda: tf.raw_ops.MatMul(a=bare(), b=tf.constant(weights(5, 3)), name="conv"),
        "x:0 (N, 5) float32",
    ),
    "MatMul_of_transposed_weights": (
        lambda: tf.raw_ops.MatMul(
            a=bare(), b=tf.constant(weights(3, 5)), transpose_b=True, name="conv"
        ),
        "x:0 (N, 5) float32",
    ),
    "FusedBatchNormV3": (
        lambda: v1.nn.fused_batch_norm(
            bare(), [1.0, 2.0], [3.0, 4.0], [0.5, 1.0], [2.0, 3.0], is_training=False, name="conv"
        )[0],
        "x:0 (N, x.1, x.2, 2) float32",
    ),
    "MaxPool": (
        lambda: tf.nn.max_pool2d(bare(), 2, 2, "SAME", name="conv"),
        "x:0 (N, x.1, x.2, x.3) float32",
    ),
    "ResizeBilinear": (
        lambda: tf.raw_ops.ResizeBilinear(images=bare(), size=[6, 5], name="conv"),
        "x:0 (N, x.1, x.2, x.3) float32",
    ),
    "behind_identity": (
        lambda: conv(tf.stop_gradient(tf.identity(bare()))),
        "x:0 (N, x.1, x.2, 3) float32",
    ),
    "behind_preprocessing": (
        lambda: conv((bare() - [1.0, 2.0, 3.0]) * 0.5),
        "x:0 (N, x.1, x.2, 3) float32",
    ),
    "behind_padding": (
        lambda: conv(tf.pad(bare(), [[0, 0], [1, 1], [2, 2], [0, 0]])),
        "x:0 (N, x.1, x.2, 3) float32",
    ),
    "bytes_behind_cast": (
        lambda: conv(tf.cast(bare(dtype=tf.uint8), tf.float32) / 255.0),
        "x:0 (N, x.1, x.2, 3) uint8",
    ),
    "with_a_default": (
        lambda: conv(v1.placeholder_with_default(np.zeros((1, 4, 4, 3), np.float32), None, "x")),
        "x:0 (N, x.1, x.2, 3) float32",
    ),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_what_consumes_a_placeholder_tells_its_shape(pb: Pb, consumer: str) -> None:
    build, expected = CONSUMERS[consumer]
    path = pb(lambda: tf.nn.relu(build(), name="y"))
    model, notes = Original.of(path, outputs="y").lower()
    assert ends(model)[0] == [expected]
    dims = expected[expected.index("(") : expected.index(")")].strip("()").split(", ")
    told = ", ".join(dim if dim.isdigit() else "?" for dim in dims)
    assert notes == [
        f"x:0 has no recorded shape; conv wants ({told}); --inputs x:0[...] overrides it"
    ] or (consumer == "DepthwiseConv2dNative" and f"wants ({told})" in notes[0])
    assert_tensorflow(model, path)


UNTOLD = {
    "Relu": lambda value: tf.nn.relu(value),
    "Reshape": lambda value: tf.reshape(value, [-1]),
    "Transpose": lambda value: conv(tf.transpose(value, [0, 2, 3, 1])),
    "ConcatV2": lambda value: conv(tf.concat([value, value], 3), 6),
}


@pytest.mark.parametrize("consumer", UNTOLD)
def test_where_nothing_tells_the_shape_it_is_asked_for_and_taken(pb: Pb, consumer: str) -> None:
    path = pb(lambda: tf.identity(UNTOLD[consumer](bare()), name="y"))
    with pytest.raises(InputError, match=r"x:0 is not recorded; give .* --inputs x:0\[\.\.\.\]"):
        Original.of(path, outputs="y").lower()
    model, notes = Original.of(path, inputs="x:0[?,3,6,3]", outputs="y").lower()
    if consumer == "Transpose":
        assert notes == []
        model, _ = Original.of(path, inputs="x:0[?,3,6,5]", outputs="y").lower()
    assert_tensorflow(model, path)


def test_a_shape_that_is_given_beats_what_consumers_want(pb: Pb) -> None:
    path = pb(lambda: tf.nn.relu(conv(bare()), name="y"))
    model, notes = Original.of(path, inputs="x:0[?,7,5,3]").lower()
    assert ends(model)[0] == ["x:0 (N, 7, 5, 3) float32"]
    assert notes == []
    assert_tensorflow(model, path)


def test_two_placeholders_without_a_shape_are_told_each_by_its_own_consumer(pb: Pb) -> None:
    def build() -> None:
        image = tf.reduce_mean(conv(bare("image")), [1, 2])
        vector = tf.raw_ops.MatMul(a=bare("vector"), b=tf.constant(weights(5, 4)), name="fc")
        tf.add(image, vector, name="y")

    path = pb(build)
    model, notes = Original.of(path).lower()
    assert ends(model)[0] == [
        "image:0 (N, image.1, image.2, 3) float32",
        "vector:0 (N, 5) float32",
    ]
    assert [note.split(";")[1] for note in notes] == [
        " conv wants (?, ?, ?, 3)",
        " fc wants (?, 5)",
    ]
    assert_tensorflow(model, path)


def test_flags_without_a_shape_are_set_beside_an_input_without_one(pb: Pb) -> None:
    def build() -> None:
        value = conv(bare())
        flag = v1.placeholder(tf.bool, None, "is_training")
        value = tf.cond(flag, lambda: value - tf.reduce_mean(value), lambda: value * 2.0)
        tf.identity(value, name="y")

    path = pb(build)
    model, _ = Original.of(path, outputs="y").lower()
    assert ends(model)[0] == ["x:0 (N, x.1, x.2, 3) float32"]
    feeds = feeds_of(model, 2)
    [expected] = ask_tensorflow(path, ["y:0"], {**feeds, "is_training:0": np.array(False)})
    assert_close({"y:0": expected}, run(model, feeds))


# Queues and iterators: what they give is fed.


def dequeued(*types: Any, shapes: Any = None) -> list[Any]:
    queue = tf.queue.FIFOQueue(9, list(types), shapes=shapes, name="queue")
    return list(queue.dequeue(name="batch") if shapes is None else queue.dequeue_many(2, "batch"))


def classified(value: Any) -> None:
    tf.nn.softmax(tf.reduce_mean(conv(value), [1, 2]), name="y")


def scaled(value: Any) -> Any:
    return tf.divide(tf.cast(value, tf.float32, name="prep/float"), 2.0, name="prep/scaled")


QUEUES: dict[str, tuple[Callable[[], None], str]] = {
    "first_of_two": (
        lambda: classified(dequeued(tf.float32, tf.int64)[0]),
        "batch:0 (N, batch.1, batch.2, 3) float32",
    ),
    "second_of_two": (
        lambda: classified(dequeued(tf.string, tf.float32)[1]),
        "batch:1 (N, batch.1, batch.2, 3) float32",
    ),
    "many": (
        lambda: classified(dequeued(tf.float32, tf.int64, shapes=[[8, 8, 3], []])[0]),
        "batch:0 (N, batch.1, batch.2, 3) float32",
    ),
    "bytes": (
        lambda: classified(scaled(dequeued(tf.uint8, tf.int64)[0])),
        "batch:0 (N, batch.1, batch.2, 3) uint8",
    ),
    "iterator": (
        lambda: classified(
            v1.data.Iterator.from_structure(
                (tf.float32, tf.int64), (tf.TensorShape([None, 8, 8, 3]), tf.TensorShape([None]))
            ).get_next("batch")[0]
        ),
        "batch:0 (N, 8, 8, 3) float32",
    ),
    "iterator_without_shapes": (
        lambda: classified(
            v1.data.Iterator.from_structure((tf.float32, tf.int64)).get_next("batch")[0]
        ),
        "batch:0 (N, batch.1, batch.2, 3) float32",
    ),
}


@pytest.mark.parametrize("kind", QUEUES)
def test_a_graph_that_a_queue_feeds_begins_behind_it(pb: Pb, kind: str) -> None:
    build, expected = QUEUES[kind]
    path = pb(build)
    model, _ = Original.of(path, outputs="y").lower()
    assert ends(model) == ([expected], ["y:0 (N, 4) float32"])
    assert_tensorflow(model, path)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("batch:1[?,6,7,3]", "batch:1 (N, 6, 7, 3) uint8"),
        ("batch:1[2,6,7,3]", "batch:1 (2, 6, 7, 3) uint8"),
        ("prep/float", "prep/float:0 (N, prep/float.1, prep/float.2, 3) float32"),
        ("prep/scaled:0", "prep/scaled:0 (N, prep/scaled.1, prep/scaled.2, 3) float32"),
        ("prep/scaled:0[?,9,9,3]", "prep/scaled:0 (N, 9, 9, 3) float32"),
        ("conv[?,9,9,4]", "conv:0 (N, 9, 9, 4) float32"),
    ],
)
def test_a_graph_is_cut_anywhere_behind_a_queue(pb: Pb, inputs: str, expected: str) -> None:
    path = pb(lambda: classified(scaled(dequeued(tf.string, tf.uint8)[1])))
    model, _ = Original.of(path, inputs=inputs, outputs="y").lower()
    assert ends(model)[0] == [expected]
    assert_tensorflow(model, path, (2,) if "[2," in inputs else (1, 2))


@pytest.mark.parametrize("inputs", [None, "batch:1,batch:0", "batch:1[?,4],batch:0[?,5]"])
def test_two_things_of_one_queue_are_two_inputs(pb: Pb, inputs: str | None) -> None:
    def build() -> None:
        both = dequeued(tf.float32, tf.float32)
        first, second = (
            tf.raw_ops.MatMul(a=value, b=tf.constant(weights(size, 3)))
            for value, size in zip(both, (5, 4), strict=True)
        )
        tf.subtract(first, second, name="y")

    path = pb(build)
    model, _ = Original.of(path, inputs=inputs, outputs="y").lower()
    told = ["batch:0 (N, 5) float32", "batch:1 (N, 4) float32"]
    assert ends(model)[0] == (told if inputs is None else told[::-1])
    assert_tensorflow(model, path)


def decoded() -> None:
    """Build the beginning of published Inception graphs: a JPEG's bytes, one image at a time."""
    image = tf.io.decode_jpeg(x(dtype=tf.string, name="DecodeJpeg/contents"), 3, name="DecodeJpeg")
    image = tf.expand_dims(tf.cast(image, tf.float32, name="Cast"), 0, name="ExpandDims")
    image = tf.raw_ops.ResizeBilinear(images=image, size=[16, 16], name="ResizeBilinear")
    classified(tf.multiply(tf.subtract(image, 128.0, name="Sub"), 1 / 128, name="Mul"))


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ("DecodeJpeg:0", "DecodeJpeg:0 (N, DecodeJpeg.1, 3) uint8"),
        ("Cast", "Cast:0 (N, Cast.1, 3) float32"),
        ("ExpandDims", "ExpandDims:0 (1, ExpandDims.1, ExpandDims.2, 3) float32"),
        ("ResizeBilinear", "ResizeBilinear:0 (1, 16, 16, 3) float32"),
        ("Mul:0[1,16,16,3]", "Mul:0 (1, 16, 16, 3) float32"),
    ],
)
def test_a_graph_of_jpegs_is_cut_behind_the_decoder(pb: Pb, cut: str, expected: str) -> None:
    path = pb(decoded)
    model, _ = Original.of(path, inputs=cut, outputs="y").lower()
    assert ends(model)[0] == [expected]
    assert_tensorflow(model, path, (1, 2) if "N" in expected else (1,))


def test_a_graph_of_jpegs_is_refused_whole(pb: Pb, tmp_path: Path) -> None:
    done = command(pb(decoded), "-o", tmp_path / "y.onnx")
    assert done.returncode == 2
    assert "DecodeJpeg/contents (Placeholder) is of type string" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.pb"]


# Cuts at outputs of one operator.


def parts() -> None:
    first, second, third = tf.split(x(None, 6), 3, 1, name="scope/parts")
    tf.subtract(tf.tanh(first), second * third, name="y")


@pytest.mark.parametrize(
    "inputs",
    [
        "scope/parts:2,scope/parts:0,scope/parts:1",
        "scope/parts:2,x:0",
        "x,scope/parts:1",
        "scope/parts:1,scope/parts:0,x",
    ],
)
def test_several_outputs_of_one_operator_are_inputs_in_the_order_named(pb: Pb, inputs: str) -> None:
    path = pb(parts)
    model, _ = Original.of(path, inputs=inputs, outputs="y").lower()
    names = [name if ":" in name else f"{name}:0" for name in inputs.split(",")]
    assert [spec.name for spec in model.inputs] == names
    assert_tensorflow(model, path)


@pytest.mark.parametrize(
    "outputs",
    [
        "scope/parts:1",
        "scope/parts:2,scope/parts:0",
        "y,scope/parts:2,x",
        "scope/parts,y,scope/parts:1",
    ],
)
def test_several_outputs_of_one_operator_are_outputs_in_the_order_named(
    pb: Pb, outputs: str
) -> None:
    path = pb(parts)
    model, _ = Original.of(path, outputs=outputs).lower()
    names = [name if ":" in name else f"{name}:0" for name in outputs.split(",")]
    assert [spec.name for spec in model.outputs] == names
    assert_tensorflow(model, path)


def test_a_constant_can_be_made_an_input(pb: Pb) -> None:
    path = pb(lambda: tf.add(x(None, 3), tf.constant([1.0, 2.0, 3.0], name="bias"), name="y"))
    model, _ = Original.of(path, inputs="x,bias").lower()
    assert ends(model)[0] == ["x:0 (N, 3) float32", "bias:0 (3) float32"]
    assert_tensorflow(model, path)


# What is found without being named.


def several() -> None:
    value = x(None, 4)
    for name in ("zeta", "alpha/out", "mid"):
        tf.nn.relu(value - len(name), name=name)
    tf.math.top_k(value, 2, name="best")


def test_outputs_are_found_in_the_order_of_the_graph_with_all_of_an_operator_s(pb: Pb) -> None:
    path = pb(several)
    model, _ = Original.of(path).lower()
    assert ends(model)[1] == [
        "zeta:0 (N, 4) float32",
        "alpha/out:0 (N, 4) float32",
        "mid:0 (N, 4) float32",
        "best:0 (N, 2) float32",
        "best:1 (N, 2) int32",
    ]
    assert_tensorflow(model, path)


def asserted() -> Any:
    value = x(None, 3)
    with tf.control_dependencies([v1.assert_positive(tf.abs(value) + 1.0)]):
        return tf.multiply(value, 2.0)


GRAPHS: dict[str, tuple[Callable[[], Any], list[str], list[str]]] = {
    # Each builds what is then the graph's only end, "y".
    "nothing_but_an_identity": (lambda: x(None, 3), ["x:0 (N, 3) float32"], ["(N, 3) float32"]),
    "scalar_output": (
        lambda: tf.reduce_mean(x(None, 3)), ["x:0 (N, 3) float32"], ["() float32"],
    ),
    "scalar_input": (
        lambda: x(None, 3) * x(name="alpha"),
        ["x:0 (N, 3) float32", "alpha:0 () float32"], ["(N, 3) float32"],
    ),
    "fixed_batch": (lambda: tf.tanh(x(4, 3)), ["x:0 (4, 3) float32"], ["(4, 3) float32"]),
    "names_with_points_and_dashes": (
        lambda: tf.tanh(x(None, 3, name="a.b/c-1")), ["a.b/c-1:0 (N, 3) float32"],
        ["(N, 3) float32"],
    ),
    "an_assertion_before_the_output": (asserted, ["x:0 (N, 3) float32"], ["(N, 3) float32"]),
    "int32_indices": (
        lambda: tf.gather(weights(12, 4), x(None, 5, dtype=tf.int32)),
        ["x:0 (N, 5) int32"], ["(N, 5, 4) float32"],
    ),
    "int64_indices": (
        lambda: tf.gather(weights(12, 4), x(None, 5, dtype=tf.int64)),
        ["x:0 (N, 5) int64"], ["(N, 5, 4) float32"],
    ),
    "int32_arithmetic": (
        lambda: x(None, 5, dtype=tf.int32) * 3 - 7, ["x:0 (N, 5) int32"], ["(N, 5) int32"],
    ),
    "uint8_image": (
        lambda: conv(tf.cast(x(None, 8, 8, 3, dtype=tf.uint8), tf.float32) / 255.0),
        ["x:0 (N, 8, 8, 3) uint8"], ["(N, 8, 8, 4) float32"],
    ),
    "uint8_output": (
        lambda: tf.cast(tf.clip_by_value(x(None, 4) * 50.0, 0.0, 255.0), tf.uint8),
        ["x:0 (N, 4) float32"], ["(N, 4) uint8"],
    ),
    "truncated_integers": (
        lambda: tf.cast(x(None, 4) * 50.0, tf.int32), ["x:0 (N, 4) float32"], ["(N, 4) int32"],
    ),
    "int64_classes": (
        lambda: tf.argmax(x(None, 5), 1), ["x:0 (N, 5) float32"], ["(N) int64"],
    ),
    "int32_classes": (
        lambda: tf.argmax(x(None, 5), 1, output_type=tf.int32),
        ["x:0 (N, 5) float32"], ["(N) int32"],
    ),
    "bool_output": (lambda: x(None, 5) > 0.5, ["x:0 (N, 5) float32"], ["(N, 5) bool"]),
    "bool_input": (
        lambda: tf.where(x(None, 5, dtype=tf.bool, name="mask"), x(None, 5), 7.0),
        ["mask:0 (N, 5) bool", "x:0 (N, 5) float32"], ["(N, 5) float32"],
    ),
    "float64": (
        lambda: tf.tanh(tf.matmul(x(None, 5, dtype=tf.float64), weights(5, 3).astype(float))),
        ["x:0 (N, 5) float64"], ["(N, 3) float64"],
    ),
    "float16_without_sums": (
        lambda: tf.nn.relu(x(None, 5, dtype=tf.float16)),
        ["x:0 (N, 5) float16"], ["(N, 5) float16"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GRAPHS)
def test_ends_of_every_kind_keep_name_shape_and_type(pb: Pb, kind: str) -> None:
    build, inputs, outputs = GRAPHS[kind]
    path = pb(lambda: tf.identity(build(), name="y"))
    model, notes = Original.of(path).lower()
    assert ends(model) == (inputs, [f"y:0 {output}" for output in outputs])
    assert notes == []
    assert_tensorflow(model, path, (4,) if kind == "fixed_batch" else (1, 2))


def test_float16_is_computed_to_its_own_precision(pb: Pb) -> None:
    def build() -> None:
        value = x(None, 5, dtype=tf.float16)
        tf.tanh(tf.matmul(value, weights(5, 3).astype(np.float16)), name="y")

    path = pb(build)
    model, _ = Original.of(path).lower()
    assert ends(model) == (["x:0 (N, 5) float16"], ["y:0 (N, 3) float16"])
    for batch in (1, 2):
        feeds = feeds_of(model, batch)
        [expected] = ask_tensorflow(path, ["y:0"], feeds)
        # float16 has 11 bits: sums of five products of size 1 differ by some units of 2^-11.
        np.testing.assert_allclose(run(model, feeds)["y:0"], expected, rtol=0, atol=4e-3)


def test_an_output_that_needs_no_input_is_kept_beside_one_that_does(pb: Pb) -> None:
    def build() -> None:
        tf.nn.relu(x(None, 3), name="y")
        tf.identity(tf.constant(weights(4, 2)), name="anchors")

    path = pb(build)
    model, _ = Original.of(path).lower()
    assert ends(model)[1] == ["y:0 (N, 3) float32", "anchors:0 (4, 2) float32"]
    assert_tensorflow(model, path)


def test_two_identities_of_one_tensor_are_two_outputs(pb: Pb) -> None:
    def build() -> None:
        value = tf.nn.relu(x(None, 3))
        tf.identity(value, name="a")
        tf.identity(value, name="b")

    path = pb(build)
    for outputs in (None, "b,a"):
        model, _ = Original.of(path, outputs=outputs).lower()
        names = ["a:0", "b:0"] if outputs is None else ["b:0", "a:0"]
        assert [spec.name for spec in model.outputs] == names
        assert_tensorflow(model, path)


# Refused.

LACKING: dict[str, tuple[Callable[[], Any], str]] = {
    "decomposition": (lambda: tf.linalg.qr(x(None, 3, 3))[1], "Qr"),
    "inverse": (lambda: tf.linalg.inv(x(None, 3, 3)), "MatrixInverse"),
    "special": (lambda: tf.math.lgamma(x(None, 3)), "Lgamma"),
    "bits": (lambda: tf.bitcast(x(None, 3), tf.int32), "Bitcast"),
    "morphology": (
        lambda: tf.nn.dilation2d(x(None, 4, 4, 1), weights(2, 2, 1), [1] * 4, "SAME", "NHWC",
                                 [1] * 4),
        "Dilation2D",
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("kind", LACKING)
def test_an_operator_that_onnx_lacks_is_named_and_never_returned(
    pb: Pb, kind: str, opset: int
) -> None:
    build, operator = LACKING[kind]
    path = pb(lambda: tf.identity(build(), name="y"))
    with pytest.raises(NotSupportedError, match=rf"x\.pb: no ONNX operators for {operator} \("):
        Original.of(path).lower(opset=opset)
    assert [line.split()[1] for line in Original.of(path).inspect().unsupported] == [operator]


def test_an_operator_that_onnx_lacks_leaves_what_was_there(pb: Pb, tmp_path: Path) -> None:
    (tmp_path / "y.onnx").write_text("an older file")
    for options in ([], ["--raw"], ["--no-verify"]):
        path = pb(lambda: tf.math.digamma(x(None, 3), name="y"))
        done = command(path, "-o", tmp_path / "y.onnx", "--force", *options)
        assert done.returncode == 2
        assert "no ONNX operators for Digamma (y)" in done.stderr
        assert (tmp_path / "y.onnx").read_text() == "an older file"
        assert sorted(file.name for file in tmp_path.iterdir()) == ["x.pb", "y.onnx"]


def test_several_operators_that_onnx_lacks_are_all_named(pb: Pb) -> None:
    def build() -> None:
        value = tf.math.lgamma(x(None, 3), name="one")
        tf.math.digamma(value, name="two")

    with pytest.raises(NotSupportedError, match=r"Lgamma \(one\), Digamma \(two\)"):
        Original.of(pb(build)).lower()


def test_an_operator_that_nobody_knows_is_named(pb: Pb, tmp_path: Path) -> None:
    path = pb(lambda: tf.nn.softsign(x(None, 3), name="y"))
    graph = v1.GraphDef.FromString(path.read_bytes())
    next(node for node in graph.node if node.op == "Softsign").op = "AcmeFancyOp"
    path.write_bytes(graph.SerializeToString())
    done = command(path, "-o", tmp_path / "y.onnx")
    assert done.returncode == 2
    assert "AcmeFancyOp" in done.stderr
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["x.pb"]


def test_every_file_that_is_written_is_valid(pb: Pb, tmp_path: Path) -> None:
    from onnxgraft import commands

    for kind, (build, _, _) in GRAPHS.items():
        path = pb(lambda build=build: tf.identity(build(), name="y"))
        done = commands.convert(path, out=tmp_path / "y.onnx")
        assert done.passed, kind
        onnx.checker.check_model(onnx.load(tmp_path / "y.onnx"), full_check=True)


def test_specs_of_inputs_are_those_of_tensorflow(pb: Pb) -> None:
    path = pb(several)
    with Original.of(path).run() as reference:
        assert reference.inputs == (TensorSpec("x:0", "float32", ("N", 4)),)
        assert reference.inputs == Original.of(path).lower()[0].inputs
