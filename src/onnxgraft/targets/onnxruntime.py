"""onnxruntime: engines for CPUs."""

from __future__ import annotations

from onnxgraft.targets.machines import TWO_CORES
from onnxgraft.targets.target import Placement, Storage, Target, Triton

__all__ = ["ONNXRUNTIME"]

ONNXRUNTIME = Target(
    name="onnxruntime",
    title="onnxruntime",
    package="onnxruntime",
    backend="onnxgraft.stages.engine.onnxruntime",
    # Its CPU kernels want uint8 activations on both sides of a layer and an int32 bias, or they do
    # not fuse (QLinearConv). It has no integer ConvTranspose.
    placement=Placement(
        target="onnxruntime",
        weights={"Conv": 0, "Gemm": 1, "MatMul": 1},
        symmetric=False,
        outputs=True,
        bias=True,
        products=True,
        also=frozenset({"Add", "GlobalAveragePool", "Mul"}),
        # DynamicQuantizeLSTM; there is no such kernel for GRU and RNN.
        recurrent={"LSTM": "dynamic"},
        bodies=True,
        # Its optimizer makes MatMulNBits of some DequantizeLinear too, but one that rounds
        # activations to 8 bits, and runs the others anew for each answer.
        stored={
            "int8": Storage(
                "MatMulNBits",
                128,
                "onnxruntime has no kernel of 8-bit weights for float activations: it makes floats "
                "of them for each answer, which takes longer than the float network; int4 has one",
            ),
            "int4": Storage("MatMulNBits", 32),
        },
    ),
    fused=frozenset(
        "Add AveragePool Clip Concat GlobalAveragePool LeakyRelu Mul Relu Resize Sigmoid Softmax "
        "Split".split()
    ),
    needs="a CPU",
    machine=TWO_CORES,
    floats={},  # its CPU kernels have no fast halves
    options=frozenset({"threads", "provider"}),
    triton=Triton(
        "onnxruntime",
        "model.onnx",
        "onnxruntime_onnx",
        parameters={"threads": "intra_op_thread_count"},
        # Its backend can't leave out the single optimizers that are wrong about quantized graphs;
        # the engine's graph was optimized without them when it was built.
        as_it_is=2,
    ),
    magic=((0, b"\x08"),),  # an ONNX model's first field, the version, as a number
    forms=("pads", "pairs", "narrow", "precise", "float"),
    default=True,
)
