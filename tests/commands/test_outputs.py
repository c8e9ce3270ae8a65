"""What a command writes replaces its own kind alone, and that is told before the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.commands._outputs import ONNX, TIMINGS, check_deployed, check_output
from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import InputError
from onnxgraft.graph.foreign import ARRAYS, BUNDLE, CACHE, ENGINE, JSON, RANGES, WEB_PAGE
from tests.conftest import Cli, model_of, once

pytestmark = pytest.mark.usefixtures("untimed")

PAGE = "<!DOCTYPE html><html></html>"
NET = "n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a file of each kind that commands write, and others."""

    def make(folder: Path) -> None:
        model = model_of(NET)
        model.save(folder / "net.onnx")
        commands.build(model, folder / "engine", target="onnxruntime", prove=False)
        commands.bundle(model, folder / "bundle")
        many = {f"t{n}": Range(0, 1, 0, 1, "minmax") for n in range(2000)}
        Ranges("minmax", 1, "0" * 64, "", "images/", many).save(folder / "ranges")
        np.savez(folder / "arrays", x=np.zeros(3))
        (folder / "arrays.npz").rename(folder / "arrays")
        (folder / "cache").write_text("TRT-100300-EntropyCalibration2\nx: 3c010a14\n")
        (folder / "json").write_text('{"passes": []}')
        (folder / "page").write_text(PAGE)
        (folder / "recipe").write_text('model = "a.pb"\n[calibrate]\ndata = "images"\n')
        (folder / "letter").write_text("this is a letter to a friend\n")

    return once(tmp_path_factory, "kinds", make)


OF = {
    "net.onnx": ONNX, "engine": ENGINE, "bundle": BUNDLE, "ranges": RANGES, "arrays": ARRAYS,
    "cache": CACHE, "json": JSON, "page": WEB_PAGE, "recipe": "a recipe", "letter": "",
}  # fmt: skip


@pytest.mark.parametrize("kind", [ONNX, ENGINE, BUNDLE, RANGES, ARRAYS, CACHE, JSON, TIMINGS])
@pytest.mark.parametrize("name", OF)
def test_a_file_is_replaced_by_its_own_kind_alone(kinds: Path, name: str, kind: str) -> None:
    if OF[name] == kind:
        check_output(kinds / name, kind)
        return
    with pytest.raises(
        InputError, match=rf"{name}: is there already, .*or replace it with --force"
    ):
        check_output(kinds / name, kind)
    if kind not in (ENGINE, RANGES):  # those have a file beside them
        check_output(kinds / name, kind, force=True)


@pytest.mark.parametrize(("kind", "beside"), [(ENGINE, "e.json"), (RANGES, "e.histograms.npz")])
def test_what_lies_beside_is_checked_too(tmp_path: Path, kind: str, beside: str) -> None:
    (tmp_path / beside).write_text(PAGE)
    with pytest.raises(InputError, match=f"{beside}: is there already, and is a web page"):
        check_output(tmp_path / "e", kind)


def test_an_empty_file_is_replaced_by_anything(tmp_path: Path) -> None:
    (tmp_path / "e").touch()
    check_output(tmp_path / "e", ENGINE)


def test_an_engine_does_not_replace_a_model_unless_told_to(kinds: Path, tmp_path: Path) -> None:
    place = tmp_path / "qat.onnx"
    shutil.copy(kinds / "net.onnx", place)
    before = place.read_bytes()
    with pytest.raises(InputError, match=r"qat\.onnx: is there already, and is an ONNX model"):
        commands.build(kinds / "net.onnx", place, target="onnxruntime", prove=False)
    assert place.read_bytes() == before
    for _ in range(2):  # it is an engine by its passport then, whatever it is called
        commands.build(
            kinds / "net.onnx", place, target="onnxruntime", prove=False, force=place.is_file()
        )
    commands.build(kinds / "net.onnx", place, target="onnxruntime", prove=False)
    with pytest.raises(InputError, match=r"is there already, and is an engine, not an ONNX model"):
        commands.surgery(kinds / "net.onnx", place)


# Every option that names what is written, of every command.
WRITTEN = {
    "convert": "convert none.pb -o {}",
    "surgery": "surgery none.onnx -o {}",
    "surgery_report": "surgery none.onnx -o a.onnx --report {}",
    "calibrate": "calibrate none.onnx --data none -o {}",
    "calibrate_cache": "calibrate none.onnx --data none -o a --trt-version 10.3.0 --cache-out {}",
    "quantize": "quantize none.onnx --target openvino --ranges none.json -o {}",
    "quantize_cache": "quantize none.onnx --target tensorrt --from-qdq -o a --trt-version 10.3.0 "
    "--cache-out {}",
    "build": "build none.onnx -o {}",
    "build_layers": "build none.onnx -o a --layers {}",
    "build_timings": "build none.onnx -o a --timing-cache {}",
    "bundle": "bundle none.onnx -o {}",
    "validate_report": "validate none.onnx none.engine --data none --report {}",
    "validate_inputs": "validate none.onnx none.engine --data none --save-inputs {}",
    "validate_outputs": "validate none.onnx none.engine --data none --save-outputs {}",
    "infer": "infer none.engine none.jpg -o {}",
    "infer_arrays": "infer none.engine none.jpg -o {}.npz",
    "deploy": "deploy {net} --data {data} -o {}",
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_every_output_refuses_a_fifo_before_the_work(
    name: str, kinds: Path, tmp_path: Path, cli: Cli
) -> None:
    place = tmp_path / ("x.npz" if WRITTEN[name].endswith("{}.npz") else "x")
    os.mkfifo(place)
    data = tmp_path / "data"
    data.mkdir()
    np.savez(data / "d.npz", x=np.zeros((8, 4), np.float32))
    words = WRITTEN[name].format(tmp_path / "x", net=kinds / "net.onnx", data=data / "d.npz")
    done = cli(*words.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"{place}: is a FIFO" in done.stderr
    assert place.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["data", place.name]


FILES = {name: line for name, line in WRITTEN.items() if name not in ("validate_report", "deploy")}


@pytest.mark.parametrize("name", FILES)
def test_every_output_refuses_a_file_of_another_kind_before_the_work(
    name: str, tmp_path: Path, cli: Cli
) -> None:
    place = tmp_path / ("x.npz" if FILES[name].endswith("{}.npz") else "x")
    if name == "infer":
        (tmp_path / "x").mkdir()
        place = tmp_path / "x" / "none.png"
    place.write_text(PAGE)
    done = cli(*FILES[name].format(tmp_path / "x").split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"{place}: is there already, and is a web page" in done.stderr
    assert place.read_text() == PAGE
    assert os.listdir(tmp_path) == ["x" if name == "infer" else place.name]


@pytest.mark.parametrize("name", ["convert", "build", "bundle", "infer_arrays", "calibrate"])
def test_force_goes_on_to_the_work(name: str, tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / ("x.npz" if FILES[name].endswith("{}.npz") else "x")
    place.write_text(PAGE)
    done = cli(*FILES[name].format(tmp_path / "x").split(), "--force", cwd=tmp_path)
    assert "is there already" not in done.stderr
    assert "none" in done.stderr  # the model does not exist
    assert place.read_text() == PAGE


FOLDERS: dict[str, Callable[[Path], None]] = {
    "model.onnx": lambda place: place.write_text(PAGE) and None,
    "model.fp16.tensorrt.onnx": lambda place: place.write_text(PAGE) and None,
    "ranges.json": lambda place: place.write_text("{}") and None,
    "engine.openvino": lambda place: place.write_text(PAGE) and None,
    "engine.openvino.json": lambda place: place.write_text("{}") and None,
    "report.json": lambda place: place.write_text(PAGE) and None,
    "junit.xml": lambda place: place.mkdir(),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_deploy_replaces_its_own_kinds_alone(tmp_path: Path, name: str) -> None:
    FOLDERS[name](tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: is "):
        check_deployed(tmp_path, [])


def test_deploy_leaves_weights_beside_a_model_to_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_bytes(bytes(64))
    (tmp_path / "thesis.txt").write_text("mine")
    check_deployed(tmp_path, [])


def test_deploy_never_replaces_what_it_reads(tmp_path: Path, kinds: Path) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(kinds / "net.onnx", model)
    check_deployed(tmp_path, [])
    with pytest.raises(InputError, match=r"model\.onnx: is what deploy reads"):
        check_deployed(tmp_path, [model], force=True)
    with pytest.raises(InputError, match="is what deploy reads; name another folder"):
        check_deployed(tmp_path, [f"{tmp_path}/."], force=True)
