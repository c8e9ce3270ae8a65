"""TensorRT, NVIDIA's inference library for its GPUs."""

from __future__ import annotations

from onnxgraft.targets.target import Machine, Placement, Storage, Target, Triton

__all__ = ["TENSORRT"]

# `tensorrt.OnnxParser.supports_operator` of TensorRT 11.4 over all operators of ONNX's own domain;
# a test asks it again wherever TensorRT is installed.
_LACKS = frozenset(
    "AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor "
    "CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger CumProd DFT DeformConv Det "
    "DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix "
    "Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement "
    "QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss "
    "SplitToSequence StringConcat StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique"
    .split()
)  # fmt: skip

TENSORRT = Target(
    name="tensorrt",
    caches=True,
    title="TensorRT",
    package="tensorrt",
    backend="onnxgraft.stages.engine.tensorrt",
    # By NVIDIA's guide "Working with Quantized Types": inputs of layers with weights, not their
    # outputs; symmetric; weights per channel; no bias; the shortcut of a residual Add, not the
    # layer's own result. A ConvTranspose gets one scale: its kernels disagree on the axis
    # (TensorRT#1694), and its last axis order is theirs. Attention is fused in INT8 for up to 512
    # tokens (TensorRT#3724); a longer one is fused in FP16, or not at all once it is quantized.
    placement=Placement(
        target="tensorrt",
        weights={"Conv": 0, "ConvTranspose": None, "Gemm": 1, "MatMul": 1},
        symmetric=True,
        residual=True,
        products=True,
        tokens=512,
        # The loop that it makes of them reads int8 weights; of a GRU it can't build that.
        recurrent={"LSTM": "weights", "RNN": "weights"},
        bodies=True,
        # Weights stay integers in the engine. The fused kernels of INT4, which are TensorRT-LLM's,
        # are for blocks of 64 and 128; ONNX parsers of some versions want scales to be positive.
        stored={
            "int8": Storage("DequantizeLinear", 0, signed=False),
            "int4": Storage("DequantizeLinear", 64, signed=False),
        },
    ),
    fused=frozenset(
        "Add AveragePool Clip GlobalAveragePool HardSigmoid LeakyRelu Mul Relu Sigmoid Tanh".split()
    ),
    needs="an NVIDIA GPU",
    on_cpu=False,
    # NVIDIA's data sheet; half of its FLOPS are MACs.
    machine=Machine(
        "an NVIDIA T4", {"fp32": 4.05e12, "fp16": 32.5e12, "bf16": 4.05e12, "int8": 65e12}, 320e9
    ),
    floats={"tf32": "engine", "fp16": "graph"},
    options=frozenset(
        "shapes smallest largest batches workspace level timing_cache version_compatible "
        "calibration floats".split()
    ),
    triton=Triton("tensorrt", "model.plan", "tensorrt_plan"),
    magic=((1, b"trt"),),  # ftrt, ptrt, vtrt
    lowering=(
        "lower_pool", "lower_integer_relu", "lower_compress", "lower_qlinear", "lower_integer",
        "lower_affine_grid", "lower_col2im", "lower_det", "lower_dft", "lower_nms",
        "lower_zero_points", "lower_rows", "name_plugins",
    ),
    lacks=_LACKS,
)  # fmt: skip
