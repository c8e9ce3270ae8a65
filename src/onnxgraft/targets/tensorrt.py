"""TensorRT, NVIDIA's inference library for its GPUs."""

from __future__ import annotations

from onnxgraft.targets.target import Fp8, Machine, Placement, Storage, Target, Triton

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

# FP8 as NVIDIA's support matrix and release notes have it: "FP8 deconvolutions are not supported",
# there are "no optimized FP8 Convolutions for Group Convolutions", and none for kernels of more
# than 32 places; with few channels there is no kernel (TensorRT#3987), and NVIDIA's Model Optimizer
# leaves layers of fewer than 16 inputs or outputs in float. Attention is fused in FP8 for up to
# 3072 tokens (release notes of 10.6). A recurrent layer has no FP8.
_FP8 = Fp8(
    Placement(
        target="tensorrt",
        weights={"Conv": 0, "Gemm": 1, "MatMul": 1},
        symmetric=True,
        residual=True,
        products=True,
        tokens=3072,
        bodies=True,
        format="fp8",
        channels=16,
        taps=32,
        groups=False,
    ),
    # NVIDIA's data sheet, without sparsity; half of its FLOPS are MACs.
    Machine(
        "an NVIDIA L4",
        {"fp32": 15.1e12, "tf32": 30e12, "fp16": 60.5e12, "bf16": 60.5e12, "fp8": 121e12},
        300e9,
    ),
    (8, 9),
)

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
    # NVIDIA's data sheet; half of its FLOPS are MACs. It has no TF32 and no BF16 of its own.
    machine=Machine(
        "an NVIDIA T4",
        {"fp32": 4.05e12, "tf32": 4.05e12, "fp16": 32.5e12, "bf16": 4.05e12, "int8": 65e12},
        320e9,
    ),
    floats={"tf32": "engine", "fp16": "graph"},
    fp8=_FP8,
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
