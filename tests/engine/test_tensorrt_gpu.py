"""TensorRT's engines on a GPU, beyond what the suite of all engines asks."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from onnxgraft.commands import bundle
from onnxgraft.errors import InputError
from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.run.layer_nodes import place
from onnxgraft.stages import engine, quantize
from onnxgraft.stages.engine import BuildOptions
from onnxgraft.stages.engine.tensorrt.builder import gpu
from onnxgraft.targets import Format, Precision
from tests.conftest import model_of, outputs_of
from tests.quantize.networks import ranges_of, samples_of

pytest.importorskip("tensorrt", reason="TensorRT is not installed")
pytestmark = pytest.mark.skipif(gpu() is None, reason="there is no NVIDIA GPU here")


@pytest.fixture
def net() -> Model:
    rng = np.random.default_rng(0)
    return model_of(
        "net (float[N, 16, 32, 32] x) => (float[N, 16, 16, 16] y) {"
        " c = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(c)  d = Conv<pads=[1,1,1,1]>(r, w)"
        " s = Add(d, x)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s) }",
        {"w": rng.normal(size=(16, 16, 3, 3)).astype(np.float32) / 12},
    )


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_outputs_are_onnxruntimes(net: Model, tmp_path: Path, precision: Precision) -> None:
    options = BuildOptions(batches=(1, 4, 9))
    passport = engine.build(net, tmp_path / "e", "tensorrt", precision=precision, options=options)
    assert passport.label == precision
    with engine.load(tmp_path / "e") as built:
        for batch in (9, 1, 2, 4, 5, 1):  # from profile to profile and back
            found = built.infer(random_feeds(built.inputs, batch))["y"]
            expected = outputs_of(net, batch)["y"]
            assert np.abs(found - expected).max() <= 3e-3 * np.ptp(expected)


def test_a_batch_beyond_the_profiles_is_refused(net: Model, tmp_path: Path) -> None:
    engine.build(net, tmp_path / "e", "tensorrt", options=BuildOptions(batches=(2,)))
    with engine.load(tmp_path / "e") as built:
        with pytest.raises(InputError, match=r"fed x of \[3, .*built for x from \[1,.*--batches"):
            built.infer(random_feeds(built.inputs, 3))
        built.infer(random_feeds(built.inputs, 2))


def test_another_gpus_engine_is_refused(net: Model, tmp_path: Path) -> None:
    from tests.engine.test_engines import edit_passport

    engine.build(net, tmp_path / "e", "tensorrt")
    edit_passport(tmp_path / "e", machine={"gpu": "Xavier", "compute capability": "7.2"})
    with pytest.raises(InputError, match=r"built for the gpu Xavier, here is .*build it again"):
        engine.load(tmp_path / "e")


def test_timings_are_kept_for_the_next_build(net: Model, tmp_path: Path) -> None:
    options = BuildOptions(timing_cache=tmp_path / "t")
    engine.build(net, tmp_path / "e", "tensorrt", options=options)
    first = (tmp_path / "t").read_bytes()
    assert first
    (tmp_path / "t").write_bytes(b"of another version")
    engine.build(net, tmp_path / "e", "tensorrt", options=options)
    assert len((tmp_path / "t").read_bytes()) >= len(first)


def test_memory_and_times_are_told(net: Model, tmp_path: Path) -> None:
    engine.build(net, tmp_path / "e", "tensorrt")
    with engine.load(tmp_path / "e") as built:
        feeds = random_feeds(built.inputs, 2)
        built.infer(feeds)
        seconds = built.compute({"x": feeds["x"].shape}, 5)  # type: ignore[attr-defined]
        assert len(seconds) == 5
        assert min(seconds) > 0
        assert built.memory()["device"] > 0  # type: ignore[attr-defined]


def test_an_array_of_the_engines_own_needs_no_copy(net: Model, tmp_path: Path) -> None:
    engine.build(net, tmp_path / "e", "tensorrt")
    with engine.load(tmp_path / "e") as built:
        feeds = random_feeds(built.inputs, 2)
        expected = built.infer(feeds)["y"].copy()
        mine = built.array("x", feeds["x"].shape)  # type: ignore[attr-defined]
        mine[...] = feeds["x"]
        np.testing.assert_array_equal(built.infer({"x": mine})["y"], expected)
        assert not built._staging._kept[("x", feeds["x"].shape, mine.dtype.str)][1:]  # type: ignore[attr-defined]


def test_the_times_of_layers_are_told_with_their_nodes(net: Model, tmp_path: Path) -> None:
    engine.build(net, tmp_path / "e", "tensorrt")
    with engine.load(tmp_path / "e") as built:
        feeds = random_feeds(built.inputs, 1)
        expected = built.infer(feeds)["y"].copy()
        found = engine.time_layers(built, feeds, 3)
        assert found.runs == 3
        assert found.total > 0
        assert all(one.found for one in place(net, found.layers))
        np.testing.assert_array_equal(built.infer(feeds)["y"], expected)  # it goes on as before


# TensorRT-RTX 1.5 builds no convolution in INT8: matrices stand for it, see benchmarks/fp8.md.
PROGRAMS = {
    "fp16": "net (float[N, 3, 12, 16] x) => (float[N, 5] y) {"
    " a = Conv<pads=[1,1,1,1]>(x, k)  b = Relu(a)  p = GlobalAveragePool(b)"
    " f = Flatten(p)  y = MatMul(f, m) }",
    "int8": "net (float[N, 16] x) => (float[N, 5] y) { a = MatMul(x, n)  b = Relu(a)"
    " y = MatMul(b, m) }",
    "fp8": "net (float[N, 16] x) => (float[N, 16] y) { a = MatMul(x, n)  b = Relu(a)"
    " y = MatMul(b, n) }",
}


@pytest.mark.parametrize("precision", PROGRAMS)
def test_the_program_in_cpp_gives_the_answers_of_the_bundle(tmp_path: Path, precision: str) -> None:
    """CMake finds libnvinfer by CMAKE_LIBRARY_PATH, and NvInfer.h by CMAKE_INCLUDE_PATH."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    rng = np.random.default_rng(0)
    shapes = {"k": (16, 3, 3, 3), "m": (16, 5), "n": (16, 16)}
    text = PROGRAMS[precision]
    model = model_of(text, {
        name: rng.normal(size=shape).astype(np.float32) / 4
        for name, shape in shapes.items() if f", {name})" in text
    })  # fmt: skip
    if precision == "fp16":
        model, _ = quantize.to_half(model)
    else:
        form = quantize.placement("tensorrt", kind=cast("Format", precision))
        model, _ = quantize.quantize(model, ranges_of(model, samples_of(model, tmp_path)), form)
    model.save(tmp_path / "net.onnx")
    bundle(tmp_path / "net.onnx", tmp_path / "car.pyz")
    program, made = tmp_path / "program", tmp_path / "build"
    for command in (
        [sys.executable, tmp_path / "car.pyz", "--extract", program],
        [sys.executable, tmp_path / "car.pyz", "-o", program / "car.engine"],
        ["cmake", "-S", program, "-B", made],
        ["cmake", "--build", made],
        [made / "engine", program],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
