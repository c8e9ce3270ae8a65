"""PyTorch's quantizers, as pt2e (torchao) writes them.

The exporter leaves out that levels can be fewer than the type has, which cuts values off sooner.
ONNX's QuantizeLinear has 8 bits in all opsets that are written; others are written as arithmetic.
PyTorch multiplies by 1 / scale where ONNX divides, which is another level where a value is
all but in the middle of two.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnxgraft.stages.convert.pytorch.formula import Writer
from onnxgraft.stages.convert.writing import Operand, Value

__all__ = ["quantizing", "register"]

_BYTES = (TensorProto.UINT8, TensorProto.INT8)


def register() -> None:
    """Let PyTorch know the operators that pt2e writes, which are in a module of their own."""
    with suppress(ImportError):  # of a PyTorch that leaves them to torchao
        import torch.ao.quantization.fx._decomposed  # noqa: F401


@dataclass(frozen=True)
class _Levels:
    """What values are rounded to.

    Attributes:
        scale: Between two levels: a number, or of the type FLOAT () or (channels,).
        zero: The level of 0: a number, or of any whole type, likewise.
        low: The lowest level.
        high: The highest.
        dtype: ONNX's type of levels.
        axis: Of the channels, None where there is one scale.
        rank: Of what is quantized.
        exact: Whether what comes is multiplied, where the scale is computed: of a range that is the
            values' own, the ends are in the middle of two levels.
    """

    scale: Operand
    zero: Operand
    low: int
    high: int
    dtype: int
    axis: int | None = None
    rank: int = 0
    exact: bool = False

    @property
    def _plain(self) -> bool:
        """Whether it is what QuantizeLinear does: to 8 bits, with a zero among the levels."""
        return self.dtype in _BYTES and (not isinstance(self.zero, Value) or self.zero.whole)

    def quantized(self, w: Writer, value: Value) -> Value:
        """Write the levels of float32 values."""
        if self.exact and isinstance(self.scale, Value):
            value = value * (w.const(1, TensorProto.FLOAT) / self.scale)
            return replace(self, scale=1.0).quantized(w, value)
        if not self._plain:
            level = w.op("Round", value / self._wide(w, self.scale))
            level = level + self._wide(w, self.zero)
            return w.op("Clip", level, self.low, self.high).to(self.dtype)
        limits = np.iinfo(tensor_dtype_to_np_dtype(self.dtype))
        if (self.low, self.high) != (limits.min, limits.max):
            value = self._cut(w, value)
        return self._linear(w, "QuantizeLinear", value, self.dtype)

    def _cut(self, w: Writer, value: Value) -> Value:
        """Cut values off at the lowest and highest level, in front of a quantizer of more."""
        if not isinstance(self.scale, Value) and not isinstance(self.zero, Value):
            ends = [(level - self.zero) * self.scale for level in (self.low, self.high)]
            return w.op("Clip", value, *ends)
        scale, zero = self._wide(w, self.scale), self._wide(w, self.zero)
        low, high = (
            (w.const(level, TensorProto.FLOAT) - zero) * scale for level in (self.low, self.high)
        )
        return w.op("Max", w.op("Min", value, high), low)

    def dequantized(self, w: Writer, level: Value) -> Value:
        """Write the float32 values of levels."""
        if self._plain:
            return self._linear(w, "DequantizeLinear", level, TensorProto.FLOAT)
        moved = level.to(TensorProto.FLOAT) - self._wide(w, self.zero)
        return moved * self._wide(w, self.scale)

    def _linear(self, w: Writer, kind: str, value: Value, dtype: int) -> Value:
        scale, zero = self.scale, self.zero
        scale = scale if isinstance(scale, Value) else w.const(scale, TensorProto.FLOAT)
        zero = zero.to(self.dtype) if isinstance(zero, Value) else w.const(zero, self.dtype)
        axis = {} if self.axis is None else {"axis": self.axis}
        return w.op(kind, value, scale, zero, dtype=dtype, **axis)

    def _wide(self, w: Writer, part: Operand) -> Value:
        """Return the scale or zero in float32, such that it can be computed with."""
        if not isinstance(part, Value):
            return w.const(part, TensorProto.FLOAT)
        part = part.to(TensorProto.FLOAT)
        if self.axis is None:
            return part
        shape = [1] * self.rank
        shape[self.axis] = -1
        return part.reshape(*shape)


def _levels(
    w: Writer, tensor: Any, scale: Any, zero: Any, low: int, high: int, dtype: int,
    axis: int | None = None,
) -> _Levels:  # fmt: skip
    """Return the levels that an operator is given, scale and zero as numbers or tensors."""

    def part(given: Any, kind: int | None) -> Operand:
        if not hasattr(given, "dtype"):
            return float(given)
        value = given if isinstance(given, Value) else w.value(given)
        value = value if kind is None else value.to(kind)
        return value.reshape() if axis is None else value

    rank = len(tensor.shape)
    if zero is None:
        zero = 0 if axis is None else w.const(np.zeros(scale.shape), int(dtype))
    return _Levels(
        part(scale, TensorProto.FLOAT), part(zero, None), low, high, int(dtype),
        None if axis is None else axis % rank, rank,
    )  # fmt: skip


def _quantize_by(
    input: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int, dtype: int
) -> Any:
    w = Writer()
    levels = _levels(w, input, scale, zero_point, quant_min, quant_max, dtype)
    value = w.value(input).to(TensorProto.FLOAT)
    return w.tensor(replace(levels, exact=True).quantized(w, value))


def _quantize(
    input: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int, dtype: int
) -> Any:
    return _quantize_channels(input, scale, zero_point, None, quant_min, quant_max, dtype)


def _quantize_channels(
    input: Any, scales: Any, zero_points: Any, axis: int | None, quant_min: int, quant_max: int,
    dtype: int,
) -> Any:  # fmt: skip
    w = Writer()
    levels = _levels(w, input, scales, zero_points, quant_min, quant_max, dtype, axis)
    return w.tensor(levels.quantized(w, w.value(input).to(TensorProto.FLOAT)))


def _dequantize(
    input: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int, dtype: int,
    out_dtype: int | None = None,
) -> Any:  # fmt: skip
    return _dequantize_channels(
        input, scale, zero_point, None, quant_min, quant_max, dtype, out_dtype
    )


def _dequantize_channels(
    input: Any, scales: Any, zero_points: Any, axis: int | None, quant_min: int, quant_max: int,
    dtype: int, out_dtype: int | None = None,
) -> Any:  # fmt: skip
    w = Writer()
    levels = _levels(w, input, scales, zero_points, quant_min, quant_max, dtype, axis)
    found = levels.dequantized(w, w.value(input))
    return w.tensor(found if out_dtype in (None, -1) else found.to(int(out_dtype)))


def _choose(*, symmetric: bool) -> Callable[..., Any]:
    """Return what writes the scale and zero of what comes, as `determine_qparams` has it.

    Of halves too in float32, where PyTorch rounds the scale to a half.
    """

    def written(input: Any, quant_min: int, quant_max: int, eps: float, dtype: int) -> Any:
        w = Writer()
        value = w.value(input).to(TensorProto.FLOAT)
        least, most = (w.op(kind, value, keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
        least, most = w.op("Min", least, 0), w.op("Max", most, 0)
        if symmetric:
            most = w.op("Max", most, least * -1)
            scale = w.op("Max", most / ((quant_max - quant_min) / 2), eps)
            zero = w.const(128 * (int(dtype) == TensorProto.UINT8), TensorProto.FLOAT)
        else:
            scale = w.op("Max", (most - least) / float(quant_max - quant_min), eps)
            zero = w.const(quant_min, TensorProto.FLOAT) - w.op("Round", least / scale)
            zero = w.op("Clip", zero, quant_min, quant_max)
        return tuple(
            w.tensor(part.to(kind).reshape(1))
            for part, kind in ((scale, TensorProto.DOUBLE), (zero, TensorProto.INT64))
        )

    return written


def quantizing() -> dict[Any, Callable[..., Any]]:
    """Return what writes the quantizers, by PyTorch's operator."""
    import torch

    register()
    pt2e = torch.ops.quantized_decomposed
    if not hasattr(pt2e, "quantize_per_tensor"):
        return {}
    return {
        pt2e.choose_qparams.tensor: _choose(symmetric=False),
        pt2e.choose_qparams_symmetric.tensor: _choose(symmetric=True),
        pt2e.dequantize_per_channel.default: _dequantize_channels,
        pt2e.dequantize_per_tensor.default: _dequantize,
        pt2e.dequantize_per_tensor.tensor: _dequantize,
        pt2e.quantize_per_channel.default: _quantize_channels,
        pt2e.quantize_per_tensor.default: _quantize,
        pt2e.quantize_per_tensor.tensor: _quantize_by,
    }
