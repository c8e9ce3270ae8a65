"""An ONNX file with a training flag among its inputs goes all the way, as any other."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgraft
from tests.conftest import Cli, model_of, only_ci

pytestmark = pytest.mark.usefixtures("untimed")

NET = (
    "net (float[N, 3, 8, 8] x, bool is_training) => (float[N, 4] y) {"
    " c = Conv<pads=[1,1,1,1]>(x, w)  half = Constant<value_float=0.5>()"
    " dropped = Dropout(c, half, is_training)  r = Relu(dropped)"
    " p = GlobalAveragePool(r)  y = Flatten(p) }"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    net = model_of(NET, {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)})
    onnx.save(net.to_onnx(), tmp_path / "net.onnx")
    images = rng.standard_normal((12, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=images[:8])
    np.savez(tmp_path / "val.npz", x=images[8:], labels=np.zeros(4, np.int64))
    return tmp_path


def test_convert_freezes_it_and_agrees(folder: Path, cli: Cli) -> None:
    done = cli("convert", folder / "net.onnx", "-o", folder / "clean.onnx")
    assert done.returncode == 0, done.stderr
    model = onnx.load(folder / "clean.onnx")
    assert [entry.name for entry in model.graph.input] == ["x"]


def test_validate_sets_it_to_inference(folder: Path) -> None:
    onnxgraft.convert(folder / "net.onnx", folder / "clean.onnx")
    for pair in (("net.onnx", "clean.onnx"), ("clean.onnx", "net.onnx"), ("net.onnx", "net.onnx")):
        report = onnxgraft.validate(*(folder / name for name in pair), folder / "val.npz")
        assert report.passed
        assert report.candidates[1].outputs[0].max_abs < 1e-5


def test_an_image_folder_feeds_what_is_no_flag(folder: Path, cli: Cli) -> None:
    import cv2

    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        picture = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/{number}.png"), picture)
    done = cli("validate", folder / "net.onnx", folder / "net.onnx", "--data", folder / "images")
    assert done.returncode == 0, done.stderr


@only_ci
def test_deploy_takes_it_to_engines(folder: Path, cli: Cli) -> None:
    done = cli("deploy", folder / "net.onnx", "--data", folder / "calib.npz", "--validate-on",
               folder / "val.npz", "--targets", "onnxruntime", "-o", folder / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "out/engine.onnxruntime").is_file()
