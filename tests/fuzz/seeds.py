"""Makes the seeds of the corpus that are not text: `python -m tests.fuzz.seeds`.

Each is the smallest file that has every part its reader looks at.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from models.caffemodel import caffemodel
from onnxgraft.data.image_header import Form
from onnxgraft.data.ranges import Histogram, pack
from onnxgraft.stages.quantize.measure.measurer import Tally
from tests.fuzz.readers import BETWEEN, CORPUS


def npy(array: Any) -> bytes:
    """Return the bytes of an ``.npy``."""
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()


def archive(members: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive, the same each time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, how)
    return file.getvalue()


def _field(number: int, kind: int, payload: bytes) -> bytes:
    return bytes([number << 3 & 0x7F | kind | (0x80 if number > 15 else 0),
                  *([number >> 4] if number > 15 else []),
                  *([len(payload)] if kind == 2 else [])]) + payload  # fmt: skip


def _caffemodels() -> dict[str, bytes]:
    weights = np.arange(4, dtype=np.float32)
    plain = caffemodel({"conv": ("Convolution", [weights.reshape(1, 1, 2, 2), weights[:1]])})
    half = _field(10, 0, b"\x02") + _field(12, 2, b"\0\x3c\0\x40") + _field(7, 2, b"\x08\x02")
    legacy = b"".join(_field(n, 0, b"\x01") for n in (1, 2, 3)) + _field(4, 0, b"\x02")
    legacy += _field(5, 2, weights[:2].tobytes())
    doubles = _field(8, 2, np.arange(2.0).tobytes()) + _field(7, 2, _field(1, 2, b"\x02"))
    one = _field(5, 5, weights[:1].tobytes()) + _field(7, 2, _field(1, 0, b"\x01"))
    v1 = _field(4, 2, b"ip") + b"".join(_field(6, 2, blob) for blob in (legacy, doubles, one))
    v0 = _field(1, 2, _field(1, 2, b"old") + _field(50, 2, legacy))
    return {
        "plain": plain,
        "half": _field(100, 2, _field(1, 2, b"fc") + _field(7, 2, half)),
        "legacy": _field(2, 2, v1) + _field(2, 2, v0),
    }


def _counts() -> dict[str, Histogram]:
    histogram = Histogram()
    histogram.add(np.array([-1.0, 0.0, 2.0], np.float32))
    return {"x": histogram}


def _histograms() -> bytes:
    parts = []
    for histograms in (_counts(), _counts(), {}):
        packed = pack(histograms)
        parts += [npy(packed[kind]) for kind in ("names", "sizes", "bins", "counts", "limits")]
    return BETWEEN.join(parts)


def _shard() -> bytes:
    tally = Tally(_counts(), {}, 1, {"a.png": "0" * 64}, {"b.png": "no image"})
    tally.forms[Form(4, 4, 3, 8)] += 1
    return tally.to_bytes()


MANIFEST = {
    "format": "onnxgraft.bundle/1",
    "sha256": {name: f"@{name}" for name in ("model.onnx", "float.onnx", "calibration.cache")},
    "profiles": [{"x": [[1, 3], [2, 3], [4, 3]]}],
    "passport": {"format": "onnxgraft.passport/1", "floats": "fp32", "target": "tensorrt"},
}


def _bundle() -> bytes:
    digest = hashlib.sha256(b"graph").hexdigest()
    manifest = {**MANIFEST, "sha256": {"model.onnx": digest}}
    return archive({"manifest.json": json.dumps(manifest).encode(), "model.onnx": b"graph"})


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    head = bytes([0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0])
    rows = zlib.compress(b"\0\1\2" * 2)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _exif() -> bytes:
    return b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"


def _exif_jpeg() -> bytes:
    exif = b"Exif\0\0" + _exif()
    return b"\xff\xd8\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + _jpeg()[8:]


def _webp() -> bytes:
    extended = b"VP8X\n\0\0\0\x08\0\0\0\1\0\0\1\0\0"
    return b"RIFF\x40\0\0\0WEBP" + extended + b"EXIF" + bytes([len(_exif()), 0, 0, 0]) + _exif()


def _tiff() -> bytes:
    tags = b"\0\1\3\0\1\0\0\0\2\0\0\0\1\1\4\0\1\0\0\0\2\0\0\0\2\1\3\0\3\0\0\0\x32\0\0\0"
    return b"II*\0\x08\0\0\0\3\0" + tags + bytes(4) + b"\x08\0" * 3


def _jpeg() -> bytes:
    frame = bytes([0xFF, 0xC0, 0, 11, 8, 0, 2, 0, 2, 1, 1, 0x11, 0])
    return b"\xff\xd8\xff\xe0\0\4ab\xff\xff\xd0" + frame + b"\xff\xd9"


def _bmp() -> bytes:
    sizes = (40).to_bytes(4, "little") + b"\2\0\0\0\xfe\xff\xff\xff\1\0\x18\0"
    return b"BM" + bytes(12) + sizes + bytes(16)


def _onnx(text: str, weights: Mapping[str, Any], external: bool = False) -> bytes:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    if external:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="net.onnx")
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="length", value="8")
    onnx.helper.set_model_props(
        proto,
        {
            "onnxgraft.source": json.dumps({"path": "a", "framework": "onnx", "sha256": "0"}),
            "onnxgraft.names": json.dumps({"y": ["y:0", [0, 2, 1]]}),
        },
    )
    return bytes(proto.SerializeToString())


def main() -> None:
    """Write them."""
    whole = npy(np.zeros((3, 2, 2, 1), np.float32))
    made: dict[str, dict[str, bytes]] = {
        "caffemodel": _caffemodels(),
        "histograms": {"plain": _histograms()},
        "bundle": {"plain": _bundle()},
        "manifest": {"plain": json.dumps(MANIFEST).encode()},
        "npz": {
            "stored": archive({"x.npy": whole, "labels.npy": npy(np.arange(3))}),
            "deflated": archive({"x.npy": whole}, zipfile.ZIP_DEFLATED),
        },
        "arrays": {
            "plain": whole + BETWEEN + npy(np.arange(3)),
            "channels_first": npy(np.zeros((1, 2, 1, 2), ">i2")) + BETWEEN + npy(np.zeros(1)),
        },
        "image": {
            "png": _png(), "jpeg": _jpeg(), "bmp": _bmp(), "exif": _exif_jpeg(), "webp": _webp(),
            "tiff": _tiff(),
        },
        "onnx": {
            "plain": _onnx("n (float[N,2] x) => (float[N,2] y) { y = Mul(x, w) }",
                           {"w": np.ones((1, 2), np.float32)}),
            "body": _onnx(
                "n (bool c, float[2] x) => (float[2] y) { y = If(c) "
                "<then_branch = a () => (float[2] p) { p = Add(x, w) }, "
                "else_branch = b () => (float[2] q) { q = Relu(x) }> }",
                {"w": np.ones(2, np.float32)}),
            "external": _onnx("n (float[N,2] x) => (float[N,2] y) { y = Mul(x, w) }",
                              {"w": np.ones((1, 2), np.float32)}, external=True),
        },
        "shard": {"plain": _shard()},
    }  # fmt: skip
    for reader, files in made.items():
        (CORPUS / reader).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (CORPUS / reader / name).write_bytes(data)


if __name__ == "__main__":
    main()
