"""Old nets in today's terms: V0 (``layers { layer { type: "conv" } }``) and V1 (``type: POOLING``).

The rules are those of Caffe's upgrade_proto.cpp.
"""

from __future__ import annotations

from onnxgraft.errors import ModelError
from onnxgraft.stages.convert.caffe.reading.prototxt import Message, Scalar

__all__ = ["layers_of"]

# V1LayerParameter.LayerType by name. Forks' own names in capitals are those of today's types in
# camel case (IMAGE_SEG_DATA, CROP), but for some.
_V1_TYPES = {
    "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BN": "BN", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution",
    "DATA": "Data", "DECONVOLUTION": "Deconvolution", "DENSE_IMAGE_DATA": "DenseImageData",
    "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData", "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss", "EXP": "Exp", "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col", "IMAGE_DATA": "ImageData", "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct", "LRN": "LRN", "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss", "MVN": "MVN", "POOLING": "Pooling",
    "POWER": "Power", "PRELU": "PReLU", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence",
    "SLICE": "Slice", "SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split",
    "TANH": "TanH", "THRESHOLD": "Threshold", "UPSAMPLE": "Upsample",
    "WINDOW_DATA": "WindowData",
    "BATCH_NORM": "BatchNorm", "CONVOLUTION3D": "Convolution3D", "ELU": "ELU",
    "POOLING3D": "Pooling3D", "SELU": "SELU", "SPP": "SPP",
}  # fmt: skip
# The same by number, as BVLC has them; forks give the numbers behind to types of their own.
_V1_NUMBERS = (
    "NONE", "ACCURACY", "BNLL", "CONCAT", "CONVOLUTION", "DATA", "DROPOUT", "EUCLIDEAN_LOSS",
    "FLATTEN", "HDF5_DATA", "HDF5_OUTPUT", "IM2COL", "IMAGE_DATA", "INFOGAIN_LOSS",
    "INNER_PRODUCT", "LRN", "MULTINOMIAL_LOGISTIC_LOSS", "POOLING", "RELU", "SIGMOID", "SOFTMAX",
    "SOFTMAX_LOSS", "SPLIT", "TANH", "WINDOW_DATA", "ELTWISE", "POWER",
    "SIGMOID_CROSS_ENTROPY_LOSS", "HINGE_LOSS", "MEMORY_DATA", "ARGMAX", "THRESHOLD", "DUMMY_DATA",
    "SLICE", "MVN", "ABSVAL", "SILENCE", "CONTRASTIVE_LOSS", "EXP", "DECONVOLUTION",
)  # fmt: skip
_V0_TYPES = {
    "accuracy": "Accuracy", "bnll": "BNLL", "concat": "Concat", "conv": "Convolution",
    "data": "Data", "dropout": "Dropout", "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten", "hdf5_data": "HDF5Data", "hdf5_output": "HDF5Output",
    "hinge_loss": "HingeLoss", "im2col": "Im2col", "images": "ImageData",
    "infogain_loss": "InfogainLoss", "innerproduct": "InnerProduct", "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss", "pool": "Pooling", "relu": "ReLU",
    "sigmoid": "Sigmoid", "softmax": "Softmax", "softmax_loss": "SoftmaxWithLoss",
    "split": "Split", "tanh": "TanH", "window_data": "WindowData",
}  # fmt: skip
# V0 field -> (field of today, in which parameter message by type of layer).
_V0_FIELDS = {
    "num_output": "num_output", "biasterm": "bias_term", "weight_filler": "weight_filler",
    "bias_filler": "bias_filler", "pad": "pad", "kernelsize": "kernel_size", "group": "group",
    "stride": "stride", "pool": "pool", "dropout_ratio": "dropout_ratio",
    "local_size": "local_size", "alpha": "alpha", "beta": "beta", "k": "k",
    "batchsize": "batch_size", "cropsize": "crop_size", "concat_dim": "concat_dim",
    "source": "source",
}  # fmt: skip
# V0 fields that say how data are read and how it is trained.
_V0_TRAINING = frozenset(
    {"name", "type", "blobs", "blobs_lr", "det_context_pad", "det_crop_mode", "det_bg_threshold",
     "det_fg_fraction", "det_fg_threshold", "hdf5_output_param", "meanfile", "mirror",
     "new_channels", "new_height", "new_num", "new_width", "rand_skip", "scale", "shuffle_images",
     "weight_decay"}
)  # fmt: skip
_V0_PARAMETERS = {
    "Concat": "concat_param", "Convolution": "convolution_param", "Data": "data_param",
    "Dropout": "dropout_param", "HDF5Data": "hdf5_data_param", "Im2col": "convolution_param",
    "ImageData": "image_data_param", "InnerProduct": "inner_product_param", "LRN": "lrn_param",
    "Pooling": "pooling_param", "WindowData": "window_data_param",
}  # fmt: skip


def layers_of(net: Message) -> list[Message]:
    """Return the net's layers in today's terms, whatever version it is written in.

    Raises:
        ModelError: It has both kinds of layers, or none.
    """
    new, old = net.messages("layer"), net.messages("layers")
    if new and old:
        raise ModelError("the net has both layer and layers, which Caffe refuses")
    if not new and not old:
        raise ModelError("there are no layers in it; is it a net's prototxt?")
    if new:
        return new
    if any(layer.has("layer") for layer in old):
        old = _without_padding([_from_v0(layer) for layer in old])
    return [_from_v1(layer) for layer in old]


def _from_v1(layer: Message) -> Message:
    if not layer.has("type"):
        raise ModelError(f"line {layer.line}: a layer has no type")
    fields = dict(layer.fields)
    kind = layer.choice("type", "", _V1_NUMBERS)
    if kind not in _V1_TYPES and kind.isupper():
        kind = "".join(word.capitalize() for word in kind.split("_"))
    fields["type"] = [Scalar(_V1_TYPES.get(kind, kind), layer.line, 1, quoted=True)]
    # V1 shares parameters by `param: "name"`.
    shared = fields.pop("param", [])
    if shared:
        fields["param"] = [
            Message(layer.line, {"name": [value]} if isinstance(value, Scalar) else value.fields)
            for value in shared
        ]
    return Message(layer.line, fields)


def _from_v0(connection: Message) -> Message:
    """Return a V0 connection as a layer; a padding layer keeps its type."""
    old = connection.message("layer")
    kind = _V0_TYPES.get(old.text("type"), old.text("type"))
    fields: dict[str, list[Scalar | Message]] = {
        name: values for name, values in connection.fields.items() if name != "layer"
    }
    fields["name"] = list(old.fields.get("name", []))
    fields["type"] = [Scalar(kind, connection.line, 1, quoted=True)]
    parameter = Message(connection.line)
    for name, values in old.fields.items():
        if name in _V0_FIELDS:
            parameter.fields[_V0_FIELDS[name]] = list(values)
        elif name not in _V0_TRAINING:
            fields[name] = list(values)  # for the layer to refuse
    home = _V0_PARAMETERS.get(kind, "padding_param" if kind == "padding" else "")
    if home:
        fields[home] = [parameter]
    return Message(connection.line, fields)


def _without_padding(layers: list[Message]) -> list[Message]:
    """Fold each padding layer into the convolutions and poolings that consume it."""
    pads = {
        layer.text("top"): (layer.text("bottom"), layer.message("padding_param"))
        for layer in layers
        if layer.text("type") == "padding"
    }
    kept = []
    for layer in layers:
        if layer.text("type") == "padding":
            continue
        for index, bottom in enumerate(layer.scalars("bottom")):
            if bottom.text not in pads:
                continue
            kind = layer.text("type")
            if kind not in ("Convolution", "Pooling"):
                raise ModelError(
                    f"line {layer.line}: {kind} {layer.text('name')!r} follows a padding layer; "
                    "only a convolution or a pooling can"
                )
            source, padding = pads[bottom.text]
            layer.fields["bottom"][index] = Scalar(source, bottom.line, bottom.column, True)
            home = layer.messages(_V0_PARAMETERS[kind])[0]
            home.fields["pad"] = list(padding.fields.get("pad", []))
        kept.append(layer)
    return kept
