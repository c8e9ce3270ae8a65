"""The Caffe net in OpenCV DNN, which runs it without Caffe: the reference, where it is right."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxgraft.errors import NotSupportedError
from onnxgraft.graph.tensor_option import TensorOption
from onnxgraft.graph.tensors import Feeds, Outputs, TensorSpec
from onnxgraft.run.engine import Resource, check_feeds
from onnxgraft.stages.convert.caffe.converting import filled_layers, load_net
from onnxgraft.stages.convert.caffe.reading.net import Layer, Net
from onnxgraft.stages.convert.caffe.reading.prototxt import Message
from onnxgraft.stages.convert.tensorflow.quiet import quiet

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

        # Its errors are raised as well.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._error = cv2.error
        self._files = os.fspath(prototxt), "" if weights is None else os.fspath(weights)
        self._net = self._read()
        self._unfused: Any = None
        self.inputs = tuple(
            TensorSpec(name, "float32", ("N", *shape[1:]) if len(shape) > 1 else shape)
            for name, shape in net.inputs.items()
        )
        self._makers = {
            top: (layer.name, at) for layer in net.layers for at, top in enumerate(layer.tops)
        }
        self._layers = set(self._net.getLayerNames())
        self._fetched = {output: self._makers[output] for output in net.outputs}
        self.outputs = tuple(TensorSpec(name, "float32", ()) for name in net.outputs)

    def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs, by name, for ``feeds``, by name."""
        return self._forward(self._net, self._fetched, feeds)

    def probe(self, tensors: Sequence[str], feeds: Feeds) -> Outputs:
        """Return those of ``tensors`` that are the first top of a layer, by version of the blob.

        The memory of other tops OpenCV gives to who reads them.
        """
        found = {name: self._makers[name] for name in tensors if name in self._makers}
        known = {
            name: (layer, at)
            for name, (layer, at) in found.items()
            if not at and layer in self._layers
        }
        if not known:
            return {}
        if self._unfused is None:
            # Fused layers write into each other's memory, and leave other values than their own.
            # A net that has run can't be switched.
            self._unfused = self._read()
            self._unfused.enableFusion(False)
        return self._forward(self._unfused, known, feeds)

    def _read(self) -> Any:
        import cv2

        try:
            with quiet():
                net = cv2.dnn.readNetFromCaffe(*self._files)
        except cv2.error as error:
            raise NotSupportedError(
                f"{self._files[0]}: OpenCV can't read the net ({error.err})"
            ) from error
        # Its Winograd convolutions are off by up to 3e-4 of the range.
        net.enableWinograd(False)
        return net

    def _forward(self, net: Any, makers: Mapping[str, tuple[str, int]], feeds: Feeds) -> Outputs:
        """Return tops of layers, by the name that each has in ``makers``: its layer and number."""
        checked = check_feeds(self.name, self.inputs, feeds)
        try:
            with quiet():  # it writes its errors to standard error too
                for name, value in checked.items():
                    net.setInput(value, name)
                layers = list(dict.fromkeys(layer for layer, _ in makers.values()))
                values = dict(zip(layers, net.forwardAndRetrieve(layers), strict=True))
        except self._error as error:
            raise NotSupportedError(f"OpenCV can't run the net ({error.err})") from error
        return {name: np.array(values[layer][at]) for name, (layer, at) in makers.items()}

    def close(self) -> None:
        """Give back the net and its weights."""
        self._net = self._unfused = None


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
    net = load_net(path, weights, inputs, outputs)
    if net.inputs.keys() - net.own_inputs:
        raise NotSupportedError(f"{path}: OpenCV can't be fed inside the net")
    filled = filled_layers(net)
    if filled:
        # It would crash on them.
        raise NotSupportedError(f"{path}: OpenCV does not fill in weights, as of {filled[0]}")
    wrong = departures(net)
    if wrong:
        raise NotSupportedError(
            f"{path}: OpenCV can't be the reference for this net, it departs from Caffe: {wrong[0]}"
        )
    later = {top for layer in net.layers for top in layer.tops[1:]}.intersection(net.outputs)
    read = {b for layer in load_net(path, weights).layers for b in layer.bottoms} if later else ()
    for output in sorted(later.intersection(read)):
        # It would give what the reader wrote there.
        raise NotSupportedError(
            f"{path}: OpenCV can't be the reference for {output}, which another layer reads: it "
            "is not the first top of its layer"
        )
    return OpenCvDnn(net, path, weights)


def departures(net: Net) -> list[str]:
    """Return the layers that OpenCV computes otherwise than Caffe; there Caffe is right."""
    return [f"{layer} ({reason})" for layer in net.layers if (reason := _departure(layer))]


def _departure(layer: Layer) -> str | None:
    for name, values in layer.message.fields.items():
        for value in values:
            fork = _FORKS & value.fields.keys() if isinstance(value, Message) else ()
            if fork:
                return f"it does not know {sorted(fork)[0]} of {name}"
    for applies, reason in DEPARTURES.get(layer.type, ()):
        if applies(layer):
            return reason
    return None


# Fields of forks that are converted and that it reads over.
_FORKS = frozenset(
    {"add_eps_before_sqrt", "denser_prior_boxes", "height_scale", "hole", "hole_h", "hole_w",
     "mode", "normalize", "normalize_type", "objectness_score", "pad_b", "pad_l", "pad_r", "pad_t",
     "pad_type", "pixelshuffler", "use_polygon", "width_scale"}
)  # fmt: skip


def _given(parameter: str, *fields: str) -> Callable[[Layer], bool]:
    """Return a check whether one of the fields stands in the layer's parameters."""
    return lambda layer: any(layer.parameter(parameter).has(field) for field in fields)


def _missing(parameter: str, *fields: str) -> Callable[[Layer], bool]:
    """Return a check whether one of the fields does not stand in the layer's parameters."""
    return lambda layer: not all(layer.parameter(parameter).has(field) for field in fields)


def _number(parameter: str, field: str, default: float) -> Callable[[Layer], bool]:
    """Return a check whether a number is another than ``default``."""
    return lambda layer: layer.parameter(parameter).number(field, default) != default


def _fractions(layer: Layer) -> bool:
    settings = layer.parameter("prior_box_param")
    return any(v % 1 for name in ("min_size", "max_size") for v in settings.numbers(name))


def _dilated_groups(layer: Layer) -> bool:
    settings = layer.parameter("convolution_param")
    grouped = settings.integer("group", 1) > 1 or layer.type != "Convolution"
    return grouped and max(settings.integers("dilation") or [1]) > 1


def _half_given(layer: Layer) -> bool:
    settings = layer.parameter("convolution_param")
    return any(
        settings.has(f"{name}_h") != settings.has(f"{name}_w")
        for name in ("kernel", "stride", "pad")
    )


def _small_eps(layer: Layer) -> bool:
    settings = layer.parameter("batch_norm_param")
    return len(layer.blobs) == 5 and settings.number("eps", 1e-5) < 1e-5


def _one_pad(layer: Layer) -> bool:
    settings = layer.parameter("pooling_param")
    both = settings.integer("pad")
    return bool(settings.integer("pad_h", both)) != bool(settings.integer("pad_w", both))


def _beyond(layer: Layer) -> bool:
    settings = layer.parameter("pooling_param")
    return settings.integer("stride", 1) > settings.integer("kernel_size", 1)


# What OpenCV 4.14 computes otherwise; the tests against it keep this list
# (tests/convert/caffe/test_reference_against_opencv.py).
DEPARTURES: dict[str, tuple[tuple[Callable[[Layer], bool], str], ...]] = {
    "Concat": ((_given("concat_param", "concat_dim"), "it ignores concat_dim"),),
    "BatchNorm": ((_small_eps, "it takes an eps below 1e-5"),),
    "Convolution": (
        (_dilated_groups, "it computes dilated convolutions of groups wrongly"),
        (_half_given, "it ignores the size of one axis where the other's is not given"),
    ),
    "ConvolutionDepthwise": ((_dilated_groups, "it computes dilated convolutions wrongly"),),
    "Deconvolution": (
        (
            lambda layer: max(layer.parameter("convolution_param").integers("dilation") or [1]) > 1,
            "it ignores dilation",
        ),
    ),
    "DetectionOutput": (
        (lambda layer: True, "it writes the rows in another order, and empty ones behind them"),
    ),
    "InnerProduct": (
        (
            lambda layer: layer.parameter("inner_product_param").flag("transpose", False),
            "it ignores transpose",
        ),
        (
            # One that is counted from the end may be the first, too.
            lambda layer: (
                (axis := layer.parameter("inner_product_param").integer("axis", 1)) == 0
                or axis < -1
            ),
            "it puts an axis behind what the whole batch makes",
        ),
    ),
    "Interp": (
        (_number("interp_param", "pad_beg", 0), "it ignores pads"),
        (_number("interp_param", "pad_end", 0), "it ignores pads"),
    ),
    "LRN": (
        (_number("lrn_param", "k", 1.0), "it ignores k"),
        (_missing("lrn_param", "alpha"), "alpha is 1 where it is not given, 0.0001 there"),
    ),
    "Log": ((lambda layer: bool(layer.parameter("log_param").fields), "it ignores parameters"),),
    "MVN": ((lambda layer: True, "it puts eps inside the root"),),
    "Normalize": ((lambda layer: not layer.blobs, "it wants a scale"),),
    "Pooling": (
        (_one_pad, "a pad on one axis makes it clip that axis alone"),
        (_beyond, "windows that begin beyond the image have another value there"),
    ),
    "PriorBox": (
        (_fractions, "it does not truncate sizes"),
        (_missing("prior_box_param", "variance", "clip"), "it has other defaults"),
        (_given("prior_box_param", "img_size", "img_h", "img_w"), "it ignores the image's size"),
    ),
    "Reorg": ((_number("reorg_param", "stride", 2), "its stride is always 2"),),
    "Reshape": ((_given("reshape_param", "num_axes"), "it counts num_axes otherwise"),),
    "Scale": (
        (lambda layer: len(layer.bottoms) > 1 and bool(layer.blobs), "it drops the bias"),
        (
            lambda layer: layer.parameter("scale_param").integer("axis", 1) < 0,
            "it crashes on a negative axis",
        ),
    ),
    "Slice": (
        (_given("slice_param", "slice_dim"), "it ignores slice_dim"),
        (_missing("slice_param", "slice_point"), "it counts equal parts otherwise"),
    ),
    "Swish": ((_number("swish_param", "beta", 1.0), "it ignores beta"),),
}
