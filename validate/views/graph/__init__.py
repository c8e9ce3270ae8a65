"""Graphs to walk through: their stages as plain data, and the page that draws them."""

from __future__ import annotations

from onnxgraft.stages.validate.views.graph.data import (
    Block,
    Drawn,
    Link,
    Shown,
    ShownTensor,
    Stage,
    Walk,
    Weight,
)
from onnxgraft.stages.validate.views.graph.engines import stage_of_engine
from onnxgraft.stages.validate.views.graph.links import linked
from onnxgraft.stages.validate.views.graph.models import Known, stage_of_model
from onnxgraft.stages.validate.views.graph.page import graph_part, write_walk

__all__ = [
    "Block",
    "Drawn",
    "Known",
    "Link",
    "Shown",
    "ShownTensor",
    "Stage",
    "Walk",
    "Weight",
    "graph_part",
    "linked",
    "stage_of_engine",
    "stage_of_model",
    "write_walk",
]
