"""`inspect` tells what the other commands write, without running anything of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from onnxgraft import commands
from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import InputError
from onnxgraft.stages import engine as stage
from tests.conftest import Cli, model_of, once

NET = "n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an engine and its passport, ranges, and a bundle."""

    def make(folder: Path) -> None:
        model_of(NET).save(folder / "net.onnx")
        commands.build(folder / "net.onnx", folder / "e.ort", target="onnxruntime", prove=False)
        stage.record(folder / "e.ort", accuracy={"top1": 91.5}, latency=[{"batch": 1, "ms": 2.0}])
        commands.bundle(folder / "net.onnx", folder / "b.pyz")
        tensors = {f"layer{n}": Range(-1, 2, -3, 4, "mse") for n in range(1500)}
        ranges = Ranges("mse", 7, "0" * 64, "", "images/", tensors, skipped={"a.jpg": "torn"})
        ranges.save(folder / "r.json")

    return once(tmp_path_factory, "inspected", make)


TOLD = {
    "e.ort": (
        "e.ort: an engine: onnxruntime fp32, ", "x (N, 4) float32", "y (N, 4) float32", "test.onnx",
        "onnxruntime 1", "top1 91.5", "batch 1, ms 2.0",
    ),
    "e.ort.json": ("e.ort.json: the passport of an engine: onnxruntime fp32", "top1 91.5"),
    "r.json": (
        "r.json: mse ranges of 1500 tensors, 7 samples", "images/", "a.jpg: torn",
        "layer1499: [-1, 2] by mse, seen [-3, 4]",
    ),
    "b.pyz": ("b.pyz: a bundle for TensorRT, fp32, ", "model.onnx, ", "python3 b.pyz -o b.engine"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_what_commands_write_is_shown(name: str, made: Path, cli: Cli) -> None:
    done = cli("inspect", name, cwd=made)
    assert done.returncode == 0, done.stderr
    for words in TOLD[name]:
        assert words in done.stdout


@pytest.mark.parametrize(
    ("name", "kind", "key", "value"),
    [
        ("e.ort", "an engine", "as_built", True),
        ("e.ort.json", "the passport of an engine", "passport", None),
        ("r.json", "the ranges that onnxgraft calibrate wrote", "images", 7),
        ("b.pyz", "a bundle that onnxgraft bundle wrote", "format", "onnxgraft.bundle/1"),
    ],
)
def test_scripts_get_everything(
    name: str, kind: str, key: str, value: object, made: Path, cli: Cli
) -> None:
    told = json.loads(cli("inspect", made / name, "--json").stdout)
    assert told["kind"] == kind
    assert told["path"] == str(made / name)
    assert told[key] == value or (value is None and told[key]["target"] == "onnxruntime")


def test_an_engine_that_was_changed_is_told(made: Path, tmp_path: Path) -> None:
    for name in ("e.ort", "e.ort.json"):
        shutil.copy(made / name, tmp_path / name)
    with (tmp_path / "e.ort").open("ab") as file:
        file.write(b"\0")
    told = commands.inspect(tmp_path / "e.ort")
    assert isinstance(told, commands.Inspected)
    assert told.details["as_built"] is False
    assert "it is not the file that its passport was written for" in told.sections["notes"]


def test_an_engine_without_a_passport_is_told_by_how_it_begins(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "x.engine").write_bytes(b"ptrt" + bytes(80))
    done = cli("inspect", tmp_path / "x.engine")
    assert done.returncode == 0, done.stderr
    assert "an engine of TensorRT without a passport" in done.stdout


@pytest.mark.parametrize("name", ["e.ort.json", "r.json", "b.pyz"])
def test_what_is_damaged_is_a_sentence(name: str, made: Path, tmp_path: Path) -> None:
    whole = (made / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-40])
    with pytest.raises(InputError, match=rf"{name}: "):
        commands.inspect(tmp_path / name)
