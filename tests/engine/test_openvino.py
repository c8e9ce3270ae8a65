"""OpenVINO's own: what it is told is what it does."""

from pathlib import Path

import numpy as np
import pytest

from onnxgraft import engine
from onnxgraft.engine import BuildOptions
from onnxgraft.errors import InputError
from onnxgraft.model import Model
from onnxgraft.reference import random_feeds
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
        (BuildOptions(level=3), "--level is TensorRT's"),
        (BuildOptions(floats="tf32"), "TF32 is an NVIDIA GPU's"),
        (BuildOptions(calibration=b"TRT-1"), "--calibration is TensorRT's"),
    ):
        with pytest.raises(InputError, match=words):
            engine.build(net, tmp_path / "e", "openvino", options=options)
    assert not list(tmp_path.iterdir())
