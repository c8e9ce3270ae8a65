"""The ONNX operators that TensorRT's parser has no importer for."""

from __future__ import annotations

__all__ = ["TENSORRT_LACKS"]

# `tensorrt.OnnxParser.supports_operator` of TensorRT 11.4 over all operators of ONNX's own domain;
# a test asks it again wherever TensorRT is installed.
TENSORRT_LACKS = frozenset(
    "AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor "
    "CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger CumProd DFT DeformConv Det "
    "DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix "
    "Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement "
    "QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss "
    "SplitToSequence StringConcat StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique"
    .split()
)  # fmt: skip
