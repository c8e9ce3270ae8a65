"""Every tolerance that a verdict is made with, and the reason for its number."""

from __future__ import annotations

__all__ = ["FLOAT_TOLERANCE", "HALF_TOLERANCE"]

# Two float32 runtimes that sum in different orders differ by some 1e-6 of an output's range per
# layer; measured on the networks of benchmarks/ it stays under 2e-5 of the range. 1e-4 is what a
# wrong weight, pad or axis exceeds by orders of magnitude.
FLOAT_TOLERANCE = 1e-4
# Where anything is computed in float16: ten times its unit roundoff of 2^-11, for sums that are
# kept in half precision by one runtime and in single by the other.
HALF_TOLERANCE = 5e-3
