"""Model + Samples -> Ranges; Model + Ranges -> the INT8 graph that a target wants.

`calibrate` runs the model once over the samples, `rechoose` applies another method to what it
counted and `settle` the one that is best for the whole network, `read_cache` and `write_cache`
exchange ranges with TensorRT 10 and older, `quantize` places QuantizeLinear and DequantizeLinear by
the target's table in `placement`, `retarget` makes ranges and weights of a graph that has them
already, `store_weights` makes integers of weights alone and needs no ranges, `improve` makes INT8
lose less, `explain` tells what may slow it down, and `to_half` writes what is float in FP16.
"""

from __future__ import annotations

from onnxgraft.graph.half import HalfReport
from onnxgraft.stages.quantize.improve.auto import AUTO, Choice, settle, whole_ranges
from onnxgraft.stages.quantize.improve.improve import (
    IMPROVEMENTS,
    Improvement,
    Prepared,
    improve,
)
from onnxgraft.stages.quantize.measure.calibrate import calibrate, rechoose
from onnxgraft.stages.quantize.measure.checkpoint import Checkpoint
from onnxgraft.stages.quantize.measure.thresholds import METHODS, Method, choose_range
from onnxgraft.stages.quantize.place.explain import Remark, explain
from onnxgraft.stages.quantize.place.half import to_half
from onnxgraft.stages.quantize.place.placement import (
    Placement,
    placement,
    placement_text,
    read_placement,
)
from onnxgraft.stages.quantize.place.qdq import FloatLayer, Improved, QuantizeReport, quantize
from onnxgraft.stages.quantize.place.ready import OLDEST_OPSET, fingerprint
from onnxgraft.stages.quantize.retarget.retarget import Retargeted, retarget
from onnxgraft.stages.quantize.tensorrt.cache import (
    header_version,
    ranges_from_cache,
    read_cache,
    write_cache,
)
from onnxgraft.stages.quantize.tensorrt.calibrators import adapt_calibrator, cache_calibrator
from onnxgraft.stages.quantize.weights.store import store_weights, weights_opset

__all__ = [
    "AUTO",
    "IMPROVEMENTS",
    "METHODS",
    "OLDEST_OPSET",
    "Checkpoint",
    "Choice",
    "FloatLayer",
    "HalfReport",
    "Improved",
    "Improvement",
    "Method",
    "Placement",
    "Prepared",
    "QuantizeReport",
    "Remark",
    "Retargeted",
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
    "retarget",
    "settle",
    "store_weights",
    "to_half",
    "weights_opset",
    "whole_ranges",
    "write_cache",
]
