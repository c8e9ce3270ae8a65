"""The little of CUDA's driver interface that running an engine needs, through ctypes.

The driver's library is there wherever an NVIDIA GPU is; no CUDA toolkit has to be installed.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.graph.tensors import Array

__all__ = ["Cuda", "Memory"]

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY of cuda.h
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: page-locked for every context
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class Cuda:
    """The first GPU: its primary context, which TensorRT uses too, and one stream.

    Raises:
        InputError: There is no GPU, or the driver refuses it.
    """

    def __init__(self) -> None:
        try:
            self._driver: Any = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise InputError("there is no NVIDIA GPU here (no libcuda.so.1)") from error
        self._call("cuInit", 0)
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.attach()
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        self.stream: int = handle.value or 0

    def attach(self) -> None:
        """Make the GPU the current thread's."""
        self._call("cuCtxSetCurrent", self._context)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array in page-locked host memory, from which the GPU copies by itself."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if not size:
            return np.empty(shape, kind)
        pointer = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), _PORTABLE)
        block = (ctypes.c_byte * size).from_address(pointer.value or 0)
        # Views of the array hold the block, so the memory lives as long as they do.
        weakref.finalize(block, self._driver.cuMemFreeHost, pointer)
        # Not frombuffer(...).reshape(...): a view of this array must lead back to this very array.
        return np.ndarray(shape, kind, buffer=memoryview(block))

    def is_pinned(self, array: Array) -> bool:
        """Tell whether an array lies in page-locked memory."""
        flags = ctypes.c_uint()
        address = ctypes.c_void_p(array.ctypes.data)
        return bool(self._driver.cuMemHostGetFlags(ctypes.byref(flags), address) == 0)

    def to_device(self, memory: Memory, array: Array) -> None:
        """Copy a contiguous array to the GPU, in the stream's order."""
        self._call(
            "cuMemcpyHtoDAsync_v2", ctypes.c_void_p(memory.address),
            ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )  # fmt: skip

    def to_host(self, array: Array, memory: Memory) -> None:
        """Copy from the GPU into a contiguous array, in the stream's order."""
        self._call(
            "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(array.ctypes.data),
            ctypes.c_void_p(memory.address), ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.stream),
        )  # fmt: skip

    def wait(self) -> None:
        """Wait for everything in the stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def time(self, work: Callable[[], None], runs: int) -> list[float]:
        """Return the seconds that the GPU takes for ``work``, which puts it into the stream."""
        events = [ctypes.c_void_p() for _ in range(2 * runs)]
        for event in events:
            self._call("cuEventCreate", ctypes.byref(event), 0)
        for index in range(runs):
            self._call("cuEventRecord", events[2 * index], ctypes.c_void_p(self.stream))
            work()
            self._call("cuEventRecord", events[2 * index + 1], ctypes.c_void_p(self.stream))
        self.wait()
        seconds = []
        for index in range(runs):
            elapsed = ctypes.c_float()
            self._call(
                "cuEventElapsedTime", ctypes.byref(elapsed), events[2 * index],
                events[2 * index + 1],
            )  # fmt: skip
            seconds.append(elapsed.value / 1000)
        for event in events:
            self._call("cuEventDestroy_v2", event)
        return seconds

    def used(self) -> int:
        """Return how many bytes of the GPU's memory are taken, by anybody."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes on the GPU."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give back what `allocate` returned."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def close(self) -> None:
        """Give back the stream and the context."""
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status == 0:
            return
        text = ctypes.c_char_p()
        self._driver.cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"an unknown error").decode()
        cure = ""
        if status == _OUT_OF_MEMORY:
            cure = "; free some of the GPU's memory, or use a smaller batch"
        raise InputError(f"the GPU driver refuses {function}: {reason} ({status}){cure}")


class Memory:
    """Memory on the GPU for one tensor; it grows when more is asked for."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._size = 0
        self.address = 0

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes; what was there is lost when it has to grow."""
        if size > self._size:
            self.release()
            self.address = self._cuda.allocate(size)
            self._size = size

    def release(self) -> None:
        """Give the memory back."""
        if self.address:
            self._cuda.free(self.address)
        self.address = self._size = 0
