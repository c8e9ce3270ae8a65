"""Destroyed networks do not pass, whatever metric they are given; a healthy one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.data.functions import Function
from onnxgraft.data.samples import Samples, open_samples
from onnxgraft.graph.tensors import Array, Outputs, TensorSpec
from onnxgraft.stages.validate import Candidate, Metric, make_metric, measure, rows
from onnxgraft.stages.validate.metrics.own import Own
from onnxgraft.stages.validate.report import CandidateRow
from tests.conftest import few
from tests.validate.test_stream import Fake

INPUT = TensorSpec("x", "float32", ("N", 16))
SCORES = TensorSpec("prob", "float32", ("N", 10))
COUNT = 80
WEIGHTS = 3 * np.random.default_rng(0).standard_normal((16, 10)).astype(np.float32)
DATA = np.random.default_rng(1).standard_normal((COUNT, 16)).astype(np.float32)


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), np.float32)


RIGHT = softmax(DATA @ WEIGHTS)


def answer(x: Array) -> Array:
    return softmax(x @ WEIGHTS)


def place(x: Array) -> int:
    return int(np.abs(DATA - x).sum(1).argmin())


def in_8_bits(x: Array) -> Array:
    """Return the answer with data and weights rounded to 8 bits."""

    def rounded(value: Array) -> Array:
        step = np.abs(value).max() / 127
        return np.asarray(np.rint(value / step) * step, np.float32)

    return softmax(rounded(x) @ rounded(WEIGHTS))


def noise(x: Array) -> Array:
    return softmax(3 * np.random.default_rng(place(x)).standard_normal((1, 10)))


DESTROYED: dict[str, Callable[[Array], Array]] = {
    "zeros": lambda x: np.zeros((1, 10), np.float32),
    "noise": noise,
    "shuffled": lambda x: answer(x)[:, np.random.default_rng(5).permutation(10)],
    "negated": lambda x: -answer(x),
    "reversed": lambda x: 1 - answer(x),
    "constant": lambda x: np.full((1, 10), 0.1, np.float32),
    "mean": lambda x: RIGHT.mean(0, keepdims=True),
    "first": lambda x: RIGHT[:1],
    "late": lambda x: RIGHT[[place(x) - 1]],
}


def accuracy(output: Array, label: Array) -> float:
    return float(output.argmax() == label)


def error_rate(output: Array, label: Array) -> float:
    return 100.0 * float(output.argmax() != label)


def declared_accuracy(output: Array, label: Array) -> float:
    return accuracy(output, label)


def declared_error(output: Array, label: Array) -> float:
    return error_rate(output, label)


def blind(output: Array, label: Array) -> float:
    return 1.0


declarations: list[tuple[Any, float, str]] = [
    (declared_accuracy, 1, "up"), (declared_error, 100, "down"), (blind, 1, "up"),
]  # fmt: skip
for function, scale, direction in declarations:
    function.scale, function.direction = scale, direction

METRICS: dict[str, Callable[[], Metric] | None] = {
    "no_metric": None,
    "top1": lambda: make_metric("top1"),
    "auc": lambda: make_metric("auc"),
    **{
        function.__name__: lambda function=function: Own(Function.of(function))  # type: ignore[misc]
        for function in (accuracy, error_rate, declared_accuracy, declared_error, blind)
    },
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Return samples of which the original knows all but one."""
    labels = RIGHT.argmax(1)
    labels[-1] = (labels[-1] + 1) % 10
    file = tmp_path_factory.mktemp("destroyed") / "data.npz"
    np.savez(file, x=DATA, labels=labels)
    return open_samples(file, [INPUT])


def judged(
    samples: Samples,
    compute: Callable[[Array], Array],
    metric: Callable[[], Metric] | None,
    **options: Any,
) -> CandidateRow:
    def engine(name: str, made: Callable[[Array], Array]) -> Fake:
        def outputs(x: Array) -> Outputs:
            return {"prob": made(x)}

        return Fake(name, outputs, INPUT, SCORES)

    original, candidate = engine("original", answer), engine("int8", compute)
    tally = measure(original, [candidate], samples, metric)
    return rows(original, [Candidate(candidate, None, **options)], tally)[1]


@pytest.mark.parametrize("metric", METRICS)
def test_a_healthy_network_passes_without_a_warning(samples: Samples, metric: str) -> None:
    row = judged(samples, in_8_bits, METRICS[metric], depths={"prob": 2})
    assert row.passed, row.verdict
    assert row.warnings == []
    assert row.agreement is not None and row.agreement > 0.95
    assert row.measure == "same class"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("destroyed", DESTROYED)
@pytest.mark.parametrize("known", few([True, False], 1), ids=["graph_known", "graph_unknown"])
def test_a_destroyed_network_fails(
    samples: Samples, destroyed: str, metric: str, known: bool
) -> None:
    row = judged(
        samples, DESTROYED[destroyed], METRICS[metric], depths={"prob": 2} if known else None
    )
    assert not row.passed, row.verdict


@pytest.mark.parametrize("destroyed", DESTROYED)
def test_a_drop_without_bounds_lets_none_pass(samples: Samples, destroyed: str) -> None:
    row = judged(samples, DESTROYED[destroyed], METRICS["top1"], drop=1000.0)
    assert not row.passed
    assert "prob is not what the original computes" in row.verdict


def test_a_pass_at_low_agreement_is_a_warning(samples: Samples) -> None:
    def often(x: Array) -> Array:
        found = answer(x).copy()
        if place(x) % 5 == 1:  # the best two change places
            best = found[0].argsort()[::-1][:2]
            found[0, best] = found[0, best[::-1]]
        return found

    row = judged(samples, often, METRICS["top1"], drop=50.0, depths={"prob": 2})
    assert row.passed
    assert row.agreement == pytest.approx(0.8)
    assert any("more is lost than 8 bits explain" in text for text in row.warnings)
    assert any("the same class in 80.0 % of the places" in text for text in row.warnings)


def test_a_metric_of_0_to_1_is_not_taken_for_points(samples: Samples) -> None:
    def half(x: Array) -> Array:
        return answer(x) if place(x) % 25 else answer(-x)

    row = judged(samples, half, METRICS["accuracy"])
    assert not row.passed
    assert row.verdict.startswith("accuracy 0.9875 -> 0.9375, it may move by 0.00988, 1 % of")
    assert 'accuracy.direction = "up" or "down", accuracy.scale = its largest value' in row.verdict
    told = judged(samples, half, METRICS["declared_accuracy"])
    assert told.verdict == "declared_accuracy 0.9875 -> 0.9375, it may fall by 0.01"
    assert judged(samples, half, METRICS["declared_accuracy"], drop=0.06).passed


def test_less_of_an_error_is_a_gain_where_that_is_declared(samples: Samples) -> None:
    def knowing(x: Array) -> Array:
        found = answer(x).copy()
        if place(x) == COUNT - 1:
            found = np.roll(found, 1, -1)
        return found

    assert judged(samples, knowing, METRICS["declared_error"], drop=0.0).passed
    assert not judged(samples, knowing, METRICS["error_rate"], drop=0.5).passed


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("scale", 0, "its scale is 0"), ("scale", "1", "its scale is '1'"),
     ("direction", "higher", 'write "up" or "down"')],
)  # fmt: skip
def test_a_declaration_that_is_none_is_refused(key: str, value: object, said: str) -> None:
    from onnxgraft.errors import InputError

    def mine(output: Array, label: Array) -> float:
        return 1.0

    setattr(mine, key, value)
    with pytest.raises(InputError, match=said):
        Own(Function.of(mine))


def test_the_cases_of_a_command_line(tmp_path: Path, cli: Any) -> None:
    """A classifier and destroyed copies of it as files, with functions of the user's own."""
    import onnx

    from onnxgraft.stages.quantize import calibrate, quantize
    from tests.conftest import model_of

    text = "net (float[N, 16] x) => (float[N, 10] y) { s = MatMul(x, w)  y = Softmax(s) }"
    model = model_of(text, {"w": WEIGHTS})
    model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=DATA, labels=RIGHT.argmax(1))
    ranges = calibrate(model, open_samples(tmp_path / "data.npz", model.inputs), "minmax")
    graph, _ = quantize(model, ranges, "openvino")
    graph.save(tmp_path / "int8.onnx")
    (tmp_path / "mine.py").write_text(
        "def acc(output, label): return float(output.argmax() == label)\n"
        "def error(output, label): return 100.0 * float(output.argmax() != label)\n"
        "error.scale, error.direction = 100, 'down'\n"
    )
    proto = onnx.load(tmp_path / "int8.onnx")
    (weights,) = (entry for entry in proto.graph.initializer if list(entry.dims) == [16, 10])
    nothing = np.zeros((16, 10), np.int8)
    weights.CopyFrom(onnx.numpy_helper.from_array(nothing, weights.name))
    onnx.save(proto, tmp_path / "zeros.onnx")
    for metric in ([], ["--metric", "top1"], *(
        ["--metric", f"{tmp_path}/mine.py:{name}"] for name in ("acc", "error")
    )):  # fmt: skip
        for name, code in (("int8", 0), ("zeros", 1)):
            done = cli(
                "validate", tmp_path / "net.onnx", tmp_path / f"{name}.onnx",
                "--data", tmp_path / "data.npz", *metric,
            )  # fmt: skip
            assert done.returncode == code, (metric, name, done.stdout, done.stderr)
