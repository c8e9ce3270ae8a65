"""Every tolerance that a verdict is made with, and the reason for its number."""

from __future__ import annotations

import math

__all__ = [
    "BAKED_ANTIALIASED_LEVELS", "BAKED_LEVELS", "BAKED_PIXELS", "BAKED_RESIZED_LEVELS",
    "BAKED_SCORES", "CONSTANT_DECIBELS", "ENGINE_DECIBELS", "ENGINE_LOSS", "ENGINE_TOLERANCES",
    "FLOAT_DECIBELS", "FLOAT_TOLERANCE", "HALF_LAYER_TOLERANCE", "HALF_RESOLUTION",
    "HALF_TOLERANCE", "LAYER_TOLERANCE",
    "LEAST_CONTRAST", "LEAST_INT4_LAYER_SQNR", "LEAST_LAYER_SQNR", "LEAST_RANGE_SQNR", "LEAST_SQNR",
    "LOW_OVERLAP", "LOW_TOP1", "NEARER_DECIBELS", "NOISE_FACTOR", "PEAKY_ROUNDING", "RESOLUTION",
    "REWRITE_TIES", "STORED_FP8", "STORED_INT8", "TIES", "USUAL_DROP", "USUAL_ROUNDING",
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
# Likewise of an output in float16: one unit in its last place, by which two numbers that are nearly
# the same may be rounded apart.
HALF_RESOLUTION = 2.0**-10
# How many times a network's own noise another runtime may differ. Another order of every sum is
# many roundings, an input that is rounded differently one: measured on the networks of benchmarks/,
# two runtimes differ by up to 4 times as much.
NOISE_FACTOR = 10
# Of the positions of a whole-number output, such as an argmax over classes: where two scores are as
# good as equal, rounding decides which is the larger. Between a framework and onnxruntime.
TIES = 1e-3
# Likewise between two graphs in one runtime, whose sums have the same order but for what a rewrite
# changed. Of less than 10,000 positions none may differ.
REWRITE_TIES = 1e-4
# An INT8 engine is right if it keeps so many dB of the exact answer of its graph: two units in the
# last place of eight bits at half the places, or less.
ENGINE_DECIBELS = 45.0
# Or, in deep networks, where rounding alone moves further: if it is by no more than this, in dB,
# further from the network with float activations than the exact answer is. Two right engines differ
# by some tenths of a decibel there (benchmarks/proven.md).
ENGINE_LOSS = 1.0
# And in any case nearer to the exact answer than zeros are, and than the best constant is, by more
# than this, in dB, which a constant in float32 explains.
NEARER_DECIBELS = 0.1
# But where a constant keeps more than this, in dB, the output hardly varies, and some values that
# are rounded otherwise may be all that it varies by: one step of eight bits is 42 dB below the
# largest value.
CONSTANT_DECIBELS = 30.0
# What one float32 layer adds: measured on whole networks at most 1e-6 of its tensor's range.
LAYER_TOLERANCE = 2e-5
# A layer in half precision rounds its inputs, weights and results to 11 bits: 5e-4 of a value.
# Measured on whole networks it stays under 2e-3 of a tensor's range.
HALF_LAYER_TOLERANCE = 1e-2
# Rounding weights to INT8 leaves a layer 33 dB or more on the networks of benchmarks/, and 30 dB on
# thin ones of random weights. What leaves less than 25 dB, an error of 6 % of the signal, is more
# than rounding; what a fault that leaves more does stands in docs/validate.md.
LEAST_LAYER_SQNR = 25.0
# Rounding weights to four bits leaves a layer of normal weights 19.5 dB or more, with as many as
# 512 of them to a scale; weights with heavy tails (Student's t with 3 degrees of freedom) 12. What
# leaves less than 10 dB, an error of a third of the signal, is more than rounding.
LEAST_INT4_LAYER_SQNR = 10.0
# Clipping that a calibration chooses costs no more than the rounding that it saves; beyond that a
# range that loses 3 % of the signal's energy saturates.
LEAST_RANGE_SQNR = 15.0
# Signal to noise, in dB, of a network whose float layers run in less than float32: a rounding of
# 2^-11 (TF32, FP16) or 2^-8 (BF16) at each layer, added up over the networks of benchmarks/.
FLOAT_DECIBELS = {"fp32": 110.0, "tf32": 50.0, "fp16": 50.0, "bf16": 32.0}
# Of float engines, what the precision explains, as a fraction of an output's range. Layers that
# round what they compute do so once each, and inputs are rounded once: the CamVid MobileNet is off
# by 5e-3 in FP16 and by 6e-3 in BF16, whose runtimes keep sums in float32, while its inputs explain
# 4e-4 and 3e-3.
ENGINE_TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 2e-2}

# Of stored answers of an INT8 engine, as a fraction of an output's range, where the same engine
# and library answer on another processor: sums of integers are exact, but what rounds otherwise is
# a step of 8 bits, 4e-3 of a tensor's range. Five of them may meet.
STORED_INT8 = 2e-2
# Likewise in FP8, whose step at the largest value is 32 of 448: one of them.
STORED_FP8 = 8e-2

# The signal over noise, in dB, that a tensor in 8 bits keeps: one of usual values, and one whose
# largest value is 12 times its root mean square. See `least_sqnr`.
USUAL_ROUNDING = 40.0
PEAKY_ROUNDING = 31.3
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

# A recipe in the graph. Values of a picture that is not resized are the same float operations, in
# levels of 0 to 255; a resize in float32 rounds to another level than one in whole numbers of 11
# (OpenCV) or 22 bits (Pillow), and of antialiasing Pillow itself rounds between its two steps.
BAKED_LEVELS = 1e-3
BAKED_RESIZED_LEVELS = 1.001
BAKED_ANTIALIASED_LEVELS = 2.001
# Boxes of the same rows in float32 and in float64, in pixels; scores likewise.
BAKED_PIXELS = 1e-2
BAKED_SCORES = 1e-5


def least_sqnr(depth: int) -> float:
    """Return the signal over noise, in dB, that an output has to keep behind ``depth`` roundings.

    A tensor of 8 bits has steps of s = 2 amax / 255, and rounding to them adds noise of the power
    s^2 / 12. So it keeps

        10 log10(12 rms^2 / s^2) = 52.9 dB - 20 log10(amax / rms)

    of the signal: 40.9 dB of normal values that are cut at four times their deviation, 31.3 dB
    where the largest value is 12 times the root mean square. Roundings are independent of each
    other, so the powers of their noise add up; what sums up many values keeps the ratio. With all
    tensors on the way but one of the usual kind, and that one peaky, an output keeps

        -10 log10(depth 10^-4.0 + 10^-3.13)

    at least. Where ranges cut nothing off, trained networks of 2 to 24 layers keep 4 dB more, and
    in the median 12: see benchmarks/acceptance.md. A single layer at a cosine of 0.99, which are
    17 dB, is 13 dB short.

    >>> [round(least_sqnr(depth), 1) for depth in (1, 2, 10, 34, 100)]
    [30.8, 30.3, 27.6, 23.8, 19.7]
    """
    if not depth:
        return USUAL_ROUNDING
    noise = depth * 10 ** (-USUAL_ROUNDING / 10) + 10 ** (-PEAKY_ROUNDING / 10)
    return max(-10 * math.log10(noise), LEAST_SQNR)
