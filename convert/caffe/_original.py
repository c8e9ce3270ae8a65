"""The Caffe net in OpenCV DNN, which runs it without Caffe: the judge, where it is right."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxgraft.convert.caffe._convert import load_net
from onnxgraft.convert.caffe._net import Layer, Net
from onnxgraft.errors import ModelError, NotSupportedError
from onnxgraft.runtime import Feeds, Outputs, Resource, TensorSpec, check_feeds
from onnxgraft.tensor_option import TensorOption

__all__ = ["OpenCvDnn", "departures", "original_caffe"]


class OpenCvDnn(Resource):
    """A Caffe net in OpenCV DNN 4.x.

    Raises:
        NotSupportedError: OpenCV can't read the net.
    """

    name = "opencv"

    def __init__(
        self, net: Net, prototxt: str | os.PathLike[str], weights: str | os.PathLike[str] | None
    ) -> None:
        """Read the net."""
        import cv2

        self._error = cv2.error
        try:
            self._net: Any = cv2.dnn.readNetFromCaffe(
                os.fspath(prototxt), "" if weights is None else os.fspath(weights)
            )
        except cv2.error as error:
            raise NotSupportedError(
                f"{prototxt}: OpenCV can't read the net ({error.err})"
            ) from error
        # Its Winograd convolutions are off by up to 3e-4 of the range.
        self._net.enableWinograd(False)
        self.inputs = tuple(
            TensorSpec(name, "float32", ("N", *shape[1:]) if len(shape) > 1 else shape)
            for name, shape in net.inputs.items()
        )
        makers = {top: layer.name for layer in net.layers for top in layer.tops}
        self._makers = {output: makers[output] for output in net.outputs}
        self.outputs = tuple(TensorSpec(name, "float32", ()) for name in net.outputs)

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        for name, value in check_feeds(self.name, self.inputs, feeds).items():
            self._net.setInput(value, name)
        try:
            values = self._net.forward(list(self._makers.values()))
        except self._error as error:
            raise ModelError(f"OpenCV can't run the net: {error.err}") from error
        return {name: np.array(v) for name, v in zip(self._makers, values, strict=True)}


def original_caffe(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    inputs: Sequence[TensorOption] = (),
    outputs: Sequence[TensorOption] = (),
) -> OpenCvDnn:
    """Return a Caffe net running in OpenCV.

    Raises:
        NotSupportedError: OpenCV can't read the net, or computes one of its layers wrongly.
    """
    whole = load_net(path, weights, [o for o in inputs if o.shape is not None])
    net = load_net(path, weights, inputs, outputs)
    if net.inputs.keys() - whole.inputs.keys():
        raise NotSupportedError(f"{path}: OpenCV can't be fed inside the net")
    wrong = departures(net)
    if wrong:
        raise NotSupportedError(
            f"{path}: OpenCV can't be the judge of this net, it departs from Caffe: {wrong[0]}"
        )
    return OpenCvDnn(net, path, weights)


def departures(net: Net) -> list[str]:
    """Return the layers that OpenCV computes otherwise than Caffe; there Caffe is right."""
    return [f"{layer} ({reason})" for layer in net.layers if (reason := _departure(layer))]


def _departure(layer: Layer) -> str | None:
    reasons: Mapping[str, tuple[bool, str]] = {
        "LRN": (layer.parameter("lrn_param").number("k", 1.0) != 1.0, "it ignores k"),
        "InnerProduct": (
            layer.parameter("inner_product_param").flag("transpose", False),
            "it ignores transpose",
        ),
        "Deconvolution": (
            max(layer.parameter("convolution_param").integers("dilation") or [1]) > 1,
            "it ignores dilation",
        ),
        "Swish": (layer.parameter("swish_param").number("beta", 1.0) != 1.0, "it ignores beta"),
        "Log": (bool(layer.parameter("log_param").fields), "it ignores the parameters"),
        "MVN": (True, "it puts eps inside the root"),
        "PriorBox": (
            any(
                value % 1
                for name in ("min_size", "max_size")
                for value in layer.parameter("prior_box_param").numbers(name)
            ),
            "it does not truncate sizes",
        ),
        "Scale": (len(layer.bottoms) > 1 and bool(layer.blobs), "it drops the bias"),
    }
    applies, reason = reasons.get(layer.type, (False, ""))
    return reason if applies else None
