"""The calibrator with which TensorRT 10 takes ranges that were found before: it has no data.

A bundle carries this very file to its target, so nothing of onnxgraft is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["cache_calibrator"]


def cache_calibrator(trt: Any, cache: bytes) -> Any:
    """Return an ``IInt8EntropyCalibrator2`` that has a calibration cache alone.

    TensorRT 10 asks it for the cache and, if it takes it, for nothing else.

    Args:
        trt: The module, of TensorRT 10; 11 has no calibrators.
        cache: What the file holds.
    """
    base = trt.IInt8EntropyCalibrator2

    class CacheCalibrator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, cache: object) -> None:
            """TensorRT has calibrated again: without data there is nothing worth keeping."""

    return CacheCalibrator()
