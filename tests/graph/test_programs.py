"""What onnxruntime has operators for: each is known to compute, or has a reason against it."""

from __future__ import annotations

import collections

import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from onnxgraft.graph.programs import COMPUTING, PROGRAMS

# What onnxruntime has in ONNX's own domain and ONNX has not: they compute, or move values.
OLD = frozenset(
    "Affine Crop DisentangledAttention_TRT DynamicSlice EfficientNMS_TRT GRUUnit GivenTensorFill "
    "ImageScaler MemcpyFromHost MemcpyToHost MultilevelCropAndResize_TRT ParametricSoftplus "
    "PyramidROIAlign_TRT Scale ScaledTanh SimplifiedLayerNormalization".split()
)


def registered() -> dict[str, set[str]]:
    found: dict[str, set[str]] = collections.defaultdict(set)
    for schema in get_all_operator_schema():
        found[schema.domain].add(schema.name)
    return found


def test_every_operator_of_onnxruntime_is_known_to_compute_or_has_a_reason_against_it() -> None:
    for domain, names in registered().items():
        known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == domain}
        programs = {kind for where, kind in PROGRAMS if where == domain}
        computing = COMPUTING.get(domain, frozenset() if domain else OLD) | known
        assert names - computing - programs == set(), domain
        assert computing & programs == set(), domain
