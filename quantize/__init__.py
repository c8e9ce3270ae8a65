"""Model + Samples -> Ranges; Model + Ranges -> the INT8 graph that a target wants.

`calibrate` runs the model once over the samples, `rechoose` applies another method to what it
counted, `read_cache` and `write_cache` exchange ranges with TensorRT 10 and older, `quantize`
places QuantizeLinear and DequantizeLinear by the target's table in `placement`.
"""

from __future__ import annotations

from onnxgraft.quantize._calibrate import calibrate, fingerprint, rechoose
from onnxgraft.quantize._checkpoint import Checkpoint
from onnxgraft.quantize._qdq import FloatLayer, QuantizeReport, quantize
from onnxgraft.quantize._thresholds import METHODS, Method, choose_range
from onnxgraft.quantize.calibrators import adapt_calibrator, cache_calibrator
from onnxgraft.quantize.placement import PLACEMENTS, Placement
from onnxgraft.quantize.trt_cache import header_version, ranges_from_cache, read_cache, write_cache

__all__ = [
    "METHODS",
    "PLACEMENTS",
    "Checkpoint",
    "FloatLayer",
    "Method",
    "Placement",
    "QuantizeReport",
    "adapt_calibrator",
    "cache_calibrator",
    "calibrate",
    "choose_range",
    "fingerprint",
    "header_version",
    "quantize",
    "ranges_from_cache",
    "read_cache",
    "rechoose",
    "write_cache",
]
