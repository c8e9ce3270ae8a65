"""From outputs to what a person sees: classes, coloured maps, boxes; and the commands for it."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.commands import infer
from onnxgraft.commands._engine_recipe import agreed
from onnxgraft.data.classes import CAMVID, palette
from onnxgraft.data.postprocess import Postprocess, see
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.errors import InputError
from tests.conftest import Cli, model_of

PHOTO = np.full((8, 12, 3), 100, np.uint8)


def test_the_best_classes_come_first_with_their_names() -> None:
    scores = np.array([[0.1, 0.7, 0.0, 0.2]], np.float32)
    seen = see({"prob": scores}, Postprocess(top=2, names=("cat", "dog", "eel", "fox")), PHOTO)
    assert seen is not None
    assert [name for name, _ in seen.best] == ["dog", "fox"]
    assert seen.picture is None
    unnamed = see({"prob": scores}, Postprocess(), PHOTO)
    assert unnamed is not None
    assert unnamed.best[0][0] == "class 1"


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "classes", "half"])
def test_a_map_is_coloured_over_the_photograph(layout: str) -> None:
    wanted = np.zeros((8, 12), np.int64)
    wanted[:4] = 3  # road, of the eleven of CamVid
    scores = np.eye(11, dtype=np.float32)[wanted][np.newaxis]
    value = {
        "nchw": scores.transpose(0, 3, 1, 2), "nhwc": scores, "classes": wanted[np.newaxis],
        "half": scores.transpose(0, 3, 1, 2)[:, :, ::2, ::2],
    }[layout]  # fmt: skip
    how = Postprocess(opacity=1, names="camvid")
    seen = see({"score": value}, how, PHOTO)
    assert seen is not None
    assert seen.shares == (("sky", 0.5), ("road", 0.5))
    assert seen.picture is not None
    assert tuple(seen.picture[0, 0][::-1]) == tuple(palette(11, CAMVID)[3]) == (128, 64, 128)
    assert tuple(seen.picture[7, 0][::-1]) == (128, 128, 128)
    # The legend beside it: the two colours, each with a name in black.
    legend = seen.picture[:, 12:].reshape(-1, 3)
    assert {(128, 64, 128), (128, 128, 128)} <= {tuple(c[::-1]) for c in legend.tolist()}
    assert (legend.max(1) < 30).sum() > 20  # letters


def test_the_photograph_shows_through() -> None:
    scores = np.eye(11, dtype=np.float32)[np.zeros((8, 12), int)][np.newaxis]
    seen = see({"s": scores}, Postprocess(opacity=0.25, names="camvid"), PHOTO)
    assert seen is not None
    assert seen.picture is not None
    np.testing.assert_array_equal(seen.picture[0, 0], round(0.75 * 100 + 0.25 * 128))


def test_classes_without_published_colours_get_their_own() -> None:
    found = palette(40)
    assert len({tuple(colour) for colour in found.tolist()}) == 40


def test_rows_of_detection_output_become_boxes() -> None:
    rows = np.array(
        [[[[0, 1, 0.6, 0.25, 0.25, 0.75, 0.75], [0, 2, 0.9, 0, 0, 0.5, 0.5],
           [0, 1, 0.1, 0, 0, 1, 1], [-1, 0, 0.9, 0, 0, 1, 1]]]],
        np.float32,
    )  # fmt: skip
    how = Postprocess(kind="boxes", names=("background", "car", "person"))
    seen = see({"detections": rows}, how, PHOTO)
    assert seen is not None
    assert [(box.label, box.edges) for box in seen.boxes] == [
        ("person", (0.0, 0.0, 0.5, 0.5)), ("car", (0.25, 0.25, 0.75, 0.75)),
    ]  # fmt: skip
    assert seen.picture is not None
    assert seen.picture.shape == PHOTO.shape
    assert (seen.picture != PHOTO).any()


def test_yolov5_is_held_against_its_formula_and_opencvs_suppression() -> None:
    rng = np.random.default_rng(0)
    photo = np.zeros((64, 96, 3), np.uint8)
    heads = {
        f"p{stride}": rng.normal(size=(1, 3, 64 // stride, 96 // stride, 5 + 4)).astype(np.float32)
        for stride in (8, 16, 32)
    }
    how = Postprocess(kind="boxes", form="yolov5", score=0.3, overlap=0.4)
    seen = see(heads, how, photo)
    assert seen is not None
    # The formula by hand, cell by cell, and OpenCV's suppression for each class.
    anchors = {8: [(10, 13), (16, 30), (33, 23)], 16: [(30, 61), (62, 45), (59, 119)],
               32: [(116, 90), (156, 198), (373, 326)]}  # fmt: skip
    found: dict[int, list[tuple[list[float], float]]] = {}
    for stride in (8, 16, 32):
        head = 1 / (1 + np.exp(-heads[f"p{stride}"][0].astype(np.float64)))
        for a, y, x in np.ndindex(*head.shape[:3]):
            cell = head[a, y, x]
            label = int(cell[5:].argmax())
            score = cell[4] * cell[5 + label]
            if score < 0.3:
                continue
            w = (2 * cell[2]) ** 2 * anchors[stride][a][0]
            h = (2 * cell[3]) ** 2 * anchors[stride][a][1]
            cx, cy = (2 * cell[0] - 0.5 + x) * stride, (2 * cell[1] - 0.5 + y) * stride
            found.setdefault(label, []).append(([cx - w / 2, cy - h / 2, w, h], score))
    expected = set()
    for label, boxes in found.items():
        kept = cv2.dnn.NMSBoxes([b for b, _ in boxes], [s for _, s in boxes], 0.3, 0.4)
        for index in np.asarray(kept).reshape(-1):
            expected.add((f"class {label}", round(boxes[int(index)][1], 5)))
    assert len(expected) > 10
    assert {(box.label, round(box.score, 5)) for box in seen.boxes} == expected
    # The same from rows that are decoded already, and from heads with channels first.
    flat = {n: v.transpose(0, 1, 4, 2, 3).reshape(1, 27, *v.shape[2:4]) for n, v in heads.items()}
    again = see(flat, how, photo)
    assert again is not None
    assert again.boxes == seen.boxes


def test_an_output_that_fits_nothing_is_left_alone_or_refused() -> None:
    odd = {"y": np.zeros((1, 3, 5), np.float32)}
    assert see(odd, Postprocess(), PHOTO) is None
    with pytest.raises(InputError, match="not a map of classes"):
        see(odd, Postprocess(kind="segmentation"), PHOTO)
    with pytest.raises(InputError, match="7 values"):
        see(odd, Postprocess(kind="boxes"), PHOTO)
    with pytest.raises(InputError, match="did you mean score:0"):
        see({"score:0": odd["y"]}, Postprocess(output="score"), PHOTO)


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    # Eleven classes by the brightness of the blue channel.
    weights = np.zeros((11, 3, 1, 1), np.float32)
    weights[3, 0] = 1
    model = model_of(
        "net (float[N, 3, 8, 12] x) => (float[N, 11, 8, 12] score) { score = Conv(x, w) }",
        {"w": weights},
    )
    model.save(tmp_path / "net.onnx")
    photo = np.zeros((10, 12, 3), np.uint8)
    photo[:5, :, 0] = 255
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    (tmp_path / "recipe.toml").write_text(
        "[preprocess]\ncrop = [2, 0, 8, 12]\nmean = [100.0]\n[postprocess]\nnames = 'camvid'\n"
    )
    return tmp_path


def test_the_passports_recipe_is_used(segmenter: Path, cli: Cli) -> None:
    built = cli("build", segmenter / "net.onnx", "--target", "onnxruntime", "-o", segmenter / "e",
                "--recipe", segmenter / "recipe.toml")  # fmt: skip
    assert built.returncode == 0, built.stderr
    done = cli("infer", segmenter / "e", segmenter / "photo.png", "-o", segmenter / "out")
    assert done.returncode == 0, done.stderr
    # Rows 2..9 of the photograph: three of eight are blue.
    assert "road: 37.5 % of the pixels" in done.stdout
    picture = cv2.imread(str(segmenter / "out" / "photo.png"))
    assert picture.shape[1] > 12
    document = json.loads((segmenter / "e.json").read_text())
    assert document["hashes"]["recipe"]
    assert document["recipe"]["preprocess"]["crop"] == [2, 0, 8, 12]


def test_a_warning_of_an_engine_is_in_the_json_too(segmenter: Path, cli: Cli) -> None:
    cli("build", segmenter / "net.onnx", "--target", "onnxruntime", "-o", segmenter / "e",
        "--recipe", segmenter / "recipe.toml", "--cpu", "amx")  # fmt: skip
    done = cli("infer", segmenter / "e", segmenter / "photo.png", "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["warnings"]
    assert "built for amx" in told
    assert "built for amx" in " ".join(done.stderr.split())


def test_a_passport_in_place_of_its_engine_is_told(segmenter: Path, cli: Cli) -> None:
    cli("build", segmenter / "net.onnx", "--target", "onnxruntime", "-o", segmenter / "e")
    done = cli("infer", segmenter / "e.json", segmenter / "photo.png")
    assert done.returncode == 2
    assert "e.json: is the passport of an engine; name the engine itself, e" in done.stderr


def test_a_given_recipe_comes_before_the_passports(segmenter: Path) -> None:
    answers = infer(
        segmenter / "net.onnx", [segmenter / "photo.png"],
        preprocess=Preprocess(resize=(8, 12), mean=(300.0,)),
        postprocess=Postprocess(kind="segmentation"),
    ).answers  # fmt: skip
    assert answers[0].shares[0] == ("sky", 1.0)


def test_pictures_of_images_with_one_name_are_kept_apart(segmenter: Path) -> None:
    (segmenter / "more").mkdir()
    blue = np.full((10, 12, 3), (255, 0, 0), np.uint8)
    cv2.imwrite(str(segmenter / "more/photo.png"), blue)
    photographs = [segmenter / "photo.png", segmenter / "more/photo.png"]
    answers = infer(
        segmenter / "net.onnx", photographs, out=segmenter / "out",
        preprocess=Preprocess(resize=(8, 12)), postprocess=Postprocess(),
    ).answers  # fmt: skip
    assert [Path(answer.picture).name for answer in answers] == ["photo.png", "photo-2.png"]
    one, two = (cv2.imread(answer.picture) for answer in answers)
    assert (one[:8, :12] != two[:8, :12]).any()


def test_no_picture_takes_the_place_of_a_photograph(segmenter: Path, cli: Cli) -> None:
    before = (segmenter / "photo.png").read_bytes()
    done = cli("infer", segmenter / "net.onnx", segmenter / "photo.png", "-o", segmenter,
               "--preprocess", segmenter / "recipe.toml")  # fmt: skip
    assert done.returncode == 2
    assert "photo.png: is one of the images; name another folder with -o" in done.stderr
    assert (segmenter / "photo.png").read_bytes() == before


def test_an_image_that_can_not_be_read_leaves_no_folder(segmenter: Path, cli: Cli) -> None:
    (segmenter / "torn.png").write_bytes((segmenter / "photo.png").read_bytes()[:40])
    done = cli("infer", segmenter / "net.onnx", segmenter / "torn.png", "-o", segmenter / "a/b",
               "--preprocess", segmenter / "recipe.toml")  # fmt: skip
    assert done.returncode == 2
    assert not (segmenter / "a").exists()


def test_an_image_that_does_not_fit_leaves_no_picture_of_those_before(
    segmenter: Path, cli: Cli
) -> None:
    cv2.imwrite(str(segmenter / "small.png"), np.zeros((5, 6, 3), np.uint8))
    photographs = [segmenter / "photo.png", segmenter / "small.png"]
    done = cli("infer", segmenter / "net.onnx", *photographs, "-o", segmenter / "out",
               "--preprocess", segmenter / "recipe.toml")  # fmt: skip
    assert done.returncode == 2
    assert not (segmenter / "out").exists()


def test_where_nothing_is_drawn_no_folder_is_made_and_that_is_told(pair: Path, cli: Cli) -> None:
    images = [pair / "0.png", pair / "1.png"]
    done = cli("infer", pair / "pair.onnx", *images, "-o", pair / "out")
    assert done.returncode == 0, done.stderr
    assert "nothing was written, there is nothing to draw; name an .npz" in " ".join(
        done.stdout.split()
    )
    assert not (pair / "out").exists()


@pytest.mark.parametrize("place", ["y.npz", "pictures"])
def test_images_of_several_sizes_have_pictures_and_no_array(
    place: str, segmenter: Path, cli: Cli
) -> None:
    model_of(
        "net (float[N, 3, H, W] x) => (float[N, 11, H, W] score) { score = Conv(x, w) }",
        {"w": np.ones((11, 3, 1, 1), np.float32)},
    ).save(segmenter / "free.onnx")
    cv2.imwrite(str(segmenter / "large.png"), np.zeros((20, 30, 3), np.uint8))
    done = cli("infer", segmenter / "free.onnx", segmenter / "photo.png", segmenter / "large.png",
               "-o", segmenter / place)  # fmt: skip
    if place == "pictures":
        assert done.returncode == 0, done.stderr
        assert len([*(segmenter / place).iterdir()]) == 2
        return
    assert done.returncode == 2
    assert "score is (1, 11, 20, 30), and of the images before (1, 11, 10, 12)" in done.stderr
    assert not (segmenter / place).exists()


def test_an_image_that_does_not_fit_names_the_cure(segmenter: Path, cli: Cli) -> None:
    done = cli("infer", segmenter / "net.onnx", segmenter / "photo.png")
    assert done.returncode == 2
    assert "--preprocess" in done.stderr


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Return a network with two image inputs, one of which is halved."""
    model_of(
        "net (float[N, 3, 4, 4] left, float[N, 3, 2, 2] right) => (float[N, 6] y) {"
        " a = GlobalAveragePool(left)  b = GlobalAveragePool(right)  c = Concat<axis=1>(a, b)"
        " y = Flatten(c) }"
    ).save(tmp_path / "pair.onnx")
    for number, (level, side) in enumerate([(10, 4), (20, 2), (30, 4), (40, 2)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((side, side, 3), level, np.uint8))
    return tmp_path


def test_several_image_inputs_take_images_in_turn(pair: Path) -> None:
    images = [pair / f"{number}.png" for number in range(4)]
    done = infer(pair / "pair.onnx", images, out=pair / "y.npz")
    assert [Path(answer.image).name for answer in done.answers] == ["0.png", "2.png"]
    np.testing.assert_array_equal(
        np.load(pair / "y.npz")["y"], [[10] * 3 + [20] * 3, [30] * 3 + [40] * 3]
    )


def test_a_resize_to_the_input_is_to_the_size_of_each(pair: Path) -> None:
    images = [pair / "0.png", pair / "0.png"]
    done = infer(pair / "pair.onnx", images, preprocess=Preprocess(resize="input"))
    assert dict(done.answers[0].best)["class 0"] == 10


def test_images_that_do_not_fill_the_inputs_are_refused(pair: Path) -> None:
    with pytest.raises(InputError) as error:
        infer(pair / "pair.onnx", [pair / f"{number}.png" for number in range(3)])
    assert "has 2 image inputs (left (N, 3, 4, 4) float32, right (N, 3, 2, 2)" in str(error.value)
    assert "and 3 images were given; give one for each input, in this order" in str(error.value)


def test_a_network_without_inputs_is_refused(tmp_path: Path) -> None:
    constant = {"c": np.zeros((1, 4), np.float32)}
    model_of("net () => (float[1, 4] y) { y = Relu(c) }", constant).save(tmp_path / "net.onnx")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="has no input"):
        infer(tmp_path / "net.onnx", [tmp_path / "a.png"])


def test_a_function_may_make_a_vector_of_an_image(tmp_path: Path) -> None:
    model_of("net (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }").save(tmp_path / "net.onnx")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 7, np.uint8))
    done = infer(
        tmp_path / "net.onnx", [tmp_path / "a.png"],
        preprocess=lambda pixels: np.float32([pixels.mean(), pixels.size]),
    )  # fmt: skip
    assert dict(done.answers[0].best) == {"class 0": 7, "class 1": 48}


def test_an_input_that_takes_no_image_is_named(tmp_path: Path) -> None:
    model_of("net (float[N, 3, 4, 4] x, float[N, 5] side) => (float[N, 5] y) { y = Relu(side) }"
             ).save(tmp_path / "net.onnx")  # fmt: skip
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"takes more than images: .*side \(N, 5\) float32"):
        infer(tmp_path / "net.onnx", [tmp_path / "a.png", tmp_path / "a.png"])


def test_a_letterbox_of_the_postprocessing_keeps_the_function_of_the_preprocessing() -> None:
    before = Preprocess(function=np.float32, resize=(4, 4))
    after = agreed(before, Postprocess(letterbox=True))[0]
    assert after.letterbox == 114
    assert after.function is not None
    assert after.function.call is np.float32


@pytest.mark.parametrize("kind", ["segmentation", "boxes"])
def test_what_is_seen_needs_no_opencv_where_nothing_is_drawn(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = np.random.default_rng(0).normal(size=(1, 11, 8, 12)).astype(np.float32)
    rows = np.array([[[0, 0, 6, 6, 0.9, 1], [2, 2, 9, 8, 0.6, 0]]], np.float32)
    outputs = {"y": maps if kind == "segmentation" else rows}
    how = Postprocess.model_validate({"kind": kind})
    drawn = see(outputs, how, PHOTO)
    monkeypatch.setitem(sys.modules, "cv2", None)
    found = see(outputs, how, PHOTO, draw=False)
    assert drawn is not None
    assert found is not None
    assert found.picture is None
    assert (found.shares, found.boxes) == (drawn.shares, drawn.boxes)
    assert found.shares or found.boxes
