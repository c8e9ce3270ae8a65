"""What a network takes by the sizes of its tensors is known before it runs."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from onnxgraft.errors import ModelError
from onnxgraft.run import demand
from onnxgraft.run.demand import Step, check_model, peak
from tests.conftest import model_of

HUGE = 3 << 28  # of float32: 3 GB
CONSTANTS = {
    "n": np.array([HUGE]), "one": np.ones(1, np.float32), "r": np.array([1, HUGE // 4]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check as the command line does, with the limit that nobody asked for."""
    monkeypatch.setenv(demand._ALLOWED, "0")
    yield


def test_a_tensor_counts_from_where_it_is_made_to_where_it_is_read_last() -> None:
    steps = [
        Step(["x"], {"a": 10}), Step(["a"], {"b": 20}), Step(["b"], {"c": 30}),
        Step(["c", "x"], {"y": 1}),
    ]  # fmt: skip
    assert peak(steps, {"x": 5}, {"y"}) == (5 + 20 + 30, "c")
    assert peak(steps, {"x": 5}, {"a", "y"}) == (5 + 10 + 20 + 30, "c")


def test_what_nothing_reads_and_what_a_body_takes_count_while_they_are_made() -> None:
    steps = [Step([], {"unread": 50}), Step(["x"], {"y": 1}, within=40)]
    assert peak(steps, {"x": 5}, {"y"}) == (55, "unread")
    assert peak(steps[1:], {"x": 5}, {"y"}) == (46, "y")


def test_what_a_library_reads_can_take_what_its_file_may_become_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with demand.bounded(100 << 20):
        np.empty(1 << 30, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(4 << 30, np.uint8)
    with demand.bounded(1 << 30):
        np.empty(4 << 30, np.uint8)
    monkeypatch.delenv(demand._ALLOWED)  # as Python calls it
    with demand.bounded(0):
        np.empty(4 << 30, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


GROWING = {
    "ConstantOfShape": "big = ConstantOfShape (n)",
    "Expand": "big = Expand (one, n)",
    "Tile": "big = Tile (one, n)",
    "Range": "zero = Constant <value_float = 0.0> ()\n step = Constant <value_float = 1.0> ()\n"
    " end = Constant <value_float = 805306368.0> ()\n big = Range (zero, end, step)",
    "of its input": "big = Tile (x, r)",
}


@pytest.mark.parametrize("operator", GROWING)
def test_an_operator_that_makes_gigabytes_of_a_few_bytes_is_told_before_it_runs(
    operator: str,
) -> None:
    model = model_of(
        f"net (float[N, 4] x) => (float[N, 4] y) {{ {GROWING[operator]}\n"
        " m = ReduceMax <keepdims = 0> (big)\n y = Add (x, m) }",
        CONSTANTS,
    )
    with pytest.raises(ModelError, match=r"takes 3 GB or more, .* for 'big', and 2 GB is what"):
        check_model(model)


def test_an_input_that_is_declared_so_large_is_told() -> None:
    size = "float[40000, 20000]"
    with pytest.raises(ModelError, match="--max-memory"):
        check_model(model_of(f"net ({size} x) => ({size} y) {{ y = Relu (x) }}"))


def test_what_bodies_and_functions_make_counts() -> None:
    text = (
        "net (bool c, float[2] x) => (float[2] y) { y = If (c) <then_branch = a () => (float[2] p)"
        " { big = Tile (one, n)\n m = ReduceMax <keepdims = 0> (big)\n p = Add (x, m) },"
        " else_branch = b () => (float[2] q) { q = Relu (x) }> }"
    )
    with pytest.raises(ModelError, match=r"3 GB or more, .* for 'y'"):
        check_model(model_of(text, CONSTANTS))
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        net (float[2] x) => (float[2] y) {{ y = own.F (x) }}
        <opset_import: ["" : 17], domain: "own">
        F (x) => (y) {{ n = Constant <value_ints = [{HUGE}]> ()
            big = ConstantOfShape (n)
            m = ReduceMax <keepdims = 0> (big)
            y = Add (x, m) }}"""
    )
    from onnxgraft.graph.model import Model, Source

    with pytest.raises(ModelError, match="3 GB or more"):
        check_model(Model.from_onnx(proto, Source("x", "onnx", "")))


def test_a_network_that_is_asked_for_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("net (float[40000, 20000] x) => (float[40000, 20000] y) { y = Relu (x) }")
    demand.allow(8 << 30)
    check_model(model)
    demand.allow(4 << 30)
    with pytest.raises(ModelError, match="4 GB is what --max-memory allows"):
        check_model(model)
    monkeypatch.delenv(demand._ALLOWED)
    check_model(model)  # in Python nobody set a limit


def test_weights_that_are_stored_do_not_count_where_they_become_floats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(demand._ALLOWED, "5000")
    text = "net (float[N, 40] x) => (float[N, 40] y) {{ w = {} (k, s)\n y = MatMul (x, w) }}"
    weights = np.ones((40, 40), np.int8)
    dequantized = {"k": weights, "s": np.float32(1)}
    check_model(model_of(text.format("DequantizeLinear"), dequantized))
    with pytest.raises(ModelError, match="--max-memory"):
        tiled = {"k": np.ones((1, 1), np.float32), "s": np.array([40, 40])}
        check_model(model_of(text.format("Tile"), tiled))


def test_a_size_that_is_free_counts_as_one_sample() -> None:
    check_model(model_of("net (float[N, 1000, 1000] x) => (float[N, 1000, 1000] y) {y = Relu(x)}"))


FOLLOWING = {
    "ConstantOfShape": "big = ConstantOfShape (k)",
    "Tile": "big = Tile (one, k)",
    "Resize": "big = Resize (x, , s)",
    "in a body": """big = If (c) <then_branch = a () => (float[K] p) { p = ConstantOfShape (k) },
        else_branch = b () => (float[M] q) { q = Identity (one) }>""",
    "carried by a Loop": """big = Loop (t, , one) <body = a (int64 i, bool on, float[K] v) =>
        (bool on2, float[L] w) { on2 = Identity (on)  w = Concat <axis = 0> (v, v) }>""",
}


def told(text: str) -> list[str]:
    """Return the tensors that those who watch the memory are told of."""
    model = model_of(
        "net (float[N, 4] x, int64[1] k, int64 t, bool c, float[2] s) => (float[N, 4] y) {"
        f" {text}\n m = ReduceMax <keepdims = 0> (big)\n y = Add (x, m) }}",
        {"one": np.ones(1, np.float32), "two": np.array([2, 2], np.float32)},
    )
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demand, "watchers", [lambda name, _: found.append(name)])
        check_model(model)
    return found


@pytest.mark.parametrize("case", FOLLOWING)
def test_a_size_that_follows_from_what_is_fed_is_told_to_who_watches(case: str) -> None:
    assert told(FOLLOWING[case]) == ["p" if case == "in a body" else "big"]


@pytest.mark.parametrize(
    "text",
    [
        "n = Shape (x)  big = ConstantOfShape (n)",
        "big = Resize (x, , two)",
        """big = Loop (t, , one) <body = a (int64 i, bool on, float[1] v) =>
            (bool on2, float[1] w) { on2 = Identity (on)  w = Add (v, v) }>""",
        "found = NonZero (x)  big = Cast <to = 1> (found)",
    ],
    ids=["of_its_shape", "by_constants", "steady", "as_many_as_there_are"],
)
def test_a_size_that_follows_from_shapes_is_not(text: str) -> None:
    assert told(text) == []
