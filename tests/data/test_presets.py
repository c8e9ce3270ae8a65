"""Each preset against the framework's own function, and each way of resizing against its library.

Pixels in 0..255 are compared; a level is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from onnxgraft.data.preprocess import Preprocess
from onnxgraft.data.presets import PRESETS
from onnxgraft.data.resampling import antialiased, plain
from onnxgraft.graph.tensors import Array, TensorSpec

SIZES = [(97, 143), (150, 101), (60, 60)]
INPUT = TensorSpec("image", "float32", ("N", 48, 48, 3))


def smooth(height: int, width: int, seed: int = 0) -> Array:
    """Return a (height, width, 3) uint8 picture in RGB with edges, ramps and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (3 + c)) * np.cos(y / (5 - c)) for c in range(3)]
    picture = np.stack(waves, 2) + rng.normal(0, 12, (height, width, 3))
    picture[height // 3 :, width // 2 :] += 60
    return np.clip(picture, 0, 255).astype(np.uint8)


def prepared(place: Path, rgb: Array, recipe: Preprocess, spec: TensorSpec = INPUT) -> Array:
    """Return what a recipe makes of a picture that is stored in a file."""
    file = place / "picture.png"
    cv2.imwrite(str(file), rgb[:, :, ::-1])
    return recipe.sized(spec).image(file)


def test_every_preset_has_a_test() -> None:
    tested = {"keras", "keras-tf", "keras-caffe", "keras-torch", "torch-imagenet"}
    assert set(PRESETS) == tested | {"caffe-imagenet", "tf-inception", "yolo"}


@pytest.mark.parametrize(
    ("preset", "modules"),
    [
        ("keras", ["efficientnet", "efficientnet_v2", "mobilenet_v3", "convnext"]),
        (
            "keras-tf",
            [
                "mobilenet", "mobilenet_v2", "inception_v3", "inception_resnet_v2", "xception",
                "nasnet", "resnet_v2",
            ],
        ),
        ("keras-caffe", ["resnet", "resnet50", "vgg16", "vgg19"]),
        ("keras-torch", ["densenet"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_keras_presets_are_its_loader_and_its_own_functions(
    preset: str, modules: list[str], size: tuple[int, int], tmp_path: Path
) -> None:
    keras = pytest.importorskip("keras")
    rgb = smooth(*size)
    (tmp_path / "all" / "a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "all" / "a" / "1.png"), rgb[:, :, ::-1])
    (batch, _), *_ = keras.utils.image_dataset_from_directory(
        tmp_path / "all", image_size=(48, 48), shuffle=False, verbose=False
    )
    found = prepared(tmp_path, rgb, Preprocess(preset=preset))
    for module in modules:
        own = getattr(keras.applications, module).preprocess_input(np.array(batch[0]))
        # float32 of pixels up to 255, resized in another order of sums.
        scale = {"keras-tf": 1 / 127.5, "keras-torch": 1 / 57}.get(preset, 1.0)
        assert np.abs(found - own).max() < 1e-3 * scale, module


@pytest.mark.parametrize("size", [(300, 401), (400, 300), (256, 399)], ids=str)
def test_torch_imagenet_is_torchvisions_preset_on_pillows_images(
    size: tuple[int, int], tmp_path: Path
) -> None:
    transforms = pytest.importorskip(
        "torchvision.transforms", reason="torchvision is not here", exc_type=ImportError
    )
    image = pytest.importorskip("PIL.Image")
    rgb = smooth(*size)
    spec = TensorSpec("image", "float32", ("N", 3, 224, 224))
    own = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    expected = own(image.fromarray(rgb)).numpy().transpose(1, 2, 0)
    found = prepared(tmp_path, rgb, Preprocess(preset="torch-imagenet"), spec)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("size", [(300, 401), (400, 300)], ids=str)
def test_torch_imagenet_is_torchs_resampling_cut_and_normalized(
    size: tuple[int, int], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    rgb = smooth(*size)
    height, width = (int(256 * side / min(size)) for side in size)
    pixels = torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None]
    resized = torch.nn.functional.interpolate(
        pixels.float(), (height, width), mode="bilinear", antialias=True
    )[0].numpy()
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    cut = resized[:, top : top + 224, left : left + 224].transpose(1, 2, 0) / 255
    expected = (cut - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    spec = TensorSpec("image", "float32", ("N", 3, 224, 224))
    found = prepared(tmp_path, rgb, Preprocess(preset="torch-imagenet"), spec)
    # Pillow rounds twice, by half a level each.
    assert np.abs(found - expected).max() < 1.01 / 255 / 0.224


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tf_inception_is_tensorflows_own_functions(size: tuple[int, int], tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    rgb = smooth(*size)
    cut = tf.image.central_crop(tf.cast(rgb, tf.float32), 0.875)
    expected = tf.image.resize(cut, (48, 48)).numpy() / 127.5 - 1
    found = prepared(tmp_path, rgb, Preprocess(preset="tf-inception"))
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("side", [224, 227])
def test_caffe_imagenet_is_what_opencv_makes_for_caffe(side: int, tmp_path: Path) -> None:
    rgb = smooth(300, 200)
    whole = cv2.resize(np.ascontiguousarray(rgb[:, :, ::-1]), (256, 256))
    begin = (256 - side) // 2  # caffe/data_transformer.cpp: h_off = (height - crop_size) / 2
    cut = whole[begin : begin + side, begin : begin + side]
    mean = (104.00698793, 116.66876762, 122.67891434)
    expected = cv2.dnn.blobFromImage(np.ascontiguousarray(cut), 1.0, (side, side), mean)[0]
    spec = TensorSpec("data", "float32", (1, 3, side, side))
    found = prepared(tmp_path, rgb, Preprocess(preset="caffe-imagenet"), spec)
    assert np.abs(found.transpose(2, 0, 1) - expected).max() < 1e-4


def letterbox(image: Array, room: tuple[int, int]) -> Array:
    """Return Ultralytics' ``LetterBox``, line by line (``ultralytics/data/augment.py``)."""
    shape = image.shape[:2]
    r = min(room[0] / shape[0], room[1] / shape[1])
    unpadded = round(shape[1] * r), round(shape[0] * r)
    dw, dh = (room[1] - unpadded[0]) / 2, (room[0] - unpadded[1]) / 2
    if shape[::-1] != unpadded:
        image = cv2.resize(image, unpadded, interpolation=cv2.INTER_LINEAR)
    top, bottom = round(dh - 0.1), round(dh + 0.1)
    left, right = round(dw - 0.1), round(dw + 0.1)
    return cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114)
    )


@pytest.mark.parametrize("size", [*SIZES, (333, 500), (48, 31)], ids=str)
def test_yolo_is_ultralytics_letterbox(size: tuple[int, int], tmp_path: Path) -> None:
    rgb = smooth(*size)
    expected = letterbox(np.ascontiguousarray(rgb), (48, 48)) / 255
    found = prepared(tmp_path, rgb, Preprocess(preset="yolo"))
    assert np.abs(found - expected).max() < 1e-6


def test_a_recipe_says_other_values_beside_a_preset() -> None:
    recipe = Preprocess(preset="torch-imagenet", resize=(64, 64), color="bgr")
    assert (recipe.resize, recipe.shorter_side, recipe.color) == ((64, 64), None, "bgr")
    assert recipe.std == Preprocess(preset="torch-imagenet").std
    assert Preprocess(preset="yolo", resize=(320, 320)).letterbox == 114
    assert Preprocess.model_validate(recipe.model_dump()) == recipe


# Ways of resizing. Down to a part, up, and one side each.


RESIZES = [((97, 143), (48, 48)), ((40, 30), (90, 77)), ((64, 64), (32, 96)), ((50, 70), (50, 33))]


@pytest.mark.parametrize(("have", "want"), RESIZES, ids=str)
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_antialiasing_is_pillows_to_the_bit(
    have: tuple[int, int], want: tuple[int, int], kind: Any
) -> None:
    image = pytest.importorskip("PIL.Image")
    rgb, mode = smooth(*have), getattr(image.Resampling, kind.upper())
    # One side after the other: since its version 13 Pillow itself may begin with the rows.
    columns = image.fromarray(rgb).resize((want[1], have[0]), mode)
    expected = np.asarray(columns.resize(want[::-1], mode))
    assert np.array_equal(antialiased(rgb, want, kind), expected)


@pytest.mark.parametrize(("have", "want"), RESIZES, ids=str)
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_antialiasing_that_is_not_rounded_is_torchs(
    have: tuple[int, int], want: tuple[int, int], kind: Any
) -> None:
    torch = pytest.importorskip("torch")
    rgb = smooth(*have).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None], want, mode=kind, antialias=True
    )[0].numpy().transpose(1, 2, 0)  # fmt: skip
    assert np.abs(antialiased(rgb, want, kind) - expected).max() < 1e-3
    if kind == "bilinear":  # rounded twice, by half a level each
        assert np.abs(antialiased(smooth(*have), want, kind) - expected).max() < 1.01


@pytest.mark.parametrize(("have", "want"), RESIZES, ids=str)
def test_bilinear_and_antialias_are_tensorflows(
    have: tuple[int, int], want: tuple[int, int]
) -> None:
    tf = pytest.importorskip("tensorflow")
    rgb = smooth(*have).astype(np.float32)
    assert np.abs(plain(rgb, want, "bilinear") - tf.image.resize(rgb, want).numpy()).max() < 1e-3
    expected = tf.image.resize(rgb, want, antialias=True).numpy()
    assert np.abs(antialiased(rgb, want, "bilinear") - expected).max() < 1e-3


@pytest.mark.parametrize(("have", "want"), RESIZES, ids=str)
def test_bicubic_is_torchs(have: tuple[int, int], want: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    rgb = smooth(*have).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None], want, mode="bicubic"
    )[0].numpy().transpose(1, 2, 0)  # fmt: skip
    assert np.abs(plain(rgb, want, "bicubic") - expected).max() < 1e-2


@pytest.mark.parametrize(("have", "want"), [RESIZES[0], ((60, 90), (20, 45))], ids=str)
def test_area_is_tensorflows_where_it_shrinks(have: tuple[int, int], want: tuple[int, int]) -> None:
    tf = pytest.importorskip("tensorflow")
    rgb = smooth(*have).astype(np.float32)
    expected = tf.image.resize(rgb, want, method="area").numpy()
    assert np.abs(plain(rgb, want, "area") - expected).max() < 1e-2
