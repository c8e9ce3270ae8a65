"""A net between named blobs: what lies outside is not looked at, so it may be inconvertible."""

from __future__ import annotations

import os
from collections.abc import Sequence

from onnxgraft.errors import InputError, nearest
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.stages.convert.caffe.reading.net import Net

__all__ = ["cut_net"]


def cut_net(
    path: str | os.PathLike[str],
    net: Net,
    inputs: Sequence[TensorOption],
    outputs: Sequence[TensorOption],
) -> None:
    """Cut ``net`` in place.

    Args:
        path: Of the net, for messages.
        net: To cut.
        inputs: Blobs inside the net to feed instead of making them, with their shapes.
        outputs: Blobs to end in; none leaves the net's own.

    Raises:
        InputError: There is no such blob, or the outputs need an input that is not there.
    """
    made = [version for layer in net.layers for version in layer.tops]
    for option in (*inputs, *outputs):
        if option.name not in (*made, *net.inputs):
            hint = nearest(option.name, {*net.inputs, *(net.blobs[name] for name in made)})
            raise InputError(f"{path}: no blob is called {option.name!r}; {hint}")
    for option in outputs:
        if option.name in net.inputs:
            raise InputError(f"{path}: {option.name!r} is an input; name an output behind it")
    inner = [option for option in inputs if option.name not in net.inputs]
    for option in inner:
        if option.shape is None:
            raise InputError(f"--inputs {option.name}: write its shape, {option.name}[1,64,56,56]")
        net.inputs[option.name] = option.shape
        net.blobs.setdefault(option.name, option.name)
    if outputs:
        net.outputs = [option.name for option in outputs]
    if not (inner or outputs):
        return
    wanted, layers = set(net.outputs), []
    for layer in reversed(net.layers):
        tops = [top for top in layer.tops if top not in net.inputs]
        if wanted & set(tops):
            layers.append(layer)
            wanted |= set(layer.bottoms)
    net.layers = layers[::-1]
    net.inputs = {name: shape for name, shape in net.inputs.items() if name in wanted}
