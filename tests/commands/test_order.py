"""Swapped arguments are recognised by what the files are, and the right command is told."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.commands._order import DATA, IMAGE, MODEL, check_order
from onnxgraft.data.ranges import Range, Ranges
from onnxgraft.errors import InputError
from onnxgraft.graph.foreign import ENGINE, RANGES
from tests.conftest import Cli, model_of, once


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        model_of("n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }").save(folder / "net.onnx")
        (folder / "net.pb").write_bytes(b"\n\x03abc")
        (folder / "net.engine").write_bytes(b"ptrt" + bytes(80))
        Ranges("mse", 1, "", "", "d", {"x": Range(0, 1, 0, 1, "mse")}).save(folder / "ranges.json")
        np.savez(folder / "data.npz", x=np.zeros((8, 4), np.float32))
        (folder / "list.txt").write_text("a.jpg\n")
        (folder / "images").mkdir()
        cv2.imwrite(str(folder / "photo.png"), np.zeros((2, 2, 3), np.uint8))

    return once(tmp_path_factory, "order", make)


SWAPPED = {
    "validate net.engine net.onnx --data data.npz": "validate net.onnx net.engine --data",
    "validate net.engine net.pb --data data.npz": "validate net.pb net.engine --data",
    "calibrate images --data net.onnx -o r": "calibrate net.onnx --data images -o",
    "calibrate data.npz --data net.onnx -o r": "calibrate net.onnx --data data.npz -o",
    "calibrate list.txt --data net.onnx -o r": "calibrate net.onnx --data list.txt -o",
    "quantize ranges.json --ranges net.onnx --target openvino -o q": "quantize net.onnx --ranges ",
    "infer photo.png net.engine": "infer net.engine photo.png",
    "infer photo.png net.onnx": "infer net.onnx photo.png",
    "deploy images --data net.pb": "deploy net.pb --data images",
}


@pytest.mark.parametrize("line", SWAPPED)
def test_the_right_order_is_told(line: str, files: Path, cli: Cli) -> None:
    before = sorted(files.iterdir())
    done = cli(*line.split(), cwd=files)
    assert done.returncode == 2
    assert "look swapped: the first is " in done.stderr
    assert f"; write onnxgraft {SWAPPED[line]}" in done.stderr
    assert sorted(files.iterdir()) == before


EXTRA = {
    "calibrate images net.onnx -o r": "calibrate model.onnx --data images/",
    "calibrate net.onnx images -o r": "calibrate model.onnx --data images/",
    "quantize ranges.json net.onnx --target openvino -o q": "quantize model.onnx --ranges ",
    "validate net.engine net.onnx images --data data.npz": "validate model.pb model.engine --data",
    "build net.onnx net.engine -o e": "build int8.onnx --target openvino -o",
}


@pytest.mark.parametrize("line", EXTRA)
def test_a_word_too_many_is_answered_with_an_example(line: str, files: Path, cli: Cli) -> None:
    done = cli(*line.split(), "--json", cwd=files)
    assert done.returncode == 2
    assert "Got unexpected extra argument" in done.stderr
    assert f"; for example: onnxgraft {EXTRA[line]}" in done.stderr


@pytest.mark.parametrize(
    ("first", "wanted", "second", "expected"),
    [
        ("net.onnx", MODEL, "images", DATA),
        ("net.onnx", MODEL, "net.engine", ENGINE),
        ("net.engine", MODEL, "net.engine", ENGINE),
        ("net.onnx", MODEL, "ranges.json", RANGES),
        ("none", MODEL, "net.onnx", DATA),
        ("images", MODEL, "none", DATA),
        ("net.engine", ENGINE, "photo.png", IMAGE),
    ],
)
def test_what_is_in_order_is_taken(
    first: str, wanted: str, second: str, expected: str, files: Path
) -> None:
    check_order((files / first, (wanted,)), (files / second, (expected,)), "x {0} {1}")


def test_objects_of_python_are_never_swapped(files: Path) -> None:
    check_order((object(), (MODEL,)), (files / "net.onnx", (DATA,)), "x {0} {1}")
    with pytest.raises(InputError, match="look swapped"):
        check_order((files / "images", (MODEL,)), (files / "net.onnx", (DATA,)), "x {0} {1}")
