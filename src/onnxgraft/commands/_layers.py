"""The layer table of a report: what the graph does, and what the engine says that it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxgraft.errors import OnnxgraftError
from onnxgraft.graph.model import Model
from onnxgraft.graph.tensors import Feeds, Outputs
from onnxgraft.run.answers import answers
from onnxgraft.run.difference import sqnr
from onnxgraft.run.engine import Engine
from onnxgraft.run.layer_nodes import place
from onnxgraft.run.layers import Layer, plain_precision
from onnxgraft.run.tolerances import ENGINE_DECIBELS
from onnxgraft.stages import engine as stage
from onnxgraft.stages.validate.report import LayerRow

__all__ = ["layers_of_engine"]

# An output of the engine that keeps so much less than its graph's, in dB, is named: two right ones
# differ by less on a single sample.
_APART = 3.0


def layers_of_engine(
    rows: list[LayerRow], model: Model, engine: Engine, feeds: Feeds, expected: Outputs
) -> tuple[list[LayerRow], str, list[str]]:
    """Return the rows with the engine's precisions and outputs, and where the rest is from.

    At the end stands a sentence for each output of which the engine keeps less than its graph.

    Args:
        rows: Of the graph, on one sample.
        model: The graph that the engine was built from.
        engine: The engine.
        feeds: The sample, as of the original.
        expected: The original's outputs.
    """
    try:
        told = _told(model, stage.layers(engine))
    except OnnxgraftError:
        told = {}
    makers = {
        tensor.name: node.name for node in model.graph.nodes for tensor in node.outputs
    }  # fmt: skip
    found = []
    for row in rows:
        precision = told.get(makers.get(row.tensor, ""))
        if precision is None:
            found.append(row)
            continue
        graph = "" if precision == row.precision else row.precision
        found.append(replace(row, precision=precision, told=True, graph=graph))
    count = sum(row.told for row in found)
    said = (
        f"{engine.name} tells the precision of {count} of these {len(found)} layers; where it "
        "does not, because it fused them into others, the precision is the graph's"
        if count
        else f"{engine.name} does not tell what its layers run in: the precisions are those of the "
        "graph that it was built from"
    )
    found, apart = _ends(found, engine, feeds, expected)
    said += "; errors are those of that graph, computed layer by layer"
    return found, "; ".join([said, *apart]), [f"{engine.name}: {text}" for text in apart]


def _told(model: Model, layers: Sequence[Layer]) -> dict[str, str]:
    """Return the precision of each node of the graph that an engine tells of."""
    return {
        node: precision
        for one in place(model, layers)
        if one.layer.role == "layer" and (precision := plain_precision(one.layer.precision))
        for node in one.nodes
    }


def _ends(
    rows: list[LayerRow], engine: Engine, feeds: Feeds, expected: Outputs
) -> tuple[list[LayerRow], list[str]]:
    """Return the rows with what the engine's outputs keep, and a sentence where that is less."""
    actual = answers(engine, feeds, expected)
    kept = {
        name: sqnr(value, actual[name])
        for name, value in expected.items()
        if name in actual and value.dtype.kind == "f"
    }
    found, told = [], []
    for row in rows:
        mine = kept.get(row.tensor, kept.get(row.origin))
        if mine is None or row.arrived is None:
            found.append(row)
            continue
        if mine < min(row.arrived, ENGINE_DECIBELS) - _APART:
            told.append(
                f"on this sample {row.origin} keeps {mine:.1f} dB in the engine and "
                f"{row.arrived:.1f} in its graph, so that the engine computes something else"
            )
        found.append(replace(row, arrived=mine))
    return found, told
