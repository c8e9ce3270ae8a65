"""Model -> Engine: what is deployed, with its passport beside it.

One file a target: what a target can't do, and how its versions differ, is written there alone.
Names are loaded when they are asked for: where an engine is only run, nothing that builds one is
needed, or there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxgraft.optional import late

if TYPE_CHECKING:
    from onnxgraft.run.layers import Layer, LayerTimes
    from onnxgraft.stages.engine.baking import Baked, bake, checked, drawn
    from onnxgraft.stages.engine.building import (
        Evidence,
        build,
        bundle,
        check,
        graph_hash,
        graph_precision,
    )
    from onnxgraft.stages.engine.loading import (
        check_layers,
        default_target,
        layers,
        load,
        runs_here,
        time_layers,
    )
    from onnxgraft.stages.engine.options import BuildOptions
    from onnxgraft.stages.engine.passport import Passport, read_passport, record
    from onnxgraft.stages.engine.tensorrt.bundle import Bundle, unpacked
    from onnxgraft.stages.engine.unknown import is_engine, target_of

__all__ = [
    "Baked",
    "BuildOptions",
    "Bundle",
    "Evidence",
    "Layer",
    "LayerTimes",
    "Passport",
    "bake",
    "build",
    "bundle",
    "check",
    "check_layers",
    "checked",
    "default_target",
    "drawn",
    "graph_hash",
    "graph_precision",
    "is_engine",
    "layers",
    "load",
    "read_passport",
    "record",
    "runs_here",
    "target_of",
    "time_layers",
    "unpacked",
]

__getattr__ = late(
    __name__,
    {
        "Baked": ".baking",
        "BuildOptions": ".options",
        "Bundle": ".tensorrt.bundle",
        "Evidence": ".building",
        "Layer": "onnxgraft.run.layers",
        "LayerTimes": "onnxgraft.run.layers",
        "Passport": ".passport",
        "bake": ".baking",
        "build": ".building",
        "bundle": ".building",
        "check": ".building",
        "check_layers": ".loading",
        "checked": ".baking",
        "default_target": ".loading",
        "drawn": ".baking",
        "graph_hash": ".building",
        "graph_precision": ".building",
        "is_engine": ".unknown",
        "layers": ".loading",
        "load": ".loading",
        "read_passport": ".passport",
        "record": ".passport",
        "runs_here": ".loading",
        "target_of": ".unknown",
        "time_layers": ".loading",
        "unpacked": ".tensorrt.bundle",
    },
)
