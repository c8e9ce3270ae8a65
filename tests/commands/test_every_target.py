"""Each target through the commands: what is in TARGETS is taken wherever a target is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.run.feeds import random_feeds
from onnxgraft.stages import engine
from onnxgraft.stages.engine.passport import read_passport
from onnxgraft.targets import find_target, target_names
from tests.conftest import Cli, model_of, only_ci
from tests.quantize.networks import PAIR, PAIR_SHAPES, infer, weights

pytestmark = pytest.mark.usefixtures("untimed")

SCORES = PAIR.replace("(float[N, 5, 8, 8] y)", "(float[N, 5] scores)").replace(
    "[third] y = Conv (e, w3, b3)",
    "[third] y = Conv (e, w3, b3) [pool2] p = GlobalAveragePool (y) [flat] scores = Flatten (p)",
)
RECIPE = """
model = "net.onnx"
targets = ["{target}"]
calibrate = {{ data = "calib.npz", method = "minmax" }}
quantize = {{ improve = ["weights"], budget = "top1=50" }}
validate = {{ data = "val.npz", metric = "top1", drop = 50 }}
bench = {{ rounds = 1, runs = 1 }}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """Return a folder with a classifier, data to calibrate and to validate on, and ranges."""
    folder = tmp_path_factory.mktemp("classifier")
    model = model_of(SCORES, weights(PAIR_SHAPES))
    model.save(folder / "net.onnx")
    np.savez(folder / "calib.npz", **random_feeds(model.inputs, 16, seed=5))
    feeds = random_feeds(model.inputs, 20, seed=6)
    labels = infer(Model.load(folder / "net.onnx"), feeds)["scores"].argmax(axis=1)
    np.savez(folder / "val.npz", **feeds, labels=labels)
    words = ["--data", folder / "calib.npz", "-o", folder / "ranges.json"]
    done = cli("calibrate", folder / "net.onnx", *words)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(params=target_names())
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(target: str) -> str:
    """Return a target whose engines run on this machine."""
    if not engine.runs_here(target):
        aim = find_target(target)
        pytest.skip(f"{aim.title} is not installed, or there is not {aim.needs} here")
    return target


def test_surgery_is_for_it(target: str, place: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("surgery", place / "net.onnx", "--for", target, "-o", tmp_path / "clean.onnx")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [["--explain"], ["--budget", "top1=50", "--data", "val.npz"]])
def test_quantize_makes_its_graph(
    target: str, options: list[str], place: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli(
        "quantize", "net.onnx", "--ranges", "ranges.json", "--target", target,
        "-o", tmp_path / "int8.onnx", *options, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 of 3 layers in INT8" in done.stdout


def test_its_engine_is_built_compared_and_timed(
    here: str, place: Path, tmp_path: Path, cli: Cli
) -> None:
    built = tmp_path / "engine"
    for words in (
        ["build", "net.onnx", "--target", here, "-o", built, "--layers", tmp_path / "layers.json"],
        ["validate", "net.onnx", built, "--data", "val.npz", "--metric", "top1"],
        ["bench", built, "--batch", "1", "--rounds", "1", "--runs", "1", "--record"],
    ):
        done = cli(*words, cwd=place)
        assert done.returncode == 0, done.stderr
    passport = read_passport(built)
    assert passport.target == here
    assert passport.latency
    assert json.loads((tmp_path / "layers.json").read_text())


@only_ci
def test_deploy_keeps_a_budget_for_it(here: str, place: Path, tmp_path: Path, cli: Cli) -> None:
    recipe = place / f"{here}.toml"
    recipe.write_text(RECIPE.format(target=here))
    done = cli("deploy", recipe, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / f"engine.{here}").is_file()
    assert "the budget top1=50 is met" in " ".join(done.stdout.split())
