"""One suite for every engine that runs here: same outputs, same errors."""

from pathlib import Path

import numpy as np
import pytest

from onnxgraft import engine
from onnxgraft.errors import InputError, ModelError
from onnxgraft.model import Model
from tests.conftest import model_of, outputs_of

RUNNING = ["openvino", "onnxruntime"]


@pytest.fixture(params=RUNNING)
def target(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return str(request.param)


@pytest.fixture
def model() -> Model:
    rng = np.random.default_rng(0)
    return model_of(
        "net (float[N, 3, 16, 16] x, float[N, 5] side) => (float[N, 5] y, float[N, 8, 8, 8] z) {"
        " c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)"
        " z = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)"
        " f = Flatten(z)  g = Gemm(f, v)  y = Add(g, side) }",
        {
            "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
            "b": rng.normal(size=8).astype(np.float32),
            "v": rng.normal(size=(512, 5)).astype(np.float32) / 16,
        },
    )


def feeds(batch: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((batch, 3, 16, 16)).astype(np.float32),
        "side": rng.standard_normal((batch, 5)).astype(np.float32),
    }


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_outputs_are_those_of_the_graph_at_any_batch(
    target: str, model: Model, tmp_path: Path, batch: int
) -> None:
    engine.build(model, tmp_path / "e", target)
    with engine.load(tmp_path / "e") as built:
        found = built.infer(feeds(batch))
    expected = outputs_of(model, batch)
    assert list(found) == ["y", "z"]
    for name, value in expected.items():
        # float32 sums of 27 and 512 terms in another order.
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.ptp(value))


def test_outputs_of_two_runs_do_not_share_memory(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    with engine.load(tmp_path / "e") as built:
        first = built.infer(feeds())
        kept = first["y"].copy()
        built.infer({name: value * 2 for name, value in feeds().items()})
    np.testing.assert_array_equal(first["y"], kept)


def test_the_passport_says_what_the_engine_is(target: str, model: Model, tmp_path: Path) -> None:
    written = engine.build(model, tmp_path / "e", target)
    assert written == engine.read_passport(tmp_path / "e")
    assert written.target == target
    assert written.precision == "fp32"
    assert [str(spec) for spec in written.inputs] == [
        "x (N, 3, 16, 16) float32",
        "side (N, 5) float32",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((1, 3, 8, 8), np.float32)}, "was fed an array of (1, 3, 8, 8)"),
        ({"x": np.zeros((1, 3, 16, 16))}, "was fed an array of float64"),
        ({"xx": np.zeros(1, np.float32)}, "no input is called 'xx'"),
    ],
    ids=["shape", "type", "name"],
)
def test_a_wrong_feed_is_refused(
    target: str, model: Model, tmp_path: Path, change: dict[str, np.ndarray], words: str
) -> None:
    engine.build(model, tmp_path / "e", target)
    with engine.load(tmp_path / "e") as built, pytest.raises(InputError) as caught:
        built.infer({**feeds(1), **change})
    assert words in str(caught.value)


def test_a_missing_feed_is_refused(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    with (
        engine.load(tmp_path / "e") as built,
        pytest.raises(InputError, match=r"side .* was not fed"),
    ):
        built.infer({"x": feeds()["x"]})


def test_an_engine_without_a_passport_is_not_loaded(
    target: str, model: Model, tmp_path: Path
) -> None:
    engine.build(model, tmp_path / "e", target)
    (tmp_path / "e.json").unlink()
    with pytest.raises(InputError, match="no passport"):
        engine.load(tmp_path / "e")


@pytest.mark.parametrize("damage", ["truncated", "another"])
def test_an_engine_that_is_not_its_passports_is_not_loaded(
    target: str, model: Model, tmp_path: Path, damage: str
) -> None:
    engine.build(model, tmp_path / "e", target)
    whole = (tmp_path / "e").read_bytes()
    (tmp_path / "e").write_bytes(whole[:-100] if damage == "truncated" else whole + b"x")
    with pytest.raises(InputError, match="not the file that its passport describes"):
        engine.load(tmp_path / "e")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "onnxgraft.passport/1"}', "\x00"])
def test_a_damaged_passport_is_refused(
    target: str, model: Model, tmp_path: Path, text: str
) -> None:
    engine.build(model, tmp_path / "e", target)
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(InputError, match="not a passport"):
        engine.load(tmp_path / "e")


def test_precision_is_held_against_the_graph(target: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the graph is fp32, not int8; quantize it first"):
        engine.build(model, tmp_path / "e", target, precision="int8")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_the_target_refuses_leaves_nothing(target: str, tmp_path: Path) -> None:
    alien = model_of("net (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    alien.graph.nodes[0].op, alien.graph.nodes[0].domain = "Alien", "com.example"
    alien.graph.import_domains = None
    with pytest.raises(ModelError, match="Alien"):
        engine.build(alien, tmp_path / "e", target)
    assert not list(tmp_path.iterdir())


def test_an_unknown_target_names_the_nearest(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean openvino"):
        engine.build(model, tmp_path / "e", "open-vino")
