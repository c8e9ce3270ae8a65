"""onnxruntime's layers: the nodes that a session runs, and what each takes.

A session optimizes a graph once more when it loads it, for the processor that it finds. So what is
told here is of a session of its own, with the same settings and with onnxruntime's profiler on.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxgraft.graph.onnx_file import read_model
from onnxgraft.graph.operators import QUANTIZERS, is_op, op_of
from onnxgraft.graph.tensors import Feeds
from onnxgraft.run.engine import Engine
from onnxgraft.run.layers import (
    WARM_UP,
    Layer,
    LayerTimes,
    Role,
    median_ms,
    plain_precision,
)
from onnxgraft.run.session import OnnxRuntime

__all__ = ["optimized_layers", "timed"]

Source = onnx.ModelProto | str | os.PathLike[str]
Configure = Callable[[Any], None]

# Its operators that compute in integers whatever type their inputs are written in.
_INTEGERS = re.compile(r"QLinear|QGemm|Integer|DynamicQuantize|QAttention|QOrdered|QEmbed|QMoE")
# Ends the names of its events that are a node's.
_KERNEL = "_kernel_time"
# What it puts between kernels that keep channels in blocks and others.
_REORDERS = frozenset({"ReorderInput", "ReorderOutput"})


def optimized_layers(source: Source, configure: Configure) -> list[Layer]:
    """Return the nodes of a graph as a session runs them.

    Args:
        source: The model, or the path of its file.
        configure: Sets the session's options.
    """
    with tempfile.TemporaryDirectory(prefix="onnxgraft.") as folder:
        file = Path(folder) / "optimized.onnx"

        def configured(options: Any) -> None:
            configure(options)
            options.optimized_model_filepath = os.fspath(file)

        OnnxRuntime(source, configure=configured).close()
        return _layers(file)


def timed(
    source: Source, configure: Configure, plain: Engine, feeds: Feeds, runs: int
) -> LayerTimes:
    """Return what the nodes of a graph take in a session, of ``runs`` inferences.

    What a node with bodies takes is without that of the nodes in them.

    Args:
        source: The model, or the path of its file.
        configure: Sets the session's options.
        plain: The same without the profiler, which costs time.
        feeds: By name.
        runs: Inferences that are looked at; a few before them warm up.
    """
    total = median_ms(plain, feeds, runs)
    with tempfile.TemporaryDirectory(prefix="onnxgraft.") as folder:
        file = Path(folder) / "optimized.onnx"

        def configured(options: Any) -> None:
            configure(options)
            options.optimized_model_filepath = os.fspath(file)
            options.enable_profiling = True
            options.profile_file_prefix = os.fspath(Path(folder) / "time_layers")

        with OnnxRuntime(source, configure=configured) as session:
            for _ in range(WARM_UP + runs):
                session.infer(feeds)
            events = json.loads(Path(session.end_profiling()).read_bytes())
        return replace(_times(_layers(file), events, runs), total=total)


def _layers(file: Path) -> list[Layer]:
    """Return the nodes of an optimized graph that was saved, those of bodies behind theirs."""
    graph = read_model(file)[0].graph
    return [_layer(node, types) for node, types in _nodes(graph, {})]


def _nodes(
    graph: onnx.GraphProto, outer: Mapping[str, str]
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, str]]]:
    """Yield nodes with the types of the tensors that they may read."""
    types = dict(outer)
    for entry in (*graph.input, *graph.output, *graph.value_info):
        types[entry.name] = _type(entry.type.tensor_type.elem_type)
    for constant in graph.initializer:
        types[constant.name] = _type(constant.data_type)
    for node in graph.node:
        for name in node.output:
            types.setdefault(name, _output_type(node, types))
        yield node, types
        for attribute in node.attribute:
            for body in (*attribute.graphs, *[attribute.g] * attribute.HasField("g")):
                yield from _nodes(body, types)


def _type(number: int) -> str:
    return onnx.TensorProto.DataType.Name(number).lower() if number else ""


def _output_type(node: onnx.NodeProto, types: Mapping[str, str]) -> str:
    """Return the type of what a node makes, where the file does not say it."""
    known = [types.get(name, "") for name in node.input]
    if is_op(node, "Cast"):
        return next((_type(entry.i) for entry in node.attribute if entry.name == "to"), "")
    if is_op(node, "QuantizeLinear", domain=QUANTIZERS):
        return known[2] if len(known) > 2 else "uint8"
    if is_op(node, "DequantizeLinear", domain=QUANTIZERS):
        return known[1]
    return next(filter(None, known), "")


def _layer(node: onnx.NodeProto, types: Mapping[str, str]) -> Layer:
    reads, makes = ([types.get(name, "") for name in side] for side in (node.input, node.output))
    role: Role = "layer"
    if is_op(node, *_REORDERS, domain="com.microsoft.nchwc"):
        role = "reorder"
    elif is_op(node, "Cast") or is_op(
        node, "QuantizeLinear", "DequantizeLinear", domain=QUANTIZERS
    ):
        role = "conversion"
    layer = Layer(
        node.name, op_of(node), "", (node.name,) if node.name else (), role,
        reads=tuple(filter(None, node.input)), makes=tuple(filter(None, node.output)),
    )  # fmt: skip
    return _typed(layer, reads, makes)


def _typed(layer: Layer, reads: Sequence[str], makes: Sequence[str]) -> Layer:
    """Return a layer with what the types of its tensors tell."""
    told = next(filter(None, map(plain_precision, (*reads, *makes))), "")
    precision = "int8" if _INTEGERS.search(layer.kind) else told
    change = ""
    if layer.role == "conversion" and reads and makes:
        change = f"{reads[0]} to {makes[0]}"
    elif layer.role == "reorder":
        change = "into blocks of channels or back"
    return replace(layer, precision=precision, change=change)


def _times(layers: Sequence[Layer], events: Sequence[Mapping[str, Any]], runs: int) -> LayerTimes:
    """Return the layers with their times in the last ``runs`` inferences of a profile."""
    whole = [event for event in events if event.get("name") == "model_run"][-runs:]
    kernels = [event for event in events if str(event.get("name")).endswith(_KERNEL)]
    taken: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(whole))
    said: dict[str, Mapping[str, Any]] = {}
    order: dict[str, float] = {}
    for number, run in enumerate(whole):
        within = [e for e in kernels if run["ts"] <= e["ts"] < run["ts"] + run["dur"]]
        for event, own in _own(within):
            name = str(event["name"]).removesuffix(_KERNEL)
            taken[name][number] += own / 1000
            said[name] = event["args"]
            order.setdefault(name, event["ts"])
    known: dict[str, Layer] = {}
    for layer in layers:
        known.setdefault(layer.name, layer)
    found = []
    for name in sorted(order, key=order.__getitem__):
        layer = known.get(name) or Layer(name, str(said[name]["op_name"]), "", (name,))
        sides = (
            [kind for entry in said[name].get(key, ()) for kind in entry]
            for key in ("input_type_shape", "output_type_shape")
        )
        milliseconds = float(np.median(taken[name]))
        found.append(replace(_typed(layer, *sides), milliseconds=milliseconds))
    counted = float(np.median([run["dur"] / 1000 for run in whole]))
    return LayerTimes(tuple(found), counted, len(whole), counted)


def _own(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Yield events with the microseconds that they took without those that lie within them."""
    around: list[Mapping[str, Any]] = []
    own = {id(event): float(event["dur"]) for event in events}
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        # Clocks count whole microseconds: two that follow each other may overlap by one.
        while around and _end(around[-1]) < _end(event):
            around.pop()
        if around and event["ts"] < _end(around[-1]):
            own[id(around[-1])] -= event["dur"]
        around.append(event)
    for event in events:
        yield event, max(own[id(event)], 0.0)


def _end(event: Mapping[str, Any]) -> float:
    return float(event["ts"] + event["dur"])
