"""Calibrators for TensorRT 10 and older, which take ranges through a class with four methods.

TensorRT 10 wants a subclass of ``IInt8EntropyCalibrator2``; older examples subclass what is gone,
with other parameters. Both calibrators here are made when they are asked for, because the base
class is there in TensorRT 10 alone; TensorRT 11 takes the ranges in the graph (`quantize`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from onnxgraft.errors import InputError, NotSupportedError
from onnxgraft.files import existing_file
from onnxgraft.files.limits import CACHE_BYTES
from onnxgraft.optional import optional
from onnxgraft.targets import tensorrt_calibrator

__all__ = ["UserCalibrator", "adapt_calibrator", "cache_calibrator"]


class UserCalibrator(Protocol):
    """The four methods of a calibrator, in the spelling of TensorRT 3 to 5 or of 10."""

    def get_batch_size(self) -> int:
        """Return the number of samples in a batch."""

    def get_batch(self, *arguments: Any) -> Iterable[int] | None:
        """Return device pointers, one an input; None at the end.

        Takes ``(bindings, names)``, a list to fill in and the inputs' names, or ``(names)``.
        """

    def read_calibration_cache(self, *arguments: Any) -> Any:
        """Return a cache's bytes, or None; takes nothing, or a length."""

    def write_calibration_cache(self, *arguments: Any) -> None:
        """Keep a cache; takes its bytes, or a pointer and a size."""


def cache_calibrator(path: str | os.PathLike[str]) -> Any:
    """Return an ``IInt8EntropyCalibrator2`` that has a cache and no data, as on a target.

    Raises:
        InputError: There is no such file.
        MissingDependencyError: tensorrt is not installed.
        NotSupportedError: It is TensorRT 11 or later.
    """
    content = existing_file(path, "the calibration cache", CACHE_BYTES).read_bytes()
    return tensorrt_calibrator.cache_calibrator(_tensorrt(), content)


def adapt_calibrator(calibrator: UserCalibrator) -> Any:
    """Return an ``IInt8EntropyCalibrator2`` that asks the user's own calibrator.

    Each method is called in the way that it is written for, told by its number of parameters.

    Raises:
        InputError: A method is missing.
        MissingDependencyError: tensorrt is not installed.
        NotSupportedError: It is TensorRT 11 or later.
    """
    for method in (
        "get_batch_size", "get_batch", "read_calibration_cache", "write_calibration_cache",
    ):  # fmt: skip
        if not callable(getattr(calibrator, method, None)):
            raise InputError(
                f"{type(calibrator).__name__} has no method {method}; a calibrator has four"
            )
    base = _tensorrt().IInt8EntropyCalibrator2

    class AdaptedCalibrator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return int(calibrator.get_batch_size())

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            if _parameters(calibrator.get_batch) < 2:
                found = calibrator.get_batch(names)
            else:
                found = calibrator.get_batch([0] * len(names), names)
            return None if found is None else [int(pointer) for pointer in found]

        def read_calibration_cache(self) -> bytes | None:
            read = calibrator.read_calibration_cache
            # The length was where older versions expected an answer.
            found = read(0) if _parameters(read) else read()
            return None if found is None else bytes(found)

        def write_calibration_cache(self, cache: Any) -> None:
            content = bytes(cache)
            if _parameters(calibrator.write_calibration_cache) < 2:
                calibrator.write_calibration_cache(content)
                return
            # Older examples read up to the first zero byte: one follows the text.
            buffer = ctypes.create_string_buffer(content, len(content) + 1)
            calibrator.write_calibration_cache(ctypes.addressof(buffer), len(content))

    return AdaptedCalibrator()


def _parameters(method: Any) -> int:
    """Return how many positional parameters a bound method takes."""
    import inspect

    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in inspect.signature(method).parameters.values())


def _tensorrt() -> Any:
    """Return the module of a TensorRT that has calibrators."""
    with optional("A calibrator for TensorRT", "tensorrt"):
        import tensorrt
    if not hasattr(tensorrt, "IInt8EntropyCalibrator2"):
        raise NotSupportedError(
            f"TensorRT {tensorrt.__version__} has no calibrators any more; give it the graph that "
            "onnxgraft quantize --target tensorrt writes"
        )
    return tensorrt
