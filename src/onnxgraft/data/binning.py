"""Counting float32 values by their upper 16 bits, as fast as the installed packages allow.

With numba (``pip install 'onnxgraft[fast]'``) a value takes 0.55 ns, its part in the smallest and
largest value included; without it OpenCV's histogram of the two upper bytes takes 1.1 ns and
numpy's minimum and maximum 0.25 ns. The results are the same. ``numpy.bincount`` takes 2.5 ns.
numba compiles for more than a second, so that few values are counted without it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "count_bins", "limits_of", "prepare"]

BINS = 1 << 16
# OpenCV counts in float32, which holds every whole number up to here.
_EXACT = 1 << 24
# From so many values on a second table pays: runs of equal values, such as a ReLU's zeros, would
# otherwise wait for one counter.
_TWO_TABLES = 1 << 17
# Fewer values than this are sorted: a histogram of all bins would take longer.
_FEW = 1 << 13
# Values whose limits are looked for before they are counted: as many as the first cache holds.
_BLOCK = 1 << 12
# Bins of values between two powers of two.
_BINADE = 1 << 7
# So many values are counted without numba in the time that it needs to be loaded and to compile.
_WORTH_COMPILING = 1 << 30
_scratch = threading.local()

Counts = NDArray[np.int64]


def count_bins(values: NDArray[np.float32], counts: Counts) -> tuple[float, float]:
    """Add the values, contiguous and flat, to (65536,) ``counts`` by their upper 16 bits.

    Returns:
        The same as `limits_of`.
    """
    kernels = _compiled
    if kernels is None:
        _count_plainly(values, counts)
        return limits_of(values)
    one, two = kernels
    paired = 0
    found: list[int] = []
    if values.size >= _TWO_TABLES and values.ctypes.data % 8 == 0:
        paired = values.size // 2 * 2
        tables = getattr(_scratch, "tables", None)
        if tables is None:
            tables = _scratch.tables = np.zeros((2, BINS), np.uint32)
        pairs = values[:paired]
        found += two(pairs.view(np.uint64), pairs.view(np.int32), counts, *tables)
    if values.size > paired:
        rest = values[paired:]
        found += one(rest.view(np.uint32), rest.view(np.int32), counts)
    return _limits(min(found), max(found)) if found else (math.inf, -math.inf)


def limits_of(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if there is one, infinities if it is empty."""
    # Without the sign of a zero, which would depend on the order of the values.
    return float(values.min(initial=math.inf)) + 0.0, float(values.max(initial=-math.inf)) + 0.0


def prepare(count: int | None = None) -> None:
    """Compile the loops, if numba is installed and it pays.

    Whoever counts meanwhile counts without them, to the same result.

    Args:
        count: How many values there will be; None where it is not known.
    """
    global _compiled
    if count is None or count >= _WORTH_COMPILING:
        with _lock:
            _compiled = _compiled or _compile()


def _count_plainly(values: NDArray[np.float32], counts: Counts) -> None:
    if values.size < _FEW:
        used, found = np.unique(values.view("<u2")[1::2], return_counts=True)
        counts[used] += found
        return
    for start in range(0, values.size, _EXACT):
        _count_with_opencv(values[start : start + _EXACT], counts)


def _count_with_opencv(values: NDArray[np.float32], counts: Counts) -> None:
    import cv2

    # The upper half of a little-endian float32 is its bytes 3 and 2.
    octets = values.view(np.uint8).reshape(1, -1, 4)
    found = cv2.calcHist([octets], [3, 2], None, [256, 256], [0, 256, 0, 256]).ravel()
    used = np.flatnonzero(found)
    counts[used] += found[used].astype(np.int64)


def _limits(low: int, high: int) -> tuple[float, float]:
    """Return the limits that two keys stand for; NaN lies beyond the keys of the infinities."""
    keys = np.array([low, high], np.int32)
    found = np.where(keys < 0, keys ^ np.int32(0x7FFFFFFF), keys).view(np.float32)
    if np.isnan(found).any():
        return math.nan, math.nan
    return float(found[0]) + 0.0, float(found[1]) + 0.0


# The loops with one table and with two.
Kernels = tuple[Callable[..., Any], Callable[..., Any]]
_lock = threading.Lock()
_compiled: Kernels | None = None


def _compile() -> Kernels | None:
    try:
        import numba
    except ImportError:
        return None
    limits = numba.njit("UniTuple(int32, 2)(int32[::1], int32, int32)", nogil=True)(_block_limits)

    def one(bits: Any, keys: Any, counts: Any) -> Any:
        low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for start in range(0, bits.size, _BLOCK):
            low, high = limits(keys[start : start + _BLOCK], low, high)
            block = bits[start : start + _BLOCK]
            for i in range(block.size):
                counts[block[i] >> np.uint32(16)] += 1
        return low, high

    def two(pairs: Any, keys: Any, counts: Any, even: Any, odd: Any) -> Any:
        low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for start in range(0, pairs.size, _BLOCK // 2):
            low, high = limits(keys[2 * start : 2 * start + _BLOCK], low, high)
            block = pairs[start : start + _BLOCK // 2]
            for i in range(block.size):
                even[(block[i] >> np.uint64(16)) & np.uint64(0xFFFF)] += np.uint32(1)
                odd[block[i] >> np.uint64(48)] += np.uint32(1)
        for start in range(0, even.size, _BINADE):
            some = np.uint32(0)
            for i in range(start, start + _BINADE):
                some |= even[i] | odd[i]
            if some:  # where not, the counters need not come into the cache
                for i in range(start, start + _BINADE):
                    counts[i] += np.int64(even[i]) + np.int64(odd[i])
                    even[i] = odd[i] = 0
        return low, high

    return (
        numba.njit("UniTuple(int32, 2)(uint32[::1], int32[::1], int64[::1])", nogil=True)(one),
        numba.njit(
            "UniTuple(int32, 2)(uint64[::1], int32[::1], int64[::1], uint32[::1], uint32[::1])",
            nogil=True,
        )(two),
    )


def _block_limits(values: Any, low: Any, high: Any) -> Any:
    """Return the smallest and largest key; keys order the bits of floats as the floats are."""
    for i in range(values.size):
        value = values[i]
        key = value ^ ((value >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low, high = min(low, key), max(high, key)
    return low, high
