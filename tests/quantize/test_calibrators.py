"""Calibrators for TensorRT 10: contract tests with a base class of the same methods.

With ``ONNXGRAFT_TENSORRT10`` naming a Python that has TensorRT 10, with the real one.
"""

from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.stages.quantize import adapt_calibrator, cache_calibrator

CACHE = b"TRT-100300-EntropyCalibration2\nx: 3c010a14\n"


class Base:
    """What pybind11 demands of a subclass: that it calls ``__init__``."""

    def __init__(self) -> None:
        self.ready = True


@pytest.fixture
def base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a TensorRT 10 that has nothing but the base class where it is imported from."""
    module = types.ModuleType("tensorrt")
    vars(module).update(IInt8EntropyCalibrator2=Base, __version__="10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", module)


class OfTensorRT5:
    """A calibrator as the published examples have it."""

    def __init__(self) -> None:
        self.batches = [101, 102]
        self.names: list[str] = []
        self.written = b""

    def get_batch_size(self) -> int:
        return 5

    def get_batch(self, bindings: list[int], names: Sequence[str]) -> list[int] | None:
        self.names = list(names)
        if not self.batches:
            return None
        bindings[0] = self.batches.pop(0)
        return bindings

    def read_calibration_cache(self, length: int) -> None:
        return None

    def write_calibration_cache(self, ptr: int, size: int) -> None:
        self.written = ctypes.c_char_p(int(ptr)).value or b""


class OfTensorRT10:
    """A calibrator as TensorRT 10 documents it, that returns numpy's integers."""

    def __init__(self) -> None:
        self.written = b""

    def get_batch_size(self) -> int:
        return 1

    def get_batch(self, names: Sequence[str]) -> Any:
        return np.array([7], np.int64)

    def read_calibration_cache(self) -> memoryview:
        return memoryview(CACHE)

    def write_calibration_cache(self, cache: bytes) -> None:
        self.written = bytes(cache)


@pytest.mark.usefixtures("base_class")
def test_a_cache_alone_calibrates_without_data(tmp_path: Path) -> None:
    (tmp_path / "t.cache").write_bytes(CACHE)
    calibrator = cache_calibrator(tmp_path / "t.cache")
    assert isinstance(calibrator, Base)
    assert calibrator.ready
    assert calibrator.get_batch_size() == 1
    assert calibrator.get_batch(["x"]) is None
    assert calibrator.read_calibration_cache() == CACHE
    calibrator.write_calibration_cache(b"another")
    assert (tmp_path / "t.cache").read_bytes() == CACHE


@pytest.mark.usefixtures("base_class")
def test_a_calibrator_of_old_examples_is_adapted() -> None:
    own = OfTensorRT5()
    calibrator = adapt_calibrator(own)
    assert isinstance(calibrator, Base)
    assert calibrator.get_batch_size() == 5
    assert [calibrator.get_batch(["data"]) for _ in range(3)] == [[101], [102], None]
    assert own.names == ["data"]
    assert calibrator.read_calibration_cache() is None
    calibrator.write_calibration_cache(memoryview(CACHE))
    assert own.written == CACHE


@pytest.mark.usefixtures("base_class")
def test_a_calibrator_of_today_is_adapted() -> None:
    own = OfTensorRT10()
    calibrator = adapt_calibrator(own)
    (pointer,) = calibrator.get_batch(["x"])
    assert (pointer, type(pointer)) == (7, int)
    assert calibrator.read_calibration_cache() == CACHE
    calibrator.write_calibration_cache(memoryview(CACHE))
    assert own.written == CACHE


@pytest.mark.usefixtures("base_class")
def test_a_missing_method_is_named() -> None:
    class Half:
        def get_batch_size(self) -> int:
            return 1

    with pytest.raises(InputError, match="Half has no method get_batch;"):
        adapt_calibrator(Half())  # type: ignore[arg-type]


def test_a_tensorrt_without_calibrators_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("tensorrt")
    module.__dict__["__version__"] = "11.4.0"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    (tmp_path / "t.cache").write_bytes(CACHE)
    with pytest.raises(NotSupportedError, match=r"TensorRT 11\.4\.0 has no calibrators"):
        cache_calibrator(tmp_path / "t.cache")


REAL = """
import ctypes, sys
import tensorrt as trt
from onnxgraft.stages.quantize.tensorrt.calibrators import adapt_calibrator, cache_calibrator
assert trt.__version__.startswith("10."), trt.__version__
cache = cache_calibrator(sys.argv[1])
base = trt.IInt8EntropyCalibrator2
assert isinstance(cache, base)
assert cache.get_algorithm() == trt.CalibrationAlgoType.ENTROPY_CALIBRATION_2
assert base.get_batch_size(cache) == 1
# From Python the base class dispatches get_batch_size alone; the builder dispatches the rest.
assert cache.read_calibration_cache() == open(sys.argv[1], "rb").read()

class Own:
    def get_batch_size(self):
        return 5
    def get_batch(self, bindings, names):
        bindings[0] = 101
        return bindings
    def read_calibration_cache(self, length):
        return None
    def write_calibration_cache(self, ptr, size):
        self.written = ctypes.c_char_p(int(ptr)).value

own = Own()
adapted = adapt_calibrator(own)
assert base.get_batch_size(adapted) == 5
assert adapted.get_batch(["x"]) == [101]
assert adapted.read_calibration_cache() is None
adapted.write_calibration_cache(b"TRT-1")
assert own.written == b"TRT-1"
"""


def test_the_real_base_class_of_tensorrt_10_calls_them(
    tensorrt10: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "t.cache").write_bytes(CACHE)
    tensorrt10(REAL, tmp_path / "t.cache")
