"""OpenVINO, Intel's inference library: engines for CPUs."""

from __future__ import annotations

from onnxgraft.targets.machines import TWO_CORES
from onnxgraft.targets.target import Placement, Storage, Target, Triton

__all__ = ["OPENVINO"]

OPENVINO = Target(
    name="openvino",
    title="OpenVINO",
    package="openvino",
    backend="onnxgraft.stages.engine.openvino",
    # OpenVINO runs TensorRT's form fast on a CPU, and finds the rest of the fusions by itself. The
    # CPU multiplies unsigned by signed bytes, so unsigned activations save it a correction.
    placement=Placement(
        target="openvino",
        weights={"Conv": 0, "ConvTranspose": None, "Gemm": 1, "MatMul": 1},
        symmetric=True,
        unsigned=True,
        lopsided=True,
        products=True,
        # No LSTM: its first state is wrong in INT8, by 128 steps of the input. A GRU is not built,
        # and weights alone are unfolded in the engine.
        bodies=True,
        # Its FullyConnected reads such weights as they are; the runtime graph says so.
        stored={
            "int8": Storage("DequantizeLinear", 0),
            "int4": Storage("DequantizeLinear", 32),
        },
    ),
    fused=frozenset(
        "Add AveragePool Clip GlobalAveragePool HardSigmoid HardSwish LeakyRelu Mul Relu Sigmoid "
        "Tanh".split()
    ),
    needs="an x86-64 or ARM CPU",
    machine=TWO_CORES,
    floats={"fp16": "engine", "bf16": "engine"},
    options=frozenset({"shapes", "hint", "threads", "floats", "device"}),
    # Its backend reads models and not what a CPU exported, and where it knows of a batch it fixes
    # that: https://github.com/triton-inference-server/openvino_backend.
    triton=Triton(
        "openvino",
        "model.onnx",
        engine=False,
        joins=False,
        parameters={
            "threads": "INFERENCE_NUM_THREADS",
            "hint": "PERFORMANCE_HINT",
            "bf16": "HINT_BF16",
            "shapes": "RESHAPE_IO_LAYERS",
            "pads": "ENABLE_BATCH_PADDING",
            "device": "TARGET_DEVICE",
        },
    ),
    magic=tuple((offset, b"UPCVO") for offset in range(12)),  # a model that the CPU exported
    limit="ONEDNN_MAX_CPU_ISA",
    forms=("pads", "offset", "pairs", "narrow", "float"),
    default=True,
)
