"""A model that another tool quantized for one runtime, made for another with the same ranges."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import onnxgraft

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,4] y) {
    a = Conv <pads = [1,1,1,1]> (x, w)
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
samples = rng.normal(size=(16, 1, 3, 16, 16)).astype(np.float32)


class Reader(CalibrationDataReader):
    """Feeds the samples to onnxruntime's own quantization."""

    feeds = iter([{"x": sample} for sample in samples])

    def get_next(self):
        return next(self.feeds, None)


OUT.mkdir(parents=True, exist_ok=True)
onnx.save(net, OUT / "float.onnx")
quantize_static(OUT / "float.onnx", OUT / "theirs.onnx", Reader(), quant_format=QuantFormat.QDQ)

# Their ranges, in the form that OpenVINO wants.
onnxgraft.quantize(OUT / "theirs.onnx", "openvino", OUT / "openvino.onnx", from_qdq=True)
built = onnxgraft.build(OUT / "openvino.onnx", OUT / "engine.openvino")
print(f"built for {built.passport.target}, proven: {built.passport.proven}")
onnxgraft.build(OUT / "float.onnx", OUT / "engine.float", target="openvino")
with (
    onnxgraft.ServedEngine(OUT / "engine.openvino") as engine,
    onnxgraft.ServedEngine(OUT / "engine.float") as original,
):
    answers, wanted = (net.infer(samples[:, 0])["y"] for net in (engine, original))
difference = abs(answers - wanted).max() / np.ptp(wanted)
print(f"differs from the float network by {100 * difference:.1f} % of the range")
