"""Quantizers of PyTorch's programs, held against PyTorch, within their ranges and beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.graph.model import Model
from onnxgraft.run.session import OnnxRuntime
from tests.conftest import Cli
from tests.convert.pytorch.comparing import both

torch = pytest.importorskip("torch")
pytest.importorskip("torch.ao.quantization.fx._decomposed")
pt2e = torch.ops.quantized_decomposed

# No value is in the middle of two levels of 0.05, where 1 / scale may round to the other.
VALUES = np.array(
    [0, 0.01, -0.01, 0.04, -0.04, 1, -1, 3.11, -3.11, 6.36, -6.41, 7, -7, 13, 1e4, -1e4], np.float32
).reshape(4, 4)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "zero"),
    [
        (torch.uint8, 0, 255, 3),
        (torch.uint8, 0, 127, 64),  # reduce_range
        (torch.int8, -128, 127, -5),
        (torch.int8, -127, 127, 0),
        (torch.int8, -8, 7, 1),  # 4 bits
        (torch.uint8, 0, 15, 7),
        (torch.int16, -32768, 32767, 9),
        (torch.int32, -(2**20), 2**20, 0),
    ],
    ids=str,
)
def test_values_are_cut_off_at_the_levels_that_there_are(
    dtype: Any, low: int, high: int, zero: int
) -> None:
    def call(x: Any, y: Any) -> list[Any]:
        level = pt2e.quantize_per_tensor(x, 0.05, zero, low, high, dtype)
        return [level, pt2e.dequantize_per_tensor(level, 0.05, zero, low, high, dtype)]

    for right, made in zip(*both(call, VALUES, VALUES), strict=True):
        assert made.dtype == right.dtype
        np.testing.assert_allclose(made, right, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-8, 7)])
def test_each_channel_has_its_scale(low: int, high: int) -> None:
    scales, zeros = torch.tensor([0.05, 0.1, 0.3, 2]).double(), torch.tensor([0, 3, -2, 1])
    ends = low, high, torch.int8

    def call(x: Any, y: Any) -> list[Any]:
        found = []
        for axis in (1, -1):
            level = pt2e.quantize_per_channel(x, scales, zeros, axis, *ends)
            found += [level, pt2e.dequantize_per_channel(level, scales, zeros, axis, *ends)]
        fractions = zeros.float() / 4
        return [
            *found,
            pt2e.dequantize_per_channel(level, scales, None, 1, *ends),
            pt2e.dequantize_per_channel(level, scales, fractions, 1, *ends),
        ]

    for right, made in zip(*both(call, VALUES, VALUES), strict=True):
        np.testing.assert_allclose(made, right, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(torch.uint8, 0, 255), (torch.int8, -128, 127), (torch.uint8, 0, 127)],
    ids=str,
)
def test_the_range_is_that_of_what_comes(dtype: Any, low: int, high: int) -> None:
    def call(x: Any, y: Any) -> list[Any]:
        found = []
        for value in (x, abs(x) + 1, x * 0):
            for choose in (pt2e.choose_qparams, pt2e.choose_qparams_symmetric):
                scale, zero = choose(value, low, high, 2**-12, dtype)
                ends = scale, zero, low, high, dtype
                level = pt2e.quantize_per_tensor.tensor(value, *ends)
                found += [scale, zero, level, pt2e.dequantize_per_tensor.tensor(level, *ends)]
        return found

    for right, made in zip(*both(call, VALUES, VALUES), strict=True):
        assert made.dtype == right.dtype
        np.testing.assert_allclose(made, right, rtol=1e-6)


def test_halves_are_quantized_in_float32() -> None:
    def call(x: Any, y: Any) -> list[Any]:
        ends = 0.05, 3, 0, 255, torch.uint8
        levels = [pt2e.quantize_per_tensor(x.to(k), *ends) for k in (torch.half, torch.bfloat16)]
        value = pt2e.dequantize_per_tensor(levels[0], *ends, out_dtype=torch.half)
        return [*levels, value]

    for right, made in zip(*both(call, VALUES[:2], VALUES[:2]), strict=True):
        assert made.dtype == right.dtype
        np.testing.assert_array_equal(made, right)


def test_a_process_that_did_not_quantize_reads_it(tmp_path: Path, process: Cli) -> None:
    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.arange(-6, 6, dtype=torch.int8).reshape(3, 4))
            self.register_buffer("scales", torch.tensor([0.1, 0.2, 0.3]))

        def forward(self, x: Any) -> Any:
            ends = 0.05, 64, 0, 127, torch.uint8  # 7 bits
            x = pt2e.dequantize_per_tensor(pt2e.quantize_per_tensor(x, *ends), *ends)
            weight = pt2e.dequantize_per_channel(
                self.weight, self.scales, None, 0, -128, 127, torch.int8
            )
            return torch.nn.functional.linear(x, weight)

    net, x = Net(), torch.from_numpy(VALUES)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    done = process("convert", tmp_path / "net.pt2", "-o", tmp_path / "net.onnx")
    assert done.returncode == 0, done.stderr
    model = Model.load(tmp_path / "net.onnx")
    assert model.operators()["DequantizeLinear"] == 2
    with OnnxRuntime(model.to_onnx()) as session:
        (found,) = session.infer({"x": VALUES}).values()
    np.testing.assert_allclose(found, net(x).numpy(), rtol=1e-6, atol=1e-6)
