"""What a command does: one function each, with the command's name and parameters.

The only room that knows more than one stage. A function takes paths or objects and returns a
result: what the command prints, as an object with ``to_json`` and ``passed``.
"""

from __future__ import annotations

from onnxgraft.commands._bench import Benched, bench
from onnxgraft.commands._budget import Budget
from onnxgraft.commands._build import BuiltEngine, build, bundle
from onnxgraft.commands._calibrate import Calibrated, calibrate
from onnxgraft.commands._convert import Converted, convert
from onnxgraft.commands._deploy import deploy
from onnxgraft.commands._diff import Differences, diff
from onnxgraft.commands._infer import Answer, Inferred, infer
from onnxgraft.commands._init import Begun, RecipeSchema, init, recipe_schema
from onnxgraft.commands._inspect import Inspected, inspect
from onnxgraft.commands._lite import LiteEngine
from onnxgraft.commands._quantize import Quantized, quantize
from onnxgraft.commands._recipe import Recipe, read_recipe
from onnxgraft.commands._surgery import Operated, surgery
from onnxgraft.commands._validate import validate

__all__ = [
    "Answer",
    "Begun",
    "Benched",
    "Budget",
    "BuiltEngine",
    "Calibrated",
    "Converted",
    "Differences",
    "Inferred",
    "Inspected",
    "LiteEngine",
    "Operated",
    "Quantized",
    "Recipe",
    "RecipeSchema",
    "bench",
    "build",
    "bundle",
    "calibrate",
    "convert",
    "deploy",
    "diff",
    "infer",
    "init",
    "inspect",
    "quantize",
    "read_recipe",
    "recipe_schema",
    "surgery",
    "validate",
]
