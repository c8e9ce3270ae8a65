"""Recipes as nodes of the graph: held against the recipe in Python, and against OpenCV's boxes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft import ServedEngine, commands
from onnxgraft.data.boxes import find_boxes
from onnxgraft.data.postprocess import Postprocess
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.samples import picture_feed
from onnxgraft.errors import InputError, ModelError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Array
from onnxgraft.run.session import OnnxRuntime
from onnxgraft.stages.engine import bake, checked, drawn
from tests.conftest import Cli, model_of

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32) / 5
FIRST = (
    "net (float[N,3,24,32] x) => (float[N,4,24,32] score) { score = Conv<pads=[1,1,1,1]>(x, w) }"
)
LAST = (
    "net (float[N,24,32,3] x) => (float[N,24,32,4] score) {"
    " a = Transpose<perm=[0,3,1,2]>(x)  b = Conv<pads=[1,1,1,1]>(a, w)"
    " score = Transpose<perm=[0,2,3,1]>(b) }"
)
GRAY = "net (float[N,1,24,32] x) => (float[N,1,24,32] score) { score = Relu(x) }"
SIZED = {"resize": (24, 32)}
RECIPES: dict[str, tuple[str, dict[str, Any], tuple[int, int] | None]] = {
    "means": (FIRST, {"mean": (103.9, 116.8, 123.7), "scale": (1 / 58,)}, None),
    "deviations, rgb": (FIRST, {"color": "rgb", "std": (58.4, 57.1, 57.4)}, None),
    "channels last": (LAST, {"mean": (103.9,)}, None),
    "gray": (GRAY, {"color": "gray", "mean": (20.0,)}, None),
    "nothing": (FIRST, {}, None),
    "crop": (FIRST, {"crop": (3, 5, 24, 32), "mean": (100.0,)}, None),
    "bilinear": (FIRST, {**SIZED, "mean": (100.0,)}, None),
    "bilinear, not rounded": (FIRST, {**SIZED, "rounded": False}, None),
    "nearest": (FIRST, {**SIZED, "interpolation": "nearest"}, None),
    "bicubic": (LAST, {**SIZED, "interpolation": "bicubic"}, None),
    "antialias": (FIRST, {**SIZED, "antialias": True}, None),
    "antialias, bicubic": (FIRST, {**SIZED, "antialias": True, "interpolation": "bicubic"}, None),
    "letterbox": (FIRST, {**SIZED, "letterbox": True, "color": "rgb"}, (61, 70)),
    "shorter side, middle": (FIRST, {"shorter_side": 28, "center_crop": (24, 32)}, (61, 70)),
    "fraction": (LAST, {**SIZED, "central_fraction": 0.8}, (61, 70)),
    "filled up": (FIRST, {"resize": (20, 30), "pad": (24, 32), "pad_value": 7}, None),
}


def net(text: str) -> Model:
    return model_of(text, {} if text == GRAY else {"w": WEIGHTS})


def ran(model: Model, feeds: Array) -> dict[str, Array]:
    (spec,) = model.inputs
    with OnnxRuntime(model.to_onnx(), optimize=False) as session:
        return session.infer({spec.name: feeds})


@pytest.mark.parametrize("name", RECIPES)
def test_a_graph_with_the_recipe_in_it_answers_as_the_recipe_and_the_graph_do(name: str) -> None:
    text, keys, size = RECIPES[name]
    recipe, model = Preprocess(**keys), net(text)
    baked = bake(model, ["preprocess"], recipe, Postprocess(), size)
    (feeds, *_) = drawn(baked, 1)
    (picture,) = feeds.values()
    if keys.get("resize") is None and "crop" in keys:  # it stays outside
        recipe = recipe.model_copy(update={"crop": None})
        assert baked.preprocess.crop == keys["crop"]
    pixels = picture[0] if recipe.color == "gray" else picture[0, :, :, ::-1]
    prepared = recipe.prepared(np.ascontiguousarray(pixels))
    right = ran(model, picture_feed([("picture", prepared)], model.inputs[0], "auto"))["score"]
    found = ran(baked.model, picture)["score"]
    # A level of 255 times the sum of a filter's weights, where a resize rounds to another one.
    allowed = 1e-3
    if "resize" in keys or "shorter_side" in keys:
        levels = 2 if keys.get("antialias") else 1
        allowed = levels * max(float(np.abs(WEIGHTS).sum((1, 2, 3)).max()), 1)
        # Most values are the very same.
        assert np.median(np.abs(found - right)) < allowed / 4
    assert np.abs(found - right).max() <= allowed
    assert checked(baked, Preprocess(**keys), Postprocess(), [feeds])


def test_pictures_of_any_size_are_taken_in_batches() -> None:
    baked = bake(net(FIRST), ["preprocess"], Preprocess(resize=(24, 32)), Postprocess())
    assert baked.model.inputs[0].shape == ("N", "picture_height", "picture_width", 3)
    for shape in ((2, 24, 32, 3), (3, 50, 41, 3)):
        pictures = RNG.integers(0, 256, shape, np.uint8)
        assert ran(baked.model, pictures)["score"].shape == (shape[0], 4, 24, 32)


def test_the_class_of_each_pixel_takes_the_place_of_its_scores() -> None:
    for text, axis in ((FIRST, 1), (LAST, 3)):
        baked = bake(net(text), ["postprocess"], Preprocess(), Postprocess())
        feed = RNG.normal(size=(2, *net(text).inputs[0].shape[1:])).astype(np.float32)
        found = ran(baked.model, feed)
        assert [*found] == ["classes"]
        assert found["classes"].dtype == np.uint8
        assert (found["classes"] == ran(net(text), feed)["score"].argmax(axis)).all()


YOLO = {"yolov5": 8, "yolov8": 7}


@pytest.mark.parametrize("axis", [1, 3])
def test_a_map_of_any_size_has_classes_where_the_recipe_says_that_it_is_one(axis: int) -> None:
    shape = "N,4,H,W" if axis == 1 else "N,H,W,4"
    perm = [0, 1, 2, 3] if axis == 1 else [0, 2, 3, 1]
    model = net(
        f"net (float[N,3,H,W] x) => (float[{shape}] score) {{ a = Conv<pads=[1,1,1,1]>(x, w)"
        f" score = Transpose<perm={perm}>(a) }}"
    )
    with pytest.raises(InputError, match="neither scores of classes"):
        bake(model, ["postprocess"], Preprocess(), Postprocess())
    how = Postprocess(kind="segmentation")
    baked = bake(model, ["postprocess"], Preprocess(), how)
    feeds = RNG.normal(size=(2, 3, 9, 7)).astype(np.float32)
    (classes,) = ran(baked.model, feeds).values()
    np.testing.assert_array_equal(classes, ran(model, feeds)["score"].argmax(axis))
    assert checked(baked, Preprocess(), how, drawn(baked, 2))


def detector(form: str) -> Model:
    """Return a network whose rows are constants, moved a little by the picture's mean."""
    wide = YOLO[form]
    rows = RNG.uniform(0.05, 1, (1, 40, wide)).astype(np.float32)
    rows[..., :2] *= 60
    rows[..., 2:4] = 10 + 15 * rows[..., 2:4]
    text = (
        f"net (float[N,3,64,64] x) => (float[N,{'40' if form == 'yolov5' else wide},"
        f"{wide if form == 'yolov5' else '40'}] rows) {{ m = ReduceMean<axes=[1,2,3],keepdims=0>(x)"
        " s = Unsqueeze(m, ones)  z = Mul(s, tiny)"
        + ("  rows = Add(z, k) }" if form == "yolov5" else "  t = Add(z, k)"
           "  rows = Transpose<perm=[0,2,1]>(t) }")
    )  # fmt: skip
    return model_of(text, {"k": rows, "ones": np.array([1, 2], np.int64), "tiny": np.float32(1e-6)})


@pytest.mark.parametrize("form", YOLO)
def test_boxes_are_those_that_the_recipe_finds_and_opencv_keeps(form: str) -> None:
    model = detector(form)
    how = Postprocess(form=form, score=0.2, overlap=0.4)
    recipe = Preprocess(resize=(64, 64), letterbox=114)
    baked = bake(model, ["preprocess", "postprocess"], recipe, how, (120, 200))
    picture = RNG.integers(0, 256, (1, 120, 200, 3), np.uint8)
    found = ran(baked.model, picture)
    boxes = found["boxes"]
    assert baked.postprocess.form == "ssd"
    seen = find_boxes({"boxes": boxes}, baked.postprocess, (120, 200))
    wanted = find_boxes({"rows": found["rows"]}, how, (64, 64), counted=True)
    assert len(seen.classes) == len(wanted.classes) > 5
    placed = recipe.placement(200, 120)
    for kind in np.unique(wanted.classes):
        right = placed.back(wanted.edges[wanted.classes == kind])
        made = seen.edges[seen.classes == kind]
        assert np.allclose(made[made[:, 0].argsort()], right[right[:, 0].argsort()], atol=1e-2)
    # OpenCV suppresses for itself.
    rows = found["rows"][0] if form == "yolov5" else found["rows"][0].T
    scores = rows[:, 5:] * rows[:, 4:5] if form == "yolov5" else rows[:, 4:]
    corners = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], 1)
    kept = sum(
        len(cv2.dnn.NMSBoxes(corners.tolist(), scores[:, kind].tolist(), 0.2, 0.4))
        for kind in range(scores.shape[1])
    )
    assert kept == len(boxes)
    assert len(checked(baked, recipe, how, [{"picture": picture}])) == 2


def test_a_graph_that_does_something_else_is_told() -> None:
    recipe = Preprocess(mean=(100.0,))
    baked = bake(net(FIRST), ["preprocess"], recipe, Postprocess())
    with pytest.raises(ModelError, match=r"up to 1 levels of 0 to 255 from what the recipe makes"):
        checked(baked, Preprocess(mean=(101.0,)), Postprocess(), drawn(baked, 1))
    how = Postprocess(form="yolov5", overlap=0.3)
    boxes = bake(detector("yolov5"), ["postprocess"], Preprocess(), how)
    other = Postprocess(form="yolov5", overlap=0.9)
    with pytest.raises(ModelError, match="boxes is not what the recipe makes of rows"):
        checked(boxes, Preprocess(), other, drawn(boxes, 1))


REFUSED: dict[str, tuple[str, list[str], dict[str, Any], dict[str, Any], str]] = {
    "a part": (FIRST, ["resize"], {}, {}, "no such part"),
    "area": (FIRST, ["preprocess"], {**SIZED, "interpolation": "area"}, {}, "over areas"),
    "size": (FIRST, ["preprocess"], {**SIZED, "letterbox": True}, {}, "say it with --picture"),
    "input": (FIRST, ["preprocess"], {"resize": (20, 20)}, {}, "makes pictures of 20x20"),
    "channels": (GRAY, ["preprocess"], {}, {}, "no batch of pictures of 3 channels"),
    "boxes": (FIRST, ["preprocess"], SIZED, {"kind": "boxes"}, "boxes lie in what"),
    "scores": (GRAY, ["postprocess"], {"color": "gray"}, {}, "neither scores of classes"),
    "output": (FIRST, ["postprocess"], {}, {"output": "scores"}, "did you mean score"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_done_is_refused_in_a_sentence(name: str) -> None:
    text, parts, before, after, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        bake(net(text), parts, Preprocess(**before), Postprocess(**after))


RECIPE = """
[preprocess]
resize = [24, 32]
color = "rgb"
mean = [120.0]
scale = [0.01]
[postprocess]
kind = "segmentation"
names = ["a", "b", "c", "d"]
"""


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_engine_takes_pictures_and_gives_classes(target: str, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip(target)
    net(FIRST).save(tmp_path / "net.onnx")
    (tmp_path / "net.toml").write_text(RECIPE)
    picture = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (80, 60))
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    words = ["build", tmp_path / "net.onnx", "--target", target, "--recipe", tmp_path / "net.toml"]
    plain = cli(*words, "-o", tmp_path / "plain")
    done = cli(*words, "-o", tmp_path / "baked", "--bake", "preprocess,postprocess")
    assert (plain.returncode, done.returncode) == (0, 0), done.stderr
    assert "the graph prepares pictures as the recipe does" in done.stdout
    assert "the graph gives the answers" in done.stdout
    with ServedEngine(tmp_path / "baked") as engine:
        assert engine.inputs[0].dtype == "uint8"
        classes = engine.infer({"picture": picture[np.newaxis, :, :, ::-1]})["classes"]
        shares = engine.see(picture, color="bgr").shares
    with ServedEngine(tmp_path / "plain") as engine:
        right = engine.infer(engine.prepare(picture, color="bgr"))["score"].argmax(1)
        wanted = dict(engine.see(picture, color="bgr").shares)
    # Where the resize rounds otherwise, two scores may be nearer to each other than that.
    assert (classes == right).mean() > 0.98
    assert dict(shares) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("bake", ["preprocess", "preprocess,postprocess"])
@pytest.mark.parametrize("how", ["resize = [24, 32]", "letterbox = true\nresize = [24, 32]"])
def test_what_is_seen_of_a_picture_of_other_proportions_is_the_same(
    how: str, bake: str, tmp_path: Path, cli: Cli
) -> None:
    """The network sees another picture than the one that is fed, and its classes lie in that."""
    net(FIRST).save(tmp_path / "net.onnx")
    (tmp_path / "net.toml").write_text(re.sub("resize = .*", how, RECIPE))
    picture = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (40, 90))
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    words = ["build", tmp_path / "net.onnx", "--target", "onnxruntime",
             "--recipe", tmp_path / "net.toml", "-o"]  # fmt: skip
    more = ["--picture", "90x40"] if "letterbox" in how else []
    done = cli(*words, tmp_path / "plain"), cli(*words, tmp_path / "baked", "--bake", bake, *more)
    assert [one.returncode for one in done] == [0, 0], done[1].stderr
    seen = []
    for name in ("plain", "baked"):
        place = tmp_path / f"{name}.pictures"
        told = cli("infer", tmp_path / name, tmp_path / "a.png", "-o", place, "--json")
        assert told.returncode == 0, told.stderr
        (answer,) = json.loads(told.stdout)["answers"]
        seen.append((cv2.imread(str(place / "a.png")), dict(answer["shares"])))
        with ServedEngine(tmp_path / name) as engine:
            found = engine.look(picture, color="bgr")[1]
        assert found is not None
        np.testing.assert_array_equal(found.picture, seen[-1][0])
    (wanted, shares), (drawn, others) = seen
    # Where the resize rounds otherwise, two scores may be nearer to each other than that.
    assert drawn.shape == wanted.shape
    assert (np.abs(drawn.astype(int) - wanted) > 1).mean() < 0.02
    assert others == pytest.approx(shares, abs=0.02)


def test_pictures_of_several_sizes_are_what_an_engine_that_resizes_is_proven_on(
    tmp_path: Path, cli: Cli
) -> None:
    net(FIRST).save(tmp_path / "net.onnx")
    (tmp_path / "net.toml").write_text(RECIPE)
    (tmp_path / "data").mkdir()
    for number, size in enumerate([(80, 60), (40, 90), (33, 21)]):
        picture = RNG.integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"data/{number}.png"), picture)
    done = cli("build", tmp_path / "net.onnx", "--target", "onnxruntime", "-o", tmp_path / "e",
               "--recipe", tmp_path / "net.toml", "--bake", "preprocess",
               "--data", tmp_path / "data")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_detector_with_suppression_in_it_is_proven_by_its_rows(
    target: str, tmp_path: Path
) -> None:
    pytest.importorskip(target)
    (tmp_path / "net.toml").write_text('[postprocess]\nkind = "boxes"\nform = "yolov5"\n')
    built = commands.build(
        detector("yolov5"), tmp_path / "e", target=target, recipe=tmp_path / "net.toml",
        bake="postprocess",
    )  # fmt: skip
    assert built.passed
    assert [proof.output for proof in built.passport.proof] == ["rows"]
    assert built.passport.recipe["postprocess"]["form"] == "ssd"


def test_a_size_that_is_none_is_refused(tmp_path: Path, cli: Cli) -> None:
    net(FIRST).save(tmp_path / "net.onnx")
    (tmp_path / "net.toml").write_text(RECIPE)
    words = ["build", tmp_path / "net.onnx", "-o", tmp_path / "e", "--target", "onnxruntime"]
    for more, told in (
        (["--picture", "wide"], "write height and width, such as 720x1280"),
        (["--recipe", tmp_path / "net.toml", "--picture", "48x64"], "--picture is for --bake"),
        (["--bake", "preprocess"], "give --recipe"),
    ):
        bake_too = ["--bake", "preprocess"] if "wide" in more else []
        extra = ["--recipe", tmp_path / "net.toml"] if "wide" in more else []
        done = cli(*words, *more, *bake_too, *extra)
        assert done.returncode == 2
        assert told in done.stderr
