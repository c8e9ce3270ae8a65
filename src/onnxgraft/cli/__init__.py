"""The ``onnxgraft`` command: each subcommand calls one function of the package.

There is no logic here: a subcommand calls a function and prints what it returns. The stages are
imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from onnxgraft.cli._app import app, main
from onnxgraft.cli._graph import convert, inspect, surgery, view
from onnxgraft.cli._int8 import calibrate, quantize

# isort: split
from onnxgraft.cli._engines import bench, build, bundle, export, infer, serve
from onnxgraft.cli._whole import deploy, diff, init, recipe_schema, validate

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = (
    inspect, convert, surgery, calibrate, quantize, build, bundle, validate, bench, infer, export,
    serve, init, recipe_schema, deploy, diff, view,
)  # fmt: skip
