"""What a Caffe network holds, layer by layer, whether its weights are there or not."""

from __future__ import annotations

import collections
import os

from onnxgraft.errors import InputError
from onnxgraft.stages.convert.caffe.converting import add_layer, input_blobs, load_net
from onnxgraft.stages.convert.caffe.layers.emitter import FREE, BatchIsFixed, Emitter, Shape
from onnxgraft.stages.convert.caffe.reading.net import Layer, Net
from onnxgraft.stages.convert.inspection import Inspection

__all__ = ["inspect_caffe"]

_OPSET = 17


def inspect_caffe(
    path: str | os.PathLike[str], weights: str | os.PathLike[str] | None
) -> Inspection:
    """Return the layers of a net with their shapes and parameters, and what is left out.

    Without ``weights`` the parameters are counted by what the net says.
    """
    net = load_net(path, weights)
    try:
        return _walk(path, net, weights is None, free=True)
    except BatchIsFixed:
        return _walk(path, net, weights is None, free=False)


def _walk(path: str | os.PathLike[str], net: Net, weightless: bool, free: bool) -> Inspection:
    out = Emitter(_OPSET, weightless=weightless, blobs=net.blobs, free=free)
    blobs = input_blobs(net, free)
    inputs = [_line(name, blob.shape) for name, blob in blobs.items()]
    lines, notes, total = [], list(net.notes), 0
    for layer in net.layers:
        before = out.parameters
        try:
            add_layer(layer, blobs, out)
        except InputError as error:
            notes.append(str(error))
            lines.append(f"{_head(layer)}  can't be converted")
            break
        total += out.parameters - before
        tops = ", ".join(_line(net.blobs[top], blobs[top].shape) for top in layer.tops)
        count = f"  {out.parameters - before:,} parameters" if out.parameters > before else ""
        lines.append(f"{_head(layer)}  {tops}{count}")
    return Inspection(
        path=os.fspath(path),
        framework="caffe",
        inputs=inputs,
        outputs=[_line(name, blobs[name].shape) for name in net.outputs if name in blobs],
        operators=dict(collections.Counter(layer.type for layer in net.layers).most_common()),
        parameters=total,
        layers=lines,
        notes=notes,
    )


def _head(layer: Layer) -> str:
    return f"{layer.position:>4} {layer.type} {layer.name!r}"


def _line(name: str, shape: Shape) -> str:
    return f"{name} ({', '.join('N' if dim == FREE else str(dim) for dim in shape)})"
