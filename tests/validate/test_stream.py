"""Validation of engines against the original, with engines small enough to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.data.classes import Classes
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array, Feeds, Outputs, TensorSpec
from onnxgraft.run.engine import Engine, Resource
from onnxgraft.run.tolerances import least_sqnr
from onnxgraft.stages.validate import Candidate, Metric, make_metric, measure, rows
from onnxgraft.stages.validate.metrics.segmentation import Segmentation
from onnxgraft.stages.validate.report import CandidateRow

Compute = Callable[[Array], Outputs]

VECTOR = TensorSpec("x", "float32", ("N", 4))
SCORE = TensorSpec("score", "float32", ("N", 3))
NHWC = TensorSpec("image", "float32", ("N", 4, 6, 3))
NCHW = TensorSpec("image", "float32", ("N", 3, 4, 6))
MAP_NHWC = TensorSpec("map", "float32", ("N", 4, 6, 3))
MAP_NCHW = TensorSpec("map", "float32", ("N", 3, 4, 6))
WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Fake(Resource):
    """An engine that calls a function, and refuses feeds that are not its input."""

    def __init__(
        self, name: str, compute: Compute, given: TensorSpec = VECTOR, made: TensorSpec = SCORE
    ) -> None:
        self.name = name
        self.inputs: tuple[TensorSpec, ...] = (given,)
        self.outputs: tuple[TensorSpec, ...] = (made,)
        self.compute = compute
        self.calls = 0

    def infer(self, feeds: Feeds) -> Outputs:
        """Compute from the one input."""
        (spec,) = self.inputs
        assert set(feeds) == {spec.name}
        assert spec.accepts(feeds[spec.name].shape)
        self.calls += 1
        return self.compute(feeds[spec.name])


def dense(x: Array) -> Outputs:
    return {"score": x @ WEIGHTS}


def original() -> Fake:
    return Fake("tensorflow", dense)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Return six samples whose labels are what the original answers, but for one."""
    x = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    labels = (x @ WEIGHTS).argmax(1)
    labels[5] = (labels[5] + 1) % 3
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    return open_samples(tmp_path / "data.npz", [VECTOR])


@pytest.fixture
def images(tmp_path: Path) -> Samples:
    """Return three labelled images."""
    rng = np.random.default_rng(2)
    np.savez(
        tmp_path / "images.npz",
        image=rng.standard_normal((3, 4, 6, 3)).astype(np.float32),
        labels=rng.integers(0, 3, (3, 4, 6)).astype(np.uint8),
    )
    return open_samples(tmp_path / "images.npz", [NHWC])


def validate(
    reference: Engine,
    candidates: Sequence[Candidate],
    samples: Samples,
    metric: Callable[[], Metric] | None = None,
    output: str | None = None,
) -> list[CandidateRow]:
    """Return the rows of a report, the original's first."""
    tally = measure(reference, [c.engine for c in candidates], samples, metric, output)
    return rows(reference, candidates, tally)


def candidate_row(samples: Samples, candidate: Candidate, metric: bool = False) -> CandidateRow:
    """Return the row of one candidate against the dense original."""
    make = (lambda: make_metric("top1")) if metric else None
    _, row = validate(original(), [candidate], samples, make)
    return row


def scaled(factor: float) -> Compute:
    """Return the dense layer with its scores multiplied."""
    return lambda x: {"score": x @ WEIGHTS * np.float32(factor)}


def test_an_identical_engine_passes_without_a_difference(samples: Samples) -> None:
    row = candidate_row(samples, Candidate(Fake("twin", dense), 1e-4))
    assert row.passed
    assert row.verdict == "0.0e+00 of the range, at most 1e-04 allowed"
    (output,) = row.outputs
    assert (output.output, output.max_abs, output.mean_abs, output.nonfinite) == (
        "score", 0.0, 0.0, 0,
    )  # fmt: skip
    assert output.agreement == 1.0
    assert output.sqnr == math.inf


def test_the_original_has_the_first_row_and_no_outputs(samples: Samples) -> None:
    found = validate(original(), [Candidate(Fake("twin", dense), 1e-4)], samples)
    assert [row.name for row in found] == ["tensorflow", "twin"]
    assert (found[0].outputs, found[0].passed, found[0].verdict) == ([], True, "the original")


def test_every_engine_sees_every_sample_once(samples: Samples) -> None:
    reference, first, second = original(), Fake("a", dense), Fake("b", dense)
    validate(reference, [Candidate(first, 1e-4), Candidate(second, 1e-4)], samples)
    assert (reference.calls, first.calls, second.calls) == (6, 6, 6)


def test_a_perturbed_engine_fails_with_what_it_was_held_against(samples: Samples) -> None:
    row = candidate_row(samples, Candidate(Fake("off", scaled(1.01)), 1e-4))
    scores = np.concatenate([dense(s.feeds["x"])["score"] for s in samples])
    worst = 0.01 * np.abs(scores).max() / np.ptp(scores)
    assert not row.passed
    assert row.verdict == f"{worst:.1e} of the range, at most 1e-04 allowed"
    # 1.01 in float32 is off by 1e-7 of a difference of 1e-2.
    assert row.outputs[0].relative == pytest.approx(worst, rel=1e-4)


def test_the_range_is_that_of_all_samples(samples: Samples) -> None:
    # A sample of its own would have a smaller range, and the same difference fail.
    scores = np.concatenate([dense(s.feeds["x"])["score"] for s in samples])
    step = 0.05 * np.ptp(scores)
    assert step > 0.05 * min(np.ptp(row) for row in scores) * 1.5

    def shifted(x: Array) -> Outputs:
        return {"score": x @ WEIGHTS + np.float32(step)}

    assert candidate_row(samples, Candidate(Fake("off", shifted), 0.051)).passed
    assert not candidate_row(samples, Candidate(Fake("off", shifted), 0.049)).passed


@pytest.mark.parametrize("metric", [False, True], ids=["by_cosine", "by_metric"])
@pytest.mark.parametrize("tolerance", [1e9, None], ids=["float", "int8"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_value_that_is_not_finite_fails_whatever_is_allowed(
    samples: Samples, bad: float, tolerance: float | None, metric: bool
) -> None:
    def broken(x: Array) -> Outputs:
        score = x @ WEIGHTS
        score[0, score[0].argmin()] = bad
        return {"score": score}

    row = candidate_row(samples, Candidate(Fake("nan", broken), tolerance, drop=100.0), metric)
    assert not row.passed
    first = "; the first are in the candidate's score, of "
    assert row.verdict.startswith(f"6 values are NaN or infinite{first}")
    assert row.verdict.endswith("data.npz[0]")
    assert row.outputs[0].nonfinite == 6


def test_a_missing_output_is_named(samples: Samples) -> None:
    def other(x: Array) -> Outputs:
        return {"score": x @ WEIGHTS, "more": x}

    reference = Fake("tensorflow", other)
    with pytest.raises(InputError, match="no output 'more'; it has score"):
        validate(reference, [Candidate(Fake("less", dense), 1e-4)], samples)


def test_an_output_of_another_shape_is_named(samples: Samples) -> None:
    less = Fake("less", lambda x: {"score": x @ WEIGHTS[:, :2]})
    with pytest.raises(InputError, match=r"'score' is \(1, 3\) in the original and \(1, 2\)"):
        validate(original(), [Candidate(less, 1e-4)], samples)


def test_the_only_output_may_have_another_name(samples: Samples) -> None:
    other = Fake("renamed", lambda x: {"Identity:0": x @ WEIGHTS})
    assert candidate_row(samples, Candidate(other, 1e-4)).passed


def test_tensorflows_output_numbers_make_no_other_name(samples: Samples) -> None:
    def numbered(x: Array) -> Outputs:
        return {"other:0": x, "score:0": x @ WEIGHTS}

    _, row = validate(original(), [Candidate(Fake("tf", numbered), 1e-6)], samples)
    assert row.passed
    assert [output.output for output in row.outputs] == ["score"]


def test_the_only_input_may_have_another_name(samples: Samples) -> None:
    renamed = TensorSpec("x:0", "float32", ("N", 4))
    assert candidate_row(samples, Candidate(Fake("renamed", dense, renamed), 1e-4)).passed


# INT8: measured by what the answers are used for.


def wrong_about(count: int) -> Compute:
    """Return the dense layer with the answers of the first samples turned around."""
    left = [count]

    def compute(x: Array) -> Outputs:
        score = x @ WEIGHTS
        left[0] -= 1
        return {"score": -score if left[0] >= 0 else score}

    return compute


def test_a_metric_that_holds_passes_an_engine_of_lower_precision(samples: Samples) -> None:
    row = candidate_row(samples, Candidate(Fake("int8", scaled(1.5)), None), metric=True)
    assert row.passed
    assert row.metrics == {"top1": pytest.approx(100 * 5 / 6)}
    assert row.verdict == "top1 +0.00 points, -1.00 allowed"


@pytest.mark.parametrize(("drop", "passed"), [(17.0, True), (16.0, False)])
def test_a_metric_may_drop_by_what_is_allowed(samples: Samples, drop: float, passed: bool) -> None:
    engine = Fake("int8", wrong_about(1))  # one of six: 16.67 points
    row = candidate_row(samples, Candidate(engine, None, drop=drop), metric=True)
    assert row.passed is passed
    assert row.verdict == f"top1 -16.67 points, -{drop:.2f} allowed"
    assert row.outputs[0].agreement == pytest.approx(5 / 6)


def test_a_metric_that_rises_passes(samples: Samples) -> None:
    labels = {sample.feeds["x"].tobytes(): int(sample.label or 0) for sample in samples}

    def knowing(x: Array) -> Outputs:
        return {"score": np.eye(3, dtype=np.float32)[[labels[x.tobytes()]]]}

    row = candidate_row(samples, Candidate(Fake("int8", knowing), None, drop=0.0), metric=True)
    assert row.passed
    assert row.verdict.startswith("top1 +16.67 points, ")


def test_a_metric_does_not_excuse_an_engine_of_full_precision(samples: Samples) -> None:
    row = candidate_row(samples, Candidate(Fake("fp32", scaled(1.5)), 1e-4), metric=True)
    assert not row.passed
    assert row.metrics == {"top1": pytest.approx(100 * 5 / 6)}


@pytest.mark.parametrize(
    ("factor", "depth", "passed"),
    # An error of 1 % of each value is one of 40 dB, one of 10 % of 20 dB.
    [(1.02, 1, True), (1.03, 1, False), (1.05, 10, False), (1.04, 10, True), (1.1, 100, True)],
)
def test_without_a_metric_the_signal_that_8_bits_leave_counts(
    samples: Samples, factor: float, depth: int, passed: bool
) -> None:
    candidate = Candidate(Fake("int8", scaled(factor)), None, depths={"score": depth})
    row = candidate_row(samples, candidate)
    assert row.passed is passed
    kept, least = -20 * math.log10(factor - 1), least_sqnr(depth)
    why = "one rounding to 8 bits" if depth == 1 else f"{depth} roundings to 8 bits, one after the"
    assert row.verdict.startswith(
        f"score keeps {kept:.1f} dB of the signal, at least {least:.1f} wanted ({why}"
    )


def test_where_the_graph_is_not_known_the_least_is_asked_for(samples: Samples) -> None:
    for factor, passed in ((1.1, True), (1.3, False)):
        row = candidate_row(samples, Candidate(Fake("int8", scaled(factor)), None))
        assert row.passed is passed
        assert "at least 15.0 wanted (its graph is not known; name it with --graph)" in row.verdict


def test_the_worst_output_decides(samples: Samples) -> None:
    def two(x: Array) -> Outputs:
        return {"score": x @ WEIGHTS, "copy": x}

    def one_off(x: Array) -> Outputs:
        return {"score": x @ WEIGHTS, "copy": -x}

    for tolerance in (1e-4, None):
        _, row = validate(
            Fake("original", two), [Candidate(Fake("off", one_off), tolerance)], samples
        )
        assert not row.passed


def test_one_failing_candidate_does_not_fail_another(samples: Samples) -> None:
    candidates = [Candidate(Fake("off", scaled(2.0)), 1e-4), Candidate(Fake("twin", dense), 1e-4)]
    found = validate(original(), candidates, samples)
    assert [row.passed for row in found] == [True, False, True]


# Layouts.


def transposed(compute: Compute) -> Compute:
    """Return a function of channels-first images from one of channels-last images."""

    def turned(x: Array) -> Outputs:
        made = compute(x.transpose(0, 2, 3, 1))
        return {name: value.transpose(0, 3, 1, 2) for name, value in made.items()}

    return turned


def mapped(x: Array) -> Outputs:
    return {"map": np.cumsum(x, axis=1) + x[..., ::-1]}


@pytest.mark.parametrize("metric", [False, True], ids=["outputs", "miou"])
@pytest.mark.parametrize("original_first", [False, True], ids=["nhwc_original", "nchw_original"])
def test_layouts_are_adapted_to_each_engine(
    images: Samples, original_first: bool, metric: bool
) -> None:
    classes = Classes(("a", "b", "c"), {"all": ("a", "b", "c")})
    last = Fake("nhwc", mapped, NHWC, MAP_NHWC)
    first = Fake("nchw", transposed(mapped), NCHW, MAP_NCHW)
    reference, other = (first, last) if original_first else (last, first)
    make = (lambda: Segmentation(classes)) if metric else None
    found = validate(reference, [Candidate(other, 1e-6)], images, make)
    assert found[1].passed
    assert found[1].outputs[0].max_abs == 0.0
    assert found[1].outputs[0].agreement == 1.0
    assert found[0].metrics == found[1].metrics
    assert bool(found[0].metrics) is metric


@pytest.mark.parametrize("original_first", [False, True], ids=["nhwc_original", "nchw_original"])
def test_the_agreement_is_over_the_classes_in_either_layout(
    images: Samples, original_first: bool
) -> None:
    def off(x: Array) -> Outputs:
        value = mapped(x)["map"].copy()
        value[:, :2] = value[:, :2, :, ::-1]  # half of the pixels answer the mirrored class
        return {"map": value}

    if original_first:
        reference = Fake("nchw", transposed(mapped), NCHW, MAP_NCHW)
        other = Fake("off", transposed(off), NCHW, MAP_NCHW)
    else:
        reference = Fake("nhwc", mapped, NHWC, MAP_NHWC)
        other = Fake("off", off, NHWC, MAP_NHWC)
    same = []
    for sample in images:
        image = sample.feeds["image"]
        same.append(mapped(image)["map"].argmax(-1) == off(image)["map"].argmax(-1))
    expected = float(np.mean(same))
    assert 0.4 < expected < 1.0
    _, row = validate(reference, [Candidate(other, 1.0)], images)
    assert row.outputs[0].agreement == pytest.approx(expected)


# Boxes.

BOXES = TensorSpec("boxes", "float32", (1, 1, "count", 7))


def finder(count: int) -> Compute:
    """Return what finds so many boxes, of which the first is the one that is labelled."""
    rows = np.array([[0, 1, 0.9 - 0.1 * i, 10 * i, 0, 10 * i + 5, 5] for i in range(count)])
    return lambda x: {"boxes": rows.astype(np.float32).reshape(1, 1, count, 7)}


@pytest.fixture
def boxed(tmp_path: Path) -> Samples:
    """Return two samples with a labelled box each."""
    labels = np.tile(np.array([1, 0, 0, 5, 5], np.float32), (2, 1, 1))
    np.savez(tmp_path / "boxes.npz", x=np.ones((2, 4), np.float32), labels=labels)
    return open_samples(tmp_path / "boxes.npz", [VECTOR])


@pytest.mark.parametrize("tolerance", [1e-4, None], ids=["float", "int8"])
def test_another_number_of_boxes_is_decided_by_their_metric(
    boxed: Samples, tolerance: float | None
) -> None:
    reference = Fake("original", finder(3), made=BOXES)
    candidate = Candidate(Fake("engine", finder(2), made=BOXES), tolerance)
    first, row = validate(reference, [candidate], boxed, lambda: make_metric("map"))
    assert (first.metrics["mAP50"], row.metrics["mAP50"]) == (100.0, 100.0)
    assert row.passed
    assert row.outputs == []
    assert row.verdict.startswith("mAP50 +0.00 points, -1.00 allowed; boxes has another number of ")
    assert "on 2 samples" in row.verdict
    blind = Candidate(Fake("blind", finder(0), made=BOXES), tolerance)
    _, row = validate(reference, [blind], boxed, lambda: make_metric("map"))
    assert not row.passed
    assert row.metrics["mAP50"] == 0.0


def test_another_number_of_boxes_without_a_metric_names_it(boxed: Samples) -> None:
    candidate = Candidate(Fake("engine", finder(2), made=BOXES), None)
    with pytest.raises(InputError, match="one found more boxes, which --metric map is for"):
        validate(Fake("original", finder(3), made=BOXES), [candidate], boxed)


def test_one_score_is_of_no_class(samples: Samples) -> None:
    def one(x: Array) -> Outputs:
        return {"score": x[:, :1]}

    _, row = validate(Fake("one", one), [Candidate(Fake("two", one), 1e-4)], samples)
    assert row.outputs[0].agreement is None


# Wrong questions.


def test_a_metric_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((2, 4), np.float32))
    samples = open_samples(tmp_path / "data.npz", [VECTOR])
    with pytest.raises(InputError, match=r"data\.npz: the metric needs labels"):
        validate(original(), [], samples, lambda: make_metric("top1"))


def test_an_unknown_output_names_the_nearest(samples: Samples) -> None:
    with pytest.raises(InputError, match=r"no output is called 'scores'; did you mean score\?"):
        validate(original(), [], samples, output="scores")


def test_the_metric_looks_at_the_output_that_was_named(samples: Samples) -> None:
    def two(x: Array) -> Outputs:
        return {"other": x[:, :3] * 0, "score": x @ WEIGHTS}

    reference = Fake("original", two)
    reference.outputs = (TensorSpec("other", "float32", ("N", 3)), SCORE)
    (row,) = validate(reference, [], samples, lambda: make_metric("top1"), "score")
    assert row.metrics == {"top1": pytest.approx(100 * 5 / 6)}
