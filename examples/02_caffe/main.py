"""A Caffe network without Caffe: prototxt, caffemodel and mean file, deployed to INT8."""

import sys
from pathlib import Path

import cv2
import numpy as np

import onnxgraft

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
NET = """
layer { name: "data" type: "Data" top: "data" include { phase: TEST } data_param { batch_size: 1 }
        transform_param { mean_file: "mean.binaryproto" scale: 0.0078125 crop_size: 24 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
        inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


def varint(value):  # of protobuf's wire format
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def blob(array):  # its data, and its shape
    return field(5, array.astype("<f4").tobytes()) + field(
        7, field(1, b"".join(map(varint, array.shape)))
    )


rng = np.random.default_rng(0)
weights = {"conv": (8, 3, 3, 3), "fc": (5, 968)}
layers = [
    field(1, name.encode()) + field(7, blob(rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))))
    for name, shape in weights.items()
]
OUT.mkdir(parents=True, exist_ok=True)
(OUT / "net.prototxt").write_text(NET)
(OUT / "net.caffemodel").write_bytes(b"".join(field(100, layer) for layer in layers))
(OUT / "mean.binaryproto").write_bytes(blob(np.full((1, 3, 28, 28), 120.0)))
(OUT / "images").mkdir(exist_ok=True)
for number in range(8):
    cv2.imwrite(str(OUT / f"images/{number}.png"), rng.integers(0, 256, (28, 28, 3), np.uint8))

report = onnxgraft.deploy(
    OUT / "net.prototxt", OUT / "deployed", weights=OUT / "net.caffemodel", data=OUT / "images",
    targets="onnxruntime",
)  # fmt: skip
print(f"deployed: {report.passed}")
print(report.assumed)
