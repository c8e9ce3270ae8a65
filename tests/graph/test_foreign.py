"""A file that is no model is named for what it is, whatever it is called."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import onnx
import pytest

from onnxgraft.errors import ModelError
from onnxgraft.graph.model import Model
from onnxgraft.stages.convert import Original
from tests.conftest import model_of
from tests.running import Cli


def picture(kind: str) -> bytes:
    return bytes(cv2.imencode(kind, np.zeros((8, 8, 3), np.uint8))[1])


def zipped(**names: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in names.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model"))
    return out.getvalue()


def arrays() -> bytes:
    out = io.BytesIO()
    np.savez(out, x=np.zeros(3))
    return out.getvalue()


def one_array() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


KINDS = {
    "png": (picture(".png"), "a PNG image"),
    "jpeg": (picture(".jpg"), "a JPEG image"),
    "bmp": (picture(".bmp"), "a BMP image"),
    "webp": (picture(".webp"), "a WebP image"),
    "tiff": (picture(".tiff"), "a TIFF image"),
    "recipe": (b'model = "a.pb"\n[calibrate]\ndata = "images"\n', "a recipe"),
    "preprocess": (b'[preprocess]\nlayout = "nchw"\n', "a recipe"),
    "toml": (b'"seen1" = [0, 1]\n', "TOML"),
    "ranges": (json.dumps({"format": "onnxgraft.ranges/1"}).encode(), "the ranges that"),
    "passport": (json.dumps({"format": "onnxgraft.passport/1"}).encode(), "the passport of"),
    "json": (b'{"a": 1}', "JSON"),
    "zip": (zipped(a_dot_txt=b"a"), "a ZIP archive"),
    "torch": (zipped(archive__data_dot_pkl=b"a"), "a PyTorch file"),
    "keras": (zipped(config_dot_json=b"{}", model_dot_weights_dot_h5=b""), "a Keras model"),
    "npz": (arrays(), r"arrays of NumPy \(.npz\)"),
    "npy": (one_array(), "a NumPy array"),
    "pickle": (pickle.dumps({"weights": [1.0]}), "a pickle, as PyTorch writes"),
    "old_torch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle, as PyTorch writes"),
    "gzip": (gzip.compress(b"a"), "an archive, packed with gzip"),
    "tar": (tarred(), "a tar archive"),
    "tensorrt": (b"ptrt" + bytes(80), "an engine of TensorRT"),
    "openvino": (b"UPCVO" + bytes(80), "an engine of OpenVINO"),
    "ort": (b"\x18\0\0\0ORTM" + bytes(80), "a model in onnxruntime's own format"),
    "table": (bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a part of a TensorFlow checkpoint"),
    "checkpoints": (b'model_checkpoint_path: "a"\n', "the list of TensorFlow's checkpoints"),
    "safetensors": (b"\x08\0\0\0\0\0\0\0" + b'{"a":{}}', "a file of weights"),
    "cache": (b"TRT-8601-EntropyCalibration2\nx: 3c010a14\n", "a TensorRT calibration cache"),
    "page": (b"<!DOCTYPE html><html>not found</html>", "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "openvino_ir": (b'<?xml version="1.0"?><net name="a"></net>', "XML, as OpenVINO"),
    "pdf": (b"%PDF-1.7", "a PDF document"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(20), "a TFLite model"),
}


@pytest.mark.parametrize("suffix", [".pb", ".onnx", ".pth", ".prototxt", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, kind: str, suffix: str) -> None:
    content, words = KINDS[kind]
    file = tmp_path / f"file{suffix}"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=rf"file{suffix}: is {words}.*, and no model; \w+"):
        Original.of(file).lower()
    with pytest.raises(ModelError, match=rf"file{suffix}: is {words}"):
        Model.load(file)


def test_hdf5_is_a_keras_model_by_its_name_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.model", "w") as file:
        file["x"] = 1
    with pytest.raises(ModelError, match=r"is an HDF5 file, and no model; .* call it \.h5"):
        Original.of(tmp_path / "a.model").lower()


def test_the_data_of_a_checkpoint_and_an_engine_beside_its_passport_are_named(
    tmp_path: Path,
) -> None:
    data = tmp_path / "model.data-00000-of-00001"
    data.write_bytes(bytes(64))
    with pytest.raises(ModelError, match="is the data of a TensorFlow checkpoint"):
        Original.of(data).lower()
    model = model_of("n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    model.save(tmp_path / "engine.onnxruntime")
    (tmp_path / "engine.onnxruntime.json").write_text('{"format": "onnxgraft.passport/1"}')
    with pytest.raises(ModelError, match="is an engine, and no model"):
        Original.of(tmp_path / "engine.onnxruntime").lower()


@pytest.mark.parametrize("name", ["model.pb", "model", "model.bin"])
def test_an_onnx_file_is_one_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    model = model_of("n (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    (tmp_path / name).write_bytes(model.to_onnx().SerializeToString())
    original = Original.of(tmp_path / name)
    assert original.framework == "onnx"
    assert isinstance(original.lower()[0].to_onnx(), onnx.ModelProto)


@pytest.mark.parametrize("command", ["inspect", "surgery", "convert", "calibrate", "build"])
def test_every_command_names_it(tmp_path: Path, command: str, cli: Cli) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(KINDS["torch"][0])
    more = {
        "inspect": [], "calibrate": ["--data", tmp_path, "-o", tmp_path / "r.json"],
        "build": ["--target", "onnxruntime", "-o", tmp_path / "e"],
    }.get(command, ["-o", tmp_path / "o.onnx"])  # fmt: skip
    done = cli(command, file, *more)
    assert done.returncode == 2
    assert "is a PyTorch file (.pt, .pth), and no model" in done.stderr
    assert 'torch.export.save(program, "net.pt2")' in done.stderr
