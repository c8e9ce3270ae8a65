"""Every tolerance that a verdict is made with, and the reason for its number."""

from __future__ import annotations

__all__ = ["FLOAT_TOLERANCE", "HALF_TOLERANCE", "LEAST_COSINE", "REWRITE_TIES", "TIES"]

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
