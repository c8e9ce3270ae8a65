"""The machines that estimates are made for."""

from __future__ import annotations

from onnxgraft.targets.target import Machine

__all__ = ["TWO_CORES"]

# A server processor with AVX512-VNNI and -BF16 at 2.6 GHz: 32 MACs a cycle and core in FP32, twice
# that in BF16, four times in INT8.
TWO_CORES = Machine(
    "two cores with AVX512-VNNI",
    {"fp32": 166e9, "tf32": 166e9, "fp16": 166e9, "bf16": 333e9, "int8": 666e9},
    20e9,
)
