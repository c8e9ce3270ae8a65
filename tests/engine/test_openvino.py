"""OpenVINO's own: what it is told is what it does."""

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages import engine
from onnxgraft.stages.engine import BuildOptions
from tests.conftest import model_of, outputs_of

openvino = pytest.importorskip("openvino")


@pytest.fixture
def net() -> Model:
    rng = np.random.default_rng(0)
    return model_of(
        "net (float[N, 16, 16, 16] x) => (float[N, 32, 16, 16] y) {"
        " c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c) }",
        {"w": rng.normal(size=(32, 16, 3, 3)).astype(np.float32) / 12},
    )


def capabilities() -> list[str]:
    return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_the_hint_survives_export_and_import(net: Model, tmp_path: Path, hint: str) -> None:
    options = BuildOptions(hint=hint)  # type: ignore[arg-type]
    engine.build(net, tmp_path / "e", "openvino", options=options)
    with engine.load(tmp_path / "e") as built:
        assert str(built.setting("PERFORMANCE_HINT")).lower().endswith(hint)  # type: ignore[attr-defined]
        assert built.setting("ENABLE_CPU_PINNING")  # type: ignore[attr-defined]
        if hint == "latency":
            assert built.setting("NUM_STREAMS") == 1  # type: ignore[attr-defined]


def test_float_layers_are_float32_unless_bf16_is_asked_for(net: Model, tmp_path: Path) -> None:
    found = {}
    precisions: list[engine.Precision] = ["fp32"]
    if "BF16" in capabilities():
        precisions.append("bf16")
    for precision in precisions:
        passport = engine.build(net, tmp_path / precision, "openvino", precision=precision)
        assert passport.label == precision
        with engine.load(tmp_path / precision) as built:
            answer = built.infer(random_feeds(built.inputs, 2))["y"]
            layers = engine.layers(built)
        expected = outputs_of(net)["y"]
        # BF16 has 8 bits of mantissa; 144 products, summed in float32.
        tolerance = 1e-5 if precision == "fp32" else 1e-2
        assert np.abs(answer - expected).max() <= tolerance * np.ptp(expected)
        found[precision] = {layer.precision for layer in layers if layer.kind == "Convolution"}
    assert found["fp32"] == {"f32"}
    assert found.get("bf16", {"bf16"}) == {"bf16"}


def test_what_the_processor_lacks_is_refused(
    net: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old(openvino.Core):  # type: ignore[misc]
        def get_property(self, device: str, name: str) -> object:
            return ["FP32"]

    monkeypatch.setattr(openvino, "Core", Old)
    with pytest.raises(InputError, match="this machine's processor has no BF16"):
        engine.build(net, tmp_path / "e", "openvino", precision="bf16")
    assert not list(tmp_path.iterdir())


def test_what_is_another_targets_is_refused(net: Model, tmp_path: Path) -> None:
    for options, words in (
        (BuildOptions(level=3), "--level is for TensorRT; leave it out for openvino"),
        (BuildOptions(floats="tf32"), "OpenVINO engines are not built in tf32"),
        (BuildOptions(calibration=b"TRT-1"), "--calibration is for TensorRT"),
    ):
        with pytest.raises(InputError, match=words):
            engine.build(net, tmp_path / "e", "openvino", options=options)
    assert not list(tmp_path.iterdir())


def transposed() -> Model:
    """Return a network that takes and gives images channels last, as TensorFlow's do."""
    rng = np.random.default_rng(0)
    return model_of(
        "net (float[N, 8, 8, 3] x) => (float[N, 8, 8, 4] y) {"
        " a = Transpose<perm=[0,3,1,2]>(x)  c = Conv<pads=[1,1,1,1]>(a, w)"
        " y = Transpose<perm=[0,2,3,1]>(c) }",
        {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32)},
    )


def test_one_image_runs_in_a_model_of_its_own_without_transposes(tmp_path: Path) -> None:
    passport = engine.build(transposed(), tmp_path / "e", "openvino")
    assert passport.flags.models == 2
    with engine.load(tmp_path / "e") as built:
        assert "Transpose" not in {layer.kind for layer in engine.layers(built)}
        # Back and forth, so that each model is asked after the other.
        for batch in (1, 3, 1, 2, 1):
            feeds = random_feeds(built.inputs, batch)
            expected = outputs_of(transposed(), batch)["y"]
            np.testing.assert_allclose(built.infer(feeds)["y"], expected, rtol=1e-5, atol=1e-5)


def test_an_answer_does_not_change_when_the_next_is_asked_for(net: Model, tmp_path: Path) -> None:
    engine.build(net, tmp_path / "e", "openvino")
    with engine.load(tmp_path / "e") as built:
        answers = [built.infer(random_feeds(built.inputs, 1, seed))["y"] for seed in range(20)]
    for seed, answer in enumerate(answers):
        np.testing.assert_allclose(answer, outputs_of(net, 1, seed)["y"], rtol=1e-5, atol=1e-5)


def test_shapes_that_are_given_make_one_model(net: Model, tmp_path: Path) -> None:
    passport = engine.build(net, tmp_path / "e", "openvino", shapes={"x": (1, 16, 16, 16)})
    assert passport.flags.models == 1
    with engine.load(tmp_path / "e") as built, pytest.raises(InputError, match="x"):
        built.infer(random_feeds(net.inputs, 2))


def test_a_graph_that_has_no_batch_of_one_is_built_for_those_it_has(tmp_path: Path) -> None:
    fours = model_of(
        "net (float[N, 3] x) => (float[2, 2, 3] y) { y = Reshape(x, to) }",
        {"to": np.array([2, 2, 3], np.int64)},
    )
    assert engine.build(fours, tmp_path / "e", "openvino").flags.models == 1
    with engine.load(tmp_path / "e") as built:
        x = np.arange(12, dtype=np.float32).reshape(4, 3)
        np.testing.assert_array_equal(built.infer({"x": x})["y"], x.reshape(2, 2, 3))


def test_a_model_is_the_one_that_was_loaded_whatever_the_file_has_later(tmp_path: Path) -> None:
    engine.build(transposed(), tmp_path / "e", "openvino")
    with engine.load(tmp_path / "e") as built:
        (tmp_path / "e").unlink()
        (tmp_path / "e").write_bytes(b"another")
        answer = built.infer(random_feeds(built.inputs, 2))["y"]
        np.testing.assert_allclose(answer, outputs_of(transposed())["y"], rtol=1e-5, atol=1e-5)


# Whole numbers.


@pytest.mark.parametrize(
    "graph",
    [
        (
            "net (int32[N, 6] x, int32[N, 6] z) => (int32[N, 6] y)"
            " { e = Equal(x, z)  y = Cast<to = 6>(e) }"
        ),
        "net (int32[N, 6] x, int32[N, 6] z) => (int32[N, 6] y) { y = Div(x, z) }",
        "net (uint8[N, 6] x, uint8[N, 6] z) => (uint8[N, 6] y) { y = Add(x, z) }",
    ],
    ids=["compared", "divided", "added in 8 bits"],
)
def test_whole_numbers_that_are_too_large_for_openvino_are_told(tmp_path: Path, graph: str) -> None:
    passport = engine.build(model_of(graph), tmp_path / "e", "openvino")
    assert passport.proven
    assert [note for note in passport.notes if "whole numbers of about 2^" in note]


def test_whole_numbers_that_openvino_computes_rightly_are_not_told(tmp_path: Path) -> None:
    model = model_of(
        "net (int32[N, 6] x, int32[N, 6] z, int64[N, 2] rows) => (int32[N, 6] y, float[N, 2] t)"
        " { y = Mul(x, z)  t = Gather(table, rows) }",
        {"table": np.arange(5, dtype=np.float32)},
    )
    assert engine.build(model, tmp_path / "e", "openvino").notes == ()


def test_whole_numbers_beyond_32_bits_are_refused_and_not_cut_off(tmp_path: Path) -> None:
    model = model_of("net (int64[N, 2] x) => (int64[N, 2] y) { y = Identity(x) }")
    assert engine.build(model, tmp_path / "e", "openvino").notes == ()
    with engine.load(tmp_path / "e") as built:
        most = np.array([[2**31 - 1, -(2**31)]])
        assert (built.infer({"x": most})["y"] == most).all()
        for beyond in (most + 1, most - 1):
            with pytest.raises(InputError, match=r"input x holds whole numbers beyond .* int32"):
                built.infer({"x": beyond})


def test_an_input_that_nothing_reads_is_fed_and_left_alone(tmp_path: Path) -> None:
    model = model_of("net (float[N, 2] unread, float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    engine.build(model, tmp_path / "e", "openvino")
    with engine.load(tmp_path / "e") as built:
        assert [spec.name for spec in built.inputs] == ["unread", "x"]
        feeds = random_feeds(built.inputs, 3)
        assert (built.infer(feeds)["y"] == feeds["x"].clip(0)).all()


def test_unsigned_numbers_of_32_bits_are_fed(tmp_path: Path) -> None:
    whole = np.array([[3_000_000_000, 0]], np.uint32)
    model = model_of("net (uint32[N, 2] x) => (uint32[N, 2] y) { y = Identity(x) }")
    engine.build(model, tmp_path / "e", "openvino")
    with engine.load(tmp_path / "e") as built:
        assert (built.infer({"x": whole})["y"] == whole).all()


def test_the_end_of_a_slice_that_openvino_would_take_for_the_last_but_one_is_refused(
    tmp_path: Path,
) -> None:
    model = model_of(
        "net (float[N, 6] x, int64[1] end) => (float[N, M] y)"
        " <int64[1] begin = {2}, int64[1] axis = {1}> { y = Slice(x, begin, end, axis) }"
    )
    engine.build(model, tmp_path / "e", "openvino")
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    with engine.load(tmp_path / "e") as built:
        assert (built.infer({"x": x, "end": np.array([6])})["y"] == x[:, 2:]).all()
        with pytest.raises(InputError, match="input end holds whole numbers beyond"):
            built.infer({"x": x, "end": np.array([np.iinfo(np.int64).max])})
