"""Loops and conditionals of TensorFlow, functional and in frames, against TensorFlow itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import surgery
from onnxgraft.stages.convert import Original
from tests.conftest import Cli, few
from tests.convert.test_recurrent import operators

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

RNG = np.random.default_rng(5)
KERNEL = (RNG.standard_normal((9, 20)) * 0.4).astype(np.float32)
INPUT = (RNG.standard_normal((4, 15)) / 2).astype(np.float32)
STATE = (RNG.standard_normal((5, 15)) / 2).astype(np.float32)
# How one function becomes a frozen graph: TensorFlow 2's freezing, with loops as functions or as
# frames, and TensorFlow 1's graphs with either.
FORMS = ("functions", "frames", "v1_frames", "v1_functions")
# Large positive, large negative and mixed values: both branches of a conditional are taken.
SIGNS = ((1, 6, 1.0), (3, 9, -1.0), (2, 4, 0.2))


def frozen(folder: Path, build: Callable[[Any], Any], form: str, rank: int = 2) -> Path:
    """Write what ``build`` makes of an input (N, 4) or (N, T, 4) as a frozen graph."""
    shape = [None] * (rank - 1) + [4]
    if form.startswith("v1"):
        with tf.Graph().as_default() as graph:
            (v1.disable_control_flow_v2 if form == "v1_frames" else v1.enable_control_flow_v2)()
            try:
                results = tf.nest.flatten(build(v1.placeholder(tf.float32, shape, "x")))
            finally:
                v1.enable_control_flow_v2()
            for number, tensor in enumerate(results):
                tf.identity(tensor, name=f"out{number}")
        definition = graph.as_graph_def()
    else:
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        function = tf.function(lambda x: tf.nest.flatten(build(x)))
        concrete = function.get_concrete_function(tf.TensorSpec(shape, tf.float32, name="x"))
        lower = form == "frames"
        definition = convert_variables_to_constants_v2(
            concrete, lower_control_flow=lower
        ).graph.as_graph_def()
    path = folder / f"{form}.pb"
    path.write_bytes(definition.SerializeToString())
    return path


def agree(path: Path) -> dict[str, int]:
    """Assert that TensorFlow and ONNX agree, before and after surgery; return the loops."""
    model, _ = Original.of(path).lower()
    cleaned, _ = surgery.run(model)
    with Original.of(path).run() as reference:
        for batch, length, sign in SIGNS:
            rng = np.random.default_rng(length)
            (spec,) = reference.inputs
            shape = [batch, *([length] if len(spec.shape) == 3 else []), 4]
            value = (np.abs(rng.standard_normal(shape)) * sign).astype(np.float32)
            expected = reference.infer({spec.name: value})
            assert expected.keys() == {output.name for output in model.outputs}
            for candidate in (model, cleaned):
                _check(candidate, {spec.name: value}, expected)
    return operators(model)


def _check(model: Model, feeds: dict[str, Array], expected: dict[str, Array] | Any) -> None:
    proto = model.to_onnx()
    onnx.checker.check_model(proto)
    with OnnxRuntime(proto) as session:
        actual = session.infer(feeds)
    for name, value in expected.items():
        assert actual[name].shape == value.shape
        # float32 in another order; what grows in a loop is held against its own size.
        np.testing.assert_allclose(actual[name], value, rtol=2e-6, atol=2e-6)


def array(size: Any, shape: list[int | None], **options: Any) -> Any:
    return tf.TensorArray(tf.float32, size, element_shape=shape, **options)


# Recurrent networks -----------------------------------------------------------------------------


def lstm(x: Any) -> Any:
    """TensorFlow 1's dynamic_rnn over a BasicLSTMCell: gates i, j, f, o of [x, h], forget bias."""
    steps = tf.transpose(x, [1, 0, 2])
    length, start = tf.shape(steps)[0], tf.zeros([tf.shape(x)[0], 5])
    source = array(length, [None, 4]).unstack(steps)

    def body(t: Any, out: Any, h: Any, c: Any) -> Any:
        z = tf.matmul(tf.concat([source.read(t), h], 1), KERNEL) + 0.1
        i, j, f, o = tf.split(z, 4, 1)
        c = c * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
        h = tf.tanh(c) * tf.sigmoid(o)
        return t + 1, out.write(t, h), h, c

    loop = tf.while_loop(
        lambda t, *rest: t < length, body, [0, array(length, [None, 5]), start, start]
    )
    return tf.transpose(loop[1].stack(), [1, 0, 2]), loop[2], loop[3]


def gru(x: Any, read: Callable[[Any, Any], Any] = lambda t, n: t) -> Any:
    steps = tf.transpose(x, [1, 0, 2])
    length = tf.shape(steps)[0]

    def body(t: Any, out: Any, h: Any) -> Any:
        a = tf.split(tf.matmul(tf.gather(steps, read(t, length)), INPUT), 3, 1)
        b = tf.split(tf.matmul(h, STATE), 3, 1)
        z, r = tf.sigmoid(a[0] + b[0]), tf.sigmoid(a[1] + b[1])
        h = z * h + (1 - z) * tf.tanh(a[2] + r * b[2])
        return t + 1, out.write(t, h), h

    start = tf.zeros([tf.shape(x)[0], 5])
    loop = tf.while_loop(lambda t, *rest: t < length, body, [0, array(length, [None, 5]), start])
    return loop[1].stack()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("build", "op"), [(lstm, "LSTM"), (gru, "GRU")], ids=["lstm", "gru"])
def test_a_cell_in_any_frozen_graph_is_the_operator(
    tmp_path: Path, build: Any, op: str, form: str
) -> None:
    assert agree(frozen(tmp_path, build, form, rank=3)) == {op: 1}


@pytest.mark.parametrize("form", [form for form in FORMS if form != "v1_frames"])
def test_a_cell_in_a_branch_is_the_operator(tmp_path: Path, form: str) -> None:
    def build(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: gru(x)[-1], lambda: tf.zeros_like(gru(x)[0]))

    found = agree(frozen(tmp_path, build, form, rank=3))
    assert "Loop" not in found
    assert "GRU" in found


def test_lists_in_a_conditional_of_tensorflow_1_are_refused(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: gru(x)[-1], lambda: gru(-x)[-1])

    with pytest.raises(ModelError, match="cond/while"):
        Original.of(frozen(tmp_path, build, "v1_frames", rank=3)).lower()


def lstm_until(x: Any) -> Any:
    """An LSTM that stops three steps before the end."""
    steps = tf.transpose(x, [1, 0, 2])
    start = tf.zeros([tf.shape(x)[0], 5])

    def body(t: Any, h: Any, c: Any) -> Any:
        z = tf.matmul(tf.concat([tf.gather(steps, t), h], 1), KERNEL)
        i, j, f, o = tf.split(z, 4, 1)
        c = c * tf.sigmoid(f) + tf.sigmoid(i) * tf.tanh(j)
        return t + 1, tf.tanh(c) * tf.sigmoid(o), c

    return tf.while_loop(lambda t, *rest: t < tf.shape(steps)[0] - 3, body, [0, start, start])[1]


NEARLY = {
    "backwards": lambda x: gru(x, lambda t, n: n - 1 - t),
    "every_other": lambda x: gru(x, lambda t, n: t // 2),
    "shorter": lstm_until,
}


@pytest.mark.parametrize("form", ["functions", "frames"])
@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_a_cell_stays_a_loop(tmp_path: Path, name: str, form: str) -> None:
    assert agree(frozen(tmp_path, NEARLY[name], form, rank=3)) == {"Loop": 1}


def gru_with_lengths(x: Any) -> Any:
    """TensorFlow 1's dynamic_rnn with sequence_length: ended sequences keep their state."""
    steps = tf.transpose(x, [1, 0, 2])
    length = tf.shape(steps)[0]
    lengths = tf.cast(tf.reduce_sum(tf.abs(x[:, :2, 0]), 1) * 2, tf.int32) % length + 1
    zero = tf.zeros([tf.shape(x)[0], 5])

    def body(t: Any, out: Any, h: Any) -> Any:
        new = tf.tanh(tf.matmul(tf.gather(steps, t), INPUT[:, :5]) + tf.matmul(h, STATE[:, :5]))
        ended = t >= lengths
        kept = tf.raw_ops.Select(condition=ended, x=h, y=new)
        shown = tf.raw_ops.Select(condition=ended, x=zero, y=new)
        return t + 1, out.write(t, shown), kept

    loop = tf.while_loop(lambda t, *rest: t < length, body, [0, array(length, [None, 5]), zero])
    return loop[1].stack(), loop[2]


@pytest.mark.parametrize("form", ["functions", "frames"])
def test_sequence_lengths_are_the_operator_s(tmp_path: Path, form: str) -> None:
    assert agree(frozen(tmp_path, gru_with_lengths, form, rank=3)) == {"RNN": 1}


# Loops ------------------------------------------------------------------------------------------


def fixed(x: Any) -> Any:
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2.0), [0, x])[1]


def by_data(x: Any) -> Any:
    step = lambda y: (tf.abs(y) * 2.0 + 1,)  # noqa: E731
    return tf.while_loop(lambda y: tf.reduce_sum(y) < 100.0, step, [x])[0]


def nested(x: Any) -> Any:
    def outer(i: Any, y: Any) -> Any:
        inner = lambda j, z: (j + 1, z * 1.1 + tf.cast(i, tf.float32))  # noqa: E731
        return i + 1, tf.while_loop(lambda j, z: j < 2, inner, [0, y])[1]

    return tf.while_loop(lambda i, y: i < 3, outer, [0, x])[1]


def steps_of_two(x: Any) -> Any:
    step = lambda y, i: (y * 1.5 + tf.cast(i, tf.float32), i + 2)  # noqa: E731
    return tf.while_loop(lambda y, i: i < 6, step, [x, 1])[0]


def written(x: Any, size: int = 5, steps: int = 5, **options: Any) -> Any:
    step = lambda i, out: (i + 1, out.write(i, x * tf.cast(i, tf.float32)))  # noqa: E731
    return tf.while_loop(lambda i, out: i < steps, step, [0, array(size, [None, 4], **options)])[1]


def with_an_if(x: Any) -> Any:
    step = lambda i, y: (  # noqa: E731
        i + 1, tf.cond(tf.reduce_sum(y) > 0, lambda: y - 1.0, lambda: y * 1.5)
    )  # fmt: skip
    return tf.while_loop(lambda i, y: i < 4, step, [0, x])[1]


LOOPS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "fixed": (fixed, 1),
    "by_data": (by_data, 1),
    "nested": (nested, 2),
    "steps_of_two": (steps_of_two, 1),
    "all_written": (lambda x: written(x).stack(), 1),
    "the_end_unwritten": (lambda x: written(x, size=7).stack(), 1),
    "by_data_unwritten": (
        lambda x: tf.while_loop(
            lambda i, out, y: tf.reduce_max(tf.abs(y)) < 20.0,
            lambda i, out, y: (i + 1, out.write(i, y), y * 2.0 + tf.sign(y)),
            [0, array(30, [None, 4]), x],
        )[1].stack(),
        1,
    ),
    "a_list_that_grows": (lambda x: written(x, size=0, dynamic_size=True).stack(), 1),
    "some_taken": (lambda x: written(x).gather([3, 1]), 1),
    "one_taken": (lambda x: written(x).read(2), 1),
    "map_fn": (lambda x: tf.map_fn(lambda row: tf.cumsum(row) * 2, x), 1),
    "twice_the_same": (lambda x: fixed(fixed(x)), 2),
    "an_if_within": (with_an_if, 1),
}


@pytest.mark.parametrize("form", few(FORMS, 2, 2))
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_computes_what_it_did(tmp_path: Path, name: str, form: str) -> None:
    build, loops = LOOPS[name]
    assert agree(frozen(tmp_path, build, form)) == {"Loop": loops}


def pushed(x: Any) -> Any:
    raw = tf.raw_ops
    items = raw.EmptyTensorList(
        element_shape=tf.constant([-1, 4]), max_num_elements=-1, element_dtype=tf.float32
    )
    step = lambda i, made, y: (  # noqa: E731
        i + 1, raw.TensorListPushBack(input_handle=made, tensor=y), y * 1.5
    )  # fmt: skip
    made = tf.while_loop(lambda i, made, y: i < 4, step, [0, items, x])[1]
    return raw.TensorListStack(
        input_handle=made, element_shape=tf.constant([-1, 4]), element_dtype=tf.float32
    )


def reversed_order(x: Any) -> Any:
    step = lambda i, out: (i + 1, out.write(4 - i, x * tf.cast(i, tf.float32)))  # noqa: E731
    return tf.while_loop(lambda i, out: i < 5, step, [0, array(5, [None, 4])])[1].stack()


def read_back(x: Any) -> Any:
    start = array(5, [None, 4], clear_after_read=False).write(0, x)
    step = lambda i, out: (i + 1, out.write(i, out.read(i - 1) * 1.5))  # noqa: E731
    return tf.while_loop(lambda i, out: i < 5, step, [1, start])[1].stack()


def written_in_branches(x: Any) -> Any:
    def step(i: Any, out: Any) -> Any:
        even = tf.equal(i % 2, 0)
        return i + 1, tf.cond(even, lambda: out.write(i, x), lambda: out.write(i, -x))

    return tf.while_loop(lambda i, out: i < 4, step, [0, array(4, [None, 4])])[1].stack()


def of_many(x: Any) -> Any:
    index = tf.cast(tf.reduce_sum(tf.abs(x)), tf.int32) % 3
    return tf.switch_case(index, [lambda: x, lambda: -x, lambda: x * x])


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pushed": (pushed, "TensorListPushBack"),
    "reversed_order": (reversed_order, "another order than 0, 1, 2"),
    "read_back": (read_back, "writes a list that the loop also reads"),
    "joined": (lambda x: written(x).concat(), r"TensorListConcatV2|TensorArrayConcatV3"),
    "written_in_branches": (written_in_branches, "list"),
    "one_of_many": (of_many, r"Case|_SwitchN"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_has_nothing_for_is_refused_by_name(tmp_path: Path, name: str, form: str) -> None:
    build, words = REFUSED[name]
    with pytest.raises(NotSupportedError, match=words) as refusal:
        Original.of(frozen(tmp_path, build, form)).lower()
    assert "--outputs" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_refusal_is_exit_status_2_and_writes_nothing(tmp_path: Path, cli: Cli) -> None:
    done = cli("convert", frozen(tmp_path, pushed, "frames"), "-o", tmp_path / "out.onnx")
    assert (done.returncode, done.stdout) == (2, "")
    assert "TensorListPushBack" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_a_loop_without_a_step_counter_is_refused(tmp_path: Path) -> None:
    """tf2onnx would take the second variable for the most steps."""

    def build(x: Any) -> Any:
        spec = [tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32), tf.TensorSpec([None, 4])]
        body = tf.function(lambda i, n, y: (i + 1, n, y * 2)).get_concrete_function(*spec)
        cond = tf.function(lambda i, n, y: i < n + 3).get_concrete_function(*spec)
        given = [tf.constant(0), tf.constant(2), x]
        return tf.raw_ops.StatelessWhile(input=given, cond=cond, body=body)[2]

    with pytest.raises(NotSupportedError, match="not a step counter and a limit"):
        Original.of(frozen(tmp_path, build, "v1_functions")).lower()


def test_a_frame_that_is_no_loop_is_refused_by_its_name(tmp_path: Path, cli: Cli) -> None:
    def frame(x: Any) -> Any:
        inside = tf.nn.relu(tf.raw_ops.Enter(data=x, frame_name="odd"))
        return tf.raw_ops.Exit(data=inside)

    done = cli("convert", frozen(tmp_path, frame, "v1_frames"), "-o", tmp_path / "out.onnx")
    assert done.returncode == 2
    assert "the loop in the frame 'odd' can't be converted: it has 0 conditions" in done.stderr
    assert not (tmp_path / "out.onnx").exists()


# Conditionals -------------------------------------------------------------------------------------


def test_an_output_within_a_frame_is_refused_by_its_name(tmp_path: Path) -> None:
    path = frozen(tmp_path, fixed, "v1_frames")
    definition = v1.GraphDef.FromString(path.read_bytes())
    *_, end = (node.name for node in definition.node if node.op == "NextIteration")
    tensor = f"{end}:0"
    with pytest.raises(NotSupportedError, match=f"the output {tensor} is made within a loop"):
        Original.of(path, outputs=tensor).lower()


@pytest.mark.parametrize("op", ["Identity", "AddV2", "Less"])
def test_a_node_of_a_function_that_lacks_inputs_is_refused_by_its_name(
    tmp_path: Path, op: str
) -> None:
    path = frozen(tmp_path, fixed, "functions")
    definition = v1.GraphDef.FromString(path.read_bytes())
    nodes = (node for f in definition.library.function for node in f.node_def)
    node = next(node for node in nodes if node.op == op)
    del node.input[-1]
    path.write_bytes(definition.SerializeToString())
    with pytest.raises(ModelError, match=f"{node.name!r}, a {op}, lacks inputs"):
        Original.of(path).lower()


@tf.function  # type: ignore[misc]
def called(x: Any) -> Any:
    return tf.nn.relu(x) * 2


def positive(x: Any) -> Any:
    return tf.reduce_sum(x) > 0


CONDITIONALS: dict[str, Callable[[Any], Any]] = {
    "simple": lambda x: tf.cond(positive(x), lambda: x * 2 + 1, lambda: tf.tanh(x)),
    "other_shape": lambda x: tf.cond(
        positive(x),
        lambda: tf.matmul(x, KERNEL[:4, :3]),
        lambda: tf.zeros([tf.shape(x)[0], 3]) - 1.0,
    ),
    "nested": lambda x: tf.cond(
        positive(x),
        lambda: tf.cond(tf.reduce_max(x) > 1, lambda: x * 2, lambda: x * 3),
        lambda: -x,
    ),
    "a_loop_within": lambda x: tf.cond(positive(x), lambda: fixed(x), lambda: -x),
    "a_call_within": lambda x: tf.cond(positive(x), lambda: called(x), lambda: called(-x) + 1),
    "two_results": lambda x: tf.cond(
        positive(x), lambda: (x, tf.reduce_sum(x, 1)), lambda: (-x, tf.reduce_max(x, 1))
    ),
    "by_a_remainder": lambda x: tf.cond(
        tf.cast(tf.reduce_sum(x), tf.int32) % 2 > 0, lambda: x, lambda: -x
    ),
}


@pytest.mark.parametrize("form", few(FORMS, 2, 2))
@pytest.mark.parametrize("name", CONDITIONALS)
def test_a_conditional_takes_the_branch_that_tensorflow_takes(
    tmp_path: Path, name: str, form: str
) -> None:
    agree(frozen(tmp_path, CONDITIONALS[name], form))


BODIES = {
    "a_branch": lambda v: tf.cond(tf.reduce_sum(v) > 0, lambda: 2 * v, lambda: -v),
    "zero_fraction": lambda v: tf.nn.zero_fraction(tf.nn.relu(v)),
    "a_loop": lambda v: tf.while_loop(
        lambda i, a: i < 3, lambda i, a: (i + 1, a + v), [0, tf.zeros_like(v)]
    )[1],
    "crop_and_resize": lambda v: tf.image.crop_and_resize(
        tf.reshape(v, [1, 3, 4, 1]), v[:2] * 0 + [0.0, 0.1, 0.9, 1.2], tf.constant([0, 0]), [4, 5]
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_reads_an_input_of_a_saved_model(tmp_path: Path, kind: str) -> None:
    """Its signature calls the input otherwise than the graph does, in bodies too."""
    module = tf.Module()
    module.call = tf.function(
        lambda v: {"out": BODIES[kind](v)}, input_signature=[tf.TensorSpec([3, 4], name="v")]
    )
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.call)
    model, _ = Original.of(tmp_path / "saved").lower()
    for sign in (1, -1):
        value = sign * np.arange(-2.0, 10.0, dtype=np.float32).reshape(3, 4)
        with OnnxRuntime(model.to_onnx()) as session:
            mine = session.infer({"v": value})["out"]
        np.testing.assert_allclose(mine, module.call(tf.constant(value))["out"], atol=1e-6)
