"""TensorFlow's operators that tf2onnx leaves or gets wrong, written as ONNX has them.

One function an operator, here or in the file of its family; `OPERATORS` at the end is the table.
tf2onnx calls these handlers in place of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxgraft.errors import NotSupportedError, OnnxgraftError
from onnxgraft.stages.convert.formulas import (
    atan2,
    expm1,
    floor_div,
    floor_mod,
    left_shift,
    log1p,
    right_shift,
)
from onnxgraft.stages.convert.tensorflow.lower.complexes import (
    angle,
    complex_cast,
    complex_layout,
    complex_of,
    complex_sum,
    conjugate,
    fourier,
    imaginary_part,
    inverse_fourier,
    magnitude,
    real_part,
)
from onnxgraft.stages.convert.tensorflow.lower.einsums import einsum
from onnxgraft.stages.convert.tensorflow.lower.elementwise import (
    add_all,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    bucketize,
    erfc,
    fake_quantize,
    invert,
    lower_bound,
    mul_no_nan,
    ones_like,
    rank,
    select,
    shape_n,
    tfl_gelu,
    trunc_mod,
    upper_bound,
    xdivy,
    xlog1py,
    xlogy,
    zeros_like,
)
from onnxgraft.stages.convert.tensorflow.lower.images import (
    adjust_saturation,
    crop_and_resize,
    hsv_to_rgb,
    non_max_suppression,
    rgb_to_hsv,
)
from onnxgraft.stages.convert.tensorflow.lower.indexing import (
    compared,
    dense_bincount,
    gather,
    invert_permutation,
    one_hot,
    picked_entropy,
    reverse_sequence,
    scatter_nd,
    tensor_scatter_max,
    tensor_scatter_min,
    top_k,
)
from onnxgraft.stages.convert.tensorflow.lower.matrices import (
    band_part,
    euclidean_norm,
    matrix_diag,
    matrix_set_diag,
)
from onnxgraft.stages.convert.tensorflow.lower.resizing import (
    resize_area,
    resize_bicubic,
    resize_bilinear,
    resize_nearest,
    scale_and_translate,
)
from onnxgraft.stages.convert.tensorflow.lower.segments import (
    segment_max,
    segment_mean,
    segment_min,
    segment_prod,
    segment_sum,
    sparse_segment_mean,
    sparse_segment_sqrt_n,
    sparse_segment_sum,
    unsorted_segment_max,
    unsorted_segment_min,
    unsorted_segment_prod,
    unsorted_segment_sum,
)
from onnxgraft.stages.convert.tensorflow.lower.windows import (
    extract_image_patches,
    max_pool_with_argmax,
)
from onnxgraft.stages.convert.tensorflow.lower.writing import Handler, by, own_tables, theirs

__all__ = ["OPERATORS", "Operator", "handlers"]


@dataclass(frozen=True)
class Operator:
    """A line of the table.

    Attributes:
        handler: Writes the operator in a graph of tf2onnx.
        written: What it becomes, for the docs.
    """

    handler: Handler
    written: str


# tf2onnx's own rewriters call the handlers of these, without what a handler of ours is told.
_CALLED = {"Conv2D", "Fill"}


def handlers(refused: dict[str, OnnxgraftError]) -> dict[str, tuple[Handler, list[Any]]]:
    """Return a handler for each operator in the form that tf2onnx takes: ours, else its own.

    Args:
        refused: Gets what they raise, by node, for tf2onnx goes on without a word.
    """
    names: set[str] = set().union(*own_tables())

    def telling(handler: Handler) -> Handler:
        def told(ctx: Any, node: Any, name: str, args: Any) -> None:
            kind = node.type
            try:
                handler(ctx, node, name, args)
            except OnnxgraftError as error:
                refused[node.name] = error
                raise
            except Exception as error:  # tf2onnx raises whatever it meets
                reason = str(error).removeprefix("make_sure failure: ")
                refused[node.name] = NotSupportedError(
                    f"{kind} ({node.name}) can't be converted: {reason}; cut the graph before it "
                    "with --outputs"
                )
                raise

        return told

    ours = {name: operator.handler for name, operator in OPERATORS.items()}
    rest = dict.fromkeys(names - ours.keys() - _CALLED, _theirs)
    return {name: (telling(handler), []) for name, handler in {**ours, **rest}.items()}


def _theirs(ctx: Any, node: Any, name: str, args: Any) -> None:
    theirs(ctx, node)


OPERATORS = {
    "Add": Operator(complex_sum, "Add; of complex numbers, of both parts"),
    "AddN": Operator(add_all, "Sum, or of integers, which onnxruntime does not sum, Add after Add"),
    "AddV2": Operator(complex_sum, "Add, likewise"),
    "AdjustSaturation": Operator(
        by(adjust_saturation), "v - (v - colour) ratio, where v is the largest channel"
    ),
    "Angle": Operator(angle, "atan2 of the two parts"),
    "Atan2": Operator(
        by(atan2), "atan(y / x), and pi further where x is negative; -0 counts as such"
    ),
    "BitwiseAnd": Operator(bitwise_and, "BitwiseAnd, which ONNX has from opset 18 on"),
    "BitwiseOr": Operator(bitwise_or, "BitwiseOr, likewise"),
    "BitwiseXor": Operator(bitwise_xor, "BitwiseXor, likewise"),
    "Bucketize": Operator(bucketize, "how many boundaries are not above the value"),
    "Cast": Operator(complex_cast, "Cast; of complex numbers to others, of the real part"),
    "Complex": Operator(complex_of, "the two parts, kept apart"),
    "ComplexAbs": Operator(magnitude, "the root of the sum of the squares of both parts"),
    "ConcatV2": Operator(complex_layout, "Concat; of complex numbers, of both parts"),
    "Conj": Operator(conjugate, "the imaginary part negated"),
    "CropAndResize": Operator(
        crop_and_resize, "a Loop of Resize, ties rounded up where it takes the nearest"
    ),
    "DenseBincount": Operator(dense_bincount, "where each value is 0, 1, 2 ..., added up"),
    "Einsum": Operator(
        einsum, "MatMul, or Einsum with a letter for each dimension that ... stands for"
    ),
    "Erfc": Operator(by(erfc), "1 - erf(x)"),
    "EuclideanNorm": Operator(euclidean_norm, "ReduceL2"),
    "ExpandDims": Operator(complex_layout, "Unsqueeze; of complex numbers, of both parts"),
    "Expm1": Operator(by(expm1), "tanh(x / 2) (e^x + 1), which does not cancel near 0"),
    "ExtractImagePatches": Operator(
        extract_image_patches, "two Gathers, of the rows and of the columns in each patch"
    ),
    "FFT": Operator(fourier, "MatMuls with sines and cosines"),
    "FFT2D": Operator(fourier, "likewise, over both axes"),
    "FakeQuantWithMinMaxVars": Operator(
        fake_quantize,
        "QuantizeLinear and DequantizeLinear, or plain arithmetic where they have no such range",
    ),
    "FakeQuantWithMinMaxVarsPerChannel": Operator(fake_quantize, "the same in plain arithmetic"),
    "FloorDiv": Operator(
        by(floor_div), "floor(a / b); of whole numbers, which ONNX rounds to 0, 1 less where needed"
    ),
    "FloorMod": Operator(
        by(floor_mod),
        "Mod; of floats what is left of a division to 0, and b more on its other side",
    ),
    "GatherV2": Operator(gather, "Gather; of complex numbers, of both parts"),
    "Greater": Operator(compared, "Greater, of integers as such; tf2onnx rounds them to float32"),
    "HSVToRGB": Operator(by(hsv_to_rgb), "v (1 - s + s t), where t goes up and down with the hue"),
    "IFFT": Operator(inverse_fourier, "MatMuls with sines and cosines"),
    "IFFT2D": Operator(inverse_fourier, "likewise, over both axes"),
    "IRFFT": Operator(inverse_fourier, "MatMuls with sines and cosines, to the real part"),
    "IRFFT2D": Operator(inverse_fourier, "likewise, over both axes"),
    "Imag": Operator(imaginary_part, "the imaginary part"),
    "Invert": Operator(invert, "BitwiseNot, from opset 18 on"),
    "InvertPermutation": Operator(invert_permutation, "ScatterElements of 0, 1, 2 ..."),
    "LeftShift": Operator(
        by(left_shift), "Mul by a power of 2; of unsigned numbers BitShift, which ONNX has of them"
    ),
    "Less": Operator(compared, "Less, likewise"),
    "Log1p": Operator(
        by(log1p),
        "2 atanh(x / (2 + x)) for abs(x) < 1/2, or Goldberg's formula in float64; else log(1 + x)",
    ),
    "LowerBound": Operator(lower_bound, "how many of the sorted numbers are below the value"),
    "MatrixBandPart": Operator(
        band_part, "Where; tf2onnx's product with a mask makes NaN of what is infinite beside it"
    ),
    "MatrixDiagV3": Operator(matrix_diag, "Where on the diagonal"),
    "MatrixSetDiagV3": Operator(matrix_set_diag, "Where on the diagonals"),
    "MaxPoolWithArgmax": Operator(
        max_pool_with_argmax, "MaxPool with indices, of float32 or float64 where ONNX has no other"
    ),
    "Mean": Operator(complex_layout, "ReduceMean; of complex numbers, of both parts"),
    "Mul": Operator(complex_sum, "Mul; of complex numbers, of both parts"),
    "MulNoNan": Operator(by(mul_no_nan), "x y, and 0 where y is 0"),
    "Neg": Operator(complex_layout, "Neg; of complex numbers, of both parts"),
    "NonMaxSuppressionV5": Operator(
        non_max_suppression, "NonMaxSuppression, without soft_nms_sigma"
    ),
    "OneHot": Operator(
        one_hot,
        "Equal of the indices and 0, 1, 2 ...; ONNX's OneHot counts negative indices from the end",
    ),
    "OnesLike": Operator(ones_like, "1 where the tensor itself is read beside it"),
    "Pack": Operator(complex_layout, "Unsqueeze and Concat; of complex numbers, of both parts"),
    "Pad": Operator(complex_layout, "Pad; of complex numbers, of both parts"),
    "RFFT": Operator(fourier, "MatMuls with sines and cosines"),
    "RFFT2D": Operator(fourier, "likewise, over both axes"),
    "RGBToHSV": Operator(
        by(rgb_to_hsv), "the hue by the largest channel, the saturation, the value"
    ),
    "Rank": Operator(by(rank), "the size of the shape"),
    "Real": Operator(real_part, "the real part"),
    "Reshape": Operator(complex_layout, "Reshape; of complex numbers, of both parts"),
    "ResizeArea": Operator(
        resize_area, "two MatMuls, with how much of each pixel lies within each pixel of the result"
    ),
    "ResizeBicubic": Operator(
        resize_bicubic, "two MatMuls, with TensorFlow's weights, which it rounds to 1/1024 pixel"
    ),
    "ResizeBilinear": Operator(resize_bilinear, "Resize of float32, whatever the image's type"),
    "ResizeNearestNeighbor": Operator(
        resize_nearest, "Resize, or two Gathers where it would round a tie otherwise"
    ),
    "ReverseSequence": Operator(
        reverse_sequence, "ReverseSequence, with the batch and the steps moved to the front"
    ),
    "ReverseV2": Operator(complex_layout, "a Slice backwards; of complex numbers, of both parts"),
    "RightShift": Operator(
        by(right_shift), "Div by a power of 2, downwards; of unsigned numbers BitShift"
    ),
    "ScaleAndTranslate": Operator(
        scale_and_translate, "two MatMuls, with the weights of the kernel, antialiased or not"
    ),
    "ScatterNd": Operator(
        scatter_nd, "ScatterND into zeros, adding up where an index may come twice"
    ),
    "SegmentMax": Operator(segment_max, "as UnsortedSegmentMax, and 0 where a segment is empty"),
    "SegmentMean": Operator(segment_mean, "the sum by the count, and 0 where a segment is empty"),
    "SegmentMin": Operator(segment_min, "as UnsortedSegmentMin, and 0 where a segment is empty"),
    "SegmentProd": Operator(segment_prod, "ScatterND that multiplies"),
    "SegmentSum": Operator(segment_sum, "ScatterND that adds up"),
    "Select": Operator(select, "Where; tf2onnx's c x + (1 - c) y lets a NaN of y through"),
    "SelectV2": Operator(select, "Where, likewise"),
    "ShapeN": Operator(shape_n, "a Shape for each of the tensors"),
    "SparseSegmentMean": Operator(
        sparse_segment_mean,
        "of what a Gather picks, the sum by the count, and 0 where a segment is empty",
    ),
    "SparseSegmentMeanWithNumSegments": Operator(
        sparse_segment_mean, "likewise, with as many segments as are asked for"
    ),
    "SparseSegmentSqrtN": Operator(
        sparse_segment_sqrt_n, "likewise, the sum by the square root of the count"
    ),
    "SparseSegmentSqrtNWithNumSegments": Operator(
        sparse_segment_sqrt_n, "likewise, with as many segments as are asked for"
    ),
    "SparseSegmentSum": Operator(sparse_segment_sum, "likewise, the sum"),
    "SparseSegmentSumWithNumSegments": Operator(
        sparse_segment_sum, "likewise, with as many segments as are asked for"
    ),
    "SparseSoftmaxCrossEntropyWithLogits": Operator(
        picked_entropy, "the LogSoftmax of the labelled class, negated"
    ),
    "Squeeze": Operator(complex_layout, "Squeeze; of complex numbers, of both parts"),
    "StridedSlice": Operator(complex_layout, "Slice; of complex numbers, of both parts"),
    "Sub": Operator(complex_sum, "Sub; of complex numbers, of both parts"),
    "Sum": Operator(complex_layout, "ReduceSum; of complex numbers, of both parts"),
    "TFL_GELU": Operator(tfl_gelu, "x / 2 (1 + erf(x / sqrt 2)), or its tanh approximation"),
    "TensorScatterMax": Operator(
        tensor_scatter_max, "ScatterND that takes the largest, which ONNX has from opset 18 on"
    ),
    "TensorScatterMin": Operator(tensor_scatter_min, "ScatterND that takes the least, likewise"),
    "Tile": Operator(complex_layout, "Tile; of complex numbers, of both parts"),
    "TopKV2": Operator(top_k, "TopK, of integers as such; tf2onnx rounds them to float32"),
    "Transpose": Operator(complex_layout, "Transpose; of complex numbers, of both parts"),
    "TruncateMod": Operator(by(trunc_mod), "Mod with fmod=1"),
    "UnsortedSegmentMax": Operator(
        unsorted_segment_max, "ScatterND that takes the largest, negative ids left out"
    ),
    "UnsortedSegmentMin": Operator(
        unsorted_segment_min, "ScatterND that takes the least, negative ids left out"
    ),
    "UnsortedSegmentProd": Operator(
        unsorted_segment_prod, "ScatterND that multiplies, negative ids left out"
    ),
    "UnsortedSegmentSum": Operator(
        unsorted_segment_sum, "ScatterND that adds up, negative ids left out"
    ),
    "UpperBound": Operator(upper_bound, "how many of the sorted numbers are not above the value"),
    "Xdivy": Operator(by(xdivy), "x / y, and 0 where x is 0"),
    "Xlog1py": Operator(by(xlog1py), "x log(1 + y), and 0 where x is 0"),
    "Xlogy": Operator(by(xlogy), "x log(y), and 0 where x is 0"),
    "ZerosLike": Operator(zeros_like, "0 where the tensor itself is read beside it"),
}
