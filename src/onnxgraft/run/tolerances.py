"""Every tolerance that a verdict is made with, and the reason for its number."""

from __future__ import annotations

__all__ = [
    "ENGINE_DECIBELS", "ENGINE_LOSS", "ENGINE_TOLERANCES", "FLOAT_DECIBELS", "FLOAT_TOLERANCE",
    "HALF_TOLERANCE", "LEAST_COSINE", "REWRITE_TIES", "TIES",
]  # fmt: skip

# Two float32 runtimes that sum in different orders differ by some 1e-6 of an output's range per
# layer; measured on the networks of benchmarks/ it stays under 2e-5 of the range. 1e-4 is what a
# wrong weight, pad or axis exceeds by orders of magnitude.
FLOAT_TOLERANCE = 1e-4
# Where anything is computed in float16: ten times its unit roundoff of 2^-11, for sums that are
# kept in half precision by one runtime and in single by the other.
HALF_TOLERANCE = 5e-3
# Of the positions of a whole-number output, such as an argmax over classes: where two scores are as
# good as equal, rounding decides which is the larger. Between a framework and onnxruntime.
TIES = 1e-3
# Likewise between two graphs in one runtime, whose sums have the same order but for what a rewrite
# changed. Of less than 10,000 positions none may differ.
REWRITE_TIES = 1e-4
# INT8 answers are measured by what they are used for where a metric is there, else by direction:
# 0.99 is an angle of 8 degrees between the two outputs.
LEAST_COSINE = 0.99
# An INT8 engine is right if it keeps so many dB of the exact answer of its graph: two units in the
# last place of eight bits at half the places, or less.
ENGINE_DECIBELS = 45.0
# Or, in deep networks, where rounding alone moves further: if it is by no more than this, in dB,
# further from the network with float activations than the exact answer is. Two right engines differ
# by some tenths of a decibel there (benchmarks/proven.md).
ENGINE_LOSS = 1.0
# Signal to noise, in dB, of a network whose float layers run in less than float32: a rounding of
# 2^-11 (TF32, FP16) or 2^-8 (BF16) at each layer, added up over the networks of benchmarks/.
FLOAT_DECIBELS = {"fp32": 110.0, "tf32": 50.0, "fp16": 50.0, "bf16": 32.0}
# Of float engines, what the precision explains, as a fraction of an output's range: see
# `validate.measure.noise` for what the networks of benchmarks/ were measured to need.
ENGINE_TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 2e-2}
