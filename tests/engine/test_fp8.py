"""Engines in FP8: TensorRT builds them, and says which GPU they want; the other targets refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.commands import inspect
from onnxgraft.errors import InputError, ModelError, NotSupportedError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.exact import exact_graph
from onnxgraft.run.layer_nodes import Planned
from onnxgraft.run.proof import Reference
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.building import graph_precision
from onnxgraft.stages.engine.tensorrt import builder, bundle_main, settings
from tests.conftest import Cli, model_of, once
from tests.quantize.networks import ranges_of, samples_of

RNG = np.random.default_rng(0)
NET = """
net (float[N, 16, 8, 8] image) => (float[N, 16, 8, 8] y) {
    [first] a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
    b = Relu (a)
    [second] y = Conv (b, w2)
}
"""


def weights(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Return the graph in float, INT8 and FP8."""

    def make(folder: Path) -> None:
        model = model_of(
            NET, {"w1": weights(32, 16, 3, 3), "b1": weights(32), "w2": weights(16, 32, 1, 1)}
        )
        ranges = ranges_of(model, samples_of(model, folder))
        model.save(folder / "fp32.onnx")
        for kind in ("int8", "fp8"):
            form = quantize.placement("tensorrt", kind=kind)  # type: ignore[arg-type]
            quantize.quantize(model, ranges, form)[0].save(folder / f"{kind}.onnx")

    folder = once(tmp_path_factory, "fp8", make)
    return {kind: Model.load(folder / f"{kind}.onnx") for kind in ("fp32", "int8", "fp8")}


def on(monkeypatch: pytest.MonkeyPatch, name: str, capability: str) -> None:
    """Let this machine have a GPU, as far as builds ask."""
    told = {"gpu": name, "compute capability": capability, "driver": "CUDA 13.0"}
    monkeypatch.setattr(builder, "gpu", lambda: told)


def test_the_precision_stands_in_the_graph(graphs: dict[str, Model]) -> None:
    assert {kind: graph_precision(model) for kind, model in graphs.items()} == {
        "fp32": "fp32", "int8": "int8", "fp8": "fp8",
    }  # fmt: skip


@pytest.mark.parametrize("floats", ["fp32", "fp16"])
def test_tensorrt_builds_it(graphs: dict[str, Model], tmp_path: Path, floats: str) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    precision: Any = "fp8" if floats == "fp32" else floats
    passport = engine.build(
        graphs["fp8"], tmp_path / "e", "tensorrt", precision=precision,
        options=BuildOptions(batches=(1,)),
    )  # fmt: skip
    assert (passport.precision, passport.floats) == ("fp8", floats)
    assert passport.label == ("fp8" if floats == "fp32" else "fp8+fp16")
    assert passport.depths == {"y": 28}
    assert passport.label in inspect(tmp_path / "e").summary


def test_a_graph_is_not_taken_for_another_precision(
    graphs: dict[str, Model], tmp_path: Path
) -> None:
    for kind, asked, why in (
        ("int8", "fp8", "the graph is int8, not fp8; quantize the float graph first with"),
        ("fp8", "int8", "the graph is fp8, not int8; quantize the float graph first"),
        ("fp32", "fp8", "the graph is fp32, not fp8; quantize it first with --precision fp8"),
    ):
        precision: Any = asked
        with pytest.raises(InputError, match=why):
            engine.build(graphs[kind], tmp_path / "e", "tensorrt", precision=precision)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_targets_without_fp8_refuse_its_graph(
    graphs: dict[str, Model], tmp_path: Path, target: str
) -> None:
    with pytest.raises(NotSupportedError, match=r"the graph is in FP8, which .* TensorRT does"):
        engine.build(graphs["fp8"], tmp_path / "e", target)
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_too_old_is_refused_before_the_build(
    graphs: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    on(monkeypatch, "NVIDIA Orin", "8.7")
    with pytest.raises(
        ModelError,
        match=r"compute capability 8\.9 and later run, and here is NVIDIA Orin with 8\.7",
    ):
        engine.build(graphs["fp8"], tmp_path / "e", "tensorrt", prove=False)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(("capability", "runs"), [("8.9", True), ("12.0", True), ("7.5", False)])
def test_capabilities_are_compared_as_numbers(
    graphs: dict[str, Model], monkeypatch: pytest.MonkeyPatch, capability: str, runs: bool
) -> None:
    on(monkeypatch, "a GPU", capability)
    how = settings(graphs["fp8"], BuildOptions())
    assert how.capability == (8, 9)
    assert settings(graphs["int8"], BuildOptions()).capability == (0, 0)
    if runs:
        builder._check_gpu(how)
    else:
        with pytest.raises(builder.BuildError, match="quantize to INT8 for it"):
            builder._check_gpu(how)


def test_a_bundle_carries_what_the_gpu_has_to_be(graphs: dict[str, Model], tmp_path: Path) -> None:
    made = engine.bundle(graphs["fp8"], tmp_path / "b.pyz")
    manifest, _ = bundle_main.read(tmp_path / "b.pyz")
    assert bundle_main._capability(manifest) == (8, 9)
    assert manifest["passport"]["precision"] == "fp8"
    assert "--stronglyTyped" in made.trtexec[10]
    assert "--fp8" not in made.trtexec[10] + made.trtexec[11]
    engine.bundle(graphs["int8"], tmp_path / "i.pyz")
    assert bundle_main._capability(bundle_main.read(tmp_path / "i.pyz")[0]) == (0, 0)


def test_layers_stand_in_fp8_in_the_graph(graphs: dict[str, Model]) -> None:
    plan = Planned(graphs["fp8"])
    assert plan.of(["first"]) == plan.of(["second"]) == "fp8"
    assert Planned(graphs["int8"]).of(["first"]) == "int8"


class Answering(OnnxRuntime):
    """An engine that gives the exact answers of a graph, each off by a part of itself."""

    def __init__(self, model: Model, off: float) -> None:
        super().__init__(exact_graph(model), name="tensorrt fp8")
        self.off = off

    def infer(self, feeds: Feeds) -> Outputs:
        noise = np.random.default_rng(3)
        return {
            name: value * (1 + self.off * noise.standard_normal(value.shape).astype(np.float32))
            for name, value in super().infer(feeds).items()
        }


@pytest.mark.parametrize(("off", "passes"), [(0.0, True), (1e-3, True), (0.3, False)])
def test_an_engine_is_held_to_the_exact_answers_of_its_graph(
    graphs: dict[str, Model], off: float, passes: bool
) -> None:
    graph = graphs["fp8"]
    feeds = [{"image": RNG.standard_normal((2, 16, 8, 8)).astype(np.float32)}]
    with Answering(graph, off) as other:
        (proof,) = Reference(graph, feeds).hold(other)
    assert proof.passed is passes


def test_the_command_line_builds_for_tensorrt_alone(
    graphs: dict[str, Model], tmp_path: Path, cli: Cli
) -> None:
    graphs["fp8"].save(tmp_path / "q.onnx")
    done = cli("build", tmp_path / "q.onnx", "--target", "openvino", "-o", tmp_path / "e")
    assert done.returncode != 0
    assert "quantize the float graph to INT8" in " ".join(done.stderr.split())
