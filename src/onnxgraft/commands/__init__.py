"""What chains the stages: the only place that knows more than one of them."""

from __future__ import annotations

from onnxgraft.commands._bench import (
    BenchTarget,
    SpeedUp,
    bench,
    bench_targets,
    record_latency,
    speed_ups,
)
from onnxgraft.commands._budget import Budget, BudgetReport, read_budget, within_budget
from onnxgraft.commands._convert import Converted, convert
from onnxgraft.commands._deploy import deploy
from onnxgraft.commands._evidence import evidence
from onnxgraft.commands._infer import Answer, infer
from onnxgraft.commands._lite import LiteEngine
from onnxgraft.commands._quantize import Quantized, QuantizeOptions, quantize_model
from onnxgraft.commands._recipe import (
    Recipe,
    make_recipe,
    read_preprocess,
    read_recipe,
    read_tables,
)
from onnxgraft.commands._validate import open_engine, validate, write_report
from onnxgraft.data.postprocess import Postprocess

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
