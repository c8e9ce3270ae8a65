"""Conditionals of TensorFlow 1 with branches of constants, held against TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import NotSupportedError
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.convert import Original
from tests.convert.one_operator import outputs, x

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

FOUR = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(autouse=True, params=["switches", "functions"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let a cond become Switch and Merge, or a function for each branch."""
    (v1.disable_control_flow_v2 if request.param == "switches" else v1.enable_control_flow_v2)()
    yield request.param
    v1.enable_control_flow_v2()


def most(value: Any, than: float = 10.0) -> Any:
    return tf.reduce_max(value) > than


def loop(value: Any) -> Any:
    """Return a loop whose body has such a conditional."""

    def body(count: Any, total: Any) -> tuple[Any, Any]:
        step = tf.cond(most(value + tf.cast(count, tf.float32)), lambda: 2.0, lambda: 3.0)
        return count + 1, total * step

    return tf.while_loop(lambda count, _: count < 4, body, [0, value])[1]


def behind(waited: Callable[[Any], Any], value: float) -> Callable[[Any], Any]:
    """Return a branch of a constant that waits for something else, as for an assertion."""

    def branch(v: Any) -> Any:
        with tf.control_dependencies([waited(v)]):
            return tf.constant(value)

    return branch


def waiting(waited: Callable[[Any], Any]) -> Callable[[Any], Any]:
    one, other = behind(waited, 3.0), behind(waited, 5.0)
    return lambda v: v * tf.cond(most(v), lambda: one(v), lambda: other(v))


CONDITIONALS: dict[str, Callable[[Any], Any]] = {
    "constants": lambda v: v * tf.cond(most(v), lambda: 3.0, lambda: 5.0),
    "arrays": lambda v: v + tf.cond(most(v), lambda: tf.zeros([2, 4]), lambda: tf.ones([2, 4])),
    "computed": lambda v: v * tf.cond(
        most(v), lambda: tf.exp(tf.constant(2.0)) * 3.0, lambda: tf.sqrt(tf.constant(7.0))
    ),
    "one is a constant": lambda v: tf.cond(most(v), lambda: tf.fill([2, 4], 2.0), lambda: v * 3.0),
    "the other is": lambda v: tf.cond(most(v), lambda: v * 3.0, lambda: tf.fill([2, 4], 2.0)),
    "what was there before": lambda v: tf.cond(most(v), lambda: v, lambda: tf.fill([2, 4], 2.0)),
    "two of them": lambda v: v * sum(tf.cond(most(v), lambda: [1.0, v[0, 0]], lambda: [2.0, 3.0])),
    "nested": lambda v: v * tf.cond(
        most(v), lambda: tf.cond(most(v, 20.0), lambda: 1.0, lambda: 2.0), lambda: 4.0
    ),
    "nested on one side": lambda v: v * tf.cond(
        most(v), lambda: 7.0, lambda: tf.cond(most(v, 5.0), lambda: 1.0, lambda: v[0, 1])
    ),
    "cases": lambda v: v * tf.case(
        [(most(v, 100.0), lambda: 1.0), (most(v), lambda: 2.0)], default=lambda: 4.0
    ),
    "nested in constants": lambda v: v * tf.cond(
        most(v),
        lambda: tf.cond(tf.constant(1.0) > 0, lambda: 1.0, lambda: 2.0),
        lambda: tf.cond(tf.constant(1.0) < 0, lambda: 4.0, lambda: 8.0),
    ),
    "waiting for what is switched": waiting(lambda v: tf.add(tf.reduce_sum(v), 1.0)),
    "waiting for a constant": waiting(lambda v: tf.add(tf.constant(2.0), 1.0)),
    "waiting for an assertion": waiting(lambda v: tf.debugging.Assert(v[0, 0] > -1e9, [v])),
    "a loop and a constant": lambda v: tf.cond(
        most(v),
        lambda: tf.while_loop(lambda w: tf.reduce_sum(w) < 4e4, lambda w: [w * 3.0], [v])[0],
        lambda: tf.fill([2, 4], 2.0),
    ),
    "in a loop": loop,
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONALS)
@pytest.mark.parametrize("step", [0, 9, 25, 200])
def test_a_branch_of_constants_is_taken_on_its_side(name: str, step: int, tmp_path: Path) -> None:
    theirs, mine = outputs(tmp_path, lambda: CONDITIONALS[name](x(2, 4)), x=FOUR + step)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("name", ["one is a constant", "the other is", "a loop and a constant"])
@pytest.mark.parametrize("step", [0, 9])
def test_where_the_order_was_taken_out_the_other_branch_tells(
    name: str, step: int, form: str, tmp_path: Path
) -> None:
    """The graph as it was is the reference: without order TensorFlow itself can't run it."""
    if form == "functions":
        pytest.skip("functions have their sides")
    theirs, _ = outputs(tmp_path, lambda: CONDITIONALS[name](x(2, 4)), x=FOUR + step)
    graph_def = v1.GraphDef.FromString((tmp_path / "x.pb").read_bytes())
    for node in graph_def.node:
        node.input[:] = [source for source in node.input if not source.startswith("^")]
    (tmp_path / "x.pb").write_bytes(graph_def.SerializeToString())
    model, _ = Original.of(tmp_path / "x.pb", outputs="out").lower()
    with OnnxRuntime(model.to_onnx()) as session:
        (mine,) = session.infer({"x:0": FOUR + step}).values()
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("flag", [True, False])
def test_a_predicate_that_is_fed_decides_and_stays_an_input(flag: bool, tmp_path: Path) -> None:
    def build() -> Any:
        told = v1.placeholder(tf.bool, [], "flip")
        return x(2, 4) * tf.cond(told, lambda: 3.0, lambda: 5.0)

    theirs, mine = outputs(tmp_path, build, x=FOUR, flip=np.array(flag))
    np.testing.assert_array_equal(mine, theirs)


def test_constants_of_which_nothing_tells_the_side_are_refused(form: str, tmp_path: Path) -> None:
    if form == "functions":
        pytest.skip("functions have their sides")
    with tf.Graph().as_default() as graph:
        value = x(2, 4)
        tf.identity(value * tf.cond(most(value), lambda: 3.0, lambda: 5.0), name="out")
    graph_def = graph.as_graph_def()
    for node in graph_def.node:
        node.input[:] = [source for source in node.input if not source.startswith("^")]
    (tmp_path / "net.pb").write_bytes(graph_def.SerializeToString())
    with pytest.raises(NotSupportedError, match="nothing tells which of its constants is for true"):
        Original.of(tmp_path / "net.pb").lower()
