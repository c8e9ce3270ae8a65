"""Model + Samples -> Ranges; Model + Ranges -> the INT8 graph that a target wants.

`calibrate` runs the model once over the samples, `quantize` places QuantizeLinear and
DequantizeLinear by the target's table in `placement`.
"""

from __future__ import annotations

from onnxgraft.quantize._calibrate import calibrate, fingerprint
from onnxgraft.quantize._qdq import FloatLayer, QuantizeReport, quantize
from onnxgraft.quantize._thresholds import METHODS, Method, choose_range
from onnxgraft.quantize.placement import PLACEMENTS, Placement

__all__ = [
    "METHODS",
    "PLACEMENTS",
    "FloatLayer",
    "Method",
    "Placement",
    "QuantizeReport",
    "calibrate",
    "choose_range",
    "fingerprint",
    "quantize",
]
