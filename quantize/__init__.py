"""Model + Samples -> Ranges; Model + Ranges -> the INT8 graph that a target wants.

`calibrate` runs the model once over the samples, `rechoose` applies another method to what it
counted, `read_cache` and `write_cache` exchange ranges with TensorRT 10 and older, `quantize`
places QuantizeLinear and DequantizeLinear by the target's table in `placement`, `improve` makes
that lose less, `explain` tells what may slow it down, and `to_half` writes what is float in FP16.
"""

from __future__ import annotations

from onnxgraft.half import HalfReport
from onnxgraft.quantize._calibrate import calibrate, fingerprint, rechoose
from onnxgraft.quantize._checkpoint import Checkpoint
from onnxgraft.quantize._explain import Remark, explain
from onnxgraft.quantize._improve import (
    DEFAULT_IMPROVEMENTS,
    IMPROVEMENTS,
    Improvement,
    Prepared,
    improve,
)
from onnxgraft.quantize._qdq import FloatLayer, Improved, QuantizeReport, quantize
from onnxgraft.quantize._thresholds import METHODS, Method, choose_range
from onnxgraft.quantize.calibrators import adapt_calibrator, cache_calibrator
from onnxgraft.quantize.half import to_half
from onnxgraft.quantize.placement import (
    PLACEMENTS,
    Placement,
    placement,
    placement_text,
    read_placement,
)
from onnxgraft.quantize.trt_cache import header_version, ranges_from_cache, read_cache, write_cache

__all__ = [
    "DEFAULT_IMPROVEMENTS",
    "IMPROVEMENTS",
    "METHODS",
    "PLACEMENTS",
    "Checkpoint",
    "FloatLayer",
    "HalfReport",
    "Improved",
    "Improvement",
    "Method",
    "Placement",
    "Prepared",
    "QuantizeReport",
    "Remark",
    "adapt_calibrator",
    "cache_calibrator",
    "calibrate",
    "choose_range",
    "explain",
    "fingerprint",
    "header_version",
    "improve",
    "placement",
    "placement_text",
    "quantize",
    "ranges_from_cache",
    "read_cache",
    "read_placement",
    "rechoose",
    "to_half",
    "write_cache",
]
