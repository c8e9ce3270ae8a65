"""From a histogram to a range: where the integers of a tensor end.

``entropy`` follows Migacz, "8-bit Inference with TensorRT" (GTC 2017, S7310): 2048 bins over the
magnitudes, every threshold from 128 bins up tried, the one kept whose 128-level distribution has
the smallest Kullback-Leibler divergence from the clipped original. Three things are ours, and why
is told in docs/decisions/0003: zeros are not counted, no more than `MOST_CLIPPED` of the rest is
ever clipped, and nothing is clipped where that has the larger squared error.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxgraft.data.ranges import Histogram, Range, bin_edges

__all__ = [
    "METHODS",
    "Method",
    "choose_range",
    "entropy_threshold",
    "linear_bins",
    "squared_errors",
]

Method = Literal["entropy", "minmax", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

BINS = 2048
LEVELS = 128
PERCENTILE = 99.99
MOST_CLIPPED = 0.01
# Of a divergence from running sums over 2048 bins: terms of up to log(1e12), in float64.
_ROUNDING = 1e-9


def choose_range(histogram: Histogram, method: Method) -> Range:
    """Return the range that ``method`` keeps of a tensor.

    The range is what was seen, cut at plus and minus the method's threshold. A tensor without a
    finite value, or with nothing but zeros, has the range [0, 0].
    """
    amax = histogram.amax
    if amax == 0.0:
        return Range(0.0, 0.0, 0.0, 0.0, method)
    if method == "minmax":
        threshold = amax
    else:
        width = amax / BINS
        if method == "entropy":
            threshold = _guarded_entropy(linear_bins(histogram, zeros=False)) * width
        elif method == "mse":
            threshold = _mse_threshold(linear_bins(histogram, zeros=False)) * width
        else:
            counts = linear_bins(histogram)
            seen = np.cumsum(counts) / counts.sum()
            threshold = (int(np.searchsorted(seen, PERCENTILE / 100)) + 1) * width
    # Values that all lie on one side have a smallest magnitude; nothing is cut below it.
    threshold = max(threshold, histogram.minimum, -histogram.maximum)
    return Range(
        low=max(histogram.minimum, -threshold),
        high=min(histogram.maximum, threshold),
        minimum=histogram.minimum,
        maximum=histogram.maximum,
        origin=method,
    )


def linear_bins(
    histogram: Histogram, bins: int = BINS, *, zeros: bool = True
) -> NDArray[np.float64]:
    """Return (bins,) counts of magnitudes in equal bins from 0 to amax.

    A bin of the histogram is at most 1/128 of its values wide; its count is spread evenly, over
    many of these where all values are denormal. So zeros are left out before, if they are.
    """
    amax = histogram.amax
    counts = histogram.magnitudes()
    if not zeros:
        counts[0] = 0
    cumulative = np.append(0.0, np.cumsum(counts, dtype=np.float64))
    edges = bin_edges()
    last = int(np.searchsorted(edges, amax, side="right"))
    edges, cumulative = np.append(edges[:last], amax), np.append(cumulative[:last], cumulative[-1])
    wanted = np.linspace(0.0, amax, bins + 1)
    at = np.interp(wanted, edges, cumulative)
    return np.diff(at)


def entropy_threshold(counts: NDArray[np.float64], most_clipped: float = MOST_CLIPPED) -> float:
    """Return the threshold, in bins, of the smallest divergence: i + 0.5 for i bins kept.

    Args:
        counts: (2048,) counts of magnitudes that are not zero.
        most_clipped: The largest fraction of them that may lie beyond the threshold.
    """
    total = counts.sum()
    beyond = total - np.cumsum(counts)
    first = int(np.argmax(beyond <= most_clipped * total)) + 1
    kept = np.arange(max(LEVELS, first), len(counts) + 1)
    estimates = _divergences(counts, beyond, kept)
    # What is within rounding of the best is computed again, term by term; the first one wins.
    close = kept[estimates <= estimates.min() + _ROUNDING] if total > 0 else []
    best, best_divergence = len(counts), np.inf
    for candidate in close:
        reference = counts[:candidate].copy()
        reference[-1] += beyond[candidate - 1]
        divergence = _divergence(reference, _quantized(counts[:candidate]))
        if divergence < best_divergence:
            best, best_divergence = int(candidate), divergence
    return best + 0.5


def _divergences(
    counts: NDArray[np.float64], beyond: NDArray[np.float64], kept: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the divergence of every number of bins kept, from running sums.

    With S the sum and F the filled bins of a level, p a count of the total P, and Q the sum kept:

        KL = 1/P (sum p log p - sum over levels S log(S/F)) + log(Q/P)

    where what lies beyond is added to the last p, and to the last level's S before the logarithm.
    """
    cumulative = np.append(0.0, np.cumsum(counts))
    filled = np.append(0.0, np.cumsum(counts > 0))
    entropy = np.append(0.0, np.cumsum(_xlogx(counts)))
    edges = _level_edges(kept[:, np.newaxis])
    sums, bins = np.diff(cumulative[edges]), np.diff(filled[edges])
    clipped, end = beyond[kept - 1], counts[kept - 1]
    own = entropy[kept - 1] + _xlogx(end + clipped)
    total, inside = cumulative[-1], cumulative[kept]
    logarithms = _log(sums, bins)
    levels = np.sum(sums * logarithms, axis=1) + clipped * logarithms[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (own - levels) / total + np.log(inside / total)
    # A last bin that holds only what was clipped has no value in the quantized distribution.
    return np.where((inside > 0) & ((end > 0) | (clipped <= 0)), found, np.inf)


def _level_edges(kept: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Return (..., 129): where the levels of ``kept`` bins begin, and the last one ends.

    The levels of an integer are equally wide, so bin i is of level i * 128 // kept.
    """
    return -(-np.arange(LEVELS + 1) * kept // LEVELS)


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(values, out=np.zeros_like(values), where=values > 0)


def _log(sums: NDArray[np.float64], bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(sums / bins), 0 where a level is empty."""
    safe = np.maximum(bins, 1.0)
    return np.log(sums / safe, out=np.zeros_like(sums), where=sums > 0)


def _quantized(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the counts after merging to 128 levels and spreading each over its non-empty bins."""
    level = np.arange(len(counts)) * LEVELS // len(counts)
    present = counts > 0
    sums = np.bincount(level, counts, LEVELS)
    filled = np.bincount(level, present, LEVELS)
    spread = np.divide(sums, filled, out=np.zeros(LEVELS), where=filled > 0)
    return np.where(present, spread[level], 0.0)


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return sum p log(p/q) of the normalized distributions; infinite where q misses a value."""
    if q.sum() == 0:
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    if (q[used] == 0).any():
        # Only the last bin can be so: it holds what was clipped and nothing of its own.
        return float("inf")
    return float(np.sum(p[used] * np.log(p[used] / q[used])))


def _guarded_entropy(counts: NDArray[np.float64]) -> float:
    """Return `entropy_threshold`, or all bins where these have the smaller squared error."""
    threshold = min(entropy_threshold(counts), float(len(counts)))
    clipped, whole = squared_errors(counts, np.array([threshold, len(counts)]))
    return threshold if clipped <= whole else float(len(counts))


def _mse_threshold(counts: NDArray[np.float64]) -> float:
    """Return the threshold, in bins, of the smallest mean squared error of 127 levels."""
    best = len(counts)
    for step in (32, 4):  # the error is flat around its minimum
        reach = len(counts) if step == 32 else 32
        kept = np.arange(max(LEVELS, best - reach), min(len(counts), best + reach) + 1, step)
        best = int(kept[np.argmin(squared_errors(counts, kept))])
    return float(best)


def squared_errors(
    counts: NDArray[np.float64], thresholds: NDArray[np.number]
) -> NDArray[np.float64]:
    """Return (thresholds,): the sum of the squared errors of 127 levels below each threshold.

    Values are spread evenly within their bin. With the running sums C0, C1 and C2 of 1, x and x^2,
    the values that are rounded to q (what is clipped is rounded to the last level) add

        sum (x - q)^2 = (C2 - 2 q C1 + q^2 C0) between the edges of q, half a step on either side

    Args:
        counts: (bins,) counts of magnitudes.
        thresholds: In bins, above 0.
    """
    steps = np.asarray(thresholds, np.float64)[:, np.newaxis] / (LEVELS - 1)
    levels = np.arange(LEVELS) * steps
    edges = np.empty((len(steps), LEVELS + 1))
    edges[:, 0], edges[:, 1:-1], edges[:, -1] = 0.0, levels[:, 1:] - steps / 2, len(counts)
    begin = np.minimum(edges.astype(np.int64), len(counts) - 1)
    within = edges - begin
    first = np.arange(len(counts), dtype=np.float64)
    # Up to a part f of it bin i holds f, i f + f^2 / 2 and i^2 f + i f^2 + f^3 / 3 of each count.
    powers = (
        (np.ones_like(first), within),
        (first + 1 / 2, first[begin] * within + within**2 / 2),
        (
            first**2 + first + 1 / 3,
            first[begin] ** 2 * within + first[begin] * within**2 + within**3 / 3,
        ),
    )
    own = counts[begin]
    sums = [
        np.diff(np.append(0.0, np.cumsum(counts * whole))[begin] + own * part)
        for whole, part in powers
    ]
    return np.asarray((sums[2] - 2 * levels * sums[1] + levels**2 * sums[0]).sum(axis=1))
