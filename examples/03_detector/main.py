"""A detector by a recipe: letterboxed, quantized, and its boxes drawn on photographs."""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx

import onnxgraft

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
# Eight by eight cells of YOLOv8's rows: the boxes stand still, the scores follow the pixels.
NET = """<ir_version: 8, opset_import: ["" : 17]>
detector (float[1,3,64,64] images) => (float[1,6,64] output0) {
    a = Conv <kernel_shape = [8,8], strides = [8,8]> (images, w)
    b = Sigmoid(a)
    scores = Reshape(b, shape)
    output0 = Concat <axis = 1> (boxes, scores)
}"""

rng = np.random.default_rng(0)
cells = np.stack(np.meshgrid(np.arange(8), np.arange(8)), 0).reshape(2, 64) * 8 + 4
constants = {
    "w": rng.normal(size=(2, 3, 8, 8)).astype(np.float32) / 8,
    "shape": np.array([1, 2, 64]),
    "boxes": np.concatenate([cells, np.full((2, 64), 12)])[np.newaxis].astype(np.float32),
}
net = onnx.parser.parse_model(NET)
net.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items())

(OUT / "images").mkdir(parents=True, exist_ok=True)
onnx.save(net, OUT / "net.onnx")
for number in range(8):
    cv2.imwrite(str(OUT / f"images/{number}.png"), rng.integers(0, 256, (48, 80, 3), np.uint8))
shutil.copy(Path(__file__).with_name("recipe.toml"), OUT)

report = onnxgraft.deploy(OUT / "recipe.toml", OUT / "deployed")
print(f"deployed: {report.passed}")
engine = OUT / "deployed/engine.onnxruntime"
found = onnxgraft.infer(engine, [OUT / "images/0.png"], out=OUT / "pictures")
print(f"{len(found.answers[0].boxes)} boxes, drawn in {found.answers[0].picture}")
