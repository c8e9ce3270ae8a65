"""An engine with the recipe in it beside an original that has none: what ships is what is held."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

import onnxgraft
from onnxgraft.errors import InputError
from onnxgraft.stages.validate.report import Report
from tests.commands.hosts import PYTHON, stand_in
from tests.conftest import Cli, model_of, once, only_ci

MEAN = (100.0, 110.0, 120.0)
RECIPE = """
[preprocess]
color = "{color}"
resize = [24, 32]
mean = [100.0, 110.0, 120.0]
std = [58.0]
[postprocess]
kind = "segmentation"
names = ["a", "b", "c", "d"]
"""
BOXES = """
[preprocess]
resize = [64, 64]
letterbox = 114
[postprocess]
kind = "boxes"
form = "yolov5"
score = 0.3
overlap = {overlap}
"""
BOTH = "preprocess,postprocess"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network, recipes, engines with them in it, pictures and labels."""

    def make(folder: Path) -> None:
        rng = np.random.default_rng(0)
        (folder / "pictures").mkdir()
        for number in range(4):
            picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (80, 60))
            cv2.imwrite(str(folder / f"pictures/{number}.jpg"), picture)
            label = cv2.resize(rng.integers(0, 4, (6, 8), np.uint8), (80, 60), interpolation=0)
            cv2.imwrite(str(folder / f"pictures/{number}.png"), label)
        model_of(
            "net (float[N,3,24,32] x) => (float[N,4,24,32] score) {"
            " score = Conv<pads=[1,1,1,1]>(x, w) }",
            {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32)},
        ).save(folder / "net.onnx")
        for name, color in (("right", "rgb"), ("wrong", "bgr")):
            (folder / f"{name}.toml").write_text(RECIPE.format(color=color))
            for bake in ("preprocess", "postprocess", BOTH):
                onnxgraft.build(
                    folder / "net.onnx", folder / f"{name}-{bake}", target="onnxruntime",
                    recipe=folder / f"{name}.toml", bake=bake,
                )  # fmt: skip
        onnxgraft.build(
            folder / "net.onnx", folder / "plain", target="onnxruntime",
            recipe=folder / "right.toml",
        )  # fmt: skip

    return once(tmp_path_factory, "baked", make)


def validated(made: Path, engine: Path, **more: object) -> Report:
    return onnxgraft.validate(
        made / "net.onnx", engine, made / "pictures", preprocess=made / "right.toml", **more
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("bake", ["preprocess", "postprocess", BOTH])
def test_an_engine_with_the_recipe_in_it_passes_beside_the_original(bake: str, made: Path) -> None:
    report = validated(made, made / f"right-{bake}")
    row = report.candidates[1]
    assert row.passed, row.verdict
    assert report.samples == 4
    assert [output.output for output in row.outputs] == [
        "score" if bake == "preprocess" else "classes"
    ]


def test_what_is_measured_is_what_opencv_and_onnxruntime_make_of_the_pictures(made: Path) -> None:
    largest = 0.0
    original = onnxruntime.InferenceSession(made / "net.onnx")
    engine = onnxgraft.load_engine(made / "right-preprocess")
    for file in sorted((made / "pictures").glob("*.jpg")):
        picture = cv2.imread(str(file))[:, :, ::-1]
        seen = (cv2.resize(picture, (32, 24)).astype(np.float32) - np.float32(MEAN)) / 58
        (score,) = original.run(None, {"x": seen.transpose(2, 0, 1)[np.newaxis]})
        found = engine.infer({"picture": picture[np.newaxis]})["score"]
        largest = max(largest, float(np.abs(score - found).max()))
    engine.close()
    output = validated(made, made / "right-preprocess").candidates[1].outputs[0]
    assert output.max_abs == pytest.approx(largest, rel=1e-3)
    assert output.max_abs > 0  # the resize rounds otherwise, so the pictures were used


@pytest.mark.parametrize("bake", ["preprocess", BOTH])
def test_an_engine_with_another_recipe_in_it_fails(bake: str, made: Path) -> None:
    row = validated(made, made / f"wrong-{bake}").candidates[1]
    assert not row.passed


def test_a_metric_is_that_of_the_engine_without_the_recipe_in_it(made: Path) -> None:
    more = {"metric": "miou", "classes": str(made / "classes.toml")}
    (made / "classes.toml").write_text('names = ["a", "b", "c", "d"]\n')
    plain = validated(made, made / "plain", **more)
    baked = validated(made, made / f"right-{BOTH}", **more)
    assert baked.candidates[0].metrics == plain.candidates[0].metrics
    for name, value in plain.candidates[1].metrics.items():
        assert baked.candidates[1].metrics[name] == pytest.approx(value, abs=1.0)
    assert baked.passed


def test_a_tie_between_classes_is_no_difference(tmp_path: Path, made: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)[[0, 1, 0, 1]]
    for name, more in (("a", 0.0), ("b", 1e-6)):
        model_of(
            "net (float[N,3,24,32] x) => (float[N,4,24,32] score) {"
            " score = Conv<pads=[1,1,1,1]>(x, w, b) }",
            {"w": weights, "b": np.array([0, 0, more, more], np.float32)},
        ).save(tmp_path / f"{name}.onnx")
    onnxgraft.build(
        tmp_path / "b.onnx", tmp_path / "e", target="onnxruntime", recipe=made / "right.toml",
        bake=BOTH,
    )  # fmt: skip
    with onnxgraft.load_engine(tmp_path / "e") as engine:
        classes = engine.infer({"picture": np.zeros((1, 60, 80, 3), np.uint8)})["classes"]
        assert classes.min() >= 2  # and of a it is the first of equal ones
    done = onnxgraft.validate(
        tmp_path / "a.onnx", tmp_path / "e", made / "pictures", preprocess=made / "right.toml"
    )
    assert done.candidates[1].passed


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a detector, recipes, engines that suppress boxes, and pictures."""

    def make(folder: Path) -> None:
        rng = np.random.default_rng(0)
        rows = rng.uniform(0.05, 1, (1, 40, 8)).astype(np.float32)
        rows[..., :2] *= 60
        rows[..., 2:4] = 10 + 15 * rows[..., 2:4]
        model_of(
            "net (float[N,3,64,64] x) => (float[N,40,8] rows) {"
            " m = ReduceMean<axes=[1,2,3],keepdims=0>(x)  s = Unsqueeze(m, ones)"
            " z = Mul(s, tiny)  rows = Add(z, k) }",
            {"k": rows, "ones": np.array([1, 2], np.int64), "tiny": np.float32(1e-5)},
        ).save(folder / "net.onnx")
        (folder / "pictures").mkdir()
        for number in range(3):
            picture = rng.integers(0, 256, (120, 200, 3), np.uint8)
            cv2.imwrite(str(folder / f"pictures/{number}.png"), picture)
        for name, overlap in (("right", 0.4), ("wrong", 0.05)):
            (folder / f"{name}.toml").write_text(BOXES.format(overlap=overlap))
            onnxgraft.build(
                folder / "net.onnx", folder / name, target="onnxruntime", bake=BOTH,
                recipe=folder / f"{name}.toml", picture="120x200",
            )  # fmt: skip

    return once(tmp_path_factory, "baked_boxes", make)


def test_boxes_of_an_engine_are_those_of_its_own_rows(detector: Path) -> None:
    report = onnxgraft.validate(
        detector / "net.onnx", detector / "right", detector / "pictures",
        preprocess=detector / "right.toml",
    )  # fmt: skip
    assert report.passed, (report.missed, report.candidates[1].verdict)
    assert [output.output for output in report.candidates[1].outputs] == ["rows"]


def test_an_engine_that_suppresses_otherwise_fails(detector: Path, cli: Cli) -> None:
    done = cli(
        "validate", detector / "net.onnx", detector / "wrong", "--data", detector / "pictures",
        "--preprocess", detector / "right.toml", "--json",
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["missed"] == [
        "onnxruntime fp32: on 3 samples its boxes are not those that the recipe makes of its rows"
    ]


def test_the_whole_recipe_has_to_be_named(made: Path, detector: Path) -> None:
    with pytest.raises(InputError, match=r"name the whole recipe.* with --preprocess"):
        onnxgraft.validate(made / "net.onnx", made / f"right-{BOTH}", made / "pictures")
    with pytest.raises(InputError, match=r"name the whole recipe.* with --postprocess"):
        onnxgraft.validate(
            detector / "net.onnx", detector / "right", detector / "pictures",
            preprocess=onnxgraft.Preprocess(resize=(64, 64), letterbox=114),
        )  # fmt: skip


def test_what_the_original_takes_is_no_picture(made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3, 24, 32), np.float32))
    with pytest.raises(InputError, match="the engine takes pictures; name image files"):
        onnxgraft.validate(
            made / "net.onnx", made / f"right-{BOTH}", tmp_path / "d.npz",
            preprocess=made / "right.toml",
        )  # fmt: skip


@pytest.mark.parametrize("option", ["--bisect", "--save-inputs"])
def test_what_looks_into_both_is_refused(option: str, made: Path, cli: Cli, tmp_path: Path) -> None:
    more = [option] if option == "--bisect" else [option, tmp_path / "i.json"]
    done = cli(
        "validate", made / "net.onnx", made / f"right-{BOTH}", "--data", made / "pictures",
        "--preprocess", made / "right.toml", *more,
    )  # fmt: skip
    assert done.returncode == 2
    assert "has parts of the recipe in it" in done.stderr


@only_ci
def test_the_bits_are_the_same_in_processes(made: Path) -> None:
    one, two = (validated(made, made / f"right-{BOTH}", workers=count) for count in (1, 2))
    assert one.candidates == two.candidates


def test_an_engine_with_the_recipe_in_it_is_held_on_hosts(
    made: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("HOSTS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}:{root}")
    here = validated(made, made / f"right-{BOTH}").candidates[1]
    there = validated(made, made / f"right-{BOTH}", hosts="pi", host_python=PYTHON).candidates[1]
    assert there.outputs == here.outputs and there.verdict == here.verdict
    report = onnxgraft.validate(
        detector / "net.onnx", detector / "wrong", detector / "pictures", hosts="pi",
        host_python=PYTHON, preprocess=detector / "right.toml",
    )  # fmt: skip
    assert report.missed[0].startswith("onnxruntime fp32 on pi: on 3 samples its boxes")


def test_an_engine_with_the_recipe_in_it_is_timed(made: Path, detector: Path) -> None:
    found = onnxgraft.bench(
        [made / f"right-{BOTH}", detector / "right"], batch=[1], rounds=1, runs=2
    )
    assert [row.runs for row in found.rows] == [2, 2]
