"""FP8 as ONNX's FLOAT8E4M3FN has it: a sign, four bits of exponent, three of mantissa, no infinity.

    1.mmm * 2^e        e from -6 to 8: up to 448, three bits behind the first one
    0.mmm * 2^-6       below 2^-6: multiples of 2^-9

Every number is a multiple of 2^-9, and one from 2^e on is a multiple of 2^(e - 3). Values become
the nearest number, half to even; what is beyond 448 becomes 448, as QuantizeLinear says with
``saturate``; NaN stays NaN.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx

from onnxgraft.graph.tensors import Array

__all__ = ["FLOAT8", "LARGEST", "OPSET", "is_float8", "nearest"]

FLOAT8: np.dtype[Any] = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = 448.0
# QuantizeLinear and DequantizeLinear have it from here on.
OPSET = 19


def is_float8(dtype: Any) -> bool:
    """Tell whether a type is FP8: numpy's, onnx's number, or None.

    >>> is_float8(FLOAT8), is_float8(17), is_float8(np.int8), is_float8(None)
    (True, True, False, False)
    """
    if dtype is None:
        return False
    if isinstance(dtype, int):
        return bool(dtype == onnx.TensorProto.FLOAT8E4M3FN)
    return bool(np.dtype(dtype) == FLOAT8)


def nearest(values: Array) -> Array:
    """Return the FP8 numbers nearest to ``values``.

    >>> nearest(np.array([17.0, 19.0, 1000.0, -0.001])).astype(float).tolist()
    [16.0, 20.0, 448.0, -0.001953125]
    """
    return np.clip(values, -LARGEST, LARGEST).astype(FLOAT8)
