"""Which function converts which type of layer; what is not here is refused by name."""

from __future__ import annotations

from collections.abc import Callable

from onnxgraft.stages.convert.caffe.layers import (
    activation,
    combining,
    convolution,
    detection,
    normalization,
    pooling,
    recurrent,
    reshaping,
    upsampling,
)
from onnxgraft.stages.convert.caffe.layers.emitter import Blob, Emitter
from onnxgraft.stages.convert.caffe.layers.fields import FIELDS
from onnxgraft.stages.convert.caffe.reading.net import Layer

__all__ = ["INPUTS", "LAYERS", "Converter", "register"]

# Takes the layer, its inputs and what to write with; returns a blob for each top.
Converter = Callable[[Layer, list[Blob], Emitter], list[Blob]]

LAYERS: dict[str, Converter] = {
    "AbsVal": activation.absval,
    "ArgMax": reshaping.argmax,
    "Axpy": combining.axpy,
    "BN": normalization.bn,
    "BNLL": activation.bnll,
    "BatchNorm": normalization.batch_norm,
    "BatchReindex": reshaping.batch_reindex,
    "Bias": normalization.bias,
    "Clip": activation.clip,
    "Concat": reshaping.concat,
    "ContinuationIndicator": reshaping.continuation,
    "Convolution": convolution.convolution,
    "Convolution3D": convolution.convolution_3d,
    "ConvolutionDepthwise": convolution.convolution,
    "Crop": reshaping.crop,
    "CropCenter": reshaping.crop_center,
    "Deconvolution": convolution.deconvolution,
    "DeconvolutionDepthwise": convolution.deconvolution,
    "DepthwiseConvolution": convolution.convolution,
    "DepthwiseDeconvolution": convolution.deconvolution,
    "DetectionOutput": detection.detection_output,
    "Dropout": activation.dropout,
    "DummyData": reshaping.dummy_data,
    "ELU": activation.elu,
    "Eltwise": combining.eltwise,
    "Embed": combining.embed,
    "Exp": activation.exp,
    "Flatten": reshaping.flatten,
    "Flip": reshaping.flip,
    "HardSwish": activation.hard_swish,
    "Im2col": convolution.im2col,
    "InnerProduct": combining.inner_product,
    "Interp": upsampling.interp,
    "LRN": normalization.lrn,
    "LSTM": recurrent.lstm,
    "Log": activation.log,
    "Lstm": recurrent.lstm_of_sequences,
    "MVN": normalization.mvn,
    "Mish": activation.mish,
    "Normalize": normalization.normalize,
    "PReLU": activation.prelu,
    "Parameter": reshaping.parameter,
    "Permute": reshaping.permute,
    "Pooling": pooling.pooling,
    "Pooling3D": pooling.pooling_3d,
    "Power": activation.power,
    "PriorBox": detection.prior_box,
    "Python": activation.python,
    "RNN": recurrent.rnn,
    "ReLU": activation.relu,
    "ReLU6": activation.relu6,
    "Reduction": reshaping.reduction,
    "Reorg": upsampling.reorg,
    "Reshape": reshaping.reshape,
    "Reverse": reshaping.reverse,
    "SELU": activation.selu,
    "SPP": pooling.spp,
    "Scale": normalization.scale,
    "SeLU": activation.selu,
    "ShuffleChannel": reshaping.shuffle_channel,
    "Sigmoid": activation.sigmoid,
    "Slice": reshaping.slice_,
    "Softmax": activation.softmax,
    "Split": activation.identity,
    "Swish": activation.swish,
    "TanH": activation.tanh,
    "Threshold": activation.threshold,
    "Tile": reshaping.tile,
    "Transpose": reshaping.transpose,
    "Upsample": upsampling.upsample,
    "Yolov3DetectionOutput": detection.yolov3_output,
}


# How many inputs a layer takes, where it is not one: the fewest and the most.
INPUTS: dict[str, tuple[int, int | None]] = {
    "Axpy": (3, 3),
    "BatchReindex": (2, 2),
    "Bias": (1, 2),
    "Concat": (1, None),
    "ContinuationIndicator": (0, 0),
    "Convolution": (1, None),
    "ConvolutionDepthwise": (1, None),
    "Crop": (2, 2),
    "Deconvolution": (1, None),
    "DeconvolutionDepthwise": (1, None),
    "DepthwiseConvolution": (1, None),
    "DepthwiseDeconvolution": (1, None),
    "DetectionOutput": (3, 5),
    "DummyData": (0, 0),
    "Eltwise": (1, None),
    "Interp": (1, 2),
    "LSTM": (2, 5),
    "Lstm": (1, 2),
    "Parameter": (0, 0),
    "PriorBox": (2, 2),
    "Python": (0, None),
    "RNN": (2, 4),
    "Scale": (1, 2),
    "Upsample": (1, 2),
    "Yolov3DetectionOutput": (1, None),
}


def register(kind: str, converter: Converter) -> None:
    """Convert layers of type ``kind`` by ``converter``; one that was there before is replaced."""
    LAYERS[kind] = converter
    INPUTS[kind] = (0, None)
    FIELDS.pop(kind, None)  # its own converter knows what it reads
