"""The program in C++ beside an engine: compiled, run, and held against what Python answers."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

import onnxgraft
from onnxgraft.errors import InputError
from onnxgraft.stages.engine.passport import read_passport
from tests.conftest import Cli, model_of, once, only_ci

NET = (
    "net (float[N, 3, 12, 16] data) => (float[N, 4] prob, int64[N, 1] best) {"
    " c = Conv<pads = [1, 1, 1, 1]>(data, k, b)  r = Relu(c)  p = GlobalAveragePool(r)"
    " f = Flatten(p)  s = MatMul(f, w)  prob = Softmax(s)  best = ArgMax<axis = 1>(prob) }"
)
GRAY = "n (float[2, 6, 7, 1] x) => (float16[2, 1] y) {"
GRAY += " p = ReduceMean<axes = [1, 2], keepdims = 0>(x)  y = Cast<to = 10>(p) }"
TWO = "n (float[N, 2] a, float[N, 2] b, bool[2] c) => (float[N, 2] y) { y = Where(c, a, b) }"
CROPPED = """
[preprocess]
resize = [14, 20]
crop = [1, 2, 11, 15]
pad = [12, 16]
pad_value = 7
color = "rgb"
mean = [120, 110.5, 123.675]
scale = 0.7
std = [60, 61, 62]
"""
MIDDLE = '[preprocess]\ncentral_fraction = 0.8\nresize = [6, 7]\ncolor = "gray"\nscale = 0.5\n'
CUT = "[preprocess]\ncrop = [3, 2, 12, 16]\nmean = 127.5\n"
STRETCHED = "[preprocess]\nresize = [12, 16]\nmean = 127.5\n"
# The engines: the graph, the recipe, and how else they are built.
KINDS = {
    "two": ("two", None, {}), "gray": ("gray", MIDDLE, {}), "cut": ("net", CUT, {}),
    "baked": ("net", STRETCHED, {"bake": ["preprocess"]}),
}  # fmt: skip
NAMES = ("cropped", *KINDS)  # the first in INT8
# onnxruntime's wheel has none; OpenVINO's has.
HEADERS = os.environ.get("ONNXGRAFT_ONNXRUNTIME_HEADERS", "/usr/include/onnxruntime")
TARGETS = ("onnxruntime", "openvino")


def write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"k": (8, 3, 3, 3), "b": (8,), "w": (8, 4)}
    values = {name: rng.normal(size=size).astype(np.float32) for name, size in shapes.items()}
    model_of(NET, values).save(folder / "net.onnx")
    model_of(TWO).save(folder / "two.onnx")
    model_of(GRAY).save(folder / "gray.onnx")
    for name, (graph, recipe, more) in KINDS.items():
        place = None if recipe is None else folder / f"{name}.toml"
        if place is not None:
            place.write_text(recipe)
        for target in TARGETS:
            onnxgraft.build(
                folder / f"{graph}.onnx", folder / f"{name}.{target}", target=target, prove=False,
                threads=1, recipe=place, **more,
            )  # fmt: skip
    (folder / "images").mkdir()
    for number in range(4):
        picture = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/{number}.png"), picture)
    for target in TARGETS:
        onnxgraft.LiteEngine(
            folder / "net.onnx", target=target, precision="int8", path=folder / f"cropped.{target}",
            calibration=folder / "images",
            preprocess=onnxgraft.Preprocess.model_validate(tomllib.loads(CROPPED)["preprocess"]),
        ).close()  # fmt: skip


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino")
    return once(tmp_path_factory, "cpp", write)


# What is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_stored_answers_are_those_of_the_engine(
    target: str, engines: Path, tmp_path: Path
) -> None:
    assert read_passport(engines / f"cropped.{target}").precision == "int8"
    onnxgraft.export("cpp", engines / f"cropped.{target}", tmp_path / "p")
    picture = cv2.imread(str(tmp_path / "p/sample.ppm"))
    assert picture.shape == (14, 20, 3)
    with onnxgraft.ServedEngine(tmp_path / "p" / f"cropped.{target}", trust=True) as engine:
        made = engine.infer({"data": np.load(tmp_path / "p/input.0.npy")})
    with onnxgraft.ServedEngine(engines / f"cropped.{target}") as engine:
        fed = engine.prepare(picture, color="bgr")
    np.testing.assert_array_equal(np.load(tmp_path / "p/input.0.npy"), fed)
    for number, name in enumerate(("prob", "best")):
        np.testing.assert_array_equal(np.load(tmp_path / f"p/output.{number}.npy"), made[name])


def test_a_folder_with_other_files_stays_as_it_is(engines: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    with pytest.raises(InputError, match="has other files in it"):
        onnxgraft.export("cpp", engines / "two.onnxruntime", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["main.py"]


def test_a_program_is_written_anew_and_another_one_is_not(engines: Path, tmp_path: Path) -> None:
    onnxgraft.export("cpp", engines / "two.onnxruntime", tmp_path / "p")
    onnxgraft.export("cpp", engines / "two.onnxruntime", tmp_path / "p")
    (tmp_path / "p/main.cpp").write_text("int main() {}\n")
    with pytest.raises(InputError, match="is there already"):
        onnxgraft.export("cpp", engines / "two.onnxruntime", tmp_path / "p")


def test_options_of_triton_are_refused(engines: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--instances goes with export triton"):
        onnxgraft.export("cpp", engines / "two.onnxruntime", tmp_path / "p", instances=2)


def test_the_command_says_why_no_pictures_are_taken(
    engines: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("export", "cpp", engines / "two.onnxruntime", "-o", tmp_path / "p")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "CMakeLists.txt, input.0.npy" in told
    assert "no pictures: the engine has several inputs" in told


def test_an_engine_for_which_there_is_no_program_is_refused(engines: Path) -> None:
    from dataclasses import replace

    from onnxgraft.stages.engine.cpp import check_program

    passport = replace(read_passport(engines / "two.onnxruntime"), target="another")
    with pytest.raises(InputError, match="one for onnxruntime and openvino and tensorrt"):
        check_program(passport, ())


def test_an_engine_with_a_provider_has_no_program(engines: Path) -> None:
    from dataclasses import replace

    from onnxgraft.stages.engine.cpp import check_program
    from onnxgraft.stages.engine.passport import Flags

    passport = replace(read_passport(engines / "two.onnxruntime"), flags=Flags(provider="cuda"))
    with pytest.raises(InputError, match=r"no program in C[+][+] for the provider cuda"):
        check_program(passport, ())


@pytest.mark.parametrize("device", ["", "GPU.1", "HETERO:GPU,CPU"])
def test_the_program_names_the_device(device: str, engines: Path) -> None:
    from dataclasses import replace

    from onnxgraft.stages.engine.cpp import program
    from onnxgraft.stages.engine.passport import Flags

    path = engines / "two.onnxruntime"
    passport = replace(read_passport(path), target="openvino", flags=Flags(device=device))
    made = program(passport, path, {}, {}, None)["main.cpp"]
    assert f'static const std::string device = "{device or "CPU"}";' in made
    assert "core.import_model(model, device, config)" in made


# Compiled and run -----------------------------------------------------------------------------


def libraries(folder: Path) -> dict[str, list[str]]:
    """Return the compiler's words for each runtime whose headers are there."""
    found: dict[str, list[str]] = {}
    if (Path(HEADERS) / "onnxruntime_cxx_api.h").is_file():
        [library] = package("onnxruntime").glob("capi/libonnxruntime.so.*")
        # By the name that it gives itself, which the wheel leaves out.
        (folder / "libonnxruntime.so.1").symlink_to(library)
        found["onnxruntime"] = ["-isystem", HEADERS, str(folder / "libonnxruntime.so.1")]
    place = package("openvino")
    if (place / "include/openvino/openvino.hpp").is_file():
        [library] = place.glob("libs/libopenvino.so.*")
        found["openvino"] = ["-isystem", f"{place}/include", str(library)]
    return found


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module", params=TARGETS)
def programs(
    request: pytest.FixtureRequest, engines: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder with a compiled program for each engine of a target."""
    target = request.param
    folder = tmp_path_factory.mktemp(target)
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    words = libraries(folder).get(target)
    if words is None:
        pytest.skip(f"{target}'s headers are not there; CONTRIBUTING.md says where they are from")
    for name in NAMES:
        onnxgraft.export("cpp", engines / f"{name}.{target}", folder / name)
        if name == "two" and shutil.which("cmake") is not None:
            by_cmake(folder, folder / name)
            continue
        where = [f"-Wl,-rpath,{Path(words[-1]).parent}", "-o", folder / name / "engine"]
        strict = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["g++", *strict, folder / name / "main.cpp", *words, *where], check=True)
    return folder


def by_cmake(libraries: Path, place: Path) -> None:
    """Make the program in a folder as its page says."""
    words = [f"-DOpenVINO_DIR={package('openvino')}/cmake"]
    if libraries.name.startswith("onnxruntime"):
        library = libraries / "libonnxruntime.so.1"
        words = [f"-DONNXRUNTIME_INCLUDE={HEADERS}", f"-DONNXRUNTIME_LIBRARY={library}"]
    build = place / "build"
    begin = ["cmake", "-S", place, "-B", build, "-DCMAKE_BUILD_TYPE=Debug", *words]
    for command in (begin, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(build / "engine", place / "engine")


def run(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place / "engine", place, *map(str, words)], capture_output=True, text=True, timeout=60
    )


@only_ci
@pytest.mark.parametrize("name", NAMES)
def test_the_program_gives_the_answers_of_python(name: str, programs: Path) -> None:
    done = run(programs / name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": pass") == len([*(programs / name).glob("output.*.npy")])


@only_ci
def test_the_program_fails_where_answers_differ(programs: Path, tmp_path: Path) -> None:
    place = shutil.copytree(programs / "cropped", tmp_path / "p")
    stored = np.load(place / "output.0.npy")
    np.save(place / "output.0.npy", stored + np.float32(0.1))
    done = run(place)
    assert done.returncode == 1
    assert "prob: differs by 0.1" in done.stdout
    assert "FAIL" in done.stdout
    np.save(place / "output.0.npy", np.full_like(stored, np.nan))
    assert run(place).returncode == 1


@only_ci
def test_the_program_fails_where_a_picture_is_prepared_otherwise(
    programs: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(programs / "cropped", tmp_path / "p")
    picture = cv2.imread(str(place / "sample.ppm"))
    cv2.imwrite(str(place / "sample.ppm"), picture[:, :, ::-1])
    done = run(place)
    assert (done.returncode, "prepared otherwise" in done.stdout) == (1, True)


@only_ci
@pytest.mark.parametrize(("name", "larger"), [("cropped", 0), ("baked", 0), ("cut", 0), ("cut", 5)])
def test_a_picture_gets_the_answer_that_it_gets_in_python(
    name: str, larger: int, programs: Path, engines: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    target = programs.name.removesuffix("0")
    sample = cv2.imread(str(programs / name / "sample.ppm"))
    size = sample.shape[0] + larger, sample.shape[1] + 2 * larger
    with onnxgraft.ServedEngine(engines / f"{name}.{target}") as engine:
        for _ in range(5):
            picture = rng.integers(0, 256, (1, 1, 3)) + rng.integers(-40, 40, (*size, 3))
            picture = picture.clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "a.ppm"), picture)
            wanted = engine.infer(engine.prepare(picture, color="bgr"))
            told = run(programs / name, tmp_path / "a.ppm").stdout.splitlines()
            assert re.fullmatch(
                rf"prob: 1x4, largest at {wanted['prob'].argmax()}: \S+", told[0]
            ), told
            assert float(told[0].split()[-1]) == pytest.approx(wanted["prob"].max(), rel=1e-4)


@only_ci
@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("cropped", (30, 40), "has 40x30 pixels, and 20x14 are taken"),
        ("cut", (15, 17), "has 17x15 pixels, and at least 18x15 are taken"),
    ],
)
def test_a_picture_of_another_size_is_refused_with_the_way_out(
    name: str, size: tuple[int, int], told: str, programs: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "a.ppm"), np.zeros((*size, 3), np.uint8))
    done = run(programs / name, tmp_path / "a.ppm")
    assert done.returncode == 2
    assert told in done.stderr
    assert "--bake preprocess" in done.stderr


@only_ci
@pytest.mark.parametrize("data", [b"", b"P6 4 4 255\n123", b"P6 99999999 9 255\n", b"\xff\xd8"])
def test_what_is_no_picture_is_told(data: bytes, programs: Path, tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(data)
    done = run(programs / "cropped", tmp_path / "a.ppm")
    assert done.returncode == 2
    assert "a.ppm: " in done.stderr


@only_ci
def test_a_damaged_engine_is_told(programs: Path, tmp_path: Path) -> None:
    place = shutil.copytree(programs / "cropped", tmp_path / "p")
    [file] = place.glob("cropped.*")
    file.write_bytes(file.read_bytes()[:100])
    done = run(place)
    assert done.returncode == 2
    assert done.stderr


@only_ci
def test_cmake_makes_the_program(programs: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    made = programs / "two/build/engine"
    done = subprocess.run([made, programs / "two"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
