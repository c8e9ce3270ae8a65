"""run: which passes run, what stays as it was, and what the report says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import InputError, ModelError
from onnxgraft.graph.model import Model, Origin, Source
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.surgery import PASSES, run
from onnxgraft.stages.surgery.running.rewrite import Context, Pass, Result
from onnxgraft.stages.surgery.running.verify import Verifier
from tests.conftest import model_of
from tests.surgery.helpers import ROUNDING, assert_same, clean, infer, normal, positive, report_of

NAMES = [item.name for item in PASSES]
USUAL = [item.name for item in PASSES if not item.optional and not item.targets]


def network() -> Model:
    """Return a graph that gives every pass but freeze_training something to do."""
    model = model_of(
        """agraph (float[N,3,4,5] image) => (float[N,7] scores, float[A,B] probabilities) {
            i = Identity(image)
            c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(i, w)
            n = BatchNormalization(c, gamma, beta, mean, var)
            a = Where(yes, n, c2)
            r = Relu(a)
            half = Mul(two, quarter)
            m = Mul(r, half)
            nhwc = Transpose<perm=[0,2,3,1]>(m)
            padded = Pad(nhwc, pads)
            s = Shape(padded)
            b = Slice(s, zero, one)
            t = Concat<axis=0>(b, minus)
            f = Reshape(padded, t)
            d = MatMul(f, dense)
            scores = Add(d, bias)
            p = Softmax(scores)
            q = Reshape(p, wide)
            probabilities = Reshape(q, seven)
        }""",
        {
            "w": normal(6, 3, 3, 3, seed=1),
            "gamma": positive(6, seed=2),
            "beta": normal(6, seed=3),
            "mean": normal(6, seed=4),
            "var": positive(6, seed=5),
            "yes": np.array(True),
            "c2": np.array(0, np.float32),
            "two": np.array(2, np.float32),
            "quarter": np.array(0.25, np.float32),
            "pads": np.zeros(8, np.int64),
            "zero": np.array([0]),
            "one": np.array([1]),
            "minus": np.array([-1]),
            "dense": normal(120, 7, seed=6),
            "bias": normal(7, seed=7),
            "wide": np.array([-1, 7, 1]),
            "seven": np.array([-1, 7]),
        },
    )
    tensors = ["image", "c", "n", "r", "nhwc", "m", "f", "d", "scores", "p", "probabilities"]
    model.names = {name: Origin(f"{name}:0") for name in tensors}
    return model


# Which passes run -----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["only", "skip"])
def test_an_unknown_pass_is_an_error_that_names_the_nearest(option: str) -> None:
    with pytest.raises(InputError, match=r"no pass is called 'fold_batchnom'.*fold_batchnorm"):
        if option == "only":
            run(network(), only=["fold_batchnom"])
        else:
            run(network(), skip=["fold_batchnom"])


def test_a_name_that_resembles_none_lists_the_passes() -> None:
    with pytest.raises(InputError, match="there are: absorb_flatten"):
        run(network(), only=["zzz"])


def test_all_passes_run_and_are_reported_in_the_order_of_the_list() -> None:
    _, report = run(network())
    assert [entry.name for entry in report.passes] == USUAL


def test_only_the_named_passes_run_in_the_order_of_the_list() -> None:
    after, report = run(network(), only=["fold_constants", "remove_identity"])
    assert [entry.name for entry in report.passes] == ["remove_identity", "fold_constants"]
    assert "Identity" not in after.operators()
    assert after.operators()["BatchNormalization"] == 1


def test_the_skipped_passes_do_not_run() -> None:
    after, report = run(network(), skip=["remove_identity"])
    assert [entry.name for entry in report.passes] == [n for n in USUAL if n != "remove_identity"]
    assert after.operators()["Identity"] == 1


def test_a_pass_that_is_both_named_and_skipped_does_not_run() -> None:
    after, report = run(
        network(), only=["remove_identity", "fold_constants"], skip=["remove_identity"]
    )
    assert [entry.name for entry in report.passes] == ["fold_constants"]
    assert after.operators()["Identity"] == 1


def test_every_pass_has_a_name_of_its_own_and_a_summary() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for item in PASSES:
        assert item.summary.endswith(".")
        assert item.name == item.apply.__module__.rsplit(".", 1)[1]


# What comes out -------------------------------------------------------------------------------


def test_all_passes_together_leave_the_network_alone() -> None:
    before = network()
    after, _ = clean(before)
    assert after.operators() == {
        "Conv": 1, "Relu": 1, "Mul": 1, "Reshape": 1, "Gemm": 1, "Softmax": 1,
    }  # fmt: skip
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_each_pass_alone_leaves_a_network_that_computes_the_same(name: str) -> None:
    before = network()
    after, _ = clean(before, name)
    assert_same(before, after, ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_the_list_without_one_pass_leaves_a_network_that_computes_the_same(name: str) -> None:
    before = network()
    after, _ = run(before, skip=[name])
    assert_same(before, after, ROUNDING)


def test_inputs_and_outputs_keep_their_names_types_and_order() -> None:
    before = network()
    after, _ = run(before)
    for old, new in ((before.inputs, after.inputs), (before.outputs, after.outputs)):
        assert [(spec.name, spec.dtype) for spec in new] == [(s.name, s.dtype) for s in old]
        assert [len(spec.shape) for spec in new] == [len(spec.shape) for spec in old]


def test_shapes_that_the_file_gave_stay() -> None:
    before = network()
    after, _ = run(before)
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs


def test_dimensions_of_outputs_that_the_file_left_open_are_filled_in() -> None:
    before = model_of(
        """agraph (float[N,2,3] x) => (float[?,?] y) { y = Reshape(x, target) }""",
        {"target": np.array([-1, 6])},
    )
    after, _ = run(before)
    assert after.outputs[0].shape == ("N", 6)
    assert before.outputs[0].shape == ("?", "?")


def test_the_input_model_is_not_changed() -> None:
    before = network()
    text = onnx.printer.to_text(before.to_onnx())
    names = dict(before.names)
    run(before)
    assert onnx.printer.to_text(before.to_onnx()) == text
    assert before.names == names


def test_cleaning_twice_changes_nothing_more() -> None:
    once, _ = run(network())
    twice, report = run(once)
    assert twice.operators() == once.operators()
    assert not [entry.name for entry in report.passes if entry.done]


def test_dead_nodes_are_removed() -> None:
    before = model_of("agraph (float[N,4] x) => (float[N,4] y) { dead = Exp(x)\n y = Relu(x) }")
    after, report = run(before)
    assert after.operators() == {"Relu": 1}
    assert report.after == {"Relu": 1}


def test_an_input_that_nobody_reads_stays() -> None:
    before = model_of("agraph (float[N,4] x, float[N,4] z) => (float[N,4] y) { y = Relu(x) }")
    after, _ = run(before)
    assert [spec.name for spec in after.inputs] == ["x", "z"]


def test_the_cleaned_model_survives_saving_and_loading(tmp_path: Path) -> None:
    before = network()
    after, _ = run(before)
    path = tmp_path / "clean.onnx"
    after.save(path)
    loaded = Model.load(path)
    assert loaded.names == after.names
    assert loaded.source == after.source
    assert_same(after, loaded)


# Names ----------------------------------------------------------------------------------------


def test_the_map_of_names_keeps_only_living_tensors() -> None:
    after, _ = run(network())
    assert set(after.names) <= set(after.graph.tensors())
    assert "c" not in after.names  # went into the batch norm's output
    assert after.names["scores"] == Origin("scores:0")


def test_names_of_tensors_that_never_were_are_dropped() -> None:
    before = network()
    before.names["nowhere"] = Origin("nowhere:0")
    after, _ = run(before, only=["remove_identity"])
    assert "nowhere" not in after.names
    assert after.names["c"] == Origin("c:0")


# Node names -----------------------------------------------------------------------------------


def test_nodes_without_a_name_or_of_the_same_name_get_one_of_their_own() -> None:
    before = model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            ["same"] a = Relu(x)
            ["same"] b = Neg(a)
            ["same_2"] c = Exp(b)
            y = Abs(c)
        }"""
    )
    for node, name in zip(before.graph.nodes, given := ["same", "same", "same_2", ""], strict=True):
        node.name = name  # as the reader of an ONNX file leaves none
    after, _ = run(before)
    names = [node.name for node in after.graph.nodes]
    assert len(set(names)) == 4
    assert "same" in names and "y" in names
    assert [node.name for node in before.graph.nodes] == given


# The report -----------------------------------------------------------------------------------


def test_the_report_has_the_operators_before_and_after() -> None:
    before = network()
    after, report = run(before)
    assert report.before == before.operators()
    assert report.after == after.operators()
    assert sum(report.after.values()) < sum(report.before.values())


def test_what_the_passes_removed_adds_up_to_the_difference() -> None:
    _, report = run(network())
    removed = sum(entry.removed for entry in report.passes)
    assert removed == sum(report.before.values()) - sum(report.after.values())


def test_the_report_tells_what_was_done_and_refused() -> None:
    model = model_of(
        """agraph (float[N,3,4,5] x) => (float[N,6,4,5] y, float[N,6,4,5] c) {
            i = Identity(x)
            ["conv"] c = Conv<kernel_shape=[1,1]>(i, w)
            ["norm"] y = BatchNormalization(c, gamma, beta, mean, var)
        }""",
        {
            "w": normal(6, 3, 1, 1, seed=1), "gamma": positive(6, seed=2),
            "beta": normal(6, seed=3), "mean": normal(6, seed=4), "var": positive(6, seed=5),
        },
    )  # fmt: skip
    _, report = run(model)
    (done,) = report_of(report, "remove_identity").done
    assert (done.node, done.sentence) == ("i", "Identity removed")
    assert report_of(report, "remove_identity").removed == 1
    (refused,) = report_of(report, "fold_batchnorm").refused
    assert refused.node == "norm"
    assert "another user" in refused.sentence


def test_a_refusal_is_reported_once_however_many_rounds_there_are() -> None:
    model = model_of(
        """agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {
            z = Identity(x)
            a = Identity(x)
            b = Cast<to=1>(a)
            y = Relu(b)
        }"""
    )
    _, report = run(model)
    assert len(report_of(report, "remove_identity").refused) == 1


# Verification ---------------------------------------------------------------------------------


def test_nothing_is_compared_unless_asked_for() -> None:
    _, report = run(network())
    assert report.verdicts == []
    assert report.passed


def test_a_verified_run_compares_each_output_at_batch_1_and_2() -> None:
    _, report = run(network(), verify=True)
    assert [verdict.output for verdict in report.verdicts] == ["scores", "probabilities"] * 2
    assert report.passed


def test_a_fixed_batch_is_compared_once() -> None:
    model = model_of("agraph (float[2,4] x) => (float[2,4] y) { i = Identity(x)\n y = Relu(i) }")
    _, report = run(model, verify=True)
    assert [verdict.output for verdict in report.verdicts] == ["y"]
    assert report.passed


def test_a_frozen_training_flag_is_fed_to_the_original_only() -> None:
    model = model_of(
        """agraph (float[N,4] x, bool is_training) => (float[N,4] y) {
            a = Relu(x)
            b = Neg(x)
            y = Where(is_training, a, b)
        }"""
    )
    after, report = run(model, verify=True)
    assert [spec.name for spec in after.inputs] == ["x"]
    assert report.passed and len(report.verdicts) == 2


Rewrite = Callable[[gs.Graph, Context], Result]


def planted(monkeypatch: pytest.MonkeyPatch, *passes: Pass) -> None:
    """Let ``passes`` be the whole list."""
    monkeypatch.setattr("onnxgraft.stages.surgery.running.runner.PASSES", passes)


def scaling(factor: float) -> Rewrite:
    """Return a pass that multiplies the constant of the first Mul, once."""

    def wrong(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        for node in graph.nodes:
            if node.op == "Mul" and "scaled" not in node.inputs[1].name:
                value = (node.inputs[1].values * factor).astype(np.float32)
                node.inputs[1] = gs.Constant(context.free_name("scaled"), value)
                result.did(node, "scaled")
                break
        return result

    return wrong


def two_steps() -> Model:
    return model_of(
        """agraph (float[N,4] x) => (float[N,4] y) {
            i = Identity(x)
            m = Mul(i, k)
            r = Relu(m)
            j = Identity(r)
            y = Neg(j)
        }""",
        {"k": positive(4)},
    )


def test_a_pass_that_changes_the_numbers_is_rolled_back_and_named_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = next(item for item in PASSES if item.name == "remove_identity")
    planted(monkeypatch, Pass("wrong", scaling(1.01)), good)
    before = two_steps()
    after, report = run(before, verify=True)
    wrong, right = report.passes
    assert wrong.rolled_back is not None and "float noise" in wrong.rolled_back
    assert not wrong.done and not wrong.removed
    assert {move.by for move in report.moves} == {"remove_identity"}
    assert right.rolled_back is None and len(right.done) == 2
    assert any("the pass wrong was rolled back" in note for note in report.notes)
    assert after.operators() == {"Mul": 1, "Relu": 1, "Neg": 1}
    assert report.passed
    assert_same(before, after)


def test_a_pass_that_moves_the_numbers_within_float_noise_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted(monkeypatch, Pass("rounding", scaling(1 + 1e-6)))
    after, report = run(two_steps(), verify=True)
    assert report.passes[0].rolled_back is None and report.passed
    assert "scaled" in after.graph.tensors()


def test_a_pass_that_is_wrong_at_the_second_batch_size_alone_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        for node in graph.nodes:
            if node.op == "Reshape" and node.inputs[1].values[0] == -1:
                node.inputs[1] = context.constant("frozen", np.array([1, 4], np.int64))
                result.did(node, "the batch written as 1")
        return result

    planted(monkeypatch, Pass("wrong", wrong))
    before = model_of(
        "agraph (float[N,2,2] x) => (float[A,4] y) { r = Relu(x)\n y = Reshape(r, s) }",
        {"s": np.array([-1, 4])},
    )
    after, report = run(before, verify=True)
    assert report.passes[0].rolled_back is not None
    assert_same(before, after)


def test_a_pass_that_fails_half_way_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: gs.Graph, context: Context) -> Result:
        context.bypass(graph.nodes[0])
        raise KeyError("axis")

    planted(monkeypatch, Pass("wrong", wrong))
    before = two_steps()
    after, report = run(before)
    assert report.passes[0].rolled_back == "KeyError: 'axis'"
    assert after.operators() == before.operators()
    assert_same(before, after)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each run that verification makes."""
    runs: list[str] = []
    infer = OnnxRuntime.infer

    def counting(self: OnnxRuntime, feeds: Feeds) -> Outputs:
        if self.name == "test.onnx":
            runs.append(self.name)
        return infer(self, feeds)

    monkeypatch.setattr(OnnxRuntime, "infer", counting)
    return runs


def test_passes_are_verified_together_in_four_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    _, report = run(network(), verify=True)
    assert sum(len(entry.steps) for entry in report.passes) > 5
    # At two batch sizes, the model as it came and what became of it.
    assert len(runs) == 4 and report.passed


@pytest.mark.parametrize(("refuse", "sessions"), [(False, [2, 2]), (True, [2, 1, 2, 1])])
def test_large_weights_are_read_in_place_and_handed_over_where_a_kernel_wants_constants(
    refuse: bool, sessions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    start = OnnxRuntime.__init__

    def picky(self: OnnxRuntime, model: onnx.ModelProto, **how: Any) -> None:
        fed.append(len(model.graph.input))
        if refuse and len(model.graph.input) > 1:
            raise ModelError("the weights are no constants")
        start(self, model, **how)

    monkeypatch.setattr(OnnxRuntime, "__init__", picky)
    before = model_of(
        "agraph (float[N,256] x) => (float[N,64] y) { i = Identity(x)\n y = MatMul(i, w) }",
        {"w": normal(256, 64)},
    )
    _, report = run(before, verify=True)
    assert report.passed and len(report.verdicts) == 2
    assert fed == sessions


def test_what_changes_nothing_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = counted(monkeypatch)
    model = model_of("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    _, report = run(model, verify=True)
    assert not runs and not report.verdicts
    assert report.notes == ["not verified: nothing was changed"]


def text_of(model: Model) -> str:
    """Return everything about a graph but the bytes of its constants."""
    return str(onnx.printer.to_text(model.to_onnx()))


def dropping(op: str) -> Rewrite:
    """Return a pass that leaves the first operator ``op`` out, which moves the numbers."""

    def wrong(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        for node in graph.nodes:
            if node.op == op and context.bypass(node):
                result.did(node, "left out")
                break
        return result

    return wrong


@pytest.mark.parametrize("kept", [1 << 17, 0], ids=["together", "one_by_one"])
@pytest.mark.parametrize("place", range(0, len(USUAL) + 1, 3))
def test_a_wrong_pass_among_all_others_alone_is_undone(
    place: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run(network())
    monkeypatch.setattr("onnxgraft.stages.surgery.running.history._MOST_KEPT", kept)
    wrong = Pass("wrong", dropping("Relu"))
    planted(monkeypatch, *PASSES[:place], wrong, *PASSES[place:])
    before = network()
    after, report = run(before, verify=True)
    undone = {entry.name: entry.rolled_back for entry in report.passes if entry.rolled_back}
    assert list(undone) == ["wrong"] and "float noise" in undone["wrong"]
    assert not report_of(report, "wrong").done and report.passed
    assert text_of(after) == text_of(expected)
    assert after.names == expected.names
    assert_same(before, after, ROUNDING)
    removed = sum(entry.removed for entry in report.passes)
    assert removed == sum(report.before.values()) - sum(report.after.values())


def test_a_wrong_pass_that_never_comes_to_an_end_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def endless(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        for node in graph.nodes:
            if node.op == "Mul":
                value = (node.inputs[1].values * 1.01).astype(np.float32)
                node.inputs[1] = context.constant("scaled", value)
                result.did(node, "scaled")
        return result

    good = next(item for item in PASSES if item.name == "remove_identity")
    planted(monkeypatch, Pass("endless", endless), good)
    before = two_steps()
    after, report = run(before, verify=True)
    assert report_of(report, "endless").rolled_back and report.passed
    assert after.operators() == {"Mul": 1, "Relu": 1, "Neg": 1}
    assert_same(before, after)
    with pytest.raises(AssertionError, match="passes still change the graph"):
        run(before, verify=False)


def test_every_wrong_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = run(network())
    wrong = [Pass("no_relu", dropping("Relu")), Pass("no_norm", dropping("BatchNormalization"))]
    planted(monkeypatch, *PASSES[:4], wrong[0], *PASSES[4:12], wrong[1], *PASSES[12:])
    after, report = run(network(), verify=True)
    undone = [entry.name for entry in report.passes if entry.rolled_back]
    assert undone == ["no_relu", "no_norm"]
    assert text_of(after) == text_of(expected) and report.passed


def test_what_fails_after_a_wrong_change_was_undone_does_not_bring_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped: list[bool] = []

    def failing(graph: gs.Graph, context: Context) -> Result:
        dropped.append("Relu" not in [node.op for node in graph.nodes])
        if any(dropped) and not dropped[-1]:
            context.bypass(graph.nodes[0])
            raise KeyError("axis")
        return Result()

    planted(monkeypatch, Pass("no_relu", dropping("Relu")), Pass("failing", failing))
    before = two_steps()
    after, report = run(before, verify=True)
    assert [entry.name for entry in report.passes if entry.rolled_back] == ["no_relu", "failing"]
    assert after.operators() == before.operators()
    assert_same(before, after)


def test_what_was_built_on_a_wrong_change_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(graph: gs.Graph, context: Context) -> Result:
        """Write what ``scaling`` left as a Mul by the half, twice: right, but only after it."""
        result = Result()
        for node in list(graph.nodes):
            if node.op == "Mul" and node.inputs[1].name == "scaled":
                half = context.constant("half", np.sqrt(node.inputs[1].values))
                middle = context.variable("middle", node.inputs[0])
                context.add("Mul", "half", [node.inputs[0], half], [middle])
                node.inputs[0], node.inputs[1] = middle, half
                result.did(node, "halved")
        return result

    planted(monkeypatch, Pass("wrong", scaling(1.01)), Pass("later", double))
    before = two_steps()
    after, report = run(before, verify=True)
    assert report_of(report, "wrong").rolled_back and not report_of(report, "later").rolled_back
    assert not report_of(report, "later").done
    assert after.operators() == before.operators()
    assert_same(before, after)


def test_a_pass_that_is_right_at_first_and_wrong_later_keeps_what_was_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def twice(graph: gs.Graph, context: Context) -> Result:
        identities = dropping("Identity")(graph, context)
        return identities if identities.done else dropping("Relu")(graph, context)

    planted(monkeypatch, Pass("twice", twice))
    before = two_steps()
    after, report = run(before, verify=True)
    (entry,) = report.passes
    assert entry.rolled_back is not None
    assert len(entry.done) == len(entry.steps) == entry.removed == 2
    assert after.operators() == {"Mul": 1, "Relu": 1, "Neg": 1}
    assert_same(before, after)


def test_nobody_is_blamed_for_a_sum_of_float_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def drift(step: int) -> Pass:
        def apply(graph: gs.Graph, context: Context) -> Result:
            result = Result()
            (mul,) = (node for node in graph.nodes if node.op == "Mul")
            if mul.inputs[1].name == ("k" if step == 0 else f"k{step}"):
                value = (mul.inputs[1].values * (1 + 6e-5)).astype(np.float32)
                mul.inputs[1] = context.constant(f"k{step + 1}", value)
                result.did(mul, "moved a little")
            return result

        return Pass(f"drift{step}", apply)

    planted(monkeypatch, *(drift(step) for step in range(5)))
    _, report = run(two_steps(), verify=True)
    assert not [entry.name for entry in report.passes if entry.rolled_back]
    assert all(entry.done for entry in report.passes)
    # Each moved the largest output by 6e-5 of itself; all of them by 3e-4 of it.
    assert not report.passed


def test_classes_that_are_equal_but_for_float_noise_may_change_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An ArgMax over 16,384 pixels, at one of which two classes are equal to within 1e-7."""

    def near(factor: float) -> Model:
        scores = normal(1, 2, 128, 128)
        scores[0, :, 5, 5] = 1
        return model_of(
            """agraph (float[N,1,1,1] x) => (int64[A,B,C,D] y) {
                zero = Mul(x, none)
                m = Mul(scores, k)
                s = Add(m, zero)
                y = ArgMax<axis=1>(s)
            }""",
            {"none": np.zeros((1, 1, 1, 1), np.float32), "scores": scores,
             "k": np.array([1, factor], np.float32).reshape(1, 2, 1, 1)},
        )  # fmt: skip

    def nudge(amount: float) -> Rewrite:
        def apply(graph: gs.Graph, context: Context) -> Result:
            result = Result()
            for node in graph.nodes:
                if node.op == "Mul" and node.inputs[1].name == "k":
                    value = node.inputs[1].values + np.array([0, amount], np.float32).reshape(
                        1, 2, 1, 1
                    )
                    node.inputs[1] = context.constant("nudged", value.astype(np.float32))
                    result.did(node, "nudged")
            return result

        return apply

    planted(monkeypatch, Pass("noise", nudge(1.2e-7)), Pass("none", nudge(0)))
    model = near(1)
    after, report = run(model, verify=True)
    assert report_of(report, "noise").rolled_back is None and report.passed
    feeds = {"x": np.zeros((1, 1, 1, 1), np.float32)}
    assert (infer(model, feeds)["y"] != infer(after, feeds)["y"]).sum() == 1
    planted(monkeypatch, Pass("wrong", nudge(0.01)))
    _, report = run(model, verify=True)
    assert report_of(report, "wrong").rolled_back is not None


def test_weights_beyond_the_limit_are_verified_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxgraft.stages.surgery.running.runner.MOST_BYTES", 8)
    _, report = run(network(), verify=None)
    assert not report.verdicts
    assert "by itself surgery verifies up to" in report.notes[0]
    _, report = run(network(), verify=True)
    assert report.verdicts


def test_a_model_that_runs_for_too_long_is_not_verified_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxgraft.stages.surgery.running.runner.MOST_SECONDS", 0.0)
    after, report = run(network(), verify=None)
    assert not report.verdicts and "Identity" not in after.operators()
    assert any("by itself surgery verifies for up to 0 s" in note for note in report.notes)


def test_when_the_time_is_up_all_that_may_be_wrong_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = Verifier.check

    def slow(self: Verifier, rewritten: Model) -> str | None:
        self.seconds += 100
        return check(self, rewritten)

    monkeypatch.setattr(Verifier, "check", slow)
    passes = [Pass(f"no_{op}", dropping(op)) for op in ("Identity", "Relu", "Neg")]
    planted(monkeypatch, *passes)
    before = two_steps()
    after, report = run(before, verify=None)
    assert report.passed
    assert_same(before, after)
    undone = [entry for entry in report.passes if entry.rolled_back]
    # Which of the first two is wrong was not looked for; the third was the only one left.
    assert [entry.name for entry in undone] == ["no_Identity", "no_Relu", "no_Neg"]
    assert "one of no_Identity, no_Relu is wrong" in str(undone[0].rolled_back)
    assert "more than 60 s" in str(undone[0].rolled_back)


def test_a_graph_that_onnxruntime_can_not_run_is_not_verified_and_says_so() -> None:
    model = custom()
    after, report = run(model, verify=None)
    assert after.operators() == {"acme.Mystery": 1}
    assert not report.verdicts
    assert any(note.startswith("not verified: ") for note in report.notes)


def custom() -> Model:
    """Return a graph with an operator that nobody knows, between two Identities."""
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Identity", ["x"], ["i"]),
                onnx.helper.make_node("Mystery", ["i"], ["m"], domain="acme", strength=3),
                onnx.helper.make_node("Identity", ["m"], ["y"]),
            ],
            "agraph",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("acme", 1)],
    )
    return Model.from_onnx(proto, Source("test.onnx", "onnx", "0" * 64))


def test_an_operator_that_nobody_knows_is_left_alone_and_named() -> None:
    after, report = run(custom())
    (node,) = after.graph.nodes
    assert node.domain == "acme" and node.attrs["strength"] == 3
    assert (
        "the operator Mystery of the domain 'acme' is not known; it is left alone" in report.notes
    )


# Invariants -----------------------------------------------------------------------------------


def test_a_pass_that_renames_an_output_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        graph.outputs[0].name = "other"
        result.did(graph.nodes[0], "renamed")
        return result

    planted(monkeypatch, Pass("wrong", wrong))
    after, report = run(model_of("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    assert "inputs and outputs have changed" in str(report.passes[0].rolled_back)
    assert [spec.name for spec in after.outputs] == ["y"]


def test_only_a_pass_that_says_so_may_remove_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        if len(graph.inputs) > 1:
            graph.inputs.pop()
            result.did(graph.nodes[0], "removed an input")
        return result

    model = model_of("agraph (float[N,4] x, float[N,4] z) => (float[N,4] y) { y = Relu(x) }")
    planted(monkeypatch, Pass("wrong", wrong))
    after, report = run(model)
    assert "inputs and outputs have changed" in str(report.passes[0].rolled_back)
    assert [spec.name for spec in after.inputs] == ["x", "z"]
    planted(monkeypatch, Pass("right", wrong, changes_inputs=True))
    after, _ = run(model)
    assert [spec.name for spec in after.inputs] == ["x"]


def test_two_constants_of_one_name_are_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one of them would be written to the file, and both nodes would read it."""

    def wrong(graph: gs.Graph, context: Context) -> Result:
        result = Result()
        add = graph.nodes[-1]
        if add.inputs[1].name == "l":
            add.inputs[1] = gs.Constant("k", np.full(4, 9, np.float32))
            result.did(add, "given a constant of a name that is taken")
        return result

    model = model_of(
        "agraph (float[N,4] x) => (float[N,4] y) { a = Mul(x, k)\n y = Add(a, l) }",
        {"k": normal(4), "l": normal(4, seed=1)},
    )
    planted(monkeypatch, Pass("wrong", wrong))
    after, report = run(model)
    assert "names are unique" in str(report.passes[0].rolled_back)
    assert_same(model, after)


def test_a_cycle_is_an_error_that_names_a_node_in_it() -> None:
    model = model_of(
        "agraph (float[N,4] x) => (float[N,4] y) { a = Relu(x)\n b = Add(a, x)\n y = Neg(b) }"
    )
    model.graph.nodes[0].inputs[0] = model.graph.nodes[1].outputs[0]
    with pytest.raises(ModelError, match=r"test.onnx: the graph has a cycle through the Relu"):
        run(model)


@pytest.mark.parametrize("fault", ["twice", "never"])
def test_a_graph_that_is_not_legal_to_begin_with_is_an_error(fault: str) -> None:
    model = model_of(
        "agraph (float[N,4] x) => (float[N,4] y) { a = Relu(x)\n b = Neg(x)\n y = Add(a, b) }"
    )
    if fault == "twice":
        model.graph.nodes[1].outputs[0].name = "a"
    else:
        model.graph.nodes[0].inputs[0] = gs.Variable("nobody", np.float32)
    with pytest.raises(ModelError, match=r"test.onnx: the graph is not legal"):
        run(model)
