"""The program in C++ in a bundle: what it is fed, what it may differ by, and that it compiles."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.commands import bundle
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.exact import exact
from onnxgraft.stages import quantize
from onnxgraft.stages.engine import unpacked
from tests.conftest import Cli, model_of, only_ci
from tests.quantize.networks import ranges_of, samples_of

RNG = np.random.default_rng(0)
# Made by .ci/tensorrt-headers.
HEADERS = Path(os.environ.get("ONNXGRAFT_TENSORRT_HEADERS", "/nowhere"))
RECIPE = """
[preprocess]
resize = [14, 20]
crop = [1, 2, 12, 16]
mean = [120, 110.5, 123.675]
scale = 0.02
"""


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def net() -> Model:
    return model_of(
        "net (float[N, 3, 12, 16] data) => (float[N, 5] score, int64[N, 1] best) {"
        " a = Conv<pads = [1, 1, 1, 1]>(data, k)  b = Relu(a)  c = Conv(b, m)"
        " p = GlobalAveragePool(c)  score = Flatten(p)  best = ArgMax<axis = 1>(score) }",
        {"k": weights(16, 3, 3, 3), "m": weights(5, 16, 3, 3)},
    )


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that a bundle was extracted to: INT8, with a recipe."""
    folder = tmp_path_factory.mktemp("bundle")
    model = net()
    ranges = ranges_of(model, samples_of(model, folder))
    quantize.quantize(model, ranges, "tensorrt")[0].save(folder / "int8.onnx")
    model.save(folder / "net.onnx")
    (folder / "recipe.toml").write_text(RECIPE)
    bundle(folder / "int8.onnx", folder / "car.pyz", recipe=folder / "recipe.toml")
    subprocess.run(
        [sys.executable, folder / "car.pyz", "--extract", folder / "p"], check=True,
        capture_output=True,
    )  # fmt: skip
    return folder / "p"


def number(text: str, name: str) -> float:
    found = re.search(rf"\b{name} = ([-\de.]+)", text)
    assert found is not None
    return float(found[1])


def test_the_stored_answers_are_the_exact_ones(extracted: Path) -> None:
    assert sorted(path.name for path in extracted.iterdir()) == [
        "CMakeLists.txt", "input.0.npy", "main.cpp", "model.onnx", "output.0.npy",
        "output.1.npy", "recipe.json", "sample.ppm",
    ]  # fmt: skip
    with exact(Model.load(extracted / "model.onnx")) as reference:
        wanted = reference.infer({"data": np.load(extracted / "input.0.npy")})
    for place, name in enumerate(("score", "best")):
        np.testing.assert_array_equal(np.load(extracted / f"output.{place}.npy"), wanted[name])


def test_the_sample_is_prepared_by_the_recipe(extracted: Path) -> None:
    picture = cv2.imread(str(extracted / "sample.ppm"))
    assert picture.shape == (14, 20, 3)
    part = picture[1:13, 2:18].astype(np.float32)
    wanted = (part - np.float32([120, 110.5, 123.675])) * np.float32(0.02)
    fed = np.load(extracted / "input.0.npy")
    np.testing.assert_allclose(fed[0], wanted.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_an_answer_may_differ_by_twice_what_rounding_moves(extracted: Path) -> None:
    fed = {"data": np.load(extracted / "input.0.npy")}
    with exact(Model.load(extracted.parent / "net.onnx")) as float_:
        right = float_.infer(fed)["score"]
    stored = np.load(extracted / "output.0.npy")
    moved = np.abs(stored - right).max() / (max(stored.max(), 0) - min(stored.min(), 0))
    allowed = number((extracted / "main.cpp").read_text(), "tolerance")
    # Weights are rounded in the float twin, and not in the network.
    assert 0.02 <= allowed < 4 * max(moved, 0.01)


@pytest.mark.parametrize(("dla", "core"), [(None, -1), (1, 1)])
def test_the_program_knows_its_dla(tmp_path: Path, dla: int | None, core: int) -> None:
    net().save(tmp_path / "net.onnx")
    bundle(tmp_path / "net.onnx", tmp_path / "b.pyz", batches="1", dla=dla)
    assert unpacked(tmp_path / "b.pyz")[1]["main.cpp"] > 10_000
    subprocess.run(
        [sys.executable, tmp_path / "b.pyz", "--extract", tmp_path / "p"], check=True,
        capture_output=True,
    )  # fmt: skip
    text = (tmp_path / "p/main.cpp").read_text()
    assert number(text, "dla_core") == core
    assert 'engine_file = "b.engine"' in text
    # FP16 is what a DLA runs; FP32 what the GPU was asked for.
    assert number(text, "tolerance") == (1e-4 if dla is None else 1e-2)


def test_without_a_recipe_arrays_are_fed_and_it_is_told(tmp_path: Path, cli: Cli) -> None:
    net().save(tmp_path / "net.onnx")
    done = cli("bundle", tmp_path / "net.onnx", "-o", tmp_path / "b.pyz")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "feeds stored arrays, and no pictures: the passport does not say" in told
    assert "sample.ppm" not in unpacked(tmp_path / "b.pyz")[1]


def test_what_the_program_does_not_know_is_told_and_the_bundle_made(tmp_path: Path) -> None:
    model_of("n (uint16[N, 2] x) => (uint16[N, 2] y) { y = Identity(x) }").save(tmp_path / "u.onnx")
    made = bundle(tmp_path / "u.onnx", tmp_path / "u.pyz")
    assert "the program in C++ knows no uint16" in made.notes[0]
    assert "main.cpp" not in made.members


def test_it_can_be_left_out(tmp_path: Path, cli: Cli) -> None:
    net().save(tmp_path / "net.onnx")
    done = cli("bundle", tmp_path / "net.onnx", "-o", tmp_path / "b.pyz", "--no-program")
    assert done.returncode == 0, done.stderr
    assert sorted(unpacked(tmp_path / "b.pyz")[1]) == ["model.onnx"]


@pytest.fixture(scope="module")
def compiled(extracted: Path) -> Path:
    """Return the program, compiled against NVIDIA's headers and linked as far as it can be."""
    if not (HEADERS / "include/NvInfer.h").is_file():
        pytest.skip("NVIDIA's headers are not there; CONTRIBUTING.md says where they are from")
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    spec = importlib.util.find_spec("tensorrt_libs")
    if spec is None or spec.origin is None:
        pytest.skip("TensorRT is not installed")
    libraries = Path(spec.origin).parent
    words = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-isystem", HEADERS / "include"]
    linked = [next(libraries.glob("libtensorrt_rtx.so.?")), HEADERS / "libcudart.so.13"]
    paths = [f"-Wl,-rpath,{libraries}:{HEADERS}", "-o", extracted / "engine"]
    subprocess.run(["g++", *words, extracted / "main.cpp", *linked, *paths], check=True)
    return extracted / "engine"


@only_ci
def test_it_compiles_against_nvidias_headers_and_says_that_there_is_no_gpu(
    compiled: Path, extracted: Path
) -> None:
    (extracted / "car.engine").write_bytes(b"\0trt")
    done = subprocess.run([compiled, extracted], capture_output=True, text=True, timeout=60)
    if "there is no NVIDIA GPU here" in done.stderr:
        assert done.returncode == 2
    else:  # there is one, and that is no engine
        assert "can't be loaded" in done.stderr


@only_ci
def test_a_picture_that_is_prepared_otherwise_is_noticed_before_the_engine(
    compiled: Path, extracted: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(extracted, tmp_path / "p")
    picture = cv2.imread(str(place / "sample.ppm"))
    cv2.imwrite(str(place / "sample.ppm"), picture[:, :, ::-1])
    done = subprocess.run([compiled, place], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "prepared otherwise" in done.stdout) == (1, True)


@only_ci
def test_cmake_makes_it_as_its_page_says(compiled: Path, extracted: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    spec = importlib.util.find_spec("tensorrt_libs")
    assert spec is not None and spec.origin is not None
    words = [
        f"-DTENSORRT_INCLUDE={HEADERS}/include", f"-DCUDA_INCLUDE={HEADERS}/include",
        f"-DTENSORRT_LIBRARY={next(Path(spec.origin).parent.glob('libtensorrt_rtx.so.?'))}",
        f"-DCUDA_LIBRARY={HEADERS}/libcudart.so.13", "-DCMAKE_BUILD_TYPE=Debug",
    ]  # fmt: skip
    for command in (
        ["cmake", "-S", extracted, "-B", tmp_path / "b", *words],
        ["cmake", "--build", tmp_path / "b"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "b/engine").is_file()
