"""Data, metrics, preprocessing and postprocessing as Python has them, through the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft import commands
from onnxgraft.commands._budget import Budget
from onnxgraft.data.ranges import Ranges
from onnxgraft.errors import InputError
from onnxgraft.graph.pictures import KEY, Told
from onnxgraft.graph.tensors import Array, Outputs
from onnxgraft.stages.engine.passport import read_passport
from tests.conftest import Cli, model_of

# Scores of four classes, from eight numbers.
TEXT = "net (float[N, 8] x) => (float[N, 4] score) { score = Gemm(x, w, b) }"
RNG = np.random.default_rng(0)
WEIGHTS = {"w": RNG.standard_normal((8, 4)).astype(np.float32), "b": np.zeros(4, np.float32)}
ROWS = RNG.standard_normal((40, 8)).astype(np.float32)
CLASSES = (ROWS @ WEIGHTS["w"]).argmax(1)
# A processor whose engines are judged by their graphs, which takes less time.
ELSEWHERE = "arm64"


pytestmark = pytest.mark.usefixtures("untimed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the network as a file."""
    model_of(TEXT, WEIGHTS).save(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def batches() -> Iterator[tuple[Array, Array]]:
    """Yield the data in batches of 16, with their classes."""
    for begin in range(0, len(ROWS), 16):
        yield ROWS[begin : begin + 16], CLASSES[begin : begin + 16]


def right(output: Array, label: Array) -> float:
    """Return whether the best class is the label."""
    return float(output.argmax() == label)


right.scale, right.direction = 1.0, "up"  # type: ignore[attr-defined]


def test_ranges_are_the_same_however_the_data_come(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=ROWS)
    found = [
        commands.calibrate(model, data=data, method="minmax").ranges
        for data in (tmp_path / "data.npz", ROWS, list(ROWS), batches, batches(), {"x": ROWS})
    ]
    assert len({str(ranges.tensors) for ranges in found}) == 1
    assert len({ranges.fingerprint for ranges in found[1:3]}) == 1
    assert {ranges.images for ranges in found} == {40}


def test_calibration_on_a_generator_is_the_same_with_workers(model: Path) -> None:
    one, two = (
        commands.calibrate(model, data=batches, method="entropy", workers=workers).ranges
        for workers in (1, 2)
    )
    assert one.tensors == two.tensors
    assert one.samples == two.samples


def test_calibration_on_a_generator_goes_on(model: Path, tmp_path: Path) -> None:
    def damaged() -> Iterator[Array]:
        for index, row in enumerate(ROWS):
            yield row if index != 39 else row * np.float32(np.nan)

    out = tmp_path / "ranges.json"
    with pytest.raises(InputError, match=r"damaged\[39\].*NaN.*--resume goes on there"):
        commands.calibrate(model, out, data=damaged, method="minmax")
    commands.calibrate(model, out, data=damaged, method="minmax", resume=True, skip_bad=True)
    assert Ranges.load(out).images == 39


def test_validation_takes_a_generator_and_a_function_as_metric(model: Path) -> None:
    report = commands.validate(model, model, batches, metric=right)
    assert report.passed
    assert report.candidates[0].metrics == {"right": 1.0}
    assert report.samples == 40


def test_a_metric_that_fails_is_told_by_its_name(model: Path) -> None:
    def fails(output: Array, label: Array) -> float:
        raise KeyError("no such class")

    with pytest.raises(InputError, match=r"the metric fails failed on an output of \(1, 4\)"):
        commands.validate(model, model, batches, metric=fails)


def test_postprocessing_is_applied_before_the_metric(model: Path) -> None:
    def reversed_scores(outputs: Outputs) -> Outputs:
        return {"reversed": -outputs["score"]}

    report = commands.validate(model, model, batches, metric="top1", postprocess=reversed_scores)
    assert report.candidates[0].metrics["top1"] < 100
    plain = commands.validate(model, model, batches, metric="top1")
    assert plain.candidates[0].metrics["top1"] == 100


def test_a_budget_takes_a_function(model: Path) -> None:
    ranges = commands.calibrate(model, data=ROWS, method="minmax").ranges
    done = commands.quantize(
        model, "onnxruntime", ranges=ranges, budget=Budget(right, 0.5), data=batches, cpu=ELSEWHERE
    )
    assert done.passed
    assert done.done is not None
    assert done.done.search is not None
    assert done.done.search.rows[0].metric == 1.0


def test_a_budget_is_measured_behind_the_postprocessing(model: Path) -> None:
    def reversed_scores(outputs: Outputs) -> Array:
        return -outputs["score"]

    ranges = commands.calibrate(model, data=ROWS, method="minmax").ranges
    for metric in (right, "top1"):
        done = commands.quantize(
            model, "onnxruntime", ranges=ranges, budget=Budget(metric, 100), data=batches,
            postprocess=reversed_scores, cpu=ELSEWHERE,
        )  # fmt: skip
        assert done.done is not None
        assert done.done.search is not None
        first = done.done.search.rows[0].metric
        assert first is not None
        assert first < (1 if metric is right else 100)


def test_a_folder_of_the_name_of_a_function_is_no_data_of_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batches").mkdir()
    report = commands.deploy(model, "out", data=batches, metric=right, targets="onnxruntime")
    assert report.passed
    assert len(read_passport(tmp_path / "out/engine.onnxruntime").hashes["data"]) == 64


def test_deploy_takes_generators_and_functions(model: Path, tmp_path: Path) -> None:
    def halved(row: Array) -> Array:
        return row / 2

    report = commands.deploy(
        model, tmp_path / "out", data=batches, preprocess=halved, metric=right,
        targets="onnxruntime",
    )  # fmt: skip
    assert report.samples == 10
    assert report.calibrated == 30
    assert report.candidates[0].metrics == {"right": 1.0}
    passport = read_passport(tmp_path / "out/engine.onnxruntime")
    assert passport.recipe["preprocess"]["function"]["name"].endswith("halved")
    assert len(passport.hashes["data"]) == len(passport.hashes["metric"]) == 64


def test_deploy_takes_some_of_what_never_ends(model: Path, tmp_path: Path) -> None:
    def forever() -> Iterator[Array]:
        while True:
            yield RNG.standard_normal(8).astype(np.float32)

    report = commands.deploy(model, tmp_path / "out", data=forever, images=8, targets="onnxruntime")
    assert (report.calibrated, report.samples) == (8, 8)


def test_deploy_keeps_calibration_and_validation_apart(model: Path, tmp_path: Path) -> None:
    report = commands.deploy(
        model, tmp_path / "out", data=list(ROWS[:30]), validate_on=list(ROWS), targets="onnxruntime"
    )
    assert report.samples == 10
    assert "validated on 10 of 40 samples" in report.data


def test_a_preprocessing_function_sees_a_photograph_in_rgb(tmp_path: Path) -> None:
    text = "net (float[N, 4, 6, 3] image) => (float[N, 4, 6, 3] same) { same = Identity(image) }"
    model_of(text).save(tmp_path / "model.onnx")
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)

    def scaled(rgb: Array) -> Array:
        assert rgb.dtype == np.uint8
        return rgb / np.float32(255)

    commands.infer(
        tmp_path / "model.onnx", [tmp_path / "a.png"], preprocess=scaled, out=tmp_path / "a.npz"
    )
    found = np.load(tmp_path / "a.npz")["same"][0]
    assert np.array_equal(found, pixels[:, :, ::-1] / np.float32(255))


# Functions that a recipe names.


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> Path:
    """Return a recipe that names a metric, a preprocessing and a postprocessing."""
    (tmp_path / "mine.py").write_text(
        "def right(output, label): return float(output.argmax() == label)\n"
        'right.scale, right.direction = 1, "up"\n'
        "def halved(row): return row / 2\n"
        "def doubled(outputs): return {'score': 2 * outputs['score']}\n"
    )
    np.savez(tmp_path / "data.npz", x=ROWS, labels=CLASSES)
    file = tmp_path / "recipe.toml"
    file.write_text(
        'model = "model.onnx"\ntargets = ["onnxruntime"]\n'
        '[preprocess]\nfunction = "mine.py:halved"\n'
        '[postprocess]\nfunction = "mine.py:doubled"\n'
        '[calibrate]\ndata = "data.npz"\n'
        '[validate]\nmetric = "mine.py:right"\n'
    )
    return file


def test_a_recipe_that_names_functions_wants_trust(recipe: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("deploy", recipe, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "[preprocess] function runs the code of" in done.stderr
    assert "--trust=halved" in done.stderr
    with pytest.raises(InputError, match=r"\[postprocess\] function runs .*--trust=doubled"):
        commands.read_recipe(recipe, trust=["halved"])


def test_a_recipes_functions_are_used_named_and_hashed(
    recipe: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("deploy", recipe, "--trust", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["candidates"][0]["metrics"] == {"right": 1.0}
    passport = read_passport(tmp_path / "out/engine.onnxruntime")
    for table, name in (("preprocess", "halved"), ("postprocess", "doubled")):
        function = passport.recipe[table]["function"]
        assert function["name"].endswith(f"mine.py:{name}")
        assert len(function["sha256"]) == 64


def test_the_functions_of_a_table_want_trust_in_every_command(recipe: Path, model: Path) -> None:
    data: Any = recipe.with_name("data.npz")
    calls = (
        lambda **how: commands.calibrate(model, data=data, preprocess=recipe, **how),
        lambda **how: commands.validate(model, model, data, preprocess=recipe, **how),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"--trust allows it, and --trust=halved nothing else"):
            call()
        call(trust=True)


# What is assumed where no preprocessing is given.


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Return a folder of photographs of another size than the network takes."""
    (tmp_path / "photographs").mkdir()
    for index in range(8):
        picture = RNG.integers(0, 256, (20, 24, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "photographs" / f"{index}.png"), picture)
    return tmp_path / "photographs"


@pytest.fixture
def told_model(tmp_path: Path) -> Path:
    """Return a network whose file says that it wants RGB of 0 to 1."""
    text = "net (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] y) { y = Conv(image, w) }"
    model = model_of(text, {"w": RNG.standard_normal((4, 3, 1, 1)).astype(np.float32)})
    model.metadata[KEY] = Told(
        {"color": "rgb", "scale": [1 / 255], "fit": True}, "the file says so"
    ).written()
    model.save(tmp_path / "told.onnx")
    return tmp_path / "told.onnx"


SENTENCE = "no preprocessing was given: assumed RGB of 0 to 1 in the input's size; the file says so"


def test_every_command_says_at_the_top_what_it_assumed(
    told_model: Path, photographs: Path, tmp_path: Path, cli: Cli
) -> None:
    ranges = tmp_path / "ranges.json"
    lines = [
        ("calibrate", told_model, "--data", photographs, "-o", ranges),
        ("validate", told_model, told_model, "--data", photographs),
        ("infer", told_model, photographs / "0.png"),
        ("quantize", told_model, "--target", "onnxruntime", "--ranges", ranges, "--samples",
         photographs, "--improve", "bias", "-o", tmp_path / "int8.onnx"),
        ("deploy", told_model, "--data", photographs, "--targets", "onnxruntime", "-o",
         tmp_path / "out"),
    ]  # fmt: skip
    for line in lines:
        done = cli(*line)
        assert done.returncode == 0, done.stderr
        assert " ".join(done.stdout.split()).startswith(SENTENCE), line[0]
    passport = read_passport(tmp_path / "out/engine.onnxruntime")
    assert passport.recipe["preprocess"]["color"] == "rgb"
    done = cli("validate", told_model, tmp_path / "out/engine.onnxruntime", "--data", photographs)
    assert "took that of the candidate's passport" in " ".join(done.stdout.split())


def test_nothing_is_assumed_where_a_preset_is_named(told_model: Path, photographs: Path) -> None:
    done = commands.calibrate(told_model, data=photographs, preprocess="yolo", method="minmax")
    assert done.assumed == ""
    assert done.ranges.tensors["image"].maximum <= 1


# A folder by class, and a whole script of a newcomer's.


def test_folders_are_labels_of_a_metric(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    for number, kind in enumerate(("dark", "light", "red")):
        (tmp_path / "by_class" / kind).mkdir(parents=True)
        for index in range(2):
            level = (10 + index, 200 + index, 100)[number]
            picture = np.full((8, 8, 3), level, np.uint8)
            cv2.imwrite(str(tmp_path / "by_class" / kind / f"{index}.png"), picture)
    net = keras.Sequential([
        keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(),
        keras.layers.Dense(3),
    ])  # fmt: skip
    report = commands.validate(net, net, tmp_path / "by_class", metric="top1")
    assert report.assumed.startswith("no preprocessing was given: assumed RGB of 0 to 255")
    assert report.samples == 6
    (tmp_path / "by_class" / "red" / "0.png").rename(tmp_path / "0.png")
    (tmp_path / "by_class" / "red" / "1.png").rename(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"has 2 classes \(dark, ...\), and the network has 3"):
        commands.validate(net, net, tmp_path / "by_class", metric="top1")


def test_a_newcomers_script_works(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    net = keras.Sequential([
        keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3),
    ])  # fmt: skip
    pictures = RNG.integers(0, 256, (24, 10, 12, 3), np.uint8)

    def samples() -> Iterator[tuple[Array, int]]:
        for index, picture in enumerate(pictures):
            yield picture, index % 3

    def prepared(picture: Array) -> Array:
        return picture[1:9, 2:10] / np.float32(127.5) - 1

    report = commands.deploy(
        net, tmp_path / "out", data=samples, preprocess=prepared, metric=right,
        targets="onnxruntime",
    )  # fmt: skip
    assert report.samples == 6
    assert set(report.candidates[-1].metrics) == {"right"}
