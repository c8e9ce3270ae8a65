"""What chains the stages: the only place that knows more than one of them."""

from __future__ import annotations

from onnxgraft.pipeline._bench import (
    BenchTarget,
    SpeedUp,
    bench,
    bench_targets,
    record_latency,
    speed_ups,
)
from onnxgraft.pipeline._budget import Budget, BudgetReport, read_budget, within_budget
from onnxgraft.pipeline._convert import Converted, convert
from onnxgraft.pipeline._deploy import deploy
from onnxgraft.pipeline._evidence import evidence
from onnxgraft.pipeline._infer import Answer, infer
from onnxgraft.pipeline._lite import LiteEngine
from onnxgraft.pipeline._postprocess import Postprocess
from onnxgraft.pipeline._quantize import Quantized, QuantizeOptions, quantize_model
from onnxgraft.pipeline._recipe import (
    Recipe,
    make_recipe,
    read_preprocess,
    read_recipe,
    read_tables,
)
from onnxgraft.pipeline._validate import open_engine, validate, write_report

__all__ = [
    "Answer",
    "BenchTarget",
    "Budget",
    "BudgetReport",
    "Converted",
    "LiteEngine",
    "Postprocess",
    "QuantizeOptions",
    "Quantized",
    "Recipe",
    "SpeedUp",
    "bench",
    "bench_targets",
    "convert",
    "deploy",
    "evidence",
    "infer",
    "make_recipe",
    "open_engine",
    "quantize_model",
    "read_budget",
    "read_preprocess",
    "read_recipe",
    "read_tables",
    "record_latency",
    "speed_ups",
    "validate",
    "within_budget",
    "write_report",
]
