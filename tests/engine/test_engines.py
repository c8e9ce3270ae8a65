"""One suite for every engine that runs here: same outputs, same errors."""

import gc
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import InputError, ModelError
from onnxgraft.files import sha256
from onnxgraft.graph.model import Model
from onnxgraft.stages import engine
from onnxgraft.stages.engine.passport import passport_path
from onnxgraft.targets import find_target, target_names
from tests.conftest import model_of, outputs_of
from tests.foreign import foreign, microsoft


@pytest.fixture(params=target_names())
def target(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not engine.runs_here(name):
        aim = find_target(name)
        pytest.skip(f"{aim.title} is not installed, or there is not {aim.needs} here")
    return name


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
        # float32 sums of 27 and 512 terms in another order. TensorRT-RTX rounds float32 to TF32's
        # 11 bits whatever it is told.
        tolerance = 3e-3 if "tf32" in find_target(target).floats else 1e-5
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * np.ptp(value))


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


@pytest.mark.parametrize("text", [" ", "[]", "{}", '{"format": "onnxgraft.passport/1"}', "\x00"])
def test_a_damaged_passport_is_refused(
    target: str, model: Model, tmp_path: Path, text: str
) -> None:
    engine.build(model, tmp_path / "e", target)
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(InputError, match="not a passport"):
        engine.load(tmp_path / "e")


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", ["int8"]), ("versions", {"onnxruntime": 1}), ("hashes", {"data": None}),
     ("precision", ""), ("floats", "int8"), ("weights", "int3"), ("direction", "sideways"),
     ("accuracy", {"top1": "90"}), ("latency", {}), ("depths", {"y": 1.5}), ("depths", {"y": -1}),
     ("source", {"path": 1, "framework": "onnx", "sha256": ""}),
     ("target", "abacus"), ("inputs", [{"name": "x", "dtype": ["float32"], "shape": [1]}]),
     ("outputs", [{"name": "y", "dtype": "float32", "shape": [[1]]}])],
)  # fmt: skip
def test_a_passport_with_a_value_of_another_type_is_refused(
    model: Model, tmp_path: Path, name: str, value: object
) -> None:
    engine.build(model, tmp_path / "e", "onnxruntime", prove=False)
    document = json.loads((tmp_path / "e.json").read_text())
    (tmp_path / "e.json").write_text(json.dumps(document | {name: value}))
    with pytest.raises(InputError, match="not a passport that onnxgraft wrote"):
        engine.load(tmp_path / "e")


def test_an_accuracy_that_was_no_number_is_no_value(model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", "onnxruntime", prove=False)
    engine.record(tmp_path / "e", accuracy={"top1": float("nan"), "loss": 1.0})
    assert engine.read_passport(tmp_path / "e").accuracy == {"loss": 1.0}


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


def edit_passport(path: Path, **changes: object) -> None:
    document = json.loads(passport_path(path).read_text())
    passport_path(path).write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize("damage", ["truncated", "text", "noise"])
def test_a_damaged_engine_with_a_fitting_passport_is_a_sentence(
    target: str, model: Model, tmp_path: Path, damage: str
) -> None:
    engine.build(model, tmp_path / "e", target)
    whole = (tmp_path / "e").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes()
    damaged = {"truncated": whole[: len(whole) // 2], "text": b"a letter\n" * 99, "noise": noise}
    (tmp_path / "e").write_bytes(damaged[damage])
    edit_passport(tmp_path / "e", engine=sha256(tmp_path / "e"))
    with pytest.raises(InputError, match=r"e: .*(can't load it|refuses the graph)"):
        engine.load(tmp_path / "e")


def test_an_engine_of_another_version_says_what_to_build_again(
    target: str, model: Model, tmp_path: Path
) -> None:
    engine.build(model, tmp_path / "e", target)
    versions = engine.read_passport(tmp_path / "e").versions
    edit_passport(tmp_path / "e", versions=dict.fromkeys(versions, "1.2.3"))
    with pytest.raises(InputError, match=rf"1\.2\.3, here is .*; build it again .*{target}"):
        engine.load(tmp_path / "e")


def test_a_passport_of_another_graph_is_refused(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    document = json.loads(passport_path(tmp_path / "e").read_text())
    document["outputs"][0]["name"] = "another"
    edit_passport(tmp_path / "e", outputs=document["outputs"])
    with pytest.raises(InputError, match="another"):
        engine.load(tmp_path / "e")


def test_a_trusted_engine_needs_no_passport(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    with engine.load(tmp_path / "e") as built:
        expected = built.infer(feeds())
    (tmp_path / "e.json").unlink()
    with engine.load(tmp_path / "e", trust=True) as built:
        assert {spec.name for spec in built.inputs} == {"x", "side"}
        found = built.infer(feeds())
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_trust_takes_no_other_file_than_the_passports(
    target: str, model: Model, tmp_path: Path
) -> None:
    engine.build(model, tmp_path / "e", target)
    (tmp_path / "e").write_bytes((tmp_path / "e").read_bytes() + b"x")
    with pytest.raises(InputError, match="not the file that its passport describes"):
        engine.load(tmp_path / "e", trust=True)


def test_a_trusted_file_that_is_no_engine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(b"PK\x03\x04 not an engine")
    with pytest.raises(InputError, match="not an engine of"):
        engine.load(tmp_path / "e", trust=True)


def test_threads_that_share_an_engine_get_their_own_answers(
    target: str, model: Model, tmp_path: Path
) -> None:
    engine.build(model, tmp_path / "e", target)
    questions = [{name: value * (k + 1) for name, value in feeds().items()} for k in range(4)]
    wrong: list[int] = []
    with engine.load(tmp_path / "e") as built:
        expected = [built.infer(question) for question in questions]

        def ask(index: int) -> None:
            for _ in range(20):
                found = built.infer(questions[index])
                if any(not np.array_equal(found[n], v) for n, v in expected[index].items()):
                    wrong.append(index)

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_view_of_an_output_outlives_later_runs(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    with engine.load(tmp_path / "e") as built:
        view = built.infer(feeds())["z"][0, 0]
        kept = view.copy()
        gc.collect()
        for factor in range(2, 12):
            built.infer({name: value * factor for name, value in feeds().items()})
        np.testing.assert_array_equal(view, kept)
    np.testing.assert_array_equal(view, kept)


def test_inputs_may_lie_in_memory_as_they_like(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    strange = {name: np.asfortranarray(value)[::-1] for name, value in feeds().items()}
    plain = {name: np.ascontiguousarray(value) for name, value in strange.items()}
    readonly = plain["x"].copy()
    readonly.flags.writeable = False
    with engine.load(tmp_path / "e") as built:
        expected = built.infer(plain)
        for question in (strange, {**plain, "x": readonly}):
            found = built.infer(question)
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value)


def test_a_closed_engine_says_so(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    with engine.load(tmp_path / "e") as built:
        built.infer(feeds())
    built.close()
    with pytest.raises(InputError, match="is closed"):
        built.infer(feeds())


def test_an_engine_tells_its_layers(target: str, model: Model, tmp_path: Path) -> None:
    engine.build(model, tmp_path / "e", target)
    with engine.load(tmp_path / "e") as built:
        found = engine.layers(built)
    assert any(
        word in f"{layer.kind} {layer.name}".lower()
        for layer in found
        for word in ("conv", "correlation")
    )
    if target == "openvino":
        assert all(layer.tactic for layer in found if layer.kind == "Convolution")


# How many threads an engine runs on, where its library tells.
THREADS: dict[str, Callable[[Any], int]] = {
    "openvino": lambda built: built.setting("INFERENCE_NUM_THREADS"),
    "onnxruntime": lambda built: built._session.get_session_options().intra_op_num_threads,
}


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_as_many_as_asked_for(
    target: str, model: Model, tmp_path: Path, threads: int
) -> None:
    if "threads" not in find_target(target).options:
        pytest.skip(f"{target} takes no threads")
    options = engine.BuildOptions(threads=threads)
    assert engine.build(model, tmp_path / "e", target, options=options).flags.threads == threads
    for asked in (None, 3 - threads):
        with engine.load(tmp_path / "e", threads=asked) as built:
            if target in THREADS:
                # OpenVINO takes no more than there are processors.
                most = len(os.sched_getaffinity(0)) if target == "openvino" else threads + 2
                assert THREADS[target](built) == min(asked or threads, most)


def test_no_threads_are_refused(target: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from 1 on"):
        engine.build(model, tmp_path / "e", target, options=engine.BuildOptions(threads=0))
    assert not list(tmp_path.iterdir())


def test_the_passport_says_where_the_graph_came_from(
    target: str, model: Model, tmp_path: Path
) -> None:
    evidence = engine.Evidence({"ranges": "1" * 64}, {"preprocess": {"color": "rgb"}})
    passport = engine.build(model, tmp_path / "e", target, evidence=evidence)
    assert passport.graph == engine.graph_hash(model)
    assert passport.hashes == {"ranges": "1" * 64}
    assert passport.recipe == {"preprocess": {"color": "rgb"}}
    assert passport.machine
    engine.record(tmp_path / "e", accuracy={"top1": 99.0})
    assert engine.read_passport(tmp_path / "e").accuracy == {"top1": 99.0}
    engine.load(tmp_path / "e").close()


def test_the_precision_that_stands_in_a_graph() -> None:
    graph = model_of(
        "g (float[N,4] x) => (float[N,4] y) { s = Constant<value_float = 0.1>()"
        " z = Constant<value = uint8 {0}>()"
        " [q] q = QuantizeLinear(x, s, z) [dq] y = DequantizeLinear(q, s, z) }"
    )
    assert engine.graph_precision(graph) == "int8"
    assert engine.graph_precision(microsoft()) == "int8"
    assert engine.graph_precision(foreign(foreign(graph, "q"), "dq")) == "fp32"
