"""Arrays in numpy's files, read as data from strangers: every fault is a ValueError.

Nothing is unpickled, and no more memory is taken than the file has bytes.
"""

from __future__ import annotations

import io
import sys
import tokenize
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.files.archives import DAMAGED, check_archive
from onnxgraft.files.limits import HISTOGRAM_BYTES

__all__ = ["read_array_header", "read_arrays"]


def read_array_header(handle: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of the ``.npy`` that begins where ``handle`` stands.

    Args:
        handle: Is left where the values begin.
        size: Of the ``.npy``, in bytes.

    Returns:
        The shape, whether it is in Fortran's order, and the type.

    Raises:
        ValueError: It is no array, one of Python objects, or longer than ``size``.
    """
    begin = handle.tell()
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version := np.lib.format.read_magic(handle))
    if read is None:
        raise ValueError(f"an array of format {version}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of files that Python 2 wrote
            shape, fortran, dtype = read(handle)
    except (
        LookupError, MemoryError, OverflowError, RecursionError, SyntaxError, TypeError,
        tokenize.TokenError,
    ) as error:  # fmt: skip
        raise ValueError("an array whose header can't be read") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of the shape {shape}")
    count = 1
    for length in shape:
        count *= length
    if handle.tell() - begin + count * dtype.itemsize > size:
        raise ValueError("it ends early")
    return shape, fortran, dtype


def read_arrays(file: Path | IO[bytes], where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` of histograms, by name.

    Args:
        file: The archive.
        where: Begins the sentence that refuses it.

    Raises:
        ValueError: It is none, or damaged.
        InputError: Its arrays are larger than may be.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            check_archive(archive, Path(), growth=False)
            entries = archive.infolist()
            HISTOGRAM_BYTES.check(sum(entry.file_size for entry in entries), where)
            return {
                entry.filename.removesuffix(".npy"): _array(archive.read(entry))
                for entry in entries
            }
    except (*DAMAGED, LookupError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _array(data: bytes) -> NDArray[Any]:
    handle = io.BytesIO(data)
    shape, fortran, dtype = read_array_header(handle, len(data))
    count = int(np.prod(shape, dtype=np.int64))
    flat = np.frombuffer(data, dtype, count, handle.tell()) if count else np.empty(0, dtype)
    if dtype.kind == "U":
        # numpy would make strings of anything; Python ends at some numbers with a SystemError.
        codes = np.frombuffer(flat.tobytes(), np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if ((codes > sys.maxunicode) | (codes >> 11 == 0xD800 >> 11)).any():
            raise ValueError("a string in it can't be read")
    return flat.reshape(shape, order="F" if fortran else "C")
