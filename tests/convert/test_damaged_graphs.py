"""A TensorFlow graph with one thing wrong in it is read, or refused in a sentence of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.run import demand
from onnxgraft.stages.convert import Original
from tests.convert.test_loops import array, fixed, frozen, written
from tests.convert.test_recurrent import operators

tf = pytest.importorskip("tensorflow")

Change = Callable[[Any], None]


def first(definition: Any, op: str) -> Any:
    """Return the first node that is such an operator, in the graph or in a function."""
    functions = (node for f in definition.library.function for node in f.node_def)
    return next(node for node in (*definition.node, *functions) if node.op == op)


def of_negative_length(definition: Any) -> None:
    (length,) = (node for node in definition.node if node.name == "rfft/fft_length")
    length.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([-(2**31)], tf.int32))


def without_a_value(definition: Any) -> None:
    constants = (n for f in definition.library.function for n in f.node_def if n.op == "Const")
    del next(constants).attr["value"]


def of_fewer_than_none(definition: Any) -> None:
    first(definition, "Pack").attr["N"].i = -(2**31)


def of_another_type(definition: Any) -> None:
    first(definition, "TensorListReserve").attr["element_dtype"].type = tf.bfloat16.as_datatype_enum


def of_variants(definition: Any) -> None:
    kind = tf.variant.as_datatype_enum
    first(definition, "TensorListReserve").attr["element_dtype"].type = kind


def enlarged(definition: Any) -> None:
    (node,) = (node for node in definition.node if node.name == "size")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([1, 10**9, 7, 2], tf.int32))


def of_a_billion(definition: Any) -> None:
    size = first(definition, "TensorListReserve").input[1]
    (node,) = (node for node in definition.node if node.name == size)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(10**9, tf.int32))


def of_a_vector(definition: Any) -> None:
    size = first(definition, "TensorListReserve").input[1]
    (node,) = (node for node in definition.node if node.name == size)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([2], tf.int32))


def until_something_else(definition: Any) -> None:
    loop = first(definition, "StatelessWhile")
    other = next(f for f in definition.library.function if len(f.signature.input_arg) == 1)
    loop.attr["cond"].func.name = other.signature.name


def with_fewer_variables(definition: Any) -> None:
    del first(definition, "StatelessWhile").input[-1]


def with_a_limit_for_each(definition: Any) -> None:
    (limit,) = (n for n in definition.node if n.name == "while/maximum_iterations")
    limit.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([-1], tf.int32))


def with_a_constant_variable(definition: Any) -> None:
    next(n for n in definition.node if n.name == "while/Enter_1").attr["is_constant"].b = True


def with_a_constant_that_is_none(definition: Any) -> None:
    next(n for n in definition.node if n.op == "Enter" and n.attr["is_constant"].b).attr[
        "is_constant"
    ].b = False


def spectrum(x: Any) -> Any:
    return tf.abs(tf.signal.rfft(x, [4], name="rfft"))


def packed_in_a_branch(x: Any) -> Any:
    """Return x, by way of a Pack if its sum is more than 0."""
    parts = lambda: tf.concat(tf.unstack(tf.stack([x, x])), 0)[: tf.shape(x)[0]]  # noqa: E731
    return tf.cond(tf.reduce_sum(x) > 0, parts, lambda: x)


def scaled(x: Any) -> Any:
    """Multiply x by its sum three times."""
    factor = tf.reduce_sum(x)
    return tf.while_loop(lambda turn, y: turn < 3, lambda turn, y: (turn + 1, factor * y), (0, x))[
        1
    ]


def looped_in_a_branch(x: Any) -> Any:
    """Double x five times if its sum is more than 0."""
    doubled = lambda: tf.while_loop(  # noqa: E731
        lambda turn, y: turn < 5, lambda turn, y: (turn + 1, 2 * y), (0, x)
    )[1]
    return tf.cond(tf.reduce_sum(x) > 0, doubled, lambda: -x)


def collected(x: Any) -> Any:
    """Collect x five times."""
    made = array(5, [None, 4])
    for turn in range(5):
        made = made.write(turn, x)
    return made.stack()


def transposed(x: Any) -> Any:
    """Convolve with steps of 2, the other way round."""
    images, kernel = tf.reshape(x[:1], [1, 2, 2, 1]), tf.ones([3, 3, 2, 1])
    return tf.nn.conv2d_transpose(
        images, kernel, tf.constant([1, 5, 5, 2], name="size"), 2, "VALID"
    )


WRONG: dict[str, tuple[Callable[[Any], Any], str, Change, str]] = {
    "a_negative_size": (spectrum, "functions", of_negative_length, r"must be >= 0"),
    "a_constant_of_a_function_without_a_value": (
        fixed, "functions", without_a_value, r"the constant '.*' is damaged: it has no value"),
    "a_negative_count_in_a_function": (
        packed_in_a_branch, "functions", of_fewer_than_none,
        r"a Pack, has N -2147483648, and 1 is the least"),
    "a_list_of_another_type": (
        lambda x: written(x).read(2), "frames", of_another_type,
        r"TensorFlow refuses the graph: Input 0 of node"),
    "a_list_of_variants": (
        lambda x: written(x).read(2), "frames", of_variants, r"TensorFlow refuses the graph"),
    "an_output_that_no_kernel_reaches": (
        transposed, "functions", enlarged, r"one sample takes .* GB or more"),
    "a_list_of_a_billion": (
        collected, "v1_functions", of_a_billion, r"one sample takes 59\.6 GB or more"),
    "a_loop_whose_condition_takes_less": (
        looped_in_a_branch, "functions", until_something_else,
        r"a StatelessWhile, has \d inputs, and the function '.*' that it calls 1;"),
    "a_variable_that_enters_each_step": (
        fixed, "v1_frames", with_a_constant_variable,
        r"what 'while/Enter_1' gives comes in each step anew"),
    "a_constant_that_enters_once": (
        scaled, "v1_frames", with_a_constant_that_is_none,
        r"gives is there in its first step alone"),
    "a_limit_that_is_a_vector": (
        fixed, "functions", with_a_limit_for_each, r"are not a step counter and a limit"),
    "a_loop_that_is_given_less": (
        looped_in_a_branch, "functions", with_fewer_variables, r"a StatelessWhile, lacks inputs"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, form, change, words = WRONG[name]
    path = frozen(tmp_path, build, form)
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    change(definition)
    path.write_bytes(definition.SerializeToString())
    monkeypatch.setenv(demand._ALLOWED, "0")  # as the command line does
    with pytest.raises(InputError, match=words):
        Original.of(path).lower()


def test_a_flag_of_a_billion_values_is_no_flag_and_is_not_set(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), "x")
        flags = tf.compat.v1.placeholder(tf.bool, (10**9,), "is_training")
        tf.identity(tf.cond(flags[0], lambda: x, lambda: -x), name="y")
    (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    assert "is_training:0" in str(Original.of(tmp_path / "net.pb").inspect().inputs)
    with pytest.raises(InputError, match="has 1,000,000,000 values, at most 65,536 are set"):
        Original.of(tmp_path / "net.pb", values=["is_training=false"]).lower()


def test_a_list_whose_size_is_a_vector_is_left_to_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = frozen(tmp_path, collected, "v1_functions")
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    of_a_vector(definition)
    path.write_bytes(definition.SerializeToString())
    monkeypatch.setenv(demand._ALLOWED, "0")
    with (
        Original.of(path).run() as original,
        pytest.raises(InputError, match="num_elements to reserve must be a tensor size 1"),
    ):
        original.infer({"x:0": np.ones((1, 4), np.float32)})


def test_a_loop_whose_arrays_do_not_fit_stays_a_loop(tmp_path: Path) -> None:
    path = frozen(tmp_path, fixed, "functions")
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    nodes = (node for f in definition.library.function for node in f.node_def)
    (step,) = (node for node in nodes if node.name == "while/add/y")
    step.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([], tf.int32))
    path.write_bytes(definition.SerializeToString())
    assert operators(Original.of(path).lower()[0])["Loop"] == 1
