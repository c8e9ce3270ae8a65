"""Small networks, pictures and recipes: what the commands on a page find in their folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from onnxgraft import commands
from onnxgraft.data.preprocess import Preprocess
from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import model_of

__all__ = ["caffe_network", "street", "tensorflow_network"]

HEIGHT, WIDTH = 32, 48
_NET = (
    "net (float[N, 3, 32, 48] data) => (float[N, 3, 32, 48] score) {"
    " conv1 = Conv<pads=[1,1,1,1]>(data, w1, b1)  relu1 = Relu(conv1)"
    " conv2 = Conv<pads=[PADS]>(relu1, w2, b2)  relu2 = Relu(conv2)"
    " rows = Transpose<perm=[0,2,3,1]>(relu2)  product = MatMul(rows, w3)"
    " score = Transpose<perm=[0,3,1,2]>(product) }"
)
_PREPROCESS = '[preprocess]\ncolor = "rgb"\nmean = [127.5]\nscale = [0.0078125]\n'
_RECIPE = (
    'model = "net.onnx"\ntargets = ["onnxruntime"]\n' + _PREPROCESS +
    '[calibrate]\ndata = "images"\n[validate]\ndata = "val"\nmetric = "miou"\n'
    'classes = "classes.toml"\n[bench]\nrounds = 1\nruns = 2\n'
)  # fmt: skip


def street(folder: Path) -> None:
    """Write a segmentation network, its photographs, labels, recipes, and one with a mistake."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(16, 3, 3, 3)) / 4, "b1": rng.normal(size=16) / 4,
        "w2": rng.normal(size=(32, 16, 3, 3)) / 8, "b2": rng.normal(size=32) / 4,
        "w3": rng.normal(size=(32, 3)) / 4,
    }  # fmt: skip
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    net = model_of(_NET.replace("PADS", "1,1,1,1"), constants)
    for name in ("net.onnx", "model.onnx"):
        net.save(folder / name)
    model_of(_NET.replace("PADS", "2,2,0,0"), constants).save(folder / "candidate.onnx")
    np.save(folder / "train.npy", rng.normal(size=(12, 3, HEIGHT, WIDTH)).astype(np.float32))
    (folder / "recipe.toml").write_text(_PREPROCESS)
    (folder / "net.toml").write_text(_RECIPE)
    (folder / "classes.toml").write_text('names = ["road", "sky", "tree"]\n')
    for part, count in {"images": 12, "val": 6}.items():
        (folder / part).mkdir()
        for number in range(count):
            coarse = rng.integers(0, 255, (4, 6, 3), np.uint8)
            picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(folder / part / f"{number}.jpg"), picture)
    _label(net, folder / "val")
    _quantize(folder)


def _quantize(folder: Path) -> None:
    """Write ranges, TensorRT's calibration cache, and INT8 graphs with an engine."""
    with contextlib.chdir(folder):
        data = {"data": "images", "preprocess": "recipe.toml"}
        cache = {"cache_out": "old.cache", "trt_version": "10.3.0"}
        commands.calibrate("model.onnx", "measured.json", method="minmax", **data, **cache)
        made = {"int8.onnx": "tensorrt", "qat.onnx": "tensorrt", "net.int8.onnx": "onnxruntime"}
        for name, target in made.items():
            commands.quantize("model.onnx", target, ranges="measured.json", out=name)
        commands.build("net.int8.onnx", "net.int8.engine", prove=False)
        task = {"preprocess": "recipe.toml", "metric": "miou", "classes": "classes.toml"}
        for run in ("before", "after"):
            commands.validate("net.onnx", "net.int8.onnx", "val", report=run, **task)


def _label(net: Model, folder: Path) -> None:
    """Write beside each photograph what the network says of it."""
    recipe = Preprocess(color="rgb", mean=(127.5,), scale=(0.0078125,))
    with OnnxRuntime(net.to_onnx()) as session:
        for path in sorted(folder.glob("*.jpg")):
            feed = recipe.image(path).transpose(2, 0, 1)[np.newaxis]
            scores = session.infer({"data": feed})["score"][0]
            second, best = np.sort(scores, 0)[-2:]
            classes = np.where(best - second > 0.2, scores.argmax(0), 255)  # 255 is none
            cv2.imwrite(str(path.with_suffix(".png")), classes.astype(np.uint8))


def tensorflow_network(folder: Path, shared: Path) -> None:
    """Write a network that takes and gives what README's does, and link some photographs.

    The real one is deployed by tests/commands, and in its tutorial for Caffe.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return tf.constant(rng.normal(scale=np.prod(shape[:3]) ** -0.5, size=shape), tf.float32)

    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, 352, 480, 3], name="image")
        found = tf.nn.relu(tf.nn.conv2d(images / 64, weights(8, 8, 3, 16), 8, "SAME"))
        found = tf.nn.conv2d(found, weights(3, 3, 16, 11), 1, "SAME")
        tf.compat.v1.image.resize_bilinear(found, (352, 480), align_corners=True, name="score")
        tf.nn.softmax(graph.get_tensor_by_name("score:0"), name="prob")
    (folder / "fcn.pb").write_bytes(graph.as_graph_def().SerializeToString())
    _photographs(shared, folder / "images/train", folder / "images/val", 4, 2)


def caffe_network(folder: Path, shared: Path) -> None:
    """Link the real network in Caffe, under the names of its tutorial."""
    for suffix in ("prototxt", "caffemodel"):
        found = shared / "models/fcn_camvid" / f"fcn_camvid.{suffix}"
        (folder / f"fcn.{suffix}").symlink_to(found)
    _photographs(shared, folder / "calib", folder / "val", 6, 2)


def _photographs(shared: Path, calib: Path, val: Path, *counts: int) -> None:
    for part, place, count in zip(("calib", "val"), (calib, val), counts, strict=True):
        place.mkdir(parents=True)
        for path in sorted((shared / "data/camvid" / part).glob("*.jpg"))[:count]:
            for found in (path, path.with_suffix(".png")):
                if found.exists():
                    (place / found.name).symlink_to(found)
