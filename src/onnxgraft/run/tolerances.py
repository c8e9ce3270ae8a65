"""Every tolerance that a verdict is made with, and the reason for its number."""

from __future__ import annotations

import math

__all__ = [
    "FLOAT_TOLERANCE", "HALF_TOLERANCE", "LEAST_CONTRAST", "LEAST_SQNR", "LOW_OVERLAP",
    "LOW_TOP1", "NOISE_FACTOR", "ONE_ROUNDING", "RESOLUTION", "REWRITE_TIES", "TIES", "USUAL_DROP",
    "least_sqnr",
]  # fmt: skip

# Two float32 runtimes that sum in different orders differ by some 1e-6 of an output's range per
# layer; measured on the networks of benchmarks/ it stays under 2e-5 of the range. 1e-4 is what a
# wrong weight, pad or axis exceeds by orders of magnitude.
FLOAT_TOLERANCE = 1e-4
# Where anything is computed in float16: ten times its unit roundoff of 2^-11, for sums that are
# kept in half precision by one runtime and in single by the other.
HALF_TOLERANCE = 5e-3
# No float32 comparison is finer than this part of the largest value of an output, or of the largest
# that it can have: 8 times float32's unit roundoff of 2^-24. A sigmoid of 1 can't be told from one
# of 1 - 2^-25, and onnxruntime 1.31 computes one near 0 with an absolute error of up to 1.5e-7.
RESOLUTION = 2.0**-21
# How many times a network's own noise another runtime may differ. Another order of every sum is
# many roundings, an input that is rounded otherwise one: measured on the networks of benchmarks/,
# two runtimes differ by up to 4 times as much.
NOISE_FACTOR = 10
# Of the positions of a whole-number output, such as an argmax over classes: where two scores are as
# good as equal, rounding decides which is the larger. Between a framework and onnxruntime.
TIES = 1e-3
# Likewise between two graphs in one runtime, whose sums have the same order but for what a rewrite
# changed. Of less than 10,000 positions none may differ.
REWRITE_TIES = 1e-4

# The signal over noise, in dB, that one tensor in 8 bits keeps: see `least_sqnr`.
ONE_ROUNDING = 40.0
# However deep a network is, and where its depth is not known: 3 % of the signal's energy lost.
LEAST_SQNR = 15.0
# How far answers to different samples have to be apart, over how far the candidate's are from the
# original's, in dB. A candidate that says the same whatever it sees has 3 dB at most, one with
# answers of other samples or classes 0, in the mean; 6 dB leave a quarter of what tells samples
# apart in noise. Networks in INT8 that are any good have 10 and more.
LEAST_CONTRAST = 6.0
# Below these a pass is shown with a warning: the share of samples with the same best class, and the
# mean IoU between the class maps of original and candidate.
LOW_TOP1 = 0.9
LOW_OVERLAP = 0.7
# What INT8 may lose where nothing is said: this part of the metric's scale (1 point of 100), or
# of the original's value where the metric has no scale.
USUAL_DROP = 0.01


def least_sqnr(depth: int) -> float:
    """Return the signal over noise, in dB, that an output has to keep behind ``depth`` roundings.

    A tensor of 8 bits has steps of s = 2 amax / 255, and rounding to them adds noise of the power
    s^2 / 12. So it keeps

        10 log10(12 rms^2 / s^2) = 52.9 dB - 20 log10(amax / rms)

    of the signal: 40.9 dB of normal values that are cut at four times their deviation, less where
    a few values are far larger than the rest. Roundings are independent of each other: behind n of
    them, one after the other, the powers of their noise add up, and 10 log10(n) dB are lost. Sums
    over many inputs keep the ratio, where inputs are alike they average the noise.

    With 40 dB for one rounding (`ONE_ROUNDING`), healthy networks keep at least 5 dB more than is
    asked for: see benchmarks/acceptance.md. An output of a single layer at a cosine of 0.99, which
    are 17 dB, is 20 dB short of it.

    >>> [round(least_sqnr(depth), 1) for depth in (1, 2, 34, 100)]
    [40.0, 37.0, 24.7, 20.0]
    """
    return max(ONE_ROUNDING - 10 * math.log10(max(depth, 1)), LEAST_SQNR)
