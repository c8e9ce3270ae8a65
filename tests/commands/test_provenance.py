"""What a report says of how its run is made again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.commands._called import called, command
from onnxgraft.commands._provenance import recipe_text
from onnxgraft.commands._recipe import joined, read_recipe
from tests.conftest import in_ci, once
from tests.faults import prepare
from tests.running import here

pytestmark = pytest.mark.usefixtures("untimed")

RECIPE = """
model = "neta.prototxt"
weights = "neta.caffemodel"
targets = ["onnxruntime"]
[calibrate]
data = "calib.npz"
method = "minmax"
seed = 5
[quantize]
improve = []
[validate]
data = "val.npz"
metric = "top1"
drop = 100.0
[bench]
batches = [1]
rounds = 1
runs = 1
"""
RECIPES = {
    "plain": 'model = "net.pb"\n[calibrate]\ndata = "images"\n',
    "every_table": """
model = "net.prototxt"
weights = "net.caffemodel"
outputs = "score:0,prob:0"
set = ["is_training=false"]
targets = ["openvino", "tensorrt"]
keep_float = ['a "b"', "c\\\\d"]
[preprocess]
preset = "yolo"
[postprocess]
form = "yolov5"
names = ["car", "über"]
score = 0.25
[calibrate]
data = "calib"
seed = 7
[quantize]
improve = []
budget = "map=0.3"
[quantize.float]
tensorrt = "fp16"
[build.tensorrt]
batches = [1, 4]
[validate]
data = "val"
metric = "map"
[bench]
batches = [4]
""",
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_in_a_report_is_the_same_when_it_is_read_again(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPES[name])
    recipe = joined(read_recipe(tmp_path / "recipe.toml"))
    (tmp_path / "again.toml").write_text(recipe_text(recipe))
    again = joined(read_recipe(tmp_path / "again.toml"))
    assert again.model_dump() == recipe.model_dump()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network and its data, that was deployed by the command line."""

    in_ci()

    def make(folder: Path) -> None:
        prepare(folder)
        for seed, name in enumerate(("calib", "val")):
            images = np.random.default_rng(seed).normal(size=(4, 3, 12, 12)).astype(np.float32)
            np.savez(folder / f"{name}.npz", data=images, labels=np.arange(4))
        (folder / "recipe.toml").write_text(RECIPE)
        done = here("deploy", folder / "recipe.toml", "-o", folder / "out")
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "provenance", make)


def test_a_report_tells_the_command_line(deployed: Path) -> None:
    report = json.loads((deployed / "out/report.json").read_text())
    assert report["command"] == f"onnxgraft deploy {deployed}/recipe.toml -o {deployed}/out"


def test_a_report_has_the_hash_of_what_was_read_and_written(deployed: Path) -> None:
    report = json.loads((deployed / "out/report.json").read_text())
    of = {role: f"out/{Path(file).name}" for role, file in report["artifacts"].items()}
    of |= {str(deployed / name): name for name in ("neta.prototxt", "neta.caffemodel")}
    of |= {"calibration data": "calib.npz", "validation data": "val.npz", "recipe": "recipe.toml"}
    for name in ("report", "report data", "JUnit"):  # which hold the hashes
        of.pop(name)
    for role, file in of.items():
        digest = hashlib.sha256((deployed / file).read_bytes()).hexdigest()
        assert report["hashes"].pop(role) == digest, role
    assert report["hashes"] == {}


def test_a_report_tells_seeds_and_the_machine(deployed: Path) -> None:
    report = json.loads((deployed / "out/report.json").read_text())
    assert report["seeds"]["samples of [calibrate]"] == 5
    assert set(report["machine"]) == {"processor", "features", "cores", "system"}
    assert report["machine"]["cores"] == str(os.cpu_count())


def test_a_call_of_python_has_no_command_line() -> None:
    assert command() == ""
    with called(["deploy", "a b.toml"]):
        assert command() == "onnxgraft deploy 'a b.toml'"
    assert command() == ""
