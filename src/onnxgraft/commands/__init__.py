"""What a command does: one function each, with the command's name and parameters.

The only room that knows more than one stage. A function takes paths or objects and returns a
result: what the command prints, as an object with ``to_json`` and ``passed``. A name is loaded when
it is asked for: who serves an engine needs, and has, nothing of the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxgraft.optional import late

if TYPE_CHECKING:
    from onnxgraft.commands._bench import Benched, bench
    from onnxgraft.commands._budget import Budget
    from onnxgraft.commands._build import BuiltEngine, build, bundle
    from onnxgraft.commands._calibrate import Calibrated, calibrate
    from onnxgraft.commands._convert import Converted, convert
    from onnxgraft.commands._deploy import deploy
    from onnxgraft.commands._diff import Differences, diff
    from onnxgraft.commands._export import Exported, export
    from onnxgraft.commands._infer import Answer, Inferred, infer
    from onnxgraft.commands._init import Begun, RecipeSchema, init, recipe_schema
    from onnxgraft.commands._inspect import Inspected, inspect
    from onnxgraft.commands._lite import LiteEngine
    from onnxgraft.commands._quantize import Quantized, quantize
    from onnxgraft.commands._recipe import Recipe, read_recipe
    from onnxgraft.commands._serve import Served, serve
    from onnxgraft.commands._served import ServedEngine
    from onnxgraft.commands._surgery import Operated, surgery
    from onnxgraft.commands._validate import validate
    from onnxgraft.commands._view import Viewed, view

__all__ = [
    "Answer",
    "Begun",
    "Benched",
    "Budget",
    "BuiltEngine",
    "Calibrated",
    "Converted",
    "Differences",
    "Exported",
    "Inferred",
    "Inspected",
    "LiteEngine",
    "Operated",
    "Quantized",
    "Recipe",
    "RecipeSchema",
    "Served",
    "ServedEngine",
    "Viewed",
    "bench",
    "build",
    "bundle",
    "calibrate",
    "convert",
    "deploy",
    "diff",
    "export",
    "infer",
    "init",
    "inspect",
    "quantize",
    "read_recipe",
    "recipe_schema",
    "serve",
    "surgery",
    "validate",
    "view",
]

__getattr__ = late(
    __name__,
    {
        "Answer": "._infer",
        "Begun": "._init",
        "Benched": "._bench",
        "Budget": "._budget",
        "BuiltEngine": "._build",
        "Calibrated": "._calibrate",
        "Converted": "._convert",
        "Differences": "._diff",
        "Exported": "._export",
        "Inferred": "._infer",
        "Inspected": "._inspect",
        "LiteEngine": "._lite",
        "Operated": "._surgery",
        "Quantized": "._quantize",
        "Recipe": "._recipe",
        "RecipeSchema": "._init",
        "Served": "._serve",
        "ServedEngine": "._served",
        "Viewed": "._view",
        "bench": "._bench",
        "build": "._build",
        "bundle": "._build",
        "calibrate": "._calibrate",
        "convert": "._convert",
        "deploy": "._deploy",
        "diff": "._diff",
        "export": "._export",
        "infer": "._infer",
        "init": "._init",
        "inspect": "._inspect",
        "quantize": "._quantize",
        "read_recipe": "._recipe",
        "recipe_schema": "._init",
        "serve": "._serve",
        "surgery": "._surgery",
        "validate": "._validate",
        "view": "._view",
    },
)
