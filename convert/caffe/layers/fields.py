"""The fields of a layer that its converter knows; any other is refused, not dropped in silence.

Caffe itself refuses a field that its caffe.proto does not have, so what stands in a net means
something to the fork that the net is of.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from onnxgraft.errors import NotSupportedError
from onnxgraft.stages.convert.caffe.reading.net import Layer
from onnxgraft.stages.convert.caffe.reading.prototxt import Message, Scalar

__all__ = ["FIELDS", "HARMLESS", "HARMLESS_PARAMETERS", "check_fields"]

_CONVOLUTION = (
    "convolution_param: num_output bias_term pad pad_h pad_w pad_l pad_r pad_t pad_b pad_type "
    "kernel_size kernel_h kernel_w group stride stride_h stride_w axis dilation hole hole_h hole_w "
    "weight_filler bias_filler"
)
_RECURRENT = "recurrent_param: num_output expose_hidden weight_filler bias_filler"

# By type of layer: the messages that it reads, each with the fields that are known of it.
FIELDS: dict[str, str] = {
    "AbsVal": "",
    "ArgMax": "argmax_param: out_max_val top_k axis",
    "Axpy": "",
    "BN": "bn_param: eps var_eps moving_average decay axis bn_mode scale_filler shift_filler "
    "slope_filler bias_filler",
    "BNLL": "",
    "BatchNorm": "batch_norm_param: use_global_stats eps add_eps_before_sqrt scale_bias "
    "scale_filler bias_filler",
    "BatchReindex": "",
    "Bias": "bias_param: axis num_axes filler",
    "Clip": "clip_param: min max",
    "Concat": "concat_param: axis concat_dim",
    "ContinuationIndicator": "continuation_indicator_param: time_step batch_size",
    "Convolution": _CONVOLUTION,
    "Convolution3D": "convolution_param: num_output bias_term pad temporal_pad kernel_size "
    "kernel_depth group filter_group stride temporal_stride weight_filler bias_filler",
    "ConvolutionDepthwise": _CONVOLUTION,
    "Crop": "crop_param: axis offset",
    "CropCenter": "crop_center_param: crop_size",
    "Deconvolution": _CONVOLUTION,
    "DeconvolutionDepthwise": _CONVOLUTION,
    "DepthwiseConvolution": _CONVOLUTION,
    "DepthwiseDeconvolution": _CONVOLUTION,
    "DetectionOutput": "detection_output_param: num_classes share_location background_label_id "
    "nms_param.nms_threshold nms_param.top_k nms_param.eta code_type variance_encoded_in_target "
    "keep_top_k confidence_threshold objectness_score use_polygon",
    "Dropout": "dropout_param: dropout_ratio scale_train sample_weights_test",
    "DummyData": "dummy_data_param: data_filler shape.dim num channels height width refill",
    "ELU": "elu_param: alpha",
    "Eltwise": "eltwise_param: operation coeff",
    "Embed": "embed_param: num_output input_dim bias_term weight_filler bias_filler",
    "Exp": "exp_param: base scale shift",
    "Flatten": "flatten_param: axis end_axis",
    "Flip": "flip_param: flip_width flip_height",
    "HardSwish": "",
    "Im2col": _CONVOLUTION,
    "InnerProduct": "inner_product_param: num_output bias_term weight_filler bias_filler axis "
    "transpose normalize",
    "Interp": "interp_param: height width zoom_factor shrink_factor pad_beg pad_end interp_type",
    "LRN": "lrn_param: local_size alpha beta norm_region k",
    "LSTM": _RECURRENT,
    "Log": "log_param: base scale shift",
    "Lstm": "lstm_param: num_output batch_size weight_filler bias_filler",
    "MVN": "mvn_param: normalize_variance across_channels eps add_eps_before_sqrt",
    "Mish": "",
    "Normalize": "norm_param: across_spatial scale_filler channel_shared eps; "
    "normalize_param: normalize_type",
    "PReLU": "prelu_param: filler channel_shared",
    "Parameter": "parameter_param: shape.dim",
    "Permute": "permute_param: order",
    "Pooling": "pooling_param: pool pad pad_h pad_w pad_l pad_r pad_t pad_b pad_type kernel_size "
    "kernel_h kernel_w stride stride_h stride_w global_pooling round_mode ceil_mode",
    "Pooling3D": "pooling_param: pool pad kernel_size kernel_depth stride temporal_stride",
    "Power": "power_param: power scale shift",
    "PriorBox": "prior_box_param: min_size max_size aspect_ratio flip clip variance img_size img_h "
    "img_w step step_h step_w offset denser_prior_boxes",
    "Python": "python_param: module layer param_str share_in_parallel",
    "RNN": _RECURRENT,
    "ReLU": "relu_param: negative_slope",
    "ReLU6": "",
    "Reduction": "reduction_param: operation axis coeff",
    "Reorg": "reorg_param: stride reverse",
    "Reshape": "reshape_param: shape.dim axis num_axes pixelshuffler",
    "Reverse": "reverse_param: axis",
    "SELU": "selu_param: alpha lambda",
    "SPP": "spp_param: pyramid_height pool",
    "Scale": "scale_param: axis num_axes filler bias_term bias_filler",
    "SeLU": "selu_param: alpha lambda",
    "ShuffleChannel": "shuffle_channel_param: group",
    "Sigmoid": "",
    "Slice": "slice_param: axis slice_point slice_dim",
    "Softmax": "softmax_param: axis",
    "Split": "",
    "Swish": "swish_param: beta",
    "TanH": "",
    "Threshold": "threshold_param: threshold",
    "Tile": "tile_param: axis tiles",
    "Transpose": "transpose_param: dim",
    "Upsample": "upsample_param: scale scale_h scale_w upsample_h upsample_w pad_out_h pad_out_w "
    "height_scale width_scale height width mode",
    "Yolov3DetectionOutput": "yolov3_detection_output_param: num_classes num_box "
    "confidence_threshold nms_threshold biases anchors_scale mask_group_num mask",
}

_TRAINING = "it is for training"
_PRECISION = "it chooses a precision or an algorithm of Caffe's"
_SAVING = "it writes files beside the result"

# Fields of any layer that change nothing at inference, and why.
HARMLESS: dict[str, str] = {
    "name": "it is read with the net",
    "type": "it is read with the net",
    "bottom": "it is read with the net",
    "top": "it is read with the net",
    "include": "it is read with the net",
    "exclude": "it is read with the net",
    "loss_weight": "it is read with the net",
    "param": "names are read with the net, the rest is for training",
    "blobs": "weights are read from the caffemodel",
    "blobs_lr": _TRAINING,
    "weight_decay": _TRAINING,
    "blob_share_mode": "weights are checked by their shapes",
    "propagate_down": _TRAINING,
    "transform_param": "images are prepared before the net",
    "loss_param": _TRAINING,
    "forward_type": _PRECISION,
    "backward_type": _TRAINING,
    "forward_math": _PRECISION,
    "backward_math": _TRAINING,
    "cudnn_math_override": _PRECISION,
    "engine": _PRECISION,
    "debug": "it prints",
}
# The same of any message of parameters.
HARMLESS_PARAMETERS: dict[str, str] = {
    "engine": _PRECISION,
    "force_nd_im2col": _PRECISION,
    "cudnn_convolution_algo_seeker": _PRECISION,
    "conv_algos_override": _PRECISION,
    "clipping_threshold": _TRAINING,
    "stable_prod_grad": _TRAINING,
    "moving_average_fraction": _TRAINING,
    "momentum": _TRAINING,
    "update_global_stats": _TRAINING,
    "frozen": _TRAINING,
    "fix_gradient": _TRAINING,
    "bp_norm": _TRAINING,
    "icnet": "it saves memory",
    "debug_info": "it prints",
    "save_output_param": _SAVING,
    "visualize": _SAVING,
    "visualize_threshold": _SAVING,
    "save_file": _SAVING,
    "label_map_file": _SAVING,
}


@functools.cache
def _known(fields: str) -> frozenset[str]:
    """Return the paths of the fields that a line of `FIELDS` names."""
    known = {"phase"}
    for part in filter(None, fields.split("; ")):
        message, names = part.split(": ")
        known.update(f"{message}.{name}" for name in names.split())
    return frozenset(known)


# The messages that some layer reads: those above, and those of layers that are no part of a result.
_MESSAGES = frozenset(
    [path.split(".")[0] for line in FIELDS.values() for path in _known(line)]
    + ["accuracy_param", "contrastive_loss_param", "data_param", "hdf5_data_param",
       "hdf5_output_param", "hinge_loss_param", "image_data_param", "infogain_loss_param",
       "input_param", "memory_data_param", "window_data_param"]
)  # fmt: skip


def check_fields(layer: Layer) -> list[str]:
    """Refuse the fields that the layer's converter does not know.

    Returns:
        A sentence for each message of another type of layer, which Caffe ignores.

    Raises:
        NotSupportedError: A field is unknown that could change what the layer computes.
    """
    known = _known(FIELDS[layer.type])
    own = {path.split(".")[0] for path in known}
    ignored = []
    for path, value in _unknown(layer.message, "", known):
        if "." not in path and path in _MESSAGES - own:
            ignored.append(f"{layer}: {path} was ignored, it is of another type of layer")
            continue
        raise NotSupportedError(
            f"{layer}: the field {path} is not known, and may change what the layer computes "
            f"(line {value.line}: {_shown(path, value)}); remove it if it changes nothing, or "
            "register a converter (docs/caffe.md)"
        )
    if layer.message.texts("phase")[-1:] in (["TRAIN"], ["0"]):
        raise NotSupportedError(
            f"{layer}: phase: TRAIN makes it compute as in training; remove it for inference"
        )
    return ignored


def _unknown(
    message: Message, prefix: str, known: frozenset[str]
) -> Iterator[tuple[str, Scalar | Message]]:
    """Yield the path and the first value of each field that is not known."""
    for name, values in message.fields.items():
        path = prefix + name
        if name in (HARMLESS_PARAMETERS if prefix else HARMLESS) or path in known:
            continue
        inner = [value for value in values if isinstance(value, Message)]
        if inner and any(other.startswith(f"{path}.") for other in known):
            for value in inner:
                yield from _unknown(value, f"{path}.", known)
        elif not inner or any(value.fields.keys() - HARMLESS_PARAMETERS for value in inner):
            yield path, values[0] if values else message


def _shown(path: str, value: Scalar | Message) -> str:
    name = path.split(".")[-1]
    return f"{name}: {value.text}" if isinstance(value, Scalar) else f"{name} {{ ... }}"
