"""What training leaves in a graph, in every form it comes in, against TensorFlow itself.

A *flag* is how a graph tells training from inference; a *fork* is what the flag drives. TensorFlow
is asked directly, with every flag fed by the test, so that no conversion is its own reference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds, TensorSpec
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages.convert import Original
from tests.conftest import few
from tests.convert.graphs import ask_tensorflow, assert_close, run

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

# The input of every graph here.
X = TensorSpec("x:0", "float32", ("N", 4, 3, 2))
Pb = Callable[..., Path]


def assert_tensorflow(
    model: Model, path: Path, flags: Feeds | None = None, graph: Path | None = None
) -> None:
    """Assert that ``model`` is what TensorFlow computes at batch 1 and 2 of all its outputs.

    Args:
        model: Converted of ``path``.
        path: The graph.
        flags: Fed to TensorFlow beside ``x``.
        graph: Another graph for TensorFlow to run.
    """
    names = [spec.name for spec in model.outputs]
    assert [spec.name for spec in model.inputs] == [X.name]
    for batch in (1, 2):
        feeds = random_feeds([X], batch, seed=batch)
        values = ask_tensorflow(graph or path, names, {**feeds, **(flags or {})})
        assert_close(dict(zip(names, values, strict=True)), run(model, feeds))


def x() -> Any:
    return v1.placeholder(tf.float32, [None, 4, 3, 2], "x")


# Flags: what is called, and what TensorFlow is fed for inference and for training.


def fed(name: str, default: bool | None = None) -> Any:
    """Return a placeholder, with a default where one is given."""
    if default is None:
        return v1.placeholder(tf.bool, [], name)
    return v1.placeholder_with_default(default, [], name)


FLAGS: dict[str, Callable[[], Any]] = {
    "placeholder": lambda: fed("is_training"),
    "placeholder_without_a_shape": lambda: v1.placeholder(tf.bool, None, "is_training"),
    "default_true": lambda: fed("is_training", True),
    "default_false": lambda: fed("is_training", False),
    "learning_phase": lambda: fed("keras_learning_phase", False),
    "in_a_scope": lambda: fed("model/bn_1/phase_train"),
    "behind_identity": lambda: tf.identity(tf.identity(fed("is_training"))),
    "and_a_constant": lambda: tf.logical_and(fed("is_training"), tf.constant(True)),
    "and_another": lambda: tf.logical_and(fed("update/is_training", True), fed("is_training")),
    "not_inference": lambda: tf.logical_not(tf.logical_not(fed("is_training"))),
    "or_a_constant": lambda: tf.logical_or(tf.constant(False), fed("is_training")),
    "or_another": lambda: tf.logical_or(fed("is_training"), fed("train_phase", False)),
}
PLACEHOLDERS = {
    "learning_phase": ["keras_learning_phase"],
    "in_a_scope": ["model/bn_1/phase_train"],
    "and_another": ["is_training", "update/is_training"],
    "or_another": ["is_training", "train_phase"],
}


def set_all(flag: str, value: bool) -> dict[str, Any]:
    """Return the feed that gives all placeholders of a flag a value."""
    return {f"{name}:0": np.array(value) for name in PLACEHOLDERS.get(flag, ["is_training"])}


# Forks: what the flag decides between. Training subtracts the batch's mean and grows by much.

Branch = Callable[[Any], Any]


def trained(value: Any) -> Any:
    """Return what training makes of it: a ReduceMean over the batch tells it from inference."""
    return (value - tf.reduce_mean(value)) * 30.0


def inferred(value: Any) -> Any:
    return value * 0.5 + 1.0


def select(flag: Any, value: Any, train: Branch = trained) -> Any:
    return tf.raw_ops.Select(condition=flag, x=train(value), y=inferred(value))


def select_v2(flag: Any, value: Any, train: Branch = trained) -> Any:
    return tf.raw_ops.SelectV2(condition=flag, t=train(value), e=inferred(value))


def with_switches(fork: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``fork`` as TensorFlow 1 wrote it: a cond becomes Switch and Merge."""

    def built(flag: Any, value: Any, train: Branch = trained) -> Any:
        v1.disable_control_flow_v2()
        try:
            return fork(flag, value, train)
        finally:
            v1.enable_control_flow_v2()

    return built


def cond(flag: Any, value: Any, train: Branch = trained) -> Any:
    return v1.cond(flag, lambda: train(value), lambda: inferred(value))


def stateful(flag: Any, value: Any, train: Branch = trained) -> Any:
    # What draws random numbers makes TensorFlow write If instead of StatelessIf.
    noise = lambda: tf.random.uniform(tf.shape(value), maxval=1e-9)  # noqa: E731
    return tf.cond(flag, lambda: train(value) + noise(), lambda: inferred(value))


def nested(flag: Any, value: Any, train: Branch = trained) -> Any:
    inner = lambda: v1.cond(flag, lambda: train(value) + 1.0, lambda: inferred(value))  # noqa: E731
    return v1.cond(flag, lambda: train(value), inner)


def two_outputs(flag: Any, value: Any, train: Branch = trained) -> Any:
    one, two = v1.cond(
        flag,
        lambda: (train(value), train(value) + 7.0),
        lambda: (inferred(value), tf.tanh(value)),
    )
    return one * two


def call(flag: Any, value: Any, train: Branch = trained) -> Any:
    """Return an If within a function within a function."""

    @tf.function
    def inner(training: Any, inside: Any) -> Any:
        return tf.cond(training, lambda: train(inside), lambda: inferred(inside))

    @tf.function
    def outer(training: Any, inside: Any) -> Any:
        return inner(training, inside) * 2.0 + inside

    return outer(flag, value)


def stateful_call(flag: Any, value: Any, train: Branch = trained) -> Any:
    """Return an If that draws random numbers within a function: a call with state."""

    @tf.function
    def inner(training: Any, inside: Any) -> Any:
        return stateful(training, inside, train)

    return inner(flag, value)


def fused(value: Any, training: bool, stored: bool = True, name: str | None = None) -> Any:
    """Return the outputs of a FusedBatchNorm with or without stored statistics."""
    mean, variance = ([0.7, -1.2], [1.5, 3.0]) if stored else ([], [])
    return tf.raw_ops.FusedBatchNormV3(
        x=value, scale=tf.constant([2.0, 0.5]), offset=tf.constant([0.1, -0.3]),
        mean=tf.constant(mean, tf.float32), variance=tf.constant(variance, tf.float32),
        is_training=training, epsilon=1e-3, name=name,
    )[:3]  # fmt: skip


def batch_norm(flag: Any, value: Any, train: Branch = trained) -> Any:
    """Return what tf.layers of TensorFlow 1 writes: a FusedBatchNorm in either branch."""
    del train
    return v1.cond(flag, lambda: fused(value, True, stored=False), lambda: fused(value, False))[0]


FORKS: dict[str, Callable[..., Any]] = {
    "Select": select,
    "SelectV2": select_v2,
    "Switch": with_switches(cond),
    "Switch_nested": with_switches(nested),
    "Switch_of_two_outputs": with_switches(two_outputs),
    "StatelessIf": cond,
    "If": stateful,
    "If_nested": nested,
    "If_of_two_outputs": two_outputs,
    "PartitionedCall": call,
    "StatefulPartitionedCall": stateful_call,
    "FusedBatchNorm_in_If": batch_norm,
    "FusedBatchNorm_in_Switch": with_switches(batch_norm),
}
# What is left where the training branch is, and where nothing is decided.
TRAINED = {"ReduceMean", "RandomUniform", "RandomUniformLike"}
UNDECIDED = {"If", "Where"}


def forked(flag: Callable[[], Any], fork: str, train: Branch = trained) -> Callable[[], None]:
    """Return the builder of a graph with a flag that drives a fork."""

    def build() -> None:
        value = tf.identity(x(), name="features")
        tf.identity(FORKS[fork](flag(), value, train), name="y")

    return build


@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_is_what_it_is_called(pb: Pb, fork: str) -> None:
    graph = v1.GraphDef.FromString(pb(forked(FLAGS["placeholder"], fork)).read_bytes())
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    wanted = {"FusedBatchNorm": "FusedBatchNormV3"}.get(fork.split("_")[0], fork.split("_")[0])
    kind = {"If": "StatelessIf"}.get(wanted, wanted) if "_" in fork else wanted
    assert kind in {node.op for node in nodes}


PAIRS = [
    (flag, fork)
    for flag in FLAGS
    for fork in FORKS
    if (flag, fork) != ("placeholder_without_a_shape", "SelectV2")
]


@pytest.mark.parametrize(("flag", "fork"), few(PAIRS, 30, 40))
def test_a_flag_takes_the_branch_of_inference(pb: Pb, flag: str, fork: str) -> None:
    path = pb(forked(FLAGS[flag], fork))
    model, notes = Original.of(path, outputs="y").lower()
    assert_tensorflow(model, path, set_all(flag, False))
    assert not (TRAINED | UNDECIDED) & set(model.operators())
    names = PLACEHOLDERS.get(flag, ["is_training"])
    assert sorted(notes) == sorted(f"{name} was frozen to False for inference" for name in names)


@pytest.mark.parametrize(
    ("flag", "fork"),
    [(flag, fork) for flag, fork in PAIRS if "placeholder" == flag or "StatelessIf" == fork],
)
def test_a_flag_that_is_set_takes_the_branch_of_training(pb: Pb, flag: str, fork: str) -> None:
    path = pb(forked(FLAGS[flag], fork))
    names = PLACEHOLDERS.get(flag, ["is_training"])
    model, notes = Original.of(path, outputs="y", values=[f"{name}=true" for name in names]).lower()
    assert_tensorflow(model, path, set_all(flag, True))
    assert not UNDECIDED & set(model.operators())
    assert {f"{name} was set to True as requested" for name in names} <= set(notes)


def test_one_of_two_flags_that_is_set_leaves_the_other_to_inference(pb: Pb) -> None:
    path = pb(forked(FLAGS["or_another"], "StatelessIf"))
    for name, other in (("is_training", "train_phase"), ("train_phase", "is_training")):
        model, notes = Original.of(path, outputs="y", values=[f"{name}=true"]).lower()
        assert_tensorflow(model, path, {f"{name}:0": np.array(True), f"{other}:0": np.array(False)})
        assert sorted(notes) == sorted([
            f"{name} was set to True as requested",
            f"{other} was frozen to False for inference",
        ])
        assert "ReduceMean" in model.operators()


@pytest.mark.parametrize("fork", [fork for fork in FORKS if fork != "If"])
def test_a_constant_that_trains_does_so_and_is_told(pb: Pb, fork: str) -> None:
    path = pb(forked(lambda: tf.constant(True, name="is_training"), fork))
    model, notes = Original.of(path, outputs="y").lower()
    assert_tensorflow(model, path, {"is_training:0": np.array(True)})
    assert (
        "the constant is_training is True, as in training, and was left unchanged; "
        "--set is_training=false overrides it"
    ) in notes


@pytest.mark.parametrize("fork", FORKS)
def test_a_constant_that_trains_is_set_to_inference(pb: Pb, fork: str) -> None:
    path = pb(forked(lambda: tf.constant(True, name="is_training"), fork))
    model, notes = Original.of(path, outputs="y", values=["is_training=false"]).lower()
    assert_tensorflow(model, path, {"is_training:0": np.array(False)})
    assert not (TRAINED | UNDECIDED) & set(model.operators())
    assert notes == ["is_training was set to False as requested"]


@pytest.mark.parametrize("fork", FORKS)
def test_a_constant_that_infers_is_no_leftover(pb: Pb, fork: str) -> None:
    path = pb(forked(lambda: tf.constant(False, name="is_training"), fork))
    model, notes = Original.of(path, outputs="y").lower()
    assert_tensorflow(model, path)
    assert not (TRAINED | UNDECIDED) & set(model.operators())
    assert notes == []


@pytest.mark.parametrize("fork", [fork for fork in FORKS if "BatchNorm" not in fork])
@pytest.mark.parametrize("what", ["nan", "infinite"])
def test_what_is_not_finite_in_the_branch_of_training_never_reaches_the_output(
    pb: Pb, what: str, fork: str
) -> None:
    def broken(value: Any) -> Any:
        return tf.math.log(-tf.abs(value) - 1.0) if what == "nan" else value / 0.0

    path = pb(forked(FLAGS["placeholder"], fork, broken))
    feeds = random_feeds([X], 2)
    bad = ask_tensorflow(path, ["y:0"], {**feeds, "is_training:0": np.array(True)})[0]
    assert not np.isfinite(bad).any()
    model, _ = Original.of(path, outputs="y").lower()
    assert np.isfinite(run(model, feeds)["y:0"]).all()
    assert_tensorflow(model, path, {"is_training:0": np.array(False)})


def test_a_flag_that_is_an_output_too_is_what_inference_sets(pb: Pb) -> None:
    def build() -> None:
        flag = FLAGS["placeholder"]()
        tf.identity(flag, name="told")
        tf.identity(cond(flag, x()), name="y")

    model, _ = Original.of(pb(build), outputs="told,y").lower()
    outputs = run(model, random_feeds([X], 1))
    assert [spec.dtype for spec in model.outputs] == ["bool", "float32"]
    assert outputs["told:0"].tolist() is False


# Dropout: every form that TensorFlow wrote it in.


def keep(name: str = "keep_prob", dtype: Any = None) -> Any:
    return v1.placeholder(dtype or tf.float32, [], name)


def floor_of_sum(value: Any, keep: Any, *, draws_first: bool = False, scaled: bool = False) -> Any:
    """Return a dropout of old graphs: the floor of keep_prob plus a draw is the mask."""
    drawn = tf.raw_ops.RandomUniform(shape=tf.shape(value), dtype=tf.float32, seed=1)
    if scaled:  # tf.random_uniform with its bounds 0 and 1 as tensors
        drawn = drawn * (tf.constant(1.0) - tf.constant(0.0)) + tf.constant(0.0)
    return tf.realdiv(value, keep) * tf.floor(drawn + keep if draws_first else keep + drawn)


def cast_mask(value: Any, rate: Any) -> Any:
    """Return a dropout by a rate whose mask is cast and multiplied, and not selected by."""
    drawn = tf.random.uniform(tf.shape(value), seed=1)
    return value * (1.0 / (1.0 - rate)) * tf.cast(drawn >= rate, value.dtype)


DROPOUTS: dict[str, tuple[Callable[[Any], Any], dict[str, float]]] = {
    "keep_prob": (lambda v: v1.nn.dropout(v, keep_prob=keep()), {"keep_prob": 1.0}),
    "keep_prob_with_default": (
        lambda v: v1.nn.dropout(v, keep_prob=v1.placeholder_with_default(0.5, [], "fc6/keep_prob")),
        {"fc6/keep_prob": 1.0},
    ),
    "keep_probability_behind_identity": (
        lambda v: v1.nn.dropout(v, keep_prob=tf.identity(keep("keep_probability"))),
        {"keep_probability": 1.0},
    ),
    "rate": (lambda v: tf.nn.dropout(v, rate=keep("dropout_rate")), {"dropout_rate": 0.0}),
    "rate_with_default": (
        lambda v: tf.nn.dropout(v, rate=v1.placeholder_with_default(0.3, [], "drop_prob")),
        {"drop_prob": 0.0},
    ),
    "rate_of_keep_prob": (
        lambda v: tf.nn.dropout(v, rate=tf.subtract(1.0, keep())),
        {"keep_prob": 1.0},
    ),
    "noise_shape": (
        lambda v: v1.nn.dropout(v, keep_prob=keep(), noise_shape=[tf.shape(v)[0], 1, 1, 2]),
        {"keep_prob": 1.0},
    ),
    "stateless": (
        lambda v: tf.nn.experimental.stateless_dropout(v, keep("dropout_rate"), seed=[1, 2]),
        {"dropout_rate": 0.0},
    ),
    "cast_mask": (lambda v: cast_mask(v, keep("dropout_rate")), {"dropout_rate": 0.0}),
    "cast_mask_of_keep_prob": (lambda v: cast_mask(v, 1.0 - keep()), {"keep_prob": 1.0}),
    "floor": (lambda v: floor_of_sum(v, keep()), {"keep_prob": 1.0}),
    "floor_draws_first": (
        lambda v: floor_of_sum(v, keep("dropout/keep_prob"), draws_first=True),
        {"dropout/keep_prob": 1.0},
    ),
    "floor_scaled": (lambda v: floor_of_sum(v, keep(), scaled=True), {"keep_prob": 1.0}),
    "two": (
        lambda v: v1.nn.dropout(
            tf.tanh(v1.nn.dropout(v, keep_prob=keep())), keep_prob=keep("keep_prob_1")
        ),
        {"keep_prob": 1.0, "keep_prob_1": 1.0},
    ),
}


@pytest.mark.parametrize("form", DROPOUTS)
def test_a_dropout_by_a_placeholder_keeps_everything(pb: Pb, form: str) -> None:
    build, values = DROPOUTS[form]
    path = pb(lambda: tf.multiply(build(tf.identity(x())), 2.0, name="y"))
    model, notes = Original.of(path, outputs="y").lower()
    assert_tensorflow(model, path, {f"{n}:0": np.float32(value) for n, value in values.items()})
    assert not {"RandomUniform", "RandomUniformLike", "GreaterOrEqual", "Floor", "Where"} & set(
        model.operators()
    )
    assert notes == [f"{n} was frozen to {value} for inference" for n, value in values.items()]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_dropout_of_another_precision_keeps_everything(pb: Pb, dtype: str) -> None:
    def build() -> None:
        value = v1.placeholder(dtype, [None, 3], "x")
        tf.identity(v1.nn.dropout(value, keep_prob=keep(dtype=dtype)), name="y")

    model, _ = Original.of(pb(build), outputs="y").lower()
    feeds = random_feeds(model.inputs, 2)
    assert (run(model, feeds)["y:0"] == feeds["x:0"]).all()
    assert not {"RandomUniform", "RandomUniformLike"} & set(model.operators())


CONSTANTS = {
    "keep_prob": lambda v, p: v1.nn.dropout(v, keep_prob=tf.constant(p, name="keep_prob")),
    "dropout_rate": lambda v, p: tf.nn.dropout(v, rate=tf.constant(p, name="dropout_rate")),
}


@pytest.mark.parametrize(("name", "value"), [("keep_prob", 1), ("dropout_rate", 0)])
def test_a_dropout_by_a_constant_still_drops_unless_it_is_set(
    pb: Pb, name: str, value: int
) -> None:
    path = pb(lambda: tf.identity(CONSTANTS[name](tf.identity(x()), 0.5), name="y"))
    feeds = random_feeds([X], 2)
    model, notes = Original.of(path, outputs="y").lower()
    dropped = run(model, feeds)["y:0"] == 0
    assert 0 < dropped.sum() < dropped.size
    assert notes[0] == (
        f"the constant {name} is 0.5, as in training, and was left unchanged; "
        f"--set {name}={value} overrides it"
    )
    assert "1 operator(s) draw random numbers" in notes[1]
    model, notes = Original.of(path, outputs="y", values=[f"{name}={value}"]).lower()
    assert (run(model, feeds)["y:0"] == feeds["x:0"]).all()
    assert notes == [f"{name} was set to {value} as requested"]


@pytest.mark.parametrize(("name", "value"), [("keep_prob", 1.0), ("dropout_rate", 0.0)])
def test_a_constant_that_keeps_everything_is_no_leftover(pb: Pb, name: str, value: float) -> None:
    path = pb(lambda: tf.identity(CONSTANTS[name](tf.identity(x()), value), name="y"))
    model, notes = Original.of(path, outputs="y").lower()
    assert_tensorflow(model, path)
    assert not {"RandomUniform", "RandomUniformLike"} & set(model.operators())
    assert notes == []


def test_a_keep_prob_that_is_set_to_drop_still_draws_and_says_so(pb: Pb) -> None:
    path = pb(lambda: tf.identity(v1.nn.dropout(tf.identity(x()), keep_prob=keep()), name="y"))
    model, notes = Original.of(path, outputs="y", values=["keep_prob=0.25"]).lower()
    feeds = {"x:0": np.ones((64, 4, 3, 2), np.float32)}
    values = run(model, feeds)["y:0"]
    assert set(np.unique(values)) == {0.0, 4.0}
    # 1536 draws: three standard deviations are 0.033.
    assert abs((values > 0).mean() - 0.25) < 0.04
    assert "1 operator(s) draw random numbers" in notes[1]


def test_noise_that_is_no_dropout_is_left_and_told(pb: Pb) -> None:
    path = pb(lambda: tf.add(x(), tf.random.normal([4, 3, 2]), name="y"))
    model, notes = Original.of(path, outputs="y").lower()
    assert "RandomNormal" in model.operators()
    assert len(notes) == 1
    assert "1 operator(s) draw random numbers" in notes[0]


def test_a_dropout_in_the_branch_of_training_is_gone(pb: Pb) -> None:
    drops = lambda value: tf.nn.dropout(value, rate=tf.constant(0.5, name="rate"))  # noqa: E731
    for fork in ("StatelessIf", "Switch", "Select", "PartitionedCall"):
        path = pb(forked(FLAGS["placeholder"], fork, drops))
        model, notes = Original.of(path, outputs="y").lower()
        assert_tensorflow(model, path, {"is_training:0": np.array(False)})
        assert not TRAINED & set(model.operators())
        assert notes == ["is_training was frozen to False for inference"]


# FusedBatchNorm that really trains.

TRAINS = (
    "1 batch normalization(s) run in training mode, on the batch's own statistics, as in "
    "TensorFlow (bn); --freeze-batchnorm runs them with those that they store"
)
FROZEN = (
    "1 batch normalization(s) were in training mode and run with their stored statistics, as "
    "requested (bn); so they do in the original that the result is compared with"
)
EMPTY = "1 batch normalization(s) stay in training mode: they store no statistics (bn)"


def normalized(training: bool, stored: bool = True) -> Callable[[], None]:
    return lambda: tf.tanh(fused(x(), training, stored, "bn")[0], name="y")


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "empty"])
def test_a_batch_norm_in_training_mode_stays_as_it_computes(pb: Pb, stored: bool) -> None:
    path = pb(normalized(True, stored))
    model, notes = Original.of(path, outputs="y").lower()
    assert_tensorflow(model, path)
    assert notes == [TRAINS]


def test_a_batch_norm_in_inference_mode_is_no_leftover(pb: Pb) -> None:
    path = pb(normalized(False))
    for asked in (False, True):
        model, notes = Original.of(path, outputs="y", freeze_batchnorm=asked).lower()
        assert_tensorflow(model, path)
        assert notes == []


@pytest.mark.parametrize("version", ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"])
@pytest.mark.parametrize("through_identity", [False, True], ids=["constant", "identity"])
def test_a_frozen_batch_norm_is_tensorflow_s_in_inference_mode(
    pb: Pb, tmp_path: Path, version: str, through_identity: bool
) -> None:
    def build(training: bool) -> Callable[[], None]:
        def built() -> None:
            stored = [tf.constant([0.7, -1.2]), tf.constant([1.5, 3.0])]
            mean, variance = map(tf.identity, stored) if through_identity else stored
            y = getattr(tf.raw_ops, version)(
                x=x(), scale=tf.constant([2.0, 0.5]), offset=tf.constant([0.1, -0.3]), mean=mean,
                variance=variance, is_training=training, epsilon=1e-3, name="bn",
            )  # fmt: skip
            tf.tanh(y[0], name="y")

        return built

    inference = pb(build(False)).rename(tmp_path / "inference.pb")
    path = pb(build(True))
    model, notes = Original.of(path, outputs="y", freeze_batchnorm=True).lower()
    assert_tensorflow(model, path, graph=inference)
    assert notes == [FROZEN]


def test_a_batch_norm_without_stored_statistics_is_not_frozen(pb: Pb) -> None:
    path = pb(normalized(True, stored=False))
    model, notes = Original.of(path, outputs="y", freeze_batchnorm=True).lower()
    assert_tensorflow(model, path)
    assert notes == [EMPTY, TRAINS]


def test_of_two_batch_norms_the_one_that_stores_statistics_is_frozen(
    pb: Pb, tmp_path: Path
) -> None:
    def build(training: bool) -> Callable[[], None]:
        def built() -> None:
            first = fused(x(), True, stored=False, name="bn")[0]
            tf.tanh(fused(first, training, name="second")[0], name="y")

        return built

    half = pb(build(False)).rename(tmp_path / "half.pb")
    path = pb(build(True))
    model, notes = Original.of(path, outputs="y", freeze_batchnorm=True).lower()
    assert_tensorflow(model, path, graph=half)
    assert notes == [FROZEN.replace("(bn)", "(second)"), EMPTY, TRAINS]


def test_inspect_lists_what_training_left(pb: Pb) -> None:
    def build() -> None:
        value = cond(tf.logical_and(fed("is_training"), tf.constant(True, name="train")), x())
        value = fused(value, True, name="bn")[0]
        value = v1.nn.dropout(value, keep_prob=tf.constant(0.25, name="keep_prob"), name="drop")
        tf.nn.dropout(value, rate=keep("dropout_rate"), name="y")

    found = Original.of(pb(build)).inspect()
    assert found.training == [
        "is_training: a placeholder, False at inference",
        "dropout_rate: a placeholder, 0.0 at inference",
        "train: a constant, True (inference has false)",
        "keep_prob: a constant, 0.25 (inference has 1)",
        "bn: FusedBatchNormV3 in training mode",
        "drop/random_uniform/RandomUniform: RandomUniform",
        "y/random_uniform/RandomUniform: RandomUniform",
    ]


# --set


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("is_training", "write NAME=VALUE"),
        ("is_training=maybe", "write NAME=VALUE"),
        ("=true", "write NAME=VALUE"),
        ("features=1", "no placeholder and no scalar constant has that name"),
        ("training=false", "did you mean is_training"),
    ],
)
def test_what_can_t_be_set_is_refused(pb: Pb, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Original.of(pb(forked(FLAGS["placeholder"], "Select")), outputs="y", values=[value]).lower()
