"""The table of operators that TensorRT lacks, against TensorRT itself."""

from __future__ import annotations

import onnx
import pytest

from onnxgraft.targets.tensorrt import TENSORRT

OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}


def test_tensorrt_s_parser_agrees_for_every_operator_of_onnx() -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    parser = trt.OnnxParser(builder.create_network(0), logger)
    assert len(OPERATORS) > 150
    lacking = {name for name in OPERATORS if not parser.supports_operator(name)}
    assert lacking == TENSORRT.lacks & OPERATORS


def test_nothing_in_the_table_is_made_up() -> None:
    # Older versions of onnx lack what was added since.
    unknown = TENSORRT.lacks - OPERATORS
    assert unknown <= {"BitCast", "CumProd", "SwiGLU"}
