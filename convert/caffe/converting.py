"""A net and its weights -> `Model`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import ModelError, NotSupportedError, nearest
from onnxgraft.files import sha256
from onnxgraft.graph.model import Model, Origin, Source
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.stages.convert.caffe.geometry import align_crops
from onnxgraft.stages.convert.caffe.layers.emitter import (
    FREE,
    MOST_VALUES,
    BatchIsFixed,
    Blob,
    Emitter,
    count,
)
from onnxgraft.stages.convert.caffe.layers.fields import FIELDS, check_fields
from onnxgraft.stages.convert.caffe.layers.table import INPUTS, LAYERS
from onnxgraft.stages.convert.caffe.reading.cut import cut_net
from onnxgraft.stages.convert.caffe.reading.net import Layer, Net, read_net
from onnxgraft.stages.convert.caffe.reading.wire import read_caffemodel

__all__ = ["add_layer", "convert_caffe", "filled_layers", "input_blobs", "load_net"]

_ANY_OPSET = 17


def convert_caffe(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    inputs: Sequence[TensorOption],
    outputs: Sequence[TensorOption],
    opset: int,
) -> tuple[Model, list[str]]:
    """Convert a prototxt and its caffemodel.

    Args:
        path: The prototxt.
        weights: The caffemodel; None where the net has no weights but by fillers.
        inputs: The shapes of inputs for which the net gives none, and blobs inside it to feed.
        outputs: Blobs to end in; none takes what nothing consumes.
        opset: Of the ONNX graph.

    Returns:
        The model, and a sentence for each thing that was left out.

    Raises:
        ModelError: The files are damaged or do not fit each other.
        NotSupportedError: A layer can't be converted.
    """
    net = load_net(path, weights, inputs, outputs)
    notes = list(net.notes)
    try:
        try:
            graph, names, told = _graph(net, opset, free=True)
        except BatchIsFixed:
            graph, names, told = _graph(net, opset, free=False)
            notes.append("the batch is fixed: a layer of the net depends on its number")
    except ModelError as error:
        raise type(error)(f"{Path(path)}: {error}") from error
    except NotSupportedError as error:
        raise NotSupportedError(f"{Path(path)}: {error}") from error
    notes += told
    source = Source(os.fspath(path), "caffe", sha256(path))
    return Model(graph, source, names), notes


def load_net(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    inputs: Sequence[TensorOption] = (),
    outputs: Sequence[TensorOption] = (),
) -> Net:
    """Read a net and its weights and cut it; the parameters are those of `convert_caffe`."""
    blobs = {} if weights is None else read_caffemodel(weights)
    shapes = {option.name: option.shape for option in inputs if option.shape is not None}
    net = read_net(path, blobs, shapes)
    align_crops(net)
    cut_net(path, net, inputs, outputs)
    return net


def filled_layers(net: Net) -> list[Layer]:
    """Return the layers whose weights are not in the caffemodel but made by a filler."""
    out = Emitter(_ANY_OPSET, blobs=net.blobs)
    blobs = input_blobs(net, free=False)
    for layer in net.layers:
        add_layer(layer, blobs, out)
    return out.filled


def _graph(net: Net, opset: int, free: bool) -> tuple[gs.Graph, dict[str, Origin], list[str]]:
    """Return a net's graph, the blob of each tensor, and notes; the batch free or as it says."""
    out = Emitter(opset, blobs=net.blobs, free=free)
    blobs = input_blobs(net, free)
    inputs = [blob.tensor for blob in blobs.values()]
    for layer in net.layers:
        add_layer(layer, blobs, out)
    outputs = [blobs[name].tensor for name in net.outputs]
    for name, tensor in zip(net.outputs, outputs, strict=True):
        tensor.shape = [
            dim if dim != FREE else (f"{name}.{axis}" if axis or not free else None)
            for axis, dim in enumerate(blobs[name].shape)
        ]
        if tensor.shape and tensor.shape[0] is None:
            tensor.shape[0] = "N" if len(blobs[name].shape) > 1 else f"{name}.0"
    used = {name for layer in net.layers for name in layer.bottoms}
    graph = gs.Graph(
        out.nodes,
        [tensor for tensor in inputs if tensor.name in used],
        outputs,
        name=net.name,
        opset=opset,
        producer_name="onnxgraft",
    )
    graph.ir_version = 8
    names = {name: Origin(net.blobs[name]) for name in blobs if name in net.blobs}
    return graph, names, out.notes


def input_blobs(net: Net, free: bool) -> dict[str, Blob]:
    """Return the inputs of a net, by name, with the batch free or as the net says."""
    blobs: dict[str, Blob] = {}
    for name, shape in net.inputs.items():
        dims = (FREE, *shape[1:]) if free and len(shape) > 1 else shape
        if count(dims) > MOST_VALUES:
            raise ModelError(f"the input {name!r} would be {list(dims)}")
        if -1 in dims[1:]:
            raise ModelError(f"only the first dimension of {name!r} can be free: {list(dims)}")
        tensor = gs.Variable(name, np.float32, ["N" if dim == FREE else dim for dim in dims])
        blobs[name] = Blob(tensor, tuple(dims))
    return blobs


def _or_more(fewest: int, most: int | None) -> str:
    if most == fewest:
        return "are "
    return "or more are " if most is None else f"to {most} are "


def add_layer(layer: Layer, blobs: dict[str, Blob], out: Emitter) -> None:
    """Convert one layer and name what it makes after its tops."""
    converter = LAYERS.get(layer.type)
    out.layer, out.read = layer, set()
    if converter is None:
        hint = nearest(layer.type, LAYERS)
        raise out.refuse(
            f"layers of this type can't be converted ({hint})" if "mean" in hint
            else "layers of this type can't be converted"
        )  # fmt: skip
    fewest, most = INPUTS.get(layer.type, (1, 1))
    given = len(layer.bottoms)
    if most is not None and given > most:
        raise out.refuse(_beyond(layer, "bottom", most))
    if given < fewest:
        raise ModelError(f"{layer}: it has {given} inputs, {fewest} {_or_more(fewest, most)}wanted")
    if layer.type in FIELDS:
        out.notes += check_fields(layer)
    bottoms = [blobs[name] for name in layer.bottoms]
    try:
        made = converter(layer, bottoms, out)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Parameters that make no sense for these shapes, in a way that the converter does not ask
        # about by name.
        shapes = ", ".join(str(blob.shape) for blob in bottoms)
        raise ModelError(f"{layer}: it can't work on inputs of {shapes} ({error})") from error
    if layer.type in FIELDS:
        _check_blobs(layer, out)
    if len(made) < len(layer.tops):
        raise out.refuse(_beyond(layer, "top", len(made)))
    for name, blob in zip(layer.tops, made, strict=False):
        if blob.tensor.name in blobs:
            blob = out.unary("Identity", blob)  # the layer does nothing, but the top has a name
        if count(blob.shape) > MOST_VALUES or 0 in blob.shape:
            raise ModelError(f"{layer}: its output {name!r} would be {blob.shape}")
        blob.tensor.name = name
        blobs[name] = blob


def _beyond(layer: Layer, side: str, known: int) -> str:
    """Say which bottom or top is the first that the converter does not know."""
    name = layer.message.scalars(side)[known]
    return (
        f"what its {side} {name.text!r} (number {known + 1}, line {name.line}) is for is not "
        f"known, only that of {known or 'none'} before it"
    )


def _check_blobs(layer: Layer, out: Emitter) -> None:
    """Refuse stored blobs that the converter did not ask for: they may change the result."""
    beyond = [i for i, blob in enumerate(layer.blobs) if i not in out.read and blob.size]
    if beyond:
        shapes = ", ".join(str(tuple(layer.blobs[i].shape)) for i in beyond)
        raise out.refuse(
            f"the caffemodel has {len(layer.blobs)} blobs for it, and nothing is known of what "
            f"number {', '.join(str(i + 1) for i in beyond)} (of the shape {shapes}) does"
        )
