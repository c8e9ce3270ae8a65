"""Engines are loaded and run with numpy and their library alone; what is missing is told."""

import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import onnxgraft
from onnxgraft.commands._on_host import BEGIN
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.files.limits import HOST_BYTES
from onnxgraft.run.engine import Engine
from onnxgraft.run.frames import arrays, read, send
from onnxgraft.stages.engine.passport import passport_path
from tests.conftest import model_of, once

TARGETS = ("onnxruntime", "openvino")
# Nothing but Python, onnxgraft and what an argument names is there.
ALONE = """
import importlib.abc, json, sys
there = {*sys.stdlib_module_names, "onnxgraft", "numpy", *json.loads(sys.argv[1])}
class Alone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in there:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Alone())
"""
SERVE = """
import numpy as np
import onnxgraft
engine = onnxgraft.ServedEngine(sys.argv[2])
given = np.load(sys.argv[3])
made = {"prepared": engine.prepare(given["picture"], color="rgb")}
made |= {f"prepared.{name}": value for name, value in engine.infer(made["prepared"]).items()}
made |= {f"one.{name}": value for name, value in engine.infer(given["one"]).items()}
with onnxgraft.load_engine(sys.argv[2]) as plain:
    made |= {f"plain.{n}": v for n, v in plain.infer({plain.inputs[0].name: given["feed"]}).items()}
np.savez(sys.argv[4], **made)
print(json.dumps(engine.see(given["picture"], color="rgb").best))
"""


def alone(code: str, there: list[str], *words: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", ALONE + code, json.dumps(there), *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an INT8 engine for each target, with a recipe in its passport."""

    def make(folder: Path) -> None:
        rng = np.random.default_rng(0)
        model = model_of(
            "net (float[N, 3, 12, 16] x) => (float[N, 5] y) {"
            " c = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(c)  p = GlobalAveragePool(r)"
            " f = Flatten(p)  y = Gemm(f, v) }",
            {
                "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
                "b": rng.normal(size=8).astype(np.float32),
                "v": rng.normal(size=(8, 5)).astype(np.float32),
            },
        )
        model.save(folder / "net.onnx")
        (folder / "images").mkdir()
        for number in range(4):
            picture = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / f"images/{number}.png"), picture)
        recipe = Preprocess(
            resize=(12, 16), letterbox=114, color="rgb", mean=(120.0, 110.0, 100.0), std=(60.0,)
        )
        for target in TARGETS:
            onnxgraft.LiteEngine(
                folder / "net.onnx", target=target, precision="int8", path=folder / target,
                calibration=folder / "images", preprocess=recipe,
            ).close()  # fmt: skip

    return once(tmp_path_factory, "runtime_only", make)


@pytest.mark.parametrize("target", TARGETS)
def test_an_engine_gives_the_same_bits_with_numpy_and_its_library_alone(
    target: str, engines: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    given = {
        "picture": rng.integers(0, 256, (33, 47, 3)).astype(np.uint8),
        "one": rng.normal(size=(3, 12, 16)).astype(np.float32),
        "feed": rng.normal(size=(2, 3, 12, 16)).astype(np.float32),
    }
    np.savez(tmp_path / "given.npz", **given)
    words = (engines / target, tmp_path / "given.npz", tmp_path / "made.npz")
    done = alone(SERVE, [target], *words)
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "made.npz")
    with onnxgraft.ServedEngine(engines / target) as engine:
        prepared = engine.prepare(given["picture"], color="rgb")
        assert prepared.shape == (1, 3, 12, 16)
        wanted = {
            "prepared": prepared, "prepared.y": engine.infer(prepared)["y"],
            "one.y": engine.infer(given["one"])["y"], "plain.y": engine.infer(given["feed"])["y"],
        }  # fmt: skip
        best = [list(pair) for pair in engine.see(given["picture"], color="rgb").best]
    assert set(made.files) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(made[name], value, err_msg=name)
    assert json.loads(done.stdout) == best


def test_an_engine_for_a_device_runs_with_its_library_alone(engines: Path, tmp_path: Path) -> None:
    onnxgraft.build(
        engines / "net.onnx", tmp_path / "e", target="openvino", device="HETERO:CPU", prove=False
    )
    code = "import onnxgraft; print(onnxgraft.load_engine(sys.argv[2]).name)"
    done = alone(code, ["openvino"], tmp_path / "e")
    assert done.stdout.strip() == "openvino HETERO:CPU fp32", done.stderr


def test_a_provider_that_is_not_there_is_told_with_its_library_alone(
    engines: Path, tmp_path: Path
) -> None:
    onnxgraft.build(engines / "net.onnx", tmp_path / "e", target="onnxruntime", prove=False)
    file = passport_path(tmp_path / "e")
    told = json.loads(file.read_text())
    told["flags"]["provider"] = "dml"
    file.write_text(json.dumps(told))
    done = alone("import onnxgraft; onnxgraft.load_engine(sys.argv[2])", ["onnxruntime"],
                 tmp_path / "e")  # fmt: skip
    assert "was built for dml. --provider dml: the onnxruntime that is installed has no" in (
        done.stderr
    )


def test_what_is_prepared_is_what_the_file_of_the_picture_gives(
    engines: Path, tmp_path: Path
) -> None:
    picture = np.random.default_rng(2).integers(0, 256, (40, 31, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    with onnxgraft.ServedEngine(engines / "onnxruntime") as engine:
        recipe = Preprocess.model_validate(
            json.loads(passport_path(engines / "onnxruntime").read_text())["recipe"]["preprocess"]
        )
        wanted = recipe.image(tmp_path / "a.png").transpose(2, 0, 1)[np.newaxis]
        np.testing.assert_array_equal(engine.prepare(picture, color="bgr"), wanted)
        np.testing.assert_array_equal(engine.prepare(picture[:, :, ::-1], color="rgb"), wanted)
        several = engine.prepare(picture, picture[::-1], color="bgr")
        np.testing.assert_array_equal(several[:1], wanted)
        assert several.shape == (2, 3, 12, 16)


@pytest.mark.parametrize(
    ("picture", "color", "told"),
    [
        (np.zeros((4, 4, 3), np.float32), "rgb", "uint8"),
        (np.zeros((4, 4, 4), np.uint8), "rgb", "(height, width, 3)"),
        (np.zeros((4, 4), np.uint8), "gray", "the recipe wants pictures in rgb"),
    ],
    ids=["floats", "alpha", "gray"],
)
def test_what_is_no_picture_of_the_recipe_is_refused(
    picture: np.ndarray, color: str, told: str, engines: Path
) -> None:
    with (
        onnxgraft.ServedEngine(engines / "onnxruntime") as engine,
        pytest.raises(onnxgraft.InputError) as error,
    ):
        engine.prepare(picture, color=color)
    assert told in str(error.value)


def test_a_missing_library_is_told_with_the_version_that_built_the_engine(engines: Path) -> None:
    code = """
import onnxgraft
try:
    onnxgraft.load_engine(sys.argv[2])
except onnxgraft.MissingDependencyError as error:
    print(error)
"""
    for target in TARGETS:
        version = json.loads(passport_path(engines / target).read_text())["versions"][target]
        told = alone(code, [], engines / target).stdout
        assert f"pip install {target}==" in told
        assert version.startswith(told.strip().rpartition("==")[2])


def test_the_backend_of_every_target_needs_numpy_alone() -> None:
    code = """
import importlib
from onnxgraft.targets import TARGETS
for target in TARGETS:
    importlib.import_module(target.backend)
"""
    done = alone(code, [])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["deploy", "convert", "LiteEngine", "Model"])
def test_what_is_not_there_is_told_with_its_cure(name: str) -> None:
    code = """
import onnxgraft
try:
    getattr(onnxgraft, sys.argv[2])
except onnxgraft.MissingDependencyError as error:
    print(error)
"""
    done = alone(code, [], name)
    assert done.stdout.startswith(f"onnxgraft's {name} needs "), done.stderr
    assert done.stdout.strip().endswith("pip install onnxgraft")


def test_the_command_line_says_what_it_needs() -> None:
    done = alone("import runpy; runpy.run_module('onnxgraft', run_name='__main__')", [])
    assert done.returncode == 3
    assert done.stderr.strip() == "onnxgraft: The command line needs typer: pip install onnxgraft"


def test_a_picture_file_needs_opencv_or_pillow(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2, 3), np.uint8))
    code = """
from pathlib import Path
import onnxgraft
try:
    onnxgraft.Preprocess().image(Path(sys.argv[2]))
except onnxgraft.MissingDependencyError as error:
    print(error)
"""
    told = alone(code, [], tmp_path / "a.png").stdout
    assert told.strip() == (
        "Reading image files needs OpenCV or Pillow: pip install opencv-python-headless"
    )


def test_an_engine_without_a_recipe_takes_no_pictures(engines: Path, tmp_path: Path) -> None:
    onnxgraft.build(engines / "net.onnx", tmp_path / "e", target="onnxruntime")
    with onnxgraft.ServedEngine(tmp_path / "e") as engine:
        with pytest.raises(onnxgraft.InputError, match="does not say how pictures are prepared"):
            engine.prepare(np.zeros((12, 16, 3), np.uint8), color="rgb")
        assert engine.infer(np.zeros((1, 3, 12, 16), np.float32))["y"].shape == (1, 5)


def halved(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 2


def test_a_function_that_the_passport_names_is_given_again(engines: Path, tmp_path: Path) -> None:
    recipe = Preprocess(resize=(12, 16), function=halved)
    onnxgraft.LiteEngine(
        engines / "net.onnx", target="onnxruntime", precision="int8", path=tmp_path / "e",
        calibration=engines / "images", preprocess=recipe,
    ).close()  # fmt: skip
    picture = np.full((12, 16, 3), 100, np.uint8)
    with onnxgraft.ServedEngine(tmp_path / "e") as engine:
        assert engine.infer(np.zeros((1, 3, 12, 16), np.float32))["y"].shape == (1, 5)
        with pytest.raises(onnxgraft.InputError, match="was not loaded; give it again"):
            engine.prepare(picture, color="rgb")
    with onnxgraft.ServedEngine(tmp_path / "e", preprocess=recipe) as engine:
        assert (engine.prepare(picture, color="rgb") == 50).all()


def test_the_names_of_an_engine_are_those_of_the_protocol(engines: Path) -> None:
    with onnxgraft.ServedEngine(engines / "onnxruntime", postprocess=Postprocess(top=2)) as engine:
        known: Engine = engine
        assert [spec.name for spec in known.inputs] == ["x"]
        assert len(engine.see(np.zeros((9, 9, 3), np.uint8), color="bgr").best) == 2


OVER_HTTP = """
import http.client
from onnxgraft.commands._serve import serving
with serving(sys.argv[2]) as url:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("POST", "/see", open(sys.argv[3], "rb").read())
    print(connection.getresponse().read().decode())
    connection.close()
"""
# The extra `serve`, and what it needs; and what reads image files.
SERVER = ["anyio", "click", "h11", "idna", "prometheus_client", "sniffio", "starlette",
          "typing_extensions", "uvicorn", "cv2"]  # fmt: skip


def test_an_engine_is_served_with_its_library_and_the_servers_alone(engines: Path) -> None:
    pytest.importorskip("starlette")
    file = engines / "images/0.png"
    done = alone(OVER_HTTP, ["onnxruntime", *SERVER], engines / "onnxruntime", file)
    assert done.returncode == 0, done.stderr
    with onnxgraft.ServedEngine(engines / "onnxruntime") as engine:
        best = engine.see(cv2.imread(str(file)), color="bgr").best
    assert json.loads(done.stdout)["best"] == [list(pair) for pair in best]


def test_what_serving_lacks_is_told_with_the_line_that_installs_it(engines: Path) -> None:
    code = (
        "from onnxgraft import serve\ntry:\n    serve(sys.argv[2])\nexcept Exception as e: print(e)"
    )
    done = alone(code, ["onnxruntime"], engines / "onnxruntime")
    assert "pip install 'onnxgraft[serve]'" in done.stdout, done.stderr


ON_HOST = """
import runpy
sys.argv = sys.argv[:1]
runpy.run_module("onnxgraft.commands._on_host", run_name="__main__")
"""


@pytest.mark.parametrize("target", TARGETS)
def test_a_host_of_ssh_answers_with_numpy_and_the_library_alone(target: str, engines: Path) -> None:
    asked = io.BytesIO()
    feed = np.random.default_rng(1).normal(size=(2, 3, 12, 16)).astype(np.float32)
    file = engines / target
    send(asked, {"do": "file", "name": "0/engine"}, file.read_bytes())
    send(asked, {"do": "file", "name": "0/engine.json"}, passport_path(file).read_bytes())
    send(asked, {"do": "open", "name": "0/engine"})
    send(asked, {"do": "infer"}, {"x": feed})
    call = [sys.executable, "-c", ALONE + ON_HOST, json.dumps([target])]
    done = subprocess.run(call, input=asked.getvalue(), capture_output=True)
    assert done.returncode == 0, done.stderr
    told = io.BytesIO(done.stdout.removeprefix(BEGIN))
    messages = []
    while (message := read(told, HOST_BYTES)) is not None:
        messages.append(message)
    with onnxgraft.load_engine(file) as engine:
        np.testing.assert_array_equal(arrays(*messages[-1])["y"], engine.infer({"x": feed})["y"])


@pytest.mark.parametrize("target", TARGETS)
def test_a_host_times_with_numpy_and_the_library_alone(target: str, engines: Path) -> None:
    opened = {"path": str(engines / target)}
    first = {"kind": "engine", "opened": opened, "trust": False, "threads": None, "streams": None,
             "cores": [], "batch": 1}  # fmt: skip
    code = """
import runpy
import onnxgraft.commands._bench_worker as worker
runpy.run_path(worker.__file__, run_name="__main__")
"""
    lines = "".join(f"{json.dumps(line)}\n" for line in (first, {"run": 2, "seconds": 1.0}))
    call = [sys.executable, "-c", ALONE + code, json.dumps([target])]
    done = subprocess.run(call, input=lines, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers[1]["ms"]) == 2, done.stderr
