"""Builds an INT8 engine with its recipe, and serves it by numpy and onnxruntime alone."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx

import onnxgraft

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,32,32] x) => (float[N,4] y) {
    a = Conv <strides = [2,2]> (x, w)
    b = Relu(a)
    c = GlobalAveragePool(b)
    d = Flatten(c)
    y = Gemm(d, v)
}"""

rng = np.random.default_rng(0)
net = onnx.parser.parse_model(NET)
for name, shape in {"w": (8, 3, 3, 3), "v": (8, 4)}.items():
    value = rng.normal(size=shape).astype(np.float32)
    net.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
(OUT / "images").mkdir(parents=True, exist_ok=True)
for number in range(8):
    cv2.imwrite(str(OUT / f"images/{number}.png"), rng.integers(0, 256, (60, 90, 3), np.uint8))

onnxgraft.LiteEngine(
    net, target="onnxruntime", precision="int8", calibration=OUT / "images",
    preprocess=onnxgraft.Preprocess(preset="torch-imagenet", shorter_side=40), path=OUT / "engine",
).close()  # fmt: skip

serve = Path(__file__).with_name("serve.py")
np.save(OUT / "picture.npy", rng.integers(0, 256, (60, 90, 3), np.uint8))
subprocess.run([sys.executable, serve, OUT / "engine", OUT / "picture.npy"], check=True)
